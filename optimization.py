"""How the weights learn: BERT's learning rate, its Adam with weight decay, one training step."""

from __future__ import annotations

import re
from typing import Iterable, Sequence

import tensorflow.compat.v1 as tf


def create_optimizer(
    loss: tf.Tensor,
    init_lr: float,
    num_train_steps: int,
    num_warmup_steps: int,
    use_tpu: bool = False,
) -> tf.Operation:
    """Adds a training step to the graph: gradients, clipping, update of the weights, count.

    For a logging hook there are the tensors `learning_rate:0` and `gradient_norm:0`, float32
    scalars: the rate that this step uses and the norm of all gradients before clipping.

    Args:
        loss: float32 scalar.
        init_lr: See `linear_warmup_and_decay`.
        num_train_steps: Number of steps in the run.
        num_warmup_steps: Number of steps in which the learning rate rises; 0 for none.
        use_tpu: Must be false; it is here for those who call google's function.

    Returns:
        The training operation. It adds one to the global step.

    Raises:
        ValueError: `use_tpu` is true.
    """
    if use_tpu:
        raise ValueError("use_tpu must be False: this program trains on GPUs and CPUs")
    global_step = tf.train.get_or_create_global_step()
    learning_rate = linear_warmup_and_decay(init_lr, num_train_steps, num_warmup_steps, global_step)
    learning_rate = tf.identity(learning_rate, name="learning_rate")
    optimizer = AdamWeightDecayOptimizer(
        learning_rate,
        weight_decay_rate=0.01,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"],
    )

    variables = tf.trainable_variables()
    gradients = _dense_gradients(loss, variables)
    gradient_norm = tf.identity(tf.global_norm(gradients), name="gradient_norm")
    gradients, _ = tf.clip_by_global_norm(gradients, clip_norm=1.0, use_norm=gradient_norm)
    update = optimizer.apply_gradients(zip(gradients, variables))
    # The step counts when the update is done. Were it counted meanwhile, as in google's BERT, then
    # chance would decide whether the update sees the learning rate of this step or of the next.
    with tf.control_dependencies([update]):
        return tf.group(global_step.assign_add(1), name="train_op")


def _dense_gradients(loss: tf.Tensor, variables: Sequence[tf.Variable]) -> list[tf.Tensor | None]:
    """Returns the gradient of each variable, None where the loss does not depend on it.

    The gradient of an embedding look-up comes as one row per token of the batch, many rows for a
    frequent token. `tf.global_norm` would count each row by itself, as it does in google's BERT.
    Summed here, they give the norm of the true gradient, which does not depend on how a batch is
    divided, and is google's too where words are embedded by a one-hot product.
    """
    return [
        None if gradient is None else tf.convert_to_tensor(gradient)
        for gradient in tf.gradients(loss, variables)
    ]


def linear_warmup_and_decay(
    init_lr: float, num_train_steps: int, num_warmup_steps: int, global_step: tf.Tensor
) -> tf.Tensor:
    """Computes the learning rate of a step: a linear rise from 0, then a linear fall to 0.

    While `step < num_warmup_steps` it is `init_lr * step / num_warmup_steps`, thereafter
    `init_lr * (1 - step / num_train_steps)`: the decay counts from the first step, not from the end
    of the warm-up, so the rate drops where the two meet.

    Args:
        init_lr: The learning rate towards which the warm-up rises.
        num_train_steps: Step from which on the rate is 0.
        num_warmup_steps: Number of warm-up steps; 0 for none.
        global_step: Integer scalar, number of steps done before this one.

    Returns:
        float32 scalar.
    """
    step = tf.cast(global_step, tf.float32)
    decayed = init_lr * tf.maximum(num_train_steps - step, 0.0) / num_train_steps
    if not num_warmup_steps:
        return decayed
    return tf.where_v2(step < num_warmup_steps, init_lr * step / num_warmup_steps, decayed)


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
        name: str = "AdamWeightDecayOptimizer",
    ) -> None:
        """Sets the constants of the update.

        Args:
            learning_rate: Factor of the whole update, decay included.
            weight_decay_rate: Part of a weight that is added to its update.
            beta_1: Part of the first moment that is kept at each step.
            beta_2: Part of the second moment that is kept at each step.
            epsilon: Keeps the division by the root of the second moment finite.
            exclude_from_weight_decay: Regular expressions; a variable does not decay if one of
                them is found in its name.
            name: Name of the optimizer.
        """
        super().__init__(use_locking=False, name=name)
        self.learning_rate = learning_rate
        self.weight_decay_rate = weight_decay_rate
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.exclude_from_weight_decay = exclude_from_weight_decay or []

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[tf.Tensor | None, tf.Variable]],
        global_step: tf.Variable | None = None,
        name: str | None = None,
    ) -> tf.Operation:
        """Updates the variables that have a gradient.

        Args:
            grads_and_vars: Pairs of gradient and variable.
            global_step: Not touched: as with google's BERT, counting is left to the caller.
            name: Name of the operation.

        Returns:
            The operation that updates the variables and their moments.
        """
        updates = [
            self._update(tf.convert_to_tensor(gradient), variable)
            for gradient, variable in grads_and_vars
            if gradient is not None
        ]
        return tf.group(*updates, name=name)

    def _update(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Operation:
        m = _moment(variable, "adam_m")
        v = _moment(variable, "adam_v")
        next_m = self.beta_1 * m + (1.0 - self.beta_1) * gradient
        next_v = self.beta_2 * v + (1.0 - self.beta_2) * tf.square(gradient)
        change = next_m / (tf.sqrt(next_v) + self.epsilon)
        # Added to the gradient instead, the decay would be divided by the root of the second
        # moment, and hardly touch the weights that have large gradients.
        if self._decays(variable):
            change += self.weight_decay_rate * variable
        return tf.group(
            variable.assign(variable - self.learning_rate * change),
            m.assign(next_m),
            v.assign(next_v),
        )

    def _decays(self, variable: tf.Variable) -> bool:
        return not any(
            re.search(pattern, variable.op.name) for pattern in self.exclude_from_weight_decay
        )


def _moment(variable: tf.Variable, name: str) -> tf.Variable:
    return tf.get_variable(
        "%s/%s" % (variable.op.name, name),
        variable.shape.as_list(),
        initializer=tf.zeros_initializer(),
        trainable=False,
    )
