"""features -> EstimatorSpec: the output layer on the encoder, its metrics and its three modes.

What differs between the problem types is in `_outputs`, `_losses`, `_mean_over_windows`, and the
metrics; the rest is the same for all.
"""

from __future__ import annotations

import functools
import logging
import zlib
from typing import Any, Callable, Collection, Mapping, NamedTuple, Sequence

import tensorflow.compat.v1 as tf

import modeling
import optimization
import tf_metrics
from bert_classifier import logs
from bert_classifier.data.processors import PROBLEM_TYPES
from bert_classifier.errors import BadInput
from bert_classifier.model import weights

_LOG = logging.getLogger(__name__)

_RECALL_AT = (3, 5)

_MULTI_LABEL_SCORES: Mapping[str, Callable[..., tuple[tf.Tensor, tf.Tensor]]] = {
    "precision": tf_metrics.multi_label_precision,
    "recall": tf_metrics.multi_label_recall,
    "f1": tf_metrics.multi_label_fbeta,
}
_AVERAGES = ("micro", "macro")


class ModelOutputs(NamedTuple):
    """What `create_model` gives, in the order in which its callers unpack it.

    total_loss float32 `[]`, per_example_loss float32 `[batch_size]` (both None without labels),
    probabilities float32 `[batch_size, num_labels]` (None for a regression), predictions: int32
    `[batch_size]`, the class; for a regression float32 `[batch_size]`, the number; for multi_label
    int32 `[batch_size, num_labels]`, 1 for each label of the example and else 0.
    """

    total_loss: tf.Tensor | None
    per_example_loss: tf.Tensor | None
    probabilities: tf.Tensor | None
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
    problem_type: str = "classification",
    thresholds: Sequence[float] | None = None,
    gradient_checkpointing: bool = False,
) -> ModelOutputs:
    """Builds BERT and one linear layer on its pooled output.

    A long text may come as several windows, when it is not for training: then the inputs are
    `[batch_size, num_windows, seq_length]`, a window whose mask is all 0 does not exist, and
    the probabilities, or the number of a regression, are means over the windows of the example.
    The loss is that of the means.

    Args:
        bert_config: of the encoder.
        is_training: switches dropout on.
        input_ids: int32 `[batch_size, seq_length]`.
        input_mask: int32 `[batch_size, seq_length]`, 1 for tokens and 0 for padding.
        segment_ids: int32 `[batch_size, seq_length]`, 0 for the first text and 1 for the second.
        labels: None when they are not known, else what `ModelOutputs.predictions` should be.
        num_labels: number of classes; 1 for a regression.
        use_one_hot_embeddings: look embeddings up by a matrix product.
        dropout_seed: int32 `[2]`, see `modeling.dropout`.
        class_weights: factor of the loss of each class, all 1 if not given.
        label_smoothing: part of the target, from 0 up to but not including 1, that is spread evenly
            over all classes (https://arxiv.org/abs/1512.00567, section 7); for multi_label, over
            the yes and the no of each label.
        problem_type: one of `PROBLEM_TYPES`: softmax and cross entropy; the plain output and mean
            squared error; or, for multi_label, sigmoid and the mean over the labels of the binary
            cross entropy.
        thresholds: for multi_label, the probability above which an example has the label, for each
            label; 0.5 if not given.
        gradient_checkpointing: see `modeling.transformer_model`.

    Raises:
        ValueError: an option does not belong to the problem type, or there are windows in training.
    """
    _validate_problem(problem_type, num_labels, class_weights, label_smoothing, thresholds)
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
            # 0.1 in every published configuration, as is the number in google's script.
            pooled = modeling.dropout(pooled, bert_config.hidden_dropout_prob, dropout_seed)
        logits = tf.nn.bias_add(tf.matmul(pooled, output_weights, transpose_b=True), output_bias)
        if window_exists is not None:
            logits = _mean_over_windows(logits, window_exists, problem_type)
        probabilities, predictions = _outputs(logits, problem_type, thresholds)
        if labels is None:
            return ModelOutputs(None, None, probabilities, predictions)
        per_example_loss = _losses(logits, labels, problem_type, class_weights, label_smoothing)
        return ModelOutputs(
            tf.reduce_mean(per_example_loss), per_example_loss, probabilities, predictions
        )


def create_model_in_parts(
    bert_config: modeling.BertConfig,
    is_training: bool,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor,
    segment_ids: tf.Tensor,
    labels: tf.Tensor | None,
    num_labels: int,
    dropout_seeds: Sequence[tf.Tensor | None],
    **options: Any,
) -> ModelOutputs:
    """Builds the model once for each part of the batch, with the same variables.

    The parts are independent until their losses are joined, so each can have a thread of its own;
    see `threads`. A part may be empty.

    Args:
        bert_config: this and the others as for `create_model`.
        is_training: switches dropout on.
        input_ids: int32 `[batch_size, seq_length]`, or in windows.
        input_mask: like `input_ids`.
        segment_ids: like `input_ids`.
        labels: of the examples, or None.
        num_labels: number of classes.
        dropout_seeds: one for each part.
        **options: further arguments of `create_model`.
    """
    columns = [input_ids, input_mask, segment_ids, labels]

    def build(part: Sequence[tf.Tensor | None], dropout_seed: tf.Tensor | None) -> ModelOutputs:
        ids, mask, segments, label_ids = part
        return create_model(
            bert_config,
            is_training,
            ids,
            mask,
            segments,
            label_ids,
            num_labels,
            dropout_seed=dropout_seed,
            **options,
        )

    num_parts = len(dropout_seeds)
    if num_parts == 1:
        return build(columns, dropout_seeds[0])
    batch_size = modeling.get_shape_list(input_ids)[0]
    borders = [batch_size * number // num_parts for number in range(num_parts + 1)]
    outputs: list[ModelOutputs] = []
    for begin, end, dropout_seed in zip(borders, borders[1:], dropout_seeds):
        part = [None if column is None else column[begin:end] for column in columns]
        with tf.variable_scope(tf.get_variable_scope(), reuse=bool(outputs) or None):
            outputs.append(build(part, dropout_seed))
    _, *of_examples = zip(*outputs)
    joined = [None if of[0] is None else tf.concat(of, axis=0) for of in of_examples]
    return ModelOutputs(None if labels is None else tf.reduce_mean(joined[0]), *joined)


def _validate_problem(
    problem_type: str,
    num_labels: int,
    class_weights: Sequence[float] | None,
    label_smoothing: float,
    thresholds: Sequence[float] | None,
) -> None:
    if problem_type not in PROBLEM_TYPES:
        raise ValueError("problem_type must be one of %s, not %r" % (PROBLEM_TYPES, problem_type))
    if problem_type == "regression":
        if num_labels != 1:
            raise ValueError("a regression has one output: num_labels is 1, not %d" % num_labels)
        if class_weights is not None or label_smoothing:
            raise ValueError("a regression has no classes to weigh and no labels to smooth")
    if thresholds is not None:
        if problem_type != "multi_label":
            raise ValueError("thresholds are for multi_label, not for %s" % problem_type)
        if len(thresholds) != num_labels:
            raise ValueError("%d thresholds for %d labels" % (len(thresholds), num_labels))


def _mean_over_windows(logits: tf.Tensor, window_exists: tf.Tensor, problem_type: str) -> tf.Tensor:
    """Gives the logits of the mean probabilities, or for a regression the mean number.

    They come from logarithms of probabilities, so that no loss becomes infinite by rounding.

    Args:
        logits: float32 `[batch_size * num_windows, num_labels]`.
        window_exists: int32 `[batch_size, num_windows]`, 1 or 0.
        problem_type: one of `PROBLEM_TYPES`.

    Returns:
        float32 `[batch_size, num_labels]`, finite also for an example without windows.
    """
    batch_size, num_windows = modeling.get_shape_list(window_exists)
    logits = tf.reshape(logits, [batch_size, num_windows, logits.shape.as_list()[1]])
    exists = tf.expand_dims(tf.cast(window_exists, tf.float32), axis=2)
    if problem_type == "regression":
        total = tf.reduce_sum(logits * exists, axis=1)
        return tf.math.divide_no_nan(total, tf.reduce_sum(exists, axis=1))

    def log_of_sum(log_probabilities: tf.Tensor) -> tf.Tensor:
        return tf.reduce_logsumexp(log_probabilities + (1.0 - exists) * -10000.0, axis=1)

    # The sums will do for the means: the number of windows is a factor that cancels out.
    if problem_type == "multi_label":
        return log_of_sum(tf.log_sigmoid(logits)) - log_of_sum(tf.log_sigmoid(-logits))
    return log_of_sum(tf.nn.log_softmax(logits))


def _outputs(
    logits: tf.Tensor, problem_type: str, thresholds: Sequence[float] | None
) -> tuple[tf.Tensor | None, tf.Tensor]:
    """Gives the probabilities and the predictions, see `ModelOutputs`."""
    if problem_type == "regression":
        return None, tf.squeeze(logits, axis=1, name="predictions")
    if problem_type == "multi_label":
        probabilities = tf.sigmoid(logits, name="probabilities")
        is_predicted = probabilities > (0.5 if thresholds is None else thresholds)
        return probabilities, tf.cast(is_predicted, tf.int32, name="predictions")
    probabilities = tf.nn.softmax(logits, name="probabilities")
    return probabilities, tf.argmax(logits, axis=-1, output_type=tf.int32, name="predictions")


def _losses(
    logits: tf.Tensor,
    labels: tf.Tensor,
    problem_type: str,
    class_weights: Sequence[float] | None,
    label_smoothing: float,
) -> tf.Tensor:
    """Gives the loss of each example, float32 `[batch_size]`."""
    if problem_type == "regression":
        return tf.squared_difference(tf.squeeze(logits, axis=1), labels)
    if problem_type == "multi_label":
        targets = tf.cast(labels, tf.float32) * (1.0 - label_smoothing) + label_smoothing / 2
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        if class_weights is not None:
            losses *= tf.constant(class_weights, tf.float32)
        return tf.reduce_mean(losses, axis=1)
    num_labels = logits.shape.as_list()[1]
    targets = tf.one_hot(labels, num_labels) * (1.0 - label_smoothing)
    losses = tf.nn.softmax_cross_entropy_with_logits_v2(
        labels=targets + label_smoothing / num_labels, logits=logits
    )
    if class_weights is not None:
        losses *= tf.gather(tf.constant(class_weights, tf.float32), labels)
    return losses


def metric_names(
    num_labels: int, extra_metrics: Sequence[str] = (), problem_type: str = "classification"
) -> Sequence[str]:
    """Names the metrics of an evaluation, so that a watched one can be checked before training.

    The arguments are those of `metric_fn`.

    Raises:
        ValueError: there are extra metrics, and the problem type has none.
    """
    if extra_metrics and problem_type != "classification":
        raise ValueError("extra metrics are for a classification, not for %s" % problem_type)
    if problem_type == "regression":
        return ["eval_pearson", "eval_spearman", "eval_mse", "eval_loss"]
    if problem_type == "multi_label":
        names = ["eval_%s_%s" % (n, average) for n in _MULTI_LABEL_SCORES for average in _AVERAGES]
        return ["eval_accuracy", "eval_loss", *names]
    names = ["eval_accuracy", "eval_loss", "eval_precision", "eval_recall", "eval_f1"]
    names += ["eval_recall_at_%d" % k for k in _RECALL_AT if num_labels > k]
    return names + ["eval_" + name for name in extra_metrics]


def metric_fn(
    per_example_loss: tf.Tensor,
    label_ids: tf.Tensor,
    probabilities: tf.Tensor | None,
    predictions: tf.Tensor,
    is_real_example: tf.Tensor,
    extra_metrics: Sequence[str] = (),
    problem_type: str = "classification",
) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
    """Builds the streaming metrics of an evaluation.

    Precision, recall and F1 of a classification are those of class 1 when there are two classes,
    and macro averages over all classes beyond. The accuracy of multi_label is the share of the
    examples that have all their labels and no other.

    Args:
        per_example_loss: float32 `[batch_size]`.
        label_ids: like `predictions`.
        probabilities: float32 `[batch_size, num_labels]`; None for a regression.
        predictions: as in `ModelOutputs`.
        is_real_example: float32 `[batch_size]`, the weight of each example: 0 for padding.
        extra_metrics: further metrics of a classification; `matthews_correlation` is known.
        problem_type: one of `PROBLEM_TYPES`.

    Returns:
        name -> (value, update_op), the names as in `metric_names`.
    """
    if problem_type == "regression":
        return _regression_metrics(per_example_loss, label_ids, predictions, is_real_example)
    if problem_type == "multi_label":
        return _multi_label_metrics(per_example_loss, label_ids, predictions, is_real_example)
    assert probabilities is not None, "only a regression has none"
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


def _regression_metrics(
    losses: tf.Tensor, labels: tf.Tensor, predictions: tf.Tensor, weights: tf.Tensor
) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
    return {
        "eval_pearson": tf_metrics.pearson_correlation(labels, predictions, weights),
        "eval_spearman": tf_metrics.spearman_correlation(labels, predictions, weights),
        "eval_mse": tf.metrics.mean_squared_error(labels, predictions, weights),
        "eval_loss": tf.metrics.mean(losses, weights),
    }


def _multi_label_metrics(
    losses: tf.Tensor, labels: tf.Tensor, predictions: tf.Tensor, weights: tf.Tensor
) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
    all_right = tf.reduce_all(tf.equal(labels, predictions), axis=1)
    metrics = {
        "eval_accuracy": tf.metrics.mean(all_right, weights),
        "eval_loss": tf.metrics.mean(losses, weights),
    }
    num_labels = predictions.shape.as_list()[1]
    for name, score in _MULTI_LABEL_SCORES.items():
        for average in _AVERAGES:
            metrics["eval_%s_%s" % (name, average)] = score(
                labels, predictions, num_labels, weights, average
            )
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
    problem_type: str = "classification",
    thresholds: Sequence[float] | None = None,
    gradient_checkpointing: bool = False,
    num_parts: int = 1,
    with_classifier: bool = True,
    **optimizer_options: Any,
) -> Callable[..., tf.estimator.EstimatorSpec]:
    """Builds the `model_fn` of an Estimator.

    Args:
        bert_config: of the encoder.
        num_labels: number of classes; 1 for a regression.
        init_checkpoint: prefix of the checkpoint that training begins from, or None. In its path
            there must be no character of a pattern: see `files.plain_path`.
        learning_rate: peak learning rate.
        num_train_steps: steps over which the learning rate falls to zero.
        num_warmup_steps: steps over which it first rises.
        use_one_hot_embeddings: look embeddings up by a matrix product.
        extra_metrics: see `metric_fn`.
        seed: of the dropout masks, which depend on it, the step, the worker, its part of the batch
            and the place only.
        class_weights: see `create_model`; an evaluation does not use them.
        label_smoothing: see `create_model`; an evaluation does not use it.
        num_shards: number of workers that train this model together.
        shard_index: number of this worker, from 0.
        add_up: builds the sum over all workers of a tensor, under a name; None for one worker.
        problem_type: see `create_model`.
        thresholds: see `create_model`.
        gradient_checkpointing: see `create_model`.
        num_parts: in how many parts a batch of TRAIN and EVAL is computed, see
            `create_model_in_parts`.
        with_classifier: whether the classifier too begins with the values of `init_checkpoint`, if
            that has them in the same shape.
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
        # Predictions need not wait for each other: there whole batches are computed side by side.
        parts = 1 if mode == tf.estimator.ModeKeys.PREDICT else num_parts
        if is_training:
            _log_features(features)
            # Names are for hooks, which cannot hold tensors: they do not exist when they are made.
            tf.shape(features["input_ids"], name="batch_shape")

        # Elsewhere the weights come from the run's own checkpoint, and the path of the pretrained
        # one would travel into the exported model.
        begins_from = init_checkpoint if is_training else None
        getter = _seeded_by_name
        if begins_from:
            getter = _begin_from(begins_from, bert_config, with_classifier)
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=getter):
            total_loss, per_example_loss, probabilities, predictions = create_model_in_parts(
                bert_config,
                is_training,
                features["input_ids"],
                features["input_mask"],
                features["segment_ids"],
                # A client of the exported model has no label to send: only here is one asked for.
                None if mode == tf.estimator.ModeKeys.PREDICT else features["label_ids"],
                num_labels,
                # Each part of each worker is a batch to the random numbers.
                [
                    _dropout_seed(
                        seed,
                        optimizer_options.get("num_accumulation_steps", 1),
                        num_shards * num_parts,
                        shard_index * num_parts + part,
                    )
                    if is_training
                    else None
                    for part in range(parts)
                ],
                use_one_hot_embeddings=use_one_hot_embeddings,
                class_weights=class_weights if is_training else None,
                label_smoothing=label_smoothing if is_training else 0.0,
                problem_type=problem_type,
                thresholds=thresholds,
                # Elsewhere there are no gradients, and nothing is kept for them.
                gradient_checkpointing=gradient_checkpointing and is_training,
            )

        if is_training:
            _log_initial_values(init_checkpoint, bert_config, with_classifier)
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
                    _example_weights(features, per_example_loss),
                    extra_metrics,
                    problem_type,
                ),
            )

        if problem_type == "regression":
            return tf.estimator.EstimatorSpec(mode, predictions={"predictions": predictions})
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


def _example_weights(features: Mapping[str, tf.Tensor], per_example_loss: tf.Tensor) -> tf.Tensor:
    if "is_real_example" in features:
        return tf.cast(features["is_real_example"], tf.float32)
    return tf.ones_like(per_example_loss)


def _log_features(features: Mapping[str, tf.Tensor]) -> None:
    _LOG.info("*** Features ***", extra=logs.FOR_FILE)
    for name in sorted(features):
        _LOG.info("  name = %s, shape = %s", name, features[name].shape, extra=logs.FOR_FILE)


def _begin_from(
    init_checkpoint: str, bert_config: modeling.BertConfig, with_classifier: bool
) -> Callable[..., tf.Variable]:
    """Returns a getter of variables that begin with the values of a checkpoint, if it has them.

    Unlike `tf.train.init_from_checkpoint` it casts values that are not float32.
    """
    shapes, dtypes = weights.contents(init_checkpoint)

    def saved_value(
        name: str, shape: Sequence[int], dtype: tf.DType, partition_info: Any = None
    ) -> tf.Tensor:
        del partition_info
        with tf.device("/cpu:0"):
            (value,) = tf.raw_ops.RestoreV2(
                prefix=init_checkpoint,
                tensor_names=[name],
                shape_and_slices=[""],
                dtypes=[dtypes[name]],
            )
        return tf.cast(tf.ensure_shape(value, shape), dtype)

    def begin(
        getter: Callable[..., tf.Variable], name: str, *args: Any, **options: Any
    ) -> tf.Variable:
        is_wanted = with_classifier or bert_config.owns(name)
        if is_wanted and shapes.get(name) == options["shape"]:
            options["initializer"] = functools.partial(saved_value, name)
        return _seeded_by_name(getter, name, *args, **options)

    return begin


def _log_initial_values(
    init_checkpoint: str | None, bert_config: modeling.BertConfig, with_classifier: bool
) -> None:
    """Logs which variables begin with values of a checkpoint.

    Raises:
        BadInput: it is not of this encoder.
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
