from __future__ import annotations

import functools
import logging

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import tensorflow.compat.v1 as tf
from conftest import CONFIG

import modeling
from bert_classifier.errors import BadInput
from bert_classifier.model import classifier, weights
from bert_classifier.problem_types import PROBLEM_TYPES, ClassOptions
from bert_classifier.training.hooks import AddUpMetricsHook

TRAIN, EVAL, PREDICT = (
    tf.estimator.ModeKeys.TRAIN,
    tf.estimator.ModeKeys.EVAL,
    tf.estimator.ModeKeys.PREDICT,
)


def bert_config(**changes):
    return modeling.BertConfig.from_dict(dict(CONFIG, **changes))


def with_objects(options):
    """Put options of classes, and those of the share of a worker, into their objects."""
    options = dict(options)
    for name, kind in (("class_options", ClassOptions), ("share", classifier.Share)):
        given = {field: options.pop(field) for field in kind._fields if field in options}
        if given:
            options[name] = kind(**given)
    return options


def model_fn(num_labels=2, init_checkpoint=None, config=None, **options):
    return classifier.model_fn_builder(
        bert_config=config or bert_config(),
        num_labels=num_labels,
        init_checkpoint=init_checkpoint,
        learning_rate=1e-3,
        num_train_steps=10,
        num_warmup_steps=1,
        **with_objects(options),
    )


def batch(num_labels=2, size=6, labelled=True, seed=0):
    random = np.random.RandomState(seed)
    ids = random.randint(5, CONFIG["vocab_size"], [size, 8]).astype(np.int32)
    mask = (np.arange(8) < random.randint(2, 9, [size, 1])).astype(np.int32)
    columns = {"input_ids": ids, "input_mask": mask, "segment_ids": np.zeros_like(ids)}
    if labelled:
        columns["label_ids"] = random.randint(0, num_labels, [size]).astype(np.int32)
    return columns


def in_double(probabilities):
    """Gives float64 rows whose sum is 1: scikit-learn warns of the sums of float32."""
    exact = probabilities.astype(np.float64)
    return exact / exact.sum(axis=1, keepdims=True)


def constants(columns):
    return {name: tf.constant(column) for name, column in columns.items()}


def test_the_head_is_a_softmax_regression_on_the_pooled_output():
    columns = batch(num_labels=3)
    features = constants(columns)
    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
        outputs = classifier.create_model(
            bert_config(),
            False,
            features["input_ids"],
            features["input_mask"],
            features["segment_ids"],
            features["label_ids"],
            3,
        )
        encoder = modeling.BertModel(
            bert_config(),
            False,
            features["input_ids"],
            features["input_mask"],
            features["segment_ids"],
            scope="bert",
        )
        weights = tf.get_variable("output_weights", [3, CONFIG["hidden_size"]])
        bias = tf.get_variable("output_bias", [3])
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        bias.load(np.array([0.3, -0.2, 0.1], np.float32), session)
        (loss, losses, probabilities, predictions), pooled, w, b = session.run(
            [tuple(outputs), encoder.get_pooled_output(), weights, bias]
        )
    logits = pooled @ w.T + b
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(predictions, logits.argmax(axis=1))
    expected_losses = -np.log(expected[np.arange(6), columns["label_ids"]])
    np.testing.assert_allclose(losses, expected_losses, atol=1e-5)
    assert loss == pytest.approx(expected_losses.mean(), abs=1e-5)


@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0, 0.0]])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.5])
def test_class_weights_and_label_smoothing_equal_numpy(class_weights, label_smoothing):
    columns = batch(num_labels=3, size=8, seed=1)
    assert set(columns["label_ids"]) == {0, 1, 2}
    outputs = classifier.create_model(
        bert_config(),
        False,
        *[constants(columns)[name] for name in ("input_ids", "input_mask", "segment_ids")],
        tf.constant(columns["label_ids"]),
        3,
        class_options=ClassOptions(class_weights, label_smoothing),
    )
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        loss, losses, probabilities, _ = session.run(tuple(outputs))
    # The cross entropy between the prediction and (1 - s) * truth + s * a uniform distribution.
    truth = np.eye(3)[columns["label_ids"]]
    targets = (1 - label_smoothing) * truth + label_smoothing * np.full([8, 3], 1 / 3)
    expected = -(targets * np.log(probabilities)).sum(axis=1)
    if class_weights:
        expected *= np.array(class_weights)[columns["label_ids"]]
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    assert loss == pytest.approx(expected.mean(), abs=1e-5)


def test_only_training_is_weighted_and_smoothed():
    def loss_of(mode, **options):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(1)
            spec = model_fn(config=bert_config(num_hidden_layers=1), **options)(
                constants(batch()), None, mode
            )
            session.run(tf.global_variables_initializer())
            return session.run(spec.loss)

    options = {"class_weights": [0.25, 4.0], "label_smoothing": 0.3}
    assert loss_of(EVAL, **options) == loss_of(EVAL)
    assert abs(loss_of(TRAIN, **options) - loss_of(TRAIN)) > 1e-3


def test_the_order_of_the_outputs_is_the_articles():
    assert classifier.ModelOutputs._fields == (
        "total_loss",
        "per_example_loss",
        "probabilities",
        "predictions",
    )


def test_an_unknown_mode_is_not_implemented():
    with pytest.raises(NotImplementedError, match="'other'"):
        model_fn()(constants(batch()), None, "other", None)


@pytest.mark.parametrize("num_labels,top", [(2, 2), (3, 3), (7, 3)])
def test_predict_needs_no_label_and_gives_the_top_classes(num_labels, top):
    spec = model_fn(num_labels)(constants(batch(labelled=False)), None, PREDICT)
    assert spec.loss is None
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        result = session.run(spec.predictions)
    assert result["probabilities"].shape == (6, num_labels)
    best_first = np.argsort(-result["probabilities"], axis=1)[:, :top]
    np.testing.assert_array_equal(result["top_3"], best_first)
    np.testing.assert_array_equal(result["predictions"], best_first[:, 0])
    assert result["predictions"].dtype == result["top_3"].dtype == np.int32


@pytest.mark.parametrize("num_labels", [2, 3, 7])
def test_evaluation_equals_scikit_learn(num_labels):
    """Over several batches, with weights of 0 and 1 that mark real examples."""
    batches = [batch(num_labels, size, seed=size) for size in (6, 5, 1)]
    for number, columns in enumerate(batches):
        real = np.random.RandomState(number).randint(0, 2, len(columns["label_ids"]))
        columns["is_real_example"] = real.astype(np.int32)
    placeholders = {
        name: tf.placeholder(column.dtype, [None, *column.shape[1:]])
        for name, column in batches[0].items()
    }
    spec = model_fn(num_labels, extra_metrics=["matthews_correlation"])(placeholders, None, EVAL)
    predict = tf.get_default_graph().get_tensor_by_name("loss/probabilities:0")
    values = {name: value for name, (value, _) in spec.eval_metric_ops.items()}
    updates = [update for _, update in spec.eval_metric_ops.values()]
    probabilities = []
    with tf.Session() as session:
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        for columns in batches:
            feed = {placeholders[name]: column for name, column in columns.items()}
            probabilities.append(session.run([predict, updates], feed)[0])
        result = session.run(values)

    probabilities = np.concatenate(probabilities)
    labels = np.concatenate([columns["label_ids"] for columns in batches])
    weights = np.concatenate([columns["is_real_example"] for columns in batches])
    predictions = probabilities.argmax(axis=1)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        labels,
        predictions,
        labels=[1] if num_labels == 2 else range(num_labels),
        average="macro",
        sample_weight=weights,
        zero_division=0,
    )
    expected = {
        "eval_accuracy": sklearn.metrics.accuracy_score(labels, predictions, sample_weight=weights),
        "eval_loss": sklearn.metrics.log_loss(
            labels,
            in_double(probabilities),
            sample_weight=weights,
            labels=range(num_labels),
        ),
        "eval_precision": precision,
        "eval_recall": recall,
        "eval_f1": f1,
        "eval_matthews_correlation": sklearn.metrics.matthews_corrcoef(
            labels, predictions, sample_weight=weights
        ),
    }
    ranks = np.argsort(np.argsort(-probabilities, axis=1), axis=1)
    rank_of_label = ranks[np.arange(len(labels)), labels]
    for k in (3, 5):
        if num_labels > k:
            expected["eval_recall_at_%d" % k] = np.average(rank_of_label < k, weights=weights)
    assert sorted(result) == sorted(expected)
    assert sorted(result) == sorted(classifier.metric_names(num_labels, ["matthews_correlation"]))
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, abs=1e-6), name


def test_training_begins_from_the_checkpoint_and_says_so(tiny_bert, caplog):
    caplog.set_level(logging.INFO)
    model_fn(init_checkpoint=tiny_bert.init_checkpoint)(constants(batch()), None, TRAIN)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables("bert"):
            expected = tf.train.load_variable(tiny_bert.init_checkpoint, variable.op.name)
            np.testing.assert_array_equal(session.run(variable), expected)
    lines = [record.getMessage() for record in caplog.records]
    assert "*** Features ***" in lines and "**** Trainable Variables ****" in lines
    marked = [line for line in lines if line.endswith(", *INIT_FROM_CKPT*")]
    assert len(marked) == len(tf.trainable_variables("bert"))
    assert not any("output_weights" in line for line in marked)


@pytest.mark.parametrize("mode", [EVAL, PREDICT])
def test_other_modes_do_not_touch_the_checkpoint(tiny_bert, mode):
    model_fn(init_checkpoint=tiny_bert.init_checkpoint)(constants(batch()), None, mode)
    assert tiny_bert.init_checkpoint not in str(tf.get_default_graph().as_graph_def())


def checkpoint_of(path, variables):
    with tf.Graph().as_default(), tf.Session() as session:
        for name, value in variables.items():
            tf.get_variable(name, initializer=value)
        session.run(tf.global_variables_initializer())
        return tf.train.Saver().save(session, str(path / "model.ckpt"))


def test_a_checkpoint_of_something_else_stops_the_run(tmp_path):
    other = checkpoint_of(tmp_path, {"albert/word_embeddings": np.zeros([3], np.float32)})
    with pytest.raises(BadInput, match="covers 0 of the encoder's 39 variables") as error:
        model_fn(init_checkpoint=other)(constants(batch()), None, TRAIN)
    assert "missing: bert/embeddings/word_embeddings" in str(error.value)


def test_a_checkpoint_with_too_few_layers_stops_the_run(tiny_bert):
    config = bert_config(num_hidden_layers=3)
    with pytest.raises(BadInput, match="covers 39 of the encoder's 55.*layer_2"):
        model_fn(init_checkpoint=tiny_bert.init_checkpoint, config=config)(
            constants(batch()), None, TRAIN
        )


def test_a_checkpoint_of_another_shape_stops_the_run(tiny_bert):
    config = bert_config(intermediate_size=48)
    with pytest.raises(BadInput, match=r"has shape \[32, 64\], but \[32, 48\] in the model"):
        model_fn(init_checkpoint=tiny_bert.init_checkpoint, config=config)(
            constants(batch()), None, TRAIN
        )


def test_a_checkpoint_without_a_pooler_is_taken_with_a_warning(tiny_bert, tmp_path, caplog):
    reader = tf.train.load_checkpoint(tiny_bert.init_checkpoint)
    names = [name for name in reader.get_variable_to_shape_map() if "pooler" not in name]
    prefix = checkpoint_of(tmp_path, {name: reader.get_tensor(name) for name in names})
    model_fn(init_checkpoint=prefix)(constants(batch()), None, TRAIN)
    assert "has no pooler" in caplog.text


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
def test_values_of_another_precision_are_cast(tiny_bert, tmp_path, dtype):
    expected, prefix = {}, str(tmp_path / "model.ckpt")
    reader = tf.train.load_checkpoint(tiny_bert.init_checkpoint)
    with tf.Graph().as_default(), tf.Session() as session:
        names = sorted(reader.get_variable_to_shape_map())
        values = [tf.cast(reader.get_tensor(name), dtype) for name in names]
        expected = dict(zip(names, session.run([tf.cast(v, tf.float32) for v in values])))
        save = tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values
        )
        session.run(save)
    model_fn(init_checkpoint=prefix)(constants(batch()), None, TRAIN)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables("bert"):
            assert variable.dtype.base_dtype == tf.float32
            np.testing.assert_array_equal(session.run(variable), expected[variable.op.name])
    coverage = weights.coverage(prefix, bert_config(), {})
    assert coverage.summary.endswith("39 variables, %s cast to float32" % dtype.name)
    assert weights.find_not_finite(prefix, names) is None


@pytest.mark.parametrize(
    ("num_labels", "with_classifier", "is_taken"),
    [(3, True, True), (3, False, False), (2, True, False)],
)
def test_a_classifier_is_taken_if_it_fits_and_is_wanted(
    tiny_bert, tmp_path, caplog, num_labels, with_classifier, is_taken
):
    reader = tf.train.load_checkpoint(tiny_bert.init_checkpoint)
    variables = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    variables["output_weights"] = np.full([3, 32], 7, np.float32)
    variables["output_bias"] = np.full([3], 7, np.float32)
    prefix = checkpoint_of(tmp_path, variables)
    options = {"init_checkpoint": prefix, "with_classifier": with_classifier}
    model_fn(num_labels, **options)(constants(batch()), None, TRAIN)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        values = {v.op.name: session.run(v) for v in tf.trainable_variables()}
    assert (values["output_weights"] == 7).all() == is_taken
    assert (values["output_bias"] == (7 if is_taken else 0)).all()
    name = "bert/pooler/dense/kernel"
    np.testing.assert_array_equal(values[name], variables[name])
    assert ("has the classifier of another task" in caplog.text) == (num_labels == 2)


def test_dropout_depends_on_the_seed_and_the_step_only():
    def losses(seed, steps):
        tf.reset_default_graph()
        tf.set_random_seed(7)
        spec = model_fn(seed=seed)(constants(batch()), None, TRAIN)
        step = tf.train.get_global_step()
        result = []
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            for number in steps:
                step.load(number, session)
                result.append(session.run(spec.loss))
        return result

    assert losses(1, [3, 4, 3]) == losses(1, [3, 4, 3])
    first, other_step, again = losses(1, [3, 4, 3])
    assert first == again != other_step
    assert losses(2, [3]) != [first]


INPUTS = ("input_ids", "input_mask", "segment_ids")
NUM_LABELS = {"classification": 3, "regression": 1, "multi_label": 4}


def task_batch(problem_type, size=6, seed=0, num_windows=None, labelled=True):
    """A batch of a problem type; with windows, of which the examples have different numbers."""
    num_labels = NUM_LABELS[problem_type]
    columns = batch(num_labels, size, labelled, seed)
    random = np.random.RandomState(seed)
    if num_windows:
        windows = batch(size=size * num_windows, labelled=False, seed=seed)
        exists = np.arange(num_windows) <= (np.arange(size) % num_windows)[:, None]
        for name, column in windows.items():
            columns[name] = column.reshape([size, num_windows, -1]) * exists[:, :, None]
            columns[name] = columns[name].astype(np.int32)
    if labelled and problem_type == "regression":
        columns["label_ids"] = (random.randint(0, 11, size) / 2).astype(np.float32)
    if labelled and problem_type == "multi_label":
        columns["label_ids"] = random.randint(0, 2, [size, num_labels]).astype(np.int32)
    return columns


def build(columns, problem_type, **options):
    """The outputs of a model of one layer, the same at each call, together with its logits."""
    features = constants(columns)
    with tf.variable_scope("model", reuse=tf.AUTO_REUSE):
        outputs = classifier.create_model(
            bert_config(num_hidden_layers=1),
            False,
            features["input_ids"],
            features["input_mask"],
            features["segment_ids"],
            features.get("label_ids"),
            NUM_LABELS[problem_type],
            problem_type=problem_type,
            **with_objects(options),
        )
    logits = [op for op in tf.get_default_graph().get_operations() if op.type == "BiasAdd"][-1]
    fetched = {name: tensor for name, tensor in outputs._asdict().items() if tensor is not None}
    return dict(fetched, logits=logits.outputs[0])


def run(fetched, scale=1.0):
    """Runs the model with an output layer whose logits spread as far as `scale` says."""
    random = np.random.RandomState(0)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables():
            if variable.op.name.endswith(("output_weights", "output_bias")):
                value = random.normal(scale=scale, size=variable.shape.as_list())
                variable.load(value, session)
        return session.run(fetched)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("size", [1, 4, 5], ids=["one part empty", "even", "uneven"])
@pytest.mark.parametrize("is_size_known", [True, False])
def test_a_batch_in_parts_gives_what_it_gives_as_a_whole(problem_type, size, is_size_known):
    columns = task_batch(problem_type, size)
    features = {
        name: tf.placeholder_with_default(column, column.shape if is_size_known else [None] * 2)
        if name != "label_ids"
        else tf.constant(column)
        for name, column in columns.items()
    }

    def model(num_parts):
        with tf.variable_scope("model", reuse=tf.AUTO_REUSE):
            create = functools.partial(
                classifier.create_model,
                bert_config(),
                False,
                num_labels=NUM_LABELS[problem_type],
                problem_type=problem_type,
            )
            columns = {name: features[name] for name in INPUTS}
            columns["labels"] = features["label_ids"]
            outputs = classifier.create_model_in_parts(create, columns, [None] * num_parts)
        gradients = tf.gradients(outputs.total_loss, tf.trainable_variables())
        return [
            [output for output in outputs if output is not None],
            [tf.convert_to_tensor(gradient) for gradient in gradients],
        ]

    whole, parts = run([model(1), model(2)])
    for of_whole, of_parts in zip(whole[0] + whole[1], parts[0] + parts[1]):
        assert of_whole.shape == of_parts.shape and of_whole.dtype == of_parts.dtype
        # What cancels out in a sum is as inexact as its largest terms.
        largest = max(1.0, np.max(np.abs(of_whole)))
        np.testing.assert_allclose(of_whole, of_parts, rtol=1e-5, atol=1e-6 * largest)


def test_the_parts_of_a_batch_and_those_of_workers_have_masks_of_their_own():
    same = {name: np.concatenate([column[:1]] * 4) for name, column in batch().items()}

    def losses(**options):
        tf.reset_default_graph()
        model_fn(seed=1, **options)(constants(same), None, TRAIN)
        of_parts = [
            op.outputs[0]
            for op in tf.get_default_graph().get_operations()
            if op.type == "SoftmaxCrossEntropyWithLogits"
        ]
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            return np.concatenate(session.run(of_parts)).tolist()

    first = losses(num_parts=2, num_shards=2, shard_index=0)
    second = losses(num_parts=2, num_shards=2, shard_index=1)
    assert first == losses(num_parts=2, num_shards=2, shard_index=0)
    assert len({*first, *second}) == 8


def test_a_regression_is_a_number_with_a_squared_error():
    columns = task_batch("regression")
    result = run(build(columns, "regression"))
    assert sorted(result) == ["logits", "per_example_loss", "predictions", "total_loss"]
    assert result["predictions"].dtype == np.float32
    np.testing.assert_array_equal(result["predictions"], result["logits"][:, 0])
    losses = (columns["label_ids"] - result["predictions"]) ** 2
    np.testing.assert_allclose(result["per_example_loss"], losses, rtol=1e-6)
    assert result["total_loss"] == pytest.approx(losses.mean())


@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0, 0.0, 1.0]])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_of_multi_label_equals_numpy(class_weights, label_smoothing):
    columns = task_batch("multi_label", size=8)
    result = run(
        build(
            columns,
            "multi_label",
            class_weights=class_weights,
            label_smoothing=label_smoothing,
        )
    )
    probabilities = scipy.special.expit(result["logits"])
    np.testing.assert_allclose(result["probabilities"], probabilities, atol=1e-6)
    # A label has 1 - s of its weight, and the rest is shared by yes and no.
    targets = columns["label_ids"] * (1 - label_smoothing) + label_smoothing * 0.5
    losses = -targets * np.log(probabilities) - (1 - targets) * np.log(1 - probabilities)
    losses = (losses * (class_weights or 1)).mean(axis=1)
    np.testing.assert_allclose(result["per_example_loss"], losses, atol=1e-5)
    assert result["total_loss"] == pytest.approx(losses.mean(), abs=1e-5)


@pytest.mark.parametrize("thresholds", [None, [0.5, 0.2, 0.0, 1.0], [0.7, 0.3, 0.6, 0.4]])
def test_a_label_is_predicted_above_its_threshold(thresholds):
    result = run(build(task_batch("multi_label", size=20), "multi_label", thresholds=thresholds))
    expected = result["probabilities"] > (thresholds or 0.5)
    assert result["predictions"].dtype == np.int32
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(result["predictions"], expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"problem_type": "ranking"}, "problem_type must be one of .* not 'ranking'"),
        ({"problem_type": "regression"}, "num_labels is 1, not 2"),
        ({"problem_type": "regression", "num_labels": 1, "class_weights": [2.0]}, "no classes"),
        ({"problem_type": "regression", "num_labels": 1, "label_smoothing": 0.1}, "no classes"),
        ({"problem_type": "regression", "num_labels": 1, "thresholds": [0.5]}, "for multi_label"),
        ({"thresholds": [0.5, 0.5]}, "for multi_label, not for classification"),
        ({"problem_type": "multi_label", "thresholds": [0.5]}, "1 thresholds for 2 labels"),
    ],
)
def test_options_of_another_problem_type_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model_fn(**options)(constants(batch()), None, TRAIN)


@pytest.mark.parametrize("problem_type", ["regression", "multi_label"])
def test_extra_metrics_of_a_classification_are_refused(problem_type):
    with pytest.raises(ValueError, match="for a classification, not for " + problem_type):
        classifier.metric_names(1, ["matthews_correlation"], problem_type)


def test_predict_gives_the_number_of_a_regression_only():
    features = constants(task_batch("regression", labelled=False))
    spec = model_fn(1, problem_type="regression")(features, None, PREDICT)
    assert {name: (t.dtype, t.shape.as_list()) for name, t in spec.predictions.items()} == {
        "predictions": (tf.float32, [6])
    }


def test_predict_gives_all_labels_of_an_example_and_the_top_three():
    features = constants(task_batch("multi_label", labelled=False))
    spec = model_fn(4, problem_type="multi_label", thresholds=[0.6, 0.4, 0.5, 0.5])(
        features, None, PREDICT
    )
    result = run(spec.predictions)
    above = result["probabilities"] > [0.6, 0.4, 0.5, 0.5]
    np.testing.assert_array_equal(result["predictions"], above)
    best_first = np.argsort(-result["probabilities"], axis=1)[:, :3]
    np.testing.assert_array_equal(result["top_3"], best_first)


class Evaluation:
    """The graph of an evaluation, with open sizes of the batch and of the number of windows."""

    def __init__(self, problem_type, columns, **options):
        self.placeholders = {
            name: tf.placeholder(column.dtype, [None] * (column.ndim - 1) + [column.shape[-1]])
            if column.ndim > 1
            else tf.placeholder(column.dtype, [None])
            for name, column in columns.items()
        }
        spec = model_fn(
            NUM_LABELS[problem_type],
            config=bert_config(num_hidden_layers=1),
            problem_type=problem_type,
            **options,
        )(self.placeholders, None, EVAL)
        self.values = {name: value for name, (value, _) in spec.eval_metric_ops.items()}
        self.updates = [update for _, update in spec.eval_metric_ops.values()]
        graph = tf.get_default_graph()
        output = "predictions" if problem_type == "regression" else "probabilities"
        self.output = graph.get_tensor_by_name("loss/%s:0" % output)
        self.metric_variables = graph.get_collection(tf.GraphKeys.METRIC_VARIABLES)
        self.start = tf.local_variables_initializer()

    def update(self, session, batches):
        """Counts the batches from zero; gives the model's output for each of them."""
        session.run(self.start)
        outputs = []
        for columns in batches:
            feed = {self.placeholders[name]: column for name, column in columns.items()}
            outputs.append(session.run([self.output, self.updates], feed)[0])
        return outputs


def expected_metrics(problem_type, labels, outputs, thresholds=None):
    """What scikit-learn and scipy say."""
    if problem_type == "regression":
        mse = sklearn.metrics.mean_squared_error(labels, outputs)
        return {
            "eval_pearson": scipy.stats.pearsonr(labels, outputs)[0],
            "eval_spearman": scipy.stats.spearmanr(labels, outputs)[0],
            "eval_mse": mse,
            "eval_loss": mse,
        }
    if problem_type == "classification":
        predictions = outputs.argmax(axis=1)
        scores = {"eval_%s": "macro"}
        loss = sklearn.metrics.log_loss(labels, in_double(outputs), labels=range(3))
    else:
        predictions = outputs > (thresholds or 0.5)
        scores = {"eval_%s_micro": "micro", "eval_%s_macro": "macro"}
        # The loss of a label is that of a binary classification.
        binary = np.stack([1 - outputs, outputs], axis=-1).reshape([-1, 2])
        loss = sklearn.metrics.log_loss(labels.ravel(), in_double(binary))
    expected = {
        "eval_accuracy": sklearn.metrics.accuracy_score(labels, predictions),
        "eval_loss": loss,
    }
    for name, average in scores.items():
        numbers = sklearn.metrics.precision_recall_fscore_support(
            labels,
            predictions,
            labels=range(NUM_LABELS[problem_type]),
            average=average,
            zero_division=0,
        )
        expected.update(zip([name % score for score in ("precision", "recall", "f1")], numbers))
    return expected


def joined(batches, name):
    return np.concatenate([columns[name] for columns in batches])


@pytest.mark.parametrize(
    "problem_type, options",
    [
        ("regression", {}),
        ("multi_label", {}),
        ("multi_label", {"thresholds": [0.48, 0.52, 0.5, 0.45]}),
    ],
)
@pytest.mark.parametrize("padded", [False, True], ids=["all real", "some padding"])
def test_evaluation_of_other_problem_types_equals_the_oracles(problem_type, options, padded):
    """Over several batches; the examples of weight 0 are as if they were not there."""
    batches = [task_batch(problem_type, size, seed=size) for size in (6, 5, 1, 9)]
    for columns in batches if padded else []:
        columns["is_real_example"] = np.int32(np.arange(len(columns["label_ids"])) % 3 != 1)
    evaluation = Evaluation(problem_type, batches[0], **options)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        outputs = np.concatenate(evaluation.update(session, batches))
        result = session.run(evaluation.values)
    real = joined(batches, "is_real_example") > 0 if padded else slice(None)
    expected = expected_metrics(
        problem_type, joined(batches, "label_ids")[real], outputs[real], **options
    )
    assert result == pytest.approx(expected, abs=1e-5)
    names = classifier.metric_names(NUM_LABELS[problem_type], problem_type=problem_type)
    assert sorted(result) == sorted(names)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("sizes_elsewhere", [[7, 2], []], ids=["uneven", "nothing elsewhere"])
def test_an_evaluation_by_two_workers_equals_that_by_one(problem_type, sizes_elsewhere):
    here = [task_batch(problem_type, size, seed=size) for size in (6, 5)]
    elsewhere = [task_batch(problem_type, size, seed=size) for size in sizes_elsewhere]
    evaluation = Evaluation(problem_type, here[0])
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        outputs_elsewhere = evaluation.update(session, elsewhere)
        theirs = {
            "metric_%d" % number: session.run(variable)
            for number, variable in enumerate(evaluation.metric_variables)
        }
        hook = AddUpMetricsHook(
            add_up=lambda tensor, name: tensor + theirs[name],
            gather=lambda tensor, name: tf.concat([tensor, theirs[name]], axis=0),
        )
        with tf.xla.experimental.jit_scope():
            hook.begin()
        outputs = evaluation.update(session, here) + outputs_elsewhere
        hook.end(session)
        result = session.run(evaluation.values)
    labels = joined(here + elsewhere, "label_ids")
    expected = expected_metrics(problem_type, labels, np.concatenate(outputs))
    assert result == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("problem_type", ["regression", "multi_label"])
def test_training_fits_a_batch(problem_type):
    columns = task_batch(problem_type, size=8)
    spec = classifier.model_fn_builder(
        bert_config(num_hidden_layers=1, hidden_dropout_prob=0, attention_probs_dropout_prob=0),
        NUM_LABELS[problem_type],
        None,
        learning_rate=2e-3,
        num_train_steps=150,
        num_warmup_steps=10,
        problem_type=problem_type,
    )(constants(columns), None, TRAIN)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        first = session.run(spec.loss)
        for _ in range(150):
            session.run(spec.train_op)
        # Far below the best that does not depend on the text: the mean of the labels.
        assert session.run(spec.loss) < 0.05 * first


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("scale", [1.0, 600.0], ids=["usual", "very sure"])
def test_the_windows_of_a_text_are_averaged(problem_type, scale):
    num_windows = 3
    columns = task_batch(problem_type, num_windows=num_windows)
    single = {
        name: column.reshape([-1, 8]) for name, column in columns.items() if name != "label_ids"
    }
    result, each_window = run([build(columns, problem_type), build(single, problem_type)], scale)

    exists = columns["input_mask"].max(axis=2)[:, :, None]
    assert set(exists.sum(axis=1).ravel()) == {1, 2, 3}
    logits = each_window["logits"].astype(np.float64).reshape([6, num_windows, -1])
    labels = columns["label_ids"]

    def mean(values):
        return (values * exists).sum(axis=1) / exists.sum(axis=1)

    if problem_type == "regression":
        numbers = mean(logits)[:, 0]
        np.testing.assert_allclose(result["predictions"], numbers, rtol=1e-5)
        np.testing.assert_allclose(
            result["per_example_loss"], (numbers - labels) ** 2, rtol=1e-4, atol=1e-5
        )
        return

    if problem_type == "multi_label":
        # Each label is a choice of two, the logit of one of which is 0.
        logits = np.stack([np.zeros_like(logits), logits], axis=-1)
        exists = exists[:, :, :, None]
    probabilities = mean(scipy.special.softmax(logits, axis=-1))
    # The logarithm of what may be too small for a number.
    log_probabilities = scipy.special.logsumexp(
        scipy.special.log_softmax(logits, axis=-1), axis=1, b=np.broadcast_to(exists, logits.shape)
    ) - np.log(exists.sum(axis=1))
    losses = -np.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]
    if problem_type == "multi_label":
        probabilities, losses = probabilities[..., 1], losses.mean(axis=1)
    np.testing.assert_allclose(result["probabilities"], probabilities, atol=1e-5)
    # Of two windows that are sure of the opposite the mean is 0.5, more or less the last digit.
    if problem_type == "multi_label":
        np.testing.assert_array_equal(result["predictions"], result["probabilities"] > 0.5)
    else:
        rows = np.arange(len(result["predictions"]))
        chosen = result["probabilities"][rows, result["predictions"]]
        np.testing.assert_allclose(chosen, result["probabilities"].max(axis=1), atol=1e-6)
    np.testing.assert_allclose(result["per_example_loss"], losses, rtol=1e-4, atol=1e-5)
    assert scale == 1 or losses.max() > 100


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_an_example_without_windows_spoils_nothing(problem_type):
    """It may be padding of a batch, whose loss has a weight of 0, which NaN would survive."""
    columns = task_batch(problem_type, num_windows=2)
    columns["input_mask"][2] = 0
    for name, value in run(build(columns, problem_type), scale=100.0).items():
        assert np.isfinite(value).all(), name


def test_windows_are_not_for_training():
    features = constants(task_batch("classification", num_windows=2))
    with pytest.raises(ValueError, match="not for training"):
        model_fn(3)(features, None, TRAIN)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_an_evaluation_takes_windows_of_any_number(problem_type):
    batches = [
        task_batch(problem_type, size, seed=size, num_windows=num_windows)
        for size, num_windows in [(4, 3), (5, 1), (3, 2)]
    ]
    evaluation = Evaluation(problem_type, batches[0])
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        outputs = np.concatenate(evaluation.update(session, batches))
        result = session.run(evaluation.values)
    expected = expected_metrics(problem_type, joined(batches, "label_ids"), outputs)
    assert result == pytest.approx(expected, abs=1e-5)
