from __future__ import annotations

import logging

import numpy as np
import pytest
import sklearn.metrics
import tensorflow.compat.v1 as tf
from conftest import CONFIG

import classifier
import modeling
from errors import BadInput

TRAIN, EVAL, PREDICT = (
    tf.estimator.ModeKeys.TRAIN,
    tf.estimator.ModeKeys.EVAL,
    tf.estimator.ModeKeys.PREDICT,
)


def bert_config(**changes):
    return modeling.BertConfig.from_dict(dict(CONFIG, **changes))


def model_fn(num_labels=2, init_checkpoint=None, config=None, **options):
    return classifier.model_fn_builder(
        bert_config=config or bert_config(),
        num_labels=num_labels,
        init_checkpoint=init_checkpoint,
        learning_rate=1e-3,
        num_train_steps=10,
        num_warmup_steps=1,
        **options,
    )


def batch(num_labels=2, size=6, labelled=True, seed=0):
    random = np.random.RandomState(seed)
    ids = random.randint(5, CONFIG["vocab_size"], [size, 8]).astype(np.int32)
    mask = (np.arange(8) < random.randint(2, 9, [size, 1])).astype(np.int32)
    columns = {"input_ids": ids, "input_mask": mask, "segment_ids": np.zeros_like(ids)}
    if labelled:
        columns["label_ids"] = random.randint(0, num_labels, [size]).astype(np.int32)
    return columns


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
        class_weights=class_weights,
        label_smoothing=label_smoothing,
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
            probabilities.astype(np.float64),
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


def test_a_checkpoint_of_something_else_stops_the_run_with_the_list(tmp_path):
    other = checkpoint_of(tmp_path, {"albert/word_embeddings": np.zeros([3], np.float32)})
    with pytest.raises(BadInput, match="covers 0 of the encoder's 39 variables") as error:
        model_fn(init_checkpoint=other)(constants(batch()), None, TRAIN)
    assert "bert/encoder/layer_1/output/dense/kernel" in str(error.value)


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
