"""The training step: BERT's learning rate, its Adam and LAMB, accumulation, loss scaling."""

from __future__ import annotations

import re
from typing import Any, Callable, Iterable, NamedTuple, Sequence, Union

import numpy as np
import tensorflow.compat.v1 as tf

Gradient = Union[tf.Tensor, tf.IndexedSlices]


class StepOptions(NamedTuple):
    """What `create_optimizer` has beyond google's arguments.

    Attributes:
        optimizer: A name in `OPTIMIZERS`.
        weight_decay_rate: Part of a weight that is added to its update. Biases and the weights of
            layer normalization do not decay.
        clip_norm: Gradients of a larger norm are scaled down to this one, all by one factor.
        num_accumulation_steps: Number of micro-batches in a step.
        layerwise_lr_decay: See `layerwise_rate_factor`; 1 for the same rate in all layers.
        layers_above: Takes the name of a variable, returns the number of layers from it to the
            output of the model; `layerwise_lr_decay` needs it.
        amp: Whether to scale the loss so that its gradients fit float16, for training in mixed
            precision of float16; bfloat16 does not need it. A step whose gradients do not fit is
            left out and not counted. The session's configuration decides what is computed in
            float16.
        average_gradients: Takes the gradients of this process and returns, in their order, the
            means over all processes. It runs once per step.
    """

    optimizer: str = "adamw"
    weight_decay_rate: float = 0.01
    clip_norm: float = 1.0
    num_accumulation_steps: int = 1
    layerwise_lr_decay: float = 1.0
    layers_above: Callable[[str], int] | None = None
    amp: bool = False
    average_gradients: Callable[[list[tf.Tensor]], list[tf.Tensor]] | None = None

    def validate(self) -> None:
        """Check the values.

        Raises:
            ValueError: A value is out of its range.
        """
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                "optimizer must be one of %s, not %r" % (sorted(OPTIMIZERS), self.optimizer)
            )
        if not 0 < self.clip_norm < float("inf"):
            raise ValueError("clip_norm must be above 0 and finite, not %r" % self.clip_norm)
        if self.num_accumulation_steps < 1:
            raise ValueError(
                "num_accumulation_steps must be >= 1, not %r" % self.num_accumulation_steps
            )
        if self.layerwise_lr_decay != 1 and self.layers_above is None:
            raise ValueError("layerwise_lr_decay needs layers_above")


def create_optimizer(
    loss: tf.Tensor,
    init_lr: float,
    num_train_steps: int,
    num_warmup_steps: int,
    use_tpu: bool = False,
    **options: Any,
) -> tf.Operation:
    """Add a training step to the graph: gradients, clipping, update of the weights, step count.

    With `num_accumulation_steps` above 1 a step takes that many runs of the training operation,
    each on another micro-batch, and uses the mean of their gradients, which is the gradient of one
    large batch.

    A logging hook can read two tensors, float32 scalars: `learning_rate:0`, the rate of this step,
    and `gradient_norm:0`, the norm of all gradients before clipping. With accumulation the norm is
    that of the last complete step, 0 before the first, and to fetch it runs the training operation.
    It is not finite for a step that `amp` leaves out.

    A checkpoint holds the weights, their moments and the global step. The rest is in local
    variables: a resumed run begins with the first micro-batch of a step, and may use another
    `num_accumulation_steps` or `amp` than before.

    Args:
        loss: float32 scalar, a mean over the examples of a (micro-)batch.
        init_lr: See `linear_warmup_and_decay`.
        num_train_steps: Number of steps in the run.
        num_warmup_steps: Number of steps in which the learning rate rises; 0 for none.
        use_tpu: Must be false; google's function has it.
        **options: The values of `StepOptions` that are not the defaults.

    Returns:
        The training operation. At the end of a step it adds one to the global step.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: There is no such option.
    """
    if use_tpu:
        raise ValueError("use_tpu must be False: this program trains on GPUs and CPUs")
    step = StepOptions(**options)
    step.validate()
    global_step = tf.train.get_or_create_global_step()
    learning_rate = linear_warmup_and_decay(init_lr, num_train_steps, num_warmup_steps, global_step)
    algorithm = _make_optimizer(tf.identity(learning_rate, name="learning_rate"), step)
    loss_scale = _LossScale() if step.amp else None
    gradients, variables = _gradients(loss * loss_scale.value if loss_scale else loss)

    def apply(gradients: list[Gradient]) -> tf.Operation:
        """Update the weights, then count the step."""
        applied = algorithm.apply_gradients(zip(gradients, variables))
        # Google's BERT counts the step while it updates: then chance decides whether the update
        # has the learning rate of this step or of the next.
        with tf.control_dependencies([applied]):
            return tf.group(global_step.assign_add(1), name="train_op")

    def update(gradients: list[Gradient]) -> tuple[tf.Operation, tf.Tensor]:
        """Add the end of a step, from the gradients of this process to the count."""
        if step.average_gradients:
            gradients = step.average_gradients(_dense(gradients))
        if loss_scale:
            gradients = [gradient / loss_scale.value for gradient in _dense(gradients)]
        gradient_norm = tf.identity(tf.global_norm(gradients), name="gradient_norm")
        clipped, _ = tf.clip_by_global_norm(gradients, step.clip_norm, use_norm=gradient_norm)
        if loss_scale:
            return loss_scale.apply_if_finite(gradient_norm, lambda: apply(clipped)), gradient_norm
        return apply(clipped), gradient_norm

    if step.num_accumulation_steps == 1:
        train_op, _ = update(gradients)
        return train_op
    return _accumulate(_dense(gradients), variables, step.num_accumulation_steps, update)


def _make_optimizer(learning_rate: tf.Tensor, step: StepOptions) -> AdamWeightDecayOptimizer:
    """Make the optimizer with the constants of google's BERT."""
    rate_factor = None
    if step.layerwise_lr_decay != 1:
        assert step.layers_above is not None
        rate_factor = layerwise_rate_factor(step.layerwise_lr_decay, step.layers_above)
    return OPTIMIZERS[step.optimizer](
        learning_rate,
        weight_decay_rate=step.weight_decay_rate,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"],
        rate_factor=rate_factor,
    )


def _gradients(loss: tf.Tensor) -> tuple[list[Gradient], list[tf.Variable]]:
    """Return the gradients of the loss, and the variables they belong to."""
    variables = tf.trainable_variables()
    pairs = [
        (_summed(gradient), variable)
        for gradient, variable in zip(tf.gradients(loss, variables), variables)
        if gradient is not None
    ]
    return [gradient for gradient, _ in pairs], [variable for _, variable in pairs]


def _summed(gradient: Gradient) -> Gradient:
    """Sum the gradients of the same row of a table; return other gradients as they are.

    The gradient of an embedding look-up has one row per token of the batch, many rows for a
    frequent token. `tf.global_norm` would count each row by itself, as it does in google's BERT.
    The sums give the norm of the true gradient. It does not depend on how a batch is divided, and
    google's has it too where words are embedded by a one-hot product.

    Norm and clipping then take the rows of the batch, not the whole table.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    indices, positions = tf.unique(gradient.indices)
    rows = tf.unsorted_segment_sum(gradient.values, positions, tf.size(indices))
    return tf.IndexedSlices(rows, indices, gradient.dense_shape)


def _dense(gradients: Iterable[Gradient]) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def _accumulate(
    gradients: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
    num_accumulation_steps: int,
    update: Callable[[list[Gradient]], tuple[tf.Operation, tf.Tensor]],
) -> tf.Operation:
    """Add up the gradients of micro-batches; with the last one call `update` with their means.

    Args:
        gradients: The gradients of the micro-batch.
        variables: The variables they belong to.
        num_accumulation_steps: Number of micro-batches in a step.
        update: See `create_optimizer`; what it adds to the graph runs only at the end of a step.

    Returns:
        The training operation.
    """
    sums = [
        _local_variable(variable.op.name + "/gradient_sum", variable.shape.as_list())
        for variable in variables
    ]
    last_norm = _local_variable("last_gradient_norm", [])
    current = micro_step(num_accumulation_steps)

    def finish_step() -> tf.Operation:
        updated, gradient_norm = update([total / num_accumulation_steps for total in sums])
        with tf.control_dependencies([updated]):
            cleared = [total.assign(tf.zeros(total.shape)) for total in sums]
        return tf.group(last_norm.assign(gradient_norm), *cleared)

    added = [total.assign_add(gradient) for total, gradient in zip(sums, gradients)]
    with tf.control_dependencies(added):
        is_last = tf.equal(current, num_accumulation_steps - 1)
    finished = tf.cond(is_last, finish_step, tf.no_op)
    # Dropout has read the micro-step by now: the gradients depend on its masks.
    with tf.control_dependencies([finished]):
        advanced = _micro_step_variable().assign((current + 1) % num_accumulation_steps)
        train_op = tf.group(advanced, name="train_op")
    with tf.control_dependencies([train_op]):
        tf.identity(last_norm.read_value(), name="gradient_norm")
    return train_op


def micro_step(num_accumulation_steps: int) -> tf.Tensor:
    """Return the number of micro-batches of the current step before this one.

    With the global step it numbers the micro-batches of a run, e.g. for dropout masks. It may be
    called before `create_optimizer`. The training operation advances it at its end.

    Args:
        num_accumulation_steps: See `StepOptions`.

    Returns:
        int32 scalar, from 0 to `num_accumulation_steps - 1`.
    """
    if num_accumulation_steps == 1:
        return tf.zeros([], tf.int32)
    return _micro_step_variable().read_value()


def _micro_step_variable() -> tf.Variable:
    # In the root scope, so that it is the same variable wherever model and optimizer are built.
    root = tf.VariableScope(reuse=tf.AUTO_REUSE)
    with tf.variable_scope(root, auxiliary_name_scope=False):
        return _local_variable("micro_step", [], dtype=tf.int32)


def _local_variable(
    name: str, shape: Sequence[int], initial_value: float = 0, dtype: tf.DType = tf.float32
) -> tf.Variable:
    """Return a variable that is not in checkpoints and begins each run with its initial value.

    It is a resource variable: a value that was read does not change when it does.
    """
    return tf.get_variable(
        name,
        shape,
        dtype,
        tf.constant_initializer(initial_value),
        trainable=False,
        collections=[tf.GraphKeys.LOCAL_VARIABLES],
        use_resource=True,
    )


class _LossScale:
    """The factor of the loss that makes its gradients as large as float16 allows.

    Without it small gradients would be 0 (https://arxiv.org/abs/1710.03740, section 3.2). It is
    halved when a gradient is not finite, and doubled after 2000 steps in a row with finite
    gradients. It is a power of 2, so scaling does not round.
    """

    _INITIAL, _LARGEST = 2.0**15, 2.0**24
    _STEPS_TO_GROWTH = 2000

    def __init__(self) -> None:
        self._variable = _local_variable("loss_scale", [], self._INITIAL)
        self._finite_steps = _local_variable("finite_steps", [], dtype=tf.int32)
        self.value = self._variable.read_value()

    def apply_if_finite(
        self, gradient_norm: tf.Tensor, apply: Callable[[], tf.Operation]
    ) -> tf.Operation:
        """Run what `apply` adds to the graph if the gradients are finite; adapt the factor.

        Gradients that are not finite with a factor of 1 are an error: the run would never end.
        """
        is_finite = tf.math.is_finite(gradient_norm)
        message = "the gradients are not finite, and no smaller loss scale can help"
        checked = tf.debugging.Assert(is_finite | (self.value > 1), [message])
        with tf.control_dependencies([checked]):
            applied = tf.cond(is_finite, apply, tf.no_op)
        return tf.group(applied, self._adapt(is_finite))

    def _adapt(self, is_finite: tf.Tensor) -> tf.Operation:
        finite_steps = tf.where_v2(is_finite, self._finite_steps + 1, 0)
        grows = tf.equal(finite_steps, self._STEPS_TO_GROWTH)
        factor = tf.where_v2(is_finite, tf.where_v2(grows, 2.0, 1.0), 0.5)
        return tf.group(
            self._variable.assign(tf.minimum(self.value * factor, self._LARGEST)),
            self._finite_steps.assign(finite_steps % self._STEPS_TO_GROWTH),
        )


def linear_warmup_and_decay(
    init_lr: float, num_train_steps: int, num_warmup_steps: int, global_step: tf.Tensor
) -> tf.Tensor:
    """Compute the learning rate of a step: a linear rise from 0, then a linear fall to 0.

    While `step < num_warmup_steps` it is `init_lr * step / num_warmup_steps`, thereafter
    `init_lr * (1 - step / num_train_steps)`. The decay counts from the first step, not from the end
    of the warm-up, so the rate jumps down after the last warm-up step.

    Args:
        init_lr: The learning rate towards which the warm-up rises.
        num_train_steps: The rate is 0 from this step on.
        num_warmup_steps: Number of warm-up steps; 0 for none.
        global_step: Integer scalar, the number of steps before this one.

    Returns:
        float32 scalar.
    """
    step = tf.cast(global_step, tf.float32)
    decayed = init_lr * tf.maximum(num_train_steps - step, 0.0) / num_train_steps
    if not num_warmup_steps:
        return decayed
    return tf.where_v2(step < num_warmup_steps, init_lr * step / num_warmup_steps, decayed)


def layerwise_rate_factor(
    layerwise_lr_decay: float, layers_above: Callable[[str], int]
) -> Callable[[str], float]:
    """Return a function from a variable to the factor of its learning rate.

    The further a variable is from the output, the slower it learns: its factor is
    `layerwise_lr_decay ** layers_above(name)`. For a BERT of 12 layers and a decay of 0.8 the
    factors are 0.8^14 = 0.044 for the embeddings, 0.8^13 = 0.055 to 0.8^2 = 0.64 for the layers,
    0.8 for the pooler and 1 for the classifier.

    Args:
        layerwise_lr_decay: Factor from one layer to the layer below, above 0 and at most 1.
        layers_above: Takes the name of a variable, e.g. `bert/encoder/layer_0/output/dense/kernel`,
            returns the number of layers from it to the output, see
            `modeling.BertConfig.layers_above`.

    Returns:
        The function: name of a variable -> factor.

    Raises:
        ValueError: The decay is out of its range.
    """
    if not 0 < layerwise_lr_decay <= 1:
        raise ValueError("layerwise_lr_decay must be in (0, 1], not %r" % layerwise_lr_decay)
    return lambda variable_name: layerwise_lr_decay ** layers_above(variable_name)


class AdamWeightDecayOptimizer(tf.train.Optimizer):
    """Adam without bias correction, with weight decay apart from the gradient.

    Adam is https://arxiv.org/abs/1412.6980 without the division by 1 - beta^t; the decay is that of
    https://arxiv.org/abs/1711.05101. The moments of a variable are the variables
    `<variable>/adam_m` and `<variable>/adam_v`, as in checkpoints of google's BERT.
    """

    def __init__(
        self,
        learning_rate: float | tf.Tensor,
        weight_decay_rate: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        exclude_from_weight_decay: Sequence[str] | None = None,
        name: str | None = None,
        rate_factor: Callable[[str], float] | None = None,
    ) -> None:
        """Set the constants of the update.

        Args:
            learning_rate: Factor of the whole update, decay included.
            weight_decay_rate: Part of a weight that is added to its update.
            beta_1: Part of the first moment that is kept at each step.
            beta_2: Part of the second moment that is kept at each step.
            epsilon: Keeps the division by the root of the second moment finite.
            exclude_from_weight_decay: Regular expressions; a variable does not decay if one of
                them is found in its name.
            name: Name of the optimizer, by default that of its class.
            rate_factor: Takes the name of a variable, returns the factor of its learning rate.
        """
        super().__init__(use_locking=False, name=name or type(self).__name__)
        self.learning_rate = learning_rate
        self.weight_decay_rate = weight_decay_rate
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.exclude_from_weight_decay = exclude_from_weight_decay or []
        self.rate_factor = rate_factor

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[Gradient | None, tf.Variable]],
        global_step: tf.Variable | None = None,
        name: str | None = None,
    ) -> tf.Operation:
        """Update the variables that have a gradient.

        Args:
            grads_and_vars: Pairs of gradient and variable.
            global_step: Not touched: as with google's BERT, counting is left to the caller.
            name: Name of the operation.

        Returns:
            The operation that updates the variables and their moments.
        """
        self._prepare()
        pairs = [
            (tf.convert_to_tensor(gradient), variable)
            for gradient, variable in grads_and_vars
            if gradient is not None
        ]
        # The weights change in place, so all gradients must be computed before. Each update waits
        # for one group: if each waited for each gradient, the edges for that would be most of the
        # graph, and of the time to prepare it.
        with tf.control_dependencies([tf.group(*(gradient for gradient, _ in pairs))]):
            updates = [self._update(gradient, variable) for gradient, variable in pairs]
        return tf.group(*updates, name=name)

    def _update(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Operation:
        rate = self._rate(variable)
        # If the decay were added to the gradient, it would be divided by the root of the second
        # moment, and weights with large gradients would hardly decay.
        decayed = []
        if self.weight_decay_rate and not self._is_excluded(variable):
            decayed = [_subtract_part(variable, rate * self.weight_decay_rate)]
        with tf.control_dependencies(decayed):
            return _apply_adam(
                variable,
                _moment(variable, "adam_m"),
                _moment(variable, "adam_v"),
                # With powers of 0 the moments are divided by 1: no bias correction.
                beta1_power=0.0,
                beta2_power=0.0,
                beta1=self.beta_1,
                beta2=self.beta_2,
                grad=gradient,
                **self._rate_and_epsilon(rate),
            )

    def _rate_and_epsilon(self, rate: float | tf.Tensor) -> dict[str, float | tf.Tensor]:
        return {"lr": rate, "epsilon": self.epsilon}

    def _rate(self, variable: tf.Variable) -> float | tf.Tensor:
        if self.rate_factor is None:
            return self.learning_rate
        return self.learning_rate * self.rate_factor(variable.op.name)

    def _is_excluded(self, variable: tf.Variable) -> bool:
        return any(
            re.search(pattern, variable.op.name) for pattern in self.exclude_from_weight_decay
        )


class CorrectedAdamWeightDecayOptimizer(AdamWeightDecayOptimizer):
    """Adam with bias correction, with weight decay apart from the gradient: the AdamW of its paper.

    The moments are divided by 1 - beta^t, where t is the global step plus 1, as in PyTorch and in
    transformers (https://arxiv.org/abs/1711.05101, algorithm 2). With few steps this may train
    better than BERT's Adam, see https://arxiv.org/abs/2006.05987.

    The arguments and the variables of the moments are those of `AdamWeightDecayOptimizer`.
    """

    def _prepare(self) -> None:
        # TensorFlow's Adam computes the moments with betas in single precision.
        betas = np.float32(self.beta_1), np.float32(self.beta_2)
        self._m_correction, self._v_correction = _bias_corrections(*betas)

    def _rate_and_epsilon(self, rate: float | tf.Tensor) -> dict[str, float | tf.Tensor]:
        # m / m_correction / (root(v / v_correction) + epsilon), multiplied out.
        root = tf.sqrt(self._v_correction)
        return {"lr": rate * root / self._m_correction, "epsilon": self.epsilon * root}


class LAMBOptimizer(AdamWeightDecayOptimizer):
    """Adam with weight decay that changes each variable in proportion to its size.

    This is algorithm 2 of https://arxiv.org/abs/1904.00962, with the identity for phi. The rate of
    a variable is the learning rate times its trust ratio, ||weights|| / ||change||, where the
    change includes the decay. The ratio is 1 if one of the norms is 0. As in the paper, and unlike
    BERT's Adam, the moments are divided by 1 - beta^t, where t is the global step plus 1.

    Variables excluded from weight decay have no trust ratio, as in the program of the paper's
    authors (tensorflow_addons): biases begin with 0 and would stay there.

    The arguments and the variables of the moments are those of `AdamWeightDecayOptimizer`.
    """

    def _prepare(self) -> None:
        self._m_correction, self._v_correction = _bias_corrections(self.beta_1, self.beta_2)

    def _update(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Operation:
        m = _moment(variable, "adam_m")
        v = _moment(variable, "adam_v")
        next_m = self.beta_1 * m + (1.0 - self.beta_1) * gradient
        next_v = self.beta_2 * v + (1.0 - self.beta_2) * tf.square(gradient)
        root = tf.sqrt(next_v / self._v_correction)
        change = next_m / self._m_correction / (root + self.epsilon)
        rate = self._rate(variable)
        if not self._is_excluded(variable):
            change += self.weight_decay_rate * variable
            ratio = tf.math.divide_no_nan(tf.norm(variable), tf.norm(change))
            rate *= tf.where_v2(ratio > 0.0, ratio, 1.0)
        return tf.group(
            variable.assign(variable - rate * change), m.assign(next_m), v.assign(next_v)
        )


def _bias_corrections(*betas: float) -> list[tf.Tensor]:
    """Return 1 - beta^t for each beta, float32 scalars, where t is the global step plus 1."""
    # In double precision: in single precision 1 - 0.999 has only 4 correct digits.
    step = tf.cast(tf.train.get_or_create_global_step() + 1, tf.float64)
    return [tf.cast(1.0 - float(beta) ** step, tf.float32) for beta in betas]


def _apply_adam(
    variable: tf.Variable, m: tf.Variable, v: tf.Variable, **inputs: float | tf.Tensor
) -> tf.Operation:
    """Add TensorFlow's own Adam: one operation that reads and writes everything once.

    The moments are resource variables if the variable is one.
    """
    if hasattr(variable, "handle"):
        return tf.raw_ops.ResourceApplyAdam(var=variable.handle, m=m.handle, v=v.handle, **inputs)
    return tf.raw_ops.ApplyAdam(var=variable, m=m, v=v, **inputs).op


def _subtract_part(variable: tf.Variable, part: float | tf.Tensor) -> tf.Operation:
    """Add `variable -= part * variable`, in place and in one pass."""
    if hasattr(variable, "handle"):
        return tf.raw_ops.ResourceApplyGradientDescent(
            var=variable.handle, alpha=part, delta=variable
        )
    return tf.raw_ops.ApplyGradientDescent(var=variable, alpha=part, delta=variable).op


def _moment(variable: tf.Variable, name: str) -> tf.Variable:
    return tf.get_variable(
        "%s/%s" % (variable.op.name, name),
        variable.shape.as_list(),
        initializer=tf.zeros_initializer(),
        trainable=False,
        use_resource=hasattr(variable, "handle"),
    )


OPTIMIZERS: dict[str, type[AdamWeightDecayOptimizer]] = {
    "adamw": AdamWeightDecayOptimizer,
    "adamw_corrected": CorrectedAdamWeightDecayOptimizer,
    "lamb": LAMBOptimizer,
}
