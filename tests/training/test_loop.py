"""Predictions; what else is in `training` is tested by whole runs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import modeling
from bert_classifier.model import classifier
from bert_classifier.training import loop

NAMES = ("input_ids", "input_mask", "segment_ids")
CONFIG = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 12,
}


def batches(num_windows):
    """Five batches of different sizes and lengths, and the last of one example."""
    random = np.random.RandomState(0)
    for size, length in ((3, 4), (3, 12), (3, 5), (3, 7), (1, 2)):
        shape = [size, num_windows, length] if num_windows else [size, length]
        yield {
            "input_ids": random.randint(0, 50, shape),
            "input_mask": np.ones(shape, int),
            "segment_ids": random.randint(0, 2, shape),
        }


def make_input_fn(num_windows):
    shape = [None] * (3 if num_windows else 2)
    return lambda: tf.data.Dataset.from_generator(
        lambda: batches(num_windows), dict.fromkeys(NAMES, tf.int32), dict.fromkeys(NAMES, shape)
    )


@pytest.fixture(scope="module", params=["classification", "multi_label", "regression"])
def trained(request, tmp_path_factory):
    """An Estimator and the path of a checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    num_labels = 1 if request.param == "regression" else 3
    estimator = tf.estimator.Estimator(
        classifier.model_fn_builder(
            modeling.BertConfig.from_dict(CONFIG),
            num_labels,
            None,
            0.0,
            0,
            0,
            problem_type=request.param,
            share=classifier.Share(num_parts=2),
        ),
        str(folder),
    )
    with tf.Graph().as_default():
        tf.set_random_seed(3)
        tf.train.create_global_step()
        features = {name: tf.constant(column) for name, column in next(batches(0)).items()}
        estimator.model_fn(features, None, tf.estimator.ModeKeys.PREDICT, estimator.config)
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            checkpoint = tf.train.Saver().save(session, str(folder / "model.ckpt"))
    return estimator, checkpoint


@pytest.mark.parametrize("num_windows", [0, 2])
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_predictions_are_those_of_the_estimator(trained, num_windows, num_threads):
    estimator, checkpoint = trained
    input_fn = make_input_fn(num_windows)
    expected = list(estimator.predict(input_fn, checkpoint_path=checkpoint))
    predictions = list(loop.predict(estimator, input_fn, checkpoint, num_threads))
    assert len(predictions) == len(expected) == 13
    for prediction, row in zip(predictions, expected):
        assert prediction.keys() == row.keys()
        for name in row:
            np.testing.assert_allclose(prediction[name], row[name], rtol=1e-5, atol=1e-6)


def test_who_has_enough_predictions_leaves(trained):
    estimator, checkpoint = trained
    predictions = loop.predict(estimator, make_input_fn(0), checkpoint, 2)
    assert "predictions" in next(predictions)
    graph = tf.get_default_graph()
    predictions.close()
    assert tf.get_default_graph() is graph
