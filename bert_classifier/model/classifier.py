"""features -> EstimatorSpec: the output layer on the encoder, its metrics and its three modes.

What differs between the problem types is in `objectives`.
"""

from __future__ import annotations

import functools
import logging
import zlib
from typing import Any, Callable, Collection, Mapping, NamedTuple, Sequence

import tensorflow.compat.v1 as tf

import modeling
import optimization
from bert_classifier import logs, objectives, problem_types
from bert_classifier.errors import BadInput
from bert_classifier.model import weights
from bert_classifier.objectives import Evaluated, Objective
from bert_classifier.problem_types import NO_OPTIONS, ClassOptions

_LOG = logging.getLogger(__name__)

_TRAIN, _EVAL, _PREDICT = (
    tf.estimator.ModeKeys.TRAIN,
    tf.estimator.ModeKeys.EVAL,
    tf.estimator.ModeKeys.PREDICT,
)


class ModelOutputs(NamedTuple):
    """The result of `create_model`, in the order in which its callers unpack it.

    total_loss float32 `[]` and per_example_loss float32 `[batch_size]`, both None without labels;
    probabilities and predictions as in `Objective.outputs`.
    """

    total_loss: tf.Tensor | None
    per_example_loss: tf.Tensor | None
    probabilities: tf.Tensor | None
    predictions: tf.Tensor


class Share(NamedTuple):
    """The share of each step that this process computes.

    Attributes:
        num_shards: number of workers that train the model together.
        shard_index: number of this worker, from 0.
        add_up: builds the sum over all workers of a tensor, under a name; None for one worker.
        num_parts: in how many parts a batch of TRAIN and EVAL is computed, see
            `create_model_in_parts`.
    """

    num_shards: int = 1
    shard_index: int = 0
    add_up: Callable[[tf.Tensor, str], tf.Tensor] | None = None
    num_parts: int = 1


ALONE = Share()


def create_model(
    bert_config: modeling.BertConfig,
    is_training: bool,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor,
    segment_ids: tf.Tensor,
    labels: tf.Tensor | None,
    num_labels: int,
    use_one_hot_embeddings: bool = False,
    problem_type: str = "classification",
    class_options: ClassOptions = NO_OPTIONS,
    dropout_seed: tf.Tensor | None = None,
    gradient_checkpointing: bool = False,
) -> ModelOutputs:
    """Build the encoder and one linear layer on its pooled output.

    Outside training a long text may come as several windows: then the inputs are
    `[batch_size, num_windows, seq_length]`, a window whose mask is all 0 does not exist, and
    the probabilities, or the number of a regression, are means over the windows of the example.
    The loss is that of the means.

    Args:
        bert_config: of the encoder.
        is_training: whether dropout is applied.
        input_ids: int32 `[batch_size, seq_length]`.
        input_mask: int32 `[batch_size, seq_length]`, 1 for tokens and 0 for padding.
        segment_ids: int32 `[batch_size, seq_length]`, 0 for the first text and 1 for the second.
        labels: of the shape and dtype of `ModelOutputs.predictions`; None when not known.
        num_labels: number of classes; 1 for a regression.
        use_one_hot_embeddings: look embeddings up by a matrix product.
        problem_type: one of `PROBLEM_TYPES`.
        class_options: see `ClassOptions`.
        dropout_seed: int32 `[2]`, see `modeling.dropout`.
        gradient_checkpointing: see `modeling.transformer_model`.

    Raises:
        ValueError: an option does not belong to the problem type, or there are windows in training.
    """
    problem_types.get(problem_type).check(num_labels, class_options)
    objective = objectives.get(problem_type)
    window_exists = None
    if input_ids.shape.ndims == 3:
        if is_training:
            raise ValueError("a text in several windows is not for training")
        window_exists = tf.reduce_max(input_mask, axis=2)
        seq_length = modeling.get_shape_list(input_ids)[2]
        input_ids, input_mask, segment_ids = (
            tf.reshape(windows, [-1, seq_length])
            for windows in (input_ids, input_mask, segment_ids)
        )
    model = modeling.BertModel(
        config=bert_config,
        is_training=is_training,
        input_ids=input_ids,
        input_mask=input_mask,
        token_type_ids=segment_ids,
        use_one_hot_embeddings=use_one_hot_embeddings,
        dropout_seed=dropout_seed,
        gradient_checkpointing=gradient_checkpointing,
    )
    pooled = model.get_pooled_output()
    output_weights = tf.get_variable(
        "output_weights",
        [num_labels, bert_config.hidden_size],
        initializer=tf.truncated_normal_initializer(stddev=0.02),
    )
    output_bias = tf.get_variable("output_bias", [num_labels], initializer=tf.zeros_initializer())
    with tf.variable_scope("loss"):
        if is_training:
            pooled = modeling.dropout(pooled, bert_config.dropout_of_classifier, dropout_seed)
        logits = tf.nn.bias_add(tf.matmul(pooled, output_weights, transpose_b=True), output_bias)
        if window_exists is not None:
            logits = _mean_over_windows(logits, window_exists, objective)
        outputs = objective.outputs(logits, class_options)
        if labels is None:
            return ModelOutputs(None, None, *outputs)
        losses = objective.losses(logits, labels, class_options)
        return ModelOutputs(tf.reduce_mean(losses), losses, *outputs)


def _mean_over_windows(
    logits: tf.Tensor, window_exists: tf.Tensor, objective: Objective
) -> tf.Tensor:
    """Return the logits of examples, float32 `[batch_size, num_labels]`.

    Args:
        logits: float32 `[batch_size * num_windows, num_labels]`.
        window_exists: int32 `[batch_size, num_windows]`, 1 or 0.
        objective: defines the mean.
    """
    batch_size, num_windows = modeling.get_shape_list(window_exists)
    logits = tf.reshape(logits, [batch_size, num_windows, logits.shape.as_list()[1]])
    exists = tf.expand_dims(tf.cast(window_exists, tf.float32), axis=2)
    return objective.mean_over_windows(logits, exists)


def create_model_in_parts(
    create: Callable[..., ModelOutputs],
    columns: Mapping[str, tf.Tensor | None],
    dropout_seeds: Sequence[tf.Tensor | None],
) -> ModelOutputs:
    """Build the model once for each part of the batch, with the same variables.

    The parts are independent until their losses are joined, so that several threads can compute
    them at the same time; see `threads`. A part may be empty.

    Args:
        create: builds the model of a part; takes `columns` and `dropout_seed` as `create_model`
            does.
        columns: `input_ids`, `input_mask`, `segment_ids` and `labels`, each with the first
            dimension `batch_size`, or None.
        dropout_seeds: one for each part.
    """
    num_parts = len(dropout_seeds)
    if num_parts == 1:
        return create(dropout_seed=dropout_seeds[0], **columns)
    batch_size = modeling.get_shape_list(columns["input_ids"])[0]
    borders = [batch_size * number // num_parts for number in range(num_parts + 1)]
    outputs: list[ModelOutputs] = []
    for begin, end, dropout_seed in zip(borders, borders[1:], dropout_seeds):
        part = {name: None if of is None else of[begin:end] for name, of in columns.items()}
        with tf.variable_scope(tf.get_variable_scope(), reuse=bool(outputs) or None):
            outputs.append(create(dropout_seed=dropout_seed, **part))
    _, *of_examples = zip(*outputs)
    joined = [None if of[0] is None else tf.concat(of, axis=0) for of in of_examples]
    losses = joined[0]
    return ModelOutputs(None if losses is None else tf.reduce_mean(losses), *joined)


def metric_names(
    num_labels: int, extra_metrics: Sequence[str] = (), problem_type: str = "classification"
) -> Sequence[str]:
    """Name the metrics of an evaluation, so that a watched one can be checked before training.

    The arguments are those of `metric_fn`.

    Raises:
        ValueError: there are extra metrics, and the problem type has none.
    """
    return objectives.get(problem_type).metric_names(num_labels, extra_metrics)


def metric_fn(
    per_example_loss: tf.Tensor,
    label_ids: tf.Tensor,
    probabilities: tf.Tensor | None,
    predictions: tf.Tensor,
    is_real_example: tf.Tensor,
    extra_metrics: Sequence[str] = (),
    problem_type: str = "classification",
) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
    """Build the streaming metrics of an evaluation.

    Args:
        per_example_loss: float32 `[batch_size]`.
        label_ids: of the shape and dtype of `predictions`.
        probabilities: float32 `[batch_size, num_labels]`; None for a regression.
        predictions: as in `ModelOutputs`.
        is_real_example: float32 `[batch_size]`, the weight of each example: 0 for padding.
        extra_metrics: further metrics of a classification; `matthews_correlation` is known.
        problem_type: one of `PROBLEM_TYPES`.

    Returns:
        name -> (value, update_op), the names as in `metric_names`.
    """
    evaluated = Evaluated(per_example_loss, label_ids, probabilities, predictions, is_real_example)
    return objectives.get(problem_type).metrics(evaluated, extra_metrics)


def model_fn_builder(
    bert_config: modeling.BertConfig,
    num_labels: int,
    init_checkpoint: str | None,
    learning_rate: float,
    num_train_steps: int,
    num_warmup_steps: int,
    use_one_hot_embeddings: bool = False,
    problem_type: str = "classification",
    class_options: ClassOptions = NO_OPTIONS,
    extra_metrics: Sequence[str] = (),
    with_classifier: bool = True,
    gradient_checkpointing: bool = False,
    seed: int = 0,
    share: Share = ALONE,
    **optimizer_options: Any,
) -> Callable[..., tf.estimator.EstimatorSpec]:
    """Build the `model_fn` of an Estimator.

    Args:
        bert_config: of the encoder.
        num_labels: number of classes; 1 for a regression.
        init_checkpoint: prefix of the checkpoint that training begins from, or None. In its path
            there must be no character of a pattern: see `files.plain_path`.
        learning_rate: peak learning rate.
        num_train_steps: steps over which the learning rate falls to zero.
        num_warmup_steps: steps over which it first rises.
        use_one_hot_embeddings: look embeddings up by a matrix product.
        problem_type: see `create_model`.
        class_options: see `create_model`; weights and smoothing are used in training only.
        extra_metrics: see `metric_fn`.
        with_classifier: whether the output layer too begins with the values of `init_checkpoint`,
            if that has them in the same shape.
        gradient_checkpointing: see `create_model`.
        seed: of the dropout masks. They depend only on it, the step, the worker, the part of the
            batch and the place in the model.
        share: see `Share`.
        **optimizer_options: further arguments of `optimization.create_optimizer`.
    """
    objective = objectives.get(problem_type)
    minimize = functools.partial(
        optimization.create_optimizer,
        init_lr=learning_rate,
        num_train_steps=num_train_steps,
        num_warmup_steps=num_warmup_steps,
        use_tpu=False,
        **optimizer_options,
    )
    num_accumulation_steps = optimizer_options.get("num_accumulation_steps", 1)

    def model_fn(
        features: Mapping[str, tf.Tensor], labels: Any, mode: str, params: Any = None
    ) -> tf.estimator.EstimatorSpec:
        """Build the graph of one mode; labels come as `features["label_ids"]`."""
        del labels, params
        _check_mode(mode)
        is_training = mode == _TRAIN
        if is_training:
            _log_features(features)
            # Hooks find it by its name: they are made before the tensor exists.
            tf.shape(features["input_ids"], name="batch_shape")
        # In other modes the weights come from the checkpoints of the run, and the path of the
        # pretrained one would be part of the exported graph.
        begins_from = init_checkpoint if is_training else None
        getter = _initial_values(begins_from, bert_config, with_classifier)
        of_evaluation = ClassOptions(thresholds=class_options.thresholds)
        create = functools.partial(
            create_model,
            bert_config,
            is_training,
            num_labels=num_labels,
            use_one_hot_embeddings=use_one_hot_embeddings,
            problem_type=problem_type,
            class_options=class_options if is_training else of_evaluation,
            # Without gradients there is nothing to compute again.
            gradient_checkpointing=gradient_checkpointing and is_training,
        )
        dropout_seeds = _dropout_seeds(mode, seed, num_accumulation_steps, share)
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=getter):
            outputs = create_model_in_parts(create, _columns(features, mode), dropout_seeds)
        if mode == _PREDICT:
            exported = objective.exported(outputs.probabilities, outputs.predictions, num_labels)
            return tf.estimator.EstimatorSpec(mode, predictions=exported)
        if mode == _EVAL:
            return _evaluation(features, outputs, objective, extra_metrics)
        _log_initial_values(init_checkpoint, bert_config, with_classifier)
        return _training(outputs.total_loss, minimize(outputs.total_loss), share)

    return model_fn


def _check_mode(mode: str) -> None:
    if mode not in (_TRAIN, _EVAL, _PREDICT):
        raise NotImplementedError("mode %r is none of TRAIN, EVAL and PREDICT" % mode)


def _columns(features: Mapping[str, tf.Tensor], mode: str) -> dict[str, tf.Tensor | None]:
    """Return the arguments of `create_model` that hold the batch.

    A client of an export has no label to send, so PREDICT does not read any.
    """
    columns = {name: features[name] for name in ("input_ids", "input_mask", "segment_ids")}
    return dict(columns, labels=None if mode == _PREDICT else features["label_ids"])


def _dropout_seeds(
    mode: str, seed: int, num_accumulation_steps: int, share: Share
) -> list[tf.Tensor | None]:
    """Return the seed of each part of the batch, int32 `[2]`; None where there is no dropout.

    A seed is that of the run and the number of the part among all parts of all batches and
    workers. PREDICT has one part: its batches are computed at the same time as each other.
    """
    if mode != _TRAIN:
        return [None] * (1 if mode == _PREDICT else share.num_parts)
    batch = tf.cast(tf.train.get_or_create_global_step(), tf.int32)
    if num_accumulation_steps > 1:
        batch = batch * num_accumulation_steps + optimization.micro_step(num_accumulation_steps)
    first = (batch * share.num_shards + share.shard_index) * share.num_parts
    return [tf.stack([seed, first + part]) for part in range(share.num_parts)]


def _training(loss: tf.Tensor, train_op: tf.Operation, share: Share) -> tf.estimator.EstimatorSpec:
    if share.add_up:
        # The loss of the whole batch, so that it is NaN on all workers or on none.
        loss = share.add_up(loss, "loss") / share.num_shards
    tf.identity(loss, name="total_loss")
    return tf.estimator.EstimatorSpec(_TRAIN, loss=loss, train_op=train_op)


def _evaluation(
    features: Mapping[str, tf.Tensor],
    outputs: ModelOutputs,
    objective: Objective,
    extra_metrics: Sequence[str],
) -> tf.estimator.EstimatorSpec:
    loss, losses, probabilities, predictions = outputs
    weights = tf.cast(features.get("is_real_example", tf.ones_like(losses)), tf.float32)
    evaluated = Evaluated(losses, features["label_ids"], probabilities, predictions, weights)
    metrics = objective.metrics(evaluated, extra_metrics)
    for name, tensor in evaluated._asdict().items():
        if tensor is not None:
            tf.identity(tensor, name="evaluated/" + name)
    return tf.estimator.EstimatorSpec(_EVAL, loss=loss, eval_metric_ops=metrics)


def _seeded_by_name(
    getter: Callable[..., tf.Variable], name: str, *args: Any, **options: Any
) -> tf.Variable:
    """Draw the initial value of a variable by its name and the seed of the graph only.

    By default it also depends on the number of operations that were made before, which is not the
    same for one worker and for several: they read batches in different ways.
    """
    initializer: Any = options.get("initializer")
    if hasattr(initializer, "seed"):
        config = dict(initializer.get_config(), seed=zlib.crc32(name.encode()) & 0x7FFFFFFF)
        options["initializer"] = initializer.from_config(config)
    return getter(name, *args, **options)


def _log_features(features: Mapping[str, tf.Tensor]) -> None:
    _LOG.info("*** Features ***", extra=logs.FOR_FILE)
    for name in sorted(features):
        _LOG.info("  name = %s, shape = %s", name, features[name].shape, extra=logs.FOR_FILE)


def _initial_values(
    init_checkpoint: str | None, bert_config: modeling.BertConfig, with_classifier: bool
) -> Callable[..., tf.Variable]:
    """Return a getter of variables that begin with the values of a checkpoint, if it has them.

    Unlike `tf.train.init_from_checkpoint` it casts values that are not float32.
    """
    if not init_checkpoint:
        return _seeded_by_name
    found = weights.contents(init_checkpoint)

    def saved_value(
        name: str, shape: Sequence[int], dtype: tf.DType, partition_info: Any = None
    ) -> tf.Tensor:
        del partition_info
        with tf.device("/cpu:0"):
            (value,) = tf.raw_ops.RestoreV2(
                prefix=init_checkpoint,
                tensor_names=[found[name].name],
                shape_and_slices=[""],
                dtypes=[found[name].dtype],
            )
        return tf.cast(tf.ensure_shape(value, shape), dtype)

    def begin(
        getter: Callable[..., tf.Variable], name: str, *args: Any, **options: Any
    ) -> tf.Variable:
        is_wanted = with_classifier or bert_config.owns(name)
        if is_wanted and name in found and found[name].shape == options["shape"]:
            options["initializer"] = functools.partial(saved_value, name)
        return _seeded_by_name(getter, name, *args, **options)

    return begin


def _log_initial_values(
    init_checkpoint: str | None, bert_config: modeling.BertConfig, with_classifier: bool
) -> None:
    """Log which variables begin with the values of a checkpoint.

    Raises:
        BadInput: the checkpoint is not of this encoder.
    """
    variables = tf.trainable_variables()
    initialized: Collection[str] = ()
    if init_checkpoint:
        classifier = {
            variable.op.name: variable.shape.as_list()
            for variable in variables
            if with_classifier and not bert_config.owns(variable.op.name)
        }
        coverage = weights.coverage(init_checkpoint, bert_config, classifier)
        if coverage.faults:
            raise BadInput(coverage.faults[0])
        for warning in coverage.warnings:
            _LOG.warning("%s", warning)
        initialized = coverage.dtypes
    _LOG.info(
        "Trainable variables = %d, of which %d begin as in %s",
        len(variables),
        len(initialized),
        init_checkpoint or "no checkpoint",
    )
    _LOG.info("**** Trainable Variables ****", extra=logs.FOR_FILE)
    for variable in variables:
        source = ", *INIT_FROM_CKPT*" if variable.op.name in initialized else ""
        _LOG.info(
            "  name = %s, shape = %s%s",
            variable.name,
            variable.shape,
            source,
            extra=logs.FOR_FILE,
        )
