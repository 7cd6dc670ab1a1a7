"""features -> EstimatorSpec: the classifier on the encoder, its metrics and its three modes."""

from __future__ import annotations

import logging
import zlib
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import tensorflow.compat.v1 as tf

import modeling
import optimization
import tf_metrics
from errors import BadInput

_LOG = logging.getLogger(__name__)

_RECALL_AT = (3, 5)


class ModelOutputs(NamedTuple):
    """What `create_model` gives, in the order in which its callers unpack it.

    total_loss float32 `[]`, per_example_loss float32 `[batch_size]` (both None without labels),
    probabilities float32 `[batch_size, num_labels]`, predictions int32 `[batch_size]`.
    """

    total_loss: tf.Tensor | None
    per_example_loss: tf.Tensor | None
    probabilities: tf.Tensor
    predictions: tf.Tensor


def create_model(
    bert_config: modeling.BertConfig,
    is_training: bool,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor,
    segment_ids: tf.Tensor,
    labels: tf.Tensor | None,
    num_labels: int,
    use_one_hot_embeddings: bool = False,
    dropout_seed: tf.Tensor | None = None,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> ModelOutputs:
    """Builds BERT and a softmax classifier on its pooled output.

    Args:
        bert_config: of the encoder.
        is_training: switches dropout on.
        input_ids: int32 `[batch_size, seq_length]`.
        input_mask: int32 `[batch_size, seq_length]`, 1 for tokens and 0 for padding.
        segment_ids: int32 `[batch_size, seq_length]`, 0 for the first text and 1 for the second.
        labels: int32 `[batch_size]`, or None when they are not known.
        num_labels: number of classes.
        use_one_hot_embeddings: look embeddings up by a matrix product.
        dropout_seed: int32 `[2]`, see `modeling.dropout`.
        class_weights: factor of the loss of each class, all 1 if not given.
        label_smoothing: part of the target, from 0 up to but not including 1, that is spread evenly
            over all classes (https://arxiv.org/abs/1512.00567, section 7).
    """
    model = modeling.BertModel(
        config=bert_config,
        is_training=is_training,
        input_ids=input_ids,
        input_mask=input_mask,
        token_type_ids=segment_ids,
        use_one_hot_embeddings=use_one_hot_embeddings,
        dropout_seed=dropout_seed,
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
            # 0.1 in every published configuration, as is the number in google's script.
            pooled = modeling.dropout(pooled, bert_config.hidden_dropout_prob, dropout_seed)
        logits = tf.nn.bias_add(tf.matmul(pooled, output_weights, transpose_b=True), output_bias)
        probabilities = tf.nn.softmax(logits, name="probabilities")
        predictions = tf.argmax(logits, axis=-1, output_type=tf.int32, name="predictions")
        if labels is None:
            return ModelOutputs(None, None, probabilities, predictions)
        targets = tf.one_hot(labels, num_labels) * (1.0 - label_smoothing)
        per_example_loss = tf.nn.softmax_cross_entropy_with_logits_v2(
            labels=targets + label_smoothing / num_labels, logits=logits
        )
        if class_weights is not None:
            per_example_loss *= tf.gather(tf.constant(class_weights, tf.float32), labels)
        return ModelOutputs(
            tf.reduce_mean(per_example_loss), per_example_loss, probabilities, predictions
        )


def metric_names(num_labels: int, extra_metrics: Sequence[str] = ()) -> Sequence[str]:
    """Names the metrics of an evaluation, so that a watched one can be checked before training."""
    names = ["eval_accuracy", "eval_loss", "eval_precision", "eval_recall", "eval_f1"]
    names += ["eval_recall_at_%d" % k for k in _RECALL_AT if num_labels > k]
    return names + ["eval_" + name for name in extra_metrics]


def metric_fn(
    per_example_loss: tf.Tensor,
    label_ids: tf.Tensor,
    probabilities: tf.Tensor,
    predictions: tf.Tensor,
    is_real_example: tf.Tensor,
    extra_metrics: Sequence[str] = (),
) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
    """Builds the streaming metrics of an evaluation.

    Precision, recall and F1 are those of class 1 when there are two classes, and macro averages
    over all classes beyond.

    Args:
        per_example_loss: float32 `[batch_size]`.
        label_ids: int32 `[batch_size]`.
        probabilities: float32 `[batch_size, num_labels]`.
        predictions: int32 `[batch_size]`.
        is_real_example: float32 `[batch_size]`, the weight of each example: 0 for padding.
        extra_metrics: further metrics of the task; `matthews_correlation` is known.

    Returns:
        name -> (value, update_op), the names as in `metric_names`.
    """
    num_labels = probabilities.shape.as_list()[-1]
    average: dict[str, Any] = {"pos_indices": [1]} if num_labels == 2 else {"average": "macro"}
    counted: dict[str, Any] = {
        "labels": label_ids,
        "predictions": predictions,
        "num_classes": num_labels,
        "weights": is_real_example,
    }
    metrics = {
        "eval_accuracy": tf.metrics.accuracy(label_ids, predictions, weights=is_real_example),
        "eval_loss": tf.metrics.mean(per_example_loss, weights=is_real_example),
        "eval_precision": tf_metrics.precision(**counted, **average),
        "eval_recall": tf_metrics.recall(**counted, **average),
        "eval_f1": tf_metrics.f1(**counted, **average),
    }
    for k in _RECALL_AT:
        if num_labels > k:
            metrics["eval_recall_at_%d" % k] = tf.metrics.recall_at_k(
                tf.cast(label_ids, tf.int64), probabilities, k, weights=is_real_example
            )
    if "matthews_correlation" in extra_metrics:
        metrics["eval_matthews_correlation"] = tf_metrics.matthews_correlation(**counted)
    return metrics


def model_fn_builder(
    bert_config: modeling.BertConfig,
    num_labels: int,
    init_checkpoint: str | None,
    learning_rate: float,
    num_train_steps: int,
    num_warmup_steps: int,
    use_one_hot_embeddings: bool = False,
    extra_metrics: Sequence[str] = (),
    seed: int = 0,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    num_shards: int = 1,
    shard_index: int = 0,
    add_up: Callable[[tf.Tensor, str], tf.Tensor] | None = None,
    **optimizer_options: Any,
) -> Callable[..., tf.estimator.EstimatorSpec]:
    """Builds the `model_fn` of an Estimator.

    Args:
        bert_config: of the encoder.
        num_labels: number of classes.
        init_checkpoint: prefix of the pretrained checkpoint that training begins from, or None.
        learning_rate: peak learning rate.
        num_train_steps: steps over which the learning rate falls to zero.
        num_warmup_steps: steps over which it first rises.
        use_one_hot_embeddings: look embeddings up by a matrix product.
        extra_metrics: see `metric_fn`.
        seed: of the dropout masks, which depend on it, the step, the worker and the place only.
        class_weights: see `create_model`; an evaluation does not use them.
        label_smoothing: see `create_model`; an evaluation does not use it.
        num_shards: number of workers that train this model together.
        shard_index: number of this worker, from 0.
        add_up: builds the sum over all workers of a tensor, under a name; None for one worker.
        **optimizer_options: further arguments of `optimization.create_optimizer`.
    """

    def model_fn(
        features: Mapping[str, tf.Tensor], labels: Any, mode: str, params: Any = None
    ) -> tf.estimator.EstimatorSpec:
        """Builds the graph of one mode; labels come as `features["label_ids"]`."""
        del labels, params
        if mode not in (
            tf.estimator.ModeKeys.TRAIN,
            tf.estimator.ModeKeys.EVAL,
            tf.estimator.ModeKeys.PREDICT,
        ):
            raise NotImplementedError("mode %r is none of TRAIN, EVAL and PREDICT" % mode)
        is_training = mode == tf.estimator.ModeKeys.TRAIN
        if is_training:
            _log_features(features)

        with tf.variable_scope(tf.get_variable_scope(), custom_getter=_seeded_by_name):
            total_loss, per_example_loss, probabilities, predictions = create_model(
                bert_config,
                is_training,
                features["input_ids"],
                features["input_mask"],
                features["segment_ids"],
                # A client of the exported model has no label to send: only here is one asked for.
                None if mode == tf.estimator.ModeKeys.PREDICT else features["label_ids"],
                num_labels,
                use_one_hot_embeddings,
                _dropout_seed(
                    seed,
                    optimizer_options.get("num_accumulation_steps", 1),
                    num_shards,
                    shard_index,
                )
                if is_training
                else None,
                class_weights if is_training else None,
                label_smoothing if is_training else 0.0,
            )

        if is_training:
            # Elsewhere the weights come from the run's own checkpoint, and the path of the
            # pretrained one would travel into the exported model.
            _initialize_from_checkpoint(init_checkpoint)
            train_op = optimization.create_optimizer(
                total_loss,
                learning_rate,
                num_train_steps,
                num_warmup_steps,
                False,
                **optimizer_options,
            )
            if add_up:
                # So it is the loss of the batch and not of a part of it, and NaN on all or none.
                total_loss = add_up(total_loss, "loss") / num_shards
            # A name for hooks, which cannot hold the tensor: it does not exist when they are made.
            tf.identity(total_loss, name="total_loss")
            return tf.estimator.EstimatorSpec(mode, loss=total_loss, train_op=train_op)

        if mode == tf.estimator.ModeKeys.EVAL:
            return tf.estimator.EstimatorSpec(
                mode,
                loss=total_loss,
                eval_metric_ops=metric_fn(
                    per_example_loss,
                    features["label_ids"],
                    probabilities,
                    predictions,
                    _example_weights(features),
                    extra_metrics,
                ),
            )

        top_3 = tf.nn.top_k(probabilities, k=min(3, num_labels)).indices
        return tf.estimator.EstimatorSpec(
            mode,
            predictions={
                "probabilities": probabilities,
                "predictions": predictions,
                "top_3": top_3,
            },
        )

    return model_fn


def _seeded_by_name(
    getter: Callable[..., tf.Variable], name: str, *args: Any, **options: Any
) -> tf.Variable:
    """Draws a variable's initial value by its name and the seed of the graph only.

    By default it also depends on how many operations were made before, and so on the way in which
    batches are read, which is not the same for one worker and for several.
    """
    initializer: Any = options.get("initializer")
    if hasattr(initializer, "seed"):
        config = dict(initializer.get_config(), seed=zlib.crc32(name.encode()) & 0x7FFFFFFF)
        options["initializer"] = initializer.from_config(config)
    return getter(name, *args, **options)


def _dropout_seed(
    seed: int, num_accumulation_steps: int, num_shards: int, shard_index: int
) -> tf.Tensor:
    """Gives the seed and the number of the batch among those of all workers, int32 `[2]`."""
    batch = tf.cast(tf.train.get_or_create_global_step(), tf.int32)
    if num_accumulation_steps > 1:
        batch = batch * num_accumulation_steps + optimization.micro_step(num_accumulation_steps)
    return tf.stack([seed, batch * num_shards + shard_index])


def _example_weights(features: Mapping[str, tf.Tensor]) -> tf.Tensor:
    if "is_real_example" in features:
        return tf.cast(features["is_real_example"], tf.float32)
    return tf.ones_like(features["label_ids"], dtype=tf.float32)


def _log_features(features: Mapping[str, tf.Tensor]) -> None:
    _LOG.info("*** Features ***")
    for name in sorted(features):
        _LOG.info("  name = %s, shape = %s", name, features[name].shape)


def _initialize_from_checkpoint(init_checkpoint: str | None) -> None:
    """Takes the initial values of variables from a checkpoint, and logs which ones."""
    variables = tf.trainable_variables()
    initialized: Mapping[str, int] = {}
    if init_checkpoint:
        assignment_map, initialized = modeling.get_assignment_map_from_checkpoint(
            variables, init_checkpoint
        )
        _validate_coverage(variables, set(initialized), init_checkpoint)
        tf.train.init_from_checkpoint(init_checkpoint, assignment_map)
    _LOG.info("**** Trainable Variables ****")
    for variable in variables:
        source = ", *INIT_FROM_CKPT*" if variable.name in initialized else ""
        _LOG.info("  name = %s, shape = %s%s", variable.name, variable.shape, source)


def _validate_coverage(
    variables: Sequence[tf.Variable], initialized: set[str], init_checkpoint: str
) -> None:
    """Raises BadInput when the encoder would begin with random values, or shapes do not fit.

    The pooler may be missing: checkpoints of masked language models have none.
    """
    shapes = dict(tf.train.list_variables(init_checkpoint))
    for variable in variables:
        name = variable.op.name
        if name in shapes and variable.shape.as_list() != shapes[name]:
            raise BadInput(
                "%s: %s has shape %s, but %s in the model; give the --bert_config_file that "
                "belongs to this checkpoint"
                % (init_checkpoint, name, shapes[name], variable.shape.as_list())
            )
    encoder = [v.op.name for v in variables if v.op.name.startswith("bert/")]
    missing = [name for name in encoder if name not in initialized]
    if any(not name.startswith("bert/pooler/") for name in missing):
        raise BadInput(
            "%s: covers %d of the encoder's %d variables; give the checkpoint that belongs to "
            "--bert_config_file; missing: %s"
            % (init_checkpoint, len(encoder) - len(missing), len(encoder), ", ".join(missing))
        )
    if missing:
        _LOG.warning("%s has no pooler: it begins with random values", init_checkpoint)
