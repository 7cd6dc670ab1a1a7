"""scikit-learn is the oracle: the same examples, all at once, must give the same numbers."""

import glob
import os

import numpy as np
import pytest
import sklearn.metrics
import tensorflow.compat.v1 as tf

import tf_metrics

ASKED = [
    *[
        (name, {"average": average, **options})
        for average in ["micro", "macro", "weighted"]
        for name, options in [
            ("precision", {}),
            ("recall", {}),
            ("f1", {}),
            ("fbeta", {"beta": 0.5}),
            ("fbeta", {"beta": 1}),
            ("fbeta", {"beta": 2}),
        ]
    ],
    ("matthews_correlation", {}),
]


def _streamed(name, options, pos_indices, *examples):
    if name != "matthews_correlation":
        options = {"pos_indices": pos_indices, **options}
    *positional, weights = examples
    return getattr(tf_metrics, name)(*positional, weights=weights, **options)


def _expected(name, options, classes, labels, predictions, weights):
    """The number scikit-learn has for the metric; it refuses to judge no examples at all."""
    if not len(labels):
        return 0.0
    if name == "matthews_correlation":
        return sklearn.metrics.matthews_corrcoef(labels, predictions, sample_weight=weights)
    score = getattr(sklearn.metrics, name + "_score")
    return score(
        labels, predictions, labels=classes, sample_weight=weights, zero_division=0, **options
    )


def _random_batches(random, num_classes, row_length, num_updates):
    """Batches of different sizes in which some classes may be absent and many guesses are right."""
    label_classes = random.choice(num_classes, random.randint(1, num_classes + 1))
    guessed_classes = random.choice(num_classes, random.randint(1, num_classes + 1))
    share_right = random.choice([0.0, 0.5, 1.0])
    no_weight = random.randint(4) == 0
    for _ in range(num_updates):
        shape = [random.randint(1, 9)] + ([row_length] if row_length else [])
        labels = random.choice(label_classes, shape)
        guesses = random.choice(guessed_classes, shape)
        predictions = np.where(random.uniform(size=shape) < share_right, labels, guesses)
        weights = random.choice([0.0, 0.25, 1.0, 3.0], shape) * (not no_weight)
        yield labels, predictions, weights


@pytest.mark.parametrize(
    "num_classes, pos_indices, dtype, row_length, weighted",
    [
        (2, None, tf.int32, None, False),
        (2, [1], tf.int64, None, True),
        (3, None, tf.int64, None, True),
        (3, [2, 0], tf.int32, 5, False),
        (5, [1, 2, 3, 4], tf.int32, 3, True),
        (8, [6], tf.int32, None, True),
        (12, None, tf.int64, 4, True),
    ],
)
def test_every_metric_equals_scikit_learn(num_classes, pos_indices, dtype, row_length, weighted):
    # By default scikit-learn averages over the classes that it happens to see, not over all.
    classes = list(range(num_classes)) if pos_indices is None else pos_indices
    random = np.random.RandomState(num_classes)
    with tf.Graph().as_default(), tf.Session() as session:
        shape = [None, row_length] if row_length else [None]
        labels, predictions = tf.placeholder(dtype, shape), tf.placeholder(dtype, shape)
        weights = tf.placeholder(tf.float32, shape) if weighted else None
        values, update_ops = zip(
            *[
                _streamed(name, options, pos_indices, labels, predictions, num_classes, weights)
                for name, options in ASKED
            ]
        )
        reset = tf.local_variables_initializer()

        for num_updates in [0, 1, 1, 1, 2, 2, 3, 4, 5, 5]:
            session.run(reset)
            batches = list(_random_batches(random, num_classes, row_length, num_updates))
            for batch in batches:
                feed = dict(zip([labels, predictions] + [weights] * weighted, batch))
                updated = session.run(update_ops, feed)
            first, second = session.run(values), session.run(values)

            seen = [np.concatenate([np.ravel(b[i]) for b in batches] or [[]]) for i in range(3)]
            if not weighted:
                seen[2] = None
            expected = [_expected(name, options, classes, *seen) for name, options in ASKED]
            np.testing.assert_allclose(first, expected, rtol=0, atol=1e-6)
            assert first == second, "reading a value must not change it"
            if batches:
                assert updated == first, "an update gives the metric with its batch in it"


def test_micro_average_over_all_classes_is_the_accuracy():
    labels, predictions = [0, 1, 2, 2, 3], [0, 2, 2, 1, 3]
    with tf.Graph().as_default(), tf.Session() as session:
        _, update_op = tf_metrics.f1(labels, predictions, num_classes=5)
        session.run(tf.local_variables_initializer())
        assert session.run(update_op) == pytest.approx(
            sklearn.metrics.accuracy_score(labels, predictions)
        )


@pytest.mark.parametrize("constant", ["labels", "predictions"])
def test_matthews_correlation_with_one_class_is_zero_even_if_the_sums_of_weights_round(constant):
    """The two margins of a matrix of fractions may sum to totals that differ in the last digit."""
    random = np.random.RandomState(0)
    with tf.Graph().as_default(), tf.Session() as session:
        matrix = tf.placeholder(tf.float64, [20, 20])
        correlation = tf_metrics.matthews_correlation_of(matrix)
        for _ in range(200):
            counts = np.zeros([20, 20])
            counts[7] = random.uniform(size=20)
            if constant == "predictions":
                counts = counts.T
            assert session.run(correlation, {matrix: counts}) == 0


def test_streaming_confusion_matrix_has_labels_in_rows_and_is_reset_with_local_variables():
    labels, predictions, weights = [0, 0, 2, 1], [1, 1, 0, 1], [0.5, 1.0, 2.0, 0.0]
    once = sklearn.metrics.confusion_matrix(labels, predictions, sample_weight=weights)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        value, update_op = tf_metrics.streaming_confusion_matrix(labels, predictions, 3, weights)
        for _ in range(2):
            session.run(tf.local_variables_initializer())
            np.testing.assert_array_equal(session.run(value), np.zeros([3, 3]))
            np.testing.assert_array_equal(session.run(update_op), once)
            np.testing.assert_array_equal(session.run(update_op), 2 * once)
            np.testing.assert_array_equal(session.run(value), 2 * once)
        assert value.dtype == tf.float64
        (variable,) = graph.get_collection(tf.GraphKeys.METRIC_VARIABLES)
        assert graph.get_collection(tf.GraphKeys.LOCAL_VARIABLES) == [variable]
        assert not graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
        assert not graph.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES)


LABELS = np.array([[0, 1, 2], [2, 0, 1]])
PREDICTIONS = np.array([[0, 2, 2], [2, 1, 1]])


@pytest.mark.parametrize(
    "labels, predictions, weights, weight_of_each",
    [
        (LABELS, PREDICTIONS, 2, 6 * [2]),
        (LABELS, PREDICTIONS, [1, 5], [1, 1, 1, 5, 5, 5]),
        (LABELS, PREDICTIONS, [[1], [5]], [1, 1, 1, 5, 5, 5]),
        (LABELS, PREDICTIONS, [[1, 2, 3]], [1, 2, 3, 1, 2, 3]),
        (LABELS, PREDICTIONS, [[1, 2, 3], [4, 5, 6]], [1, 2, 3, 4, 5, 6]),
        (LABELS[0], PREDICTIONS[0], 0.5, 3 * [0.5]),
        (LABELS[0], PREDICTIONS[0], [True, False, True], [1, 0, 1]),
        (LABELS[0][:, None], PREDICTIONS[0], [1, 2, 3], [1, 2, 3]),
    ],
)
def test_weights_are_broadcast_to_the_labels(labels, predictions, weights, weight_of_each):
    with tf.Graph().as_default(), tf.Session() as session:
        _, update_op = tf_metrics.streaming_confusion_matrix(labels, predictions, 3, weights)
        session.run(tf.local_variables_initializer())
        np.testing.assert_array_equal(
            session.run(update_op),
            sklearn.metrics.confusion_matrix(
                np.ravel(labels),
                np.ravel(predictions),
                labels=range(3),
                sample_weight=weight_of_each,
            ),
        )


@pytest.mark.parametrize("weights", [[1, 2, 3], [1, 2, 3, 4, 5, 6], [[[1]]]])
def test_weights_that_do_not_fit_the_labels_are_refused(weights):
    with tf.Graph().as_default(), pytest.raises(ValueError, match="[Ii]ncompatible|[Rr]ank|shape"):
        tf_metrics.streaming_confusion_matrix(LABELS, PREDICTIONS, 3, weights)


@pytest.mark.parametrize("labels, predictions", [([0, 3], [0, 0]), ([0, 0], [0, -1])])
def test_a_class_out_of_range_stops_the_evaluation(labels, predictions):
    with tf.Graph().as_default(), tf.Session() as session:
        fed = tf.placeholder_with_default(labels, [None])
        _, update_op = tf_metrics.streaming_confusion_matrix(fed, predictions, 3)
        session.run(tf.local_variables_initializer())
        with pytest.raises(tf.errors.InvalidArgumentError, match="out of bound|negative"):
            session.run(update_op)


@pytest.mark.parametrize("metric", [tf_metrics.precision, tf_metrics.recall, tf_metrics.f1])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"average": "binary"}, "'micro', 'macro' or 'weighted', not 'binary'"),
        ({"average": None}, "not None"),
        ({"pos_indices": [1, 1]}, r"0 to 2.*not \[1, 1\]"),
        ({"pos_indices": [3]}, r"not \[3\]"),
        ({"pos_indices": [-1]}, r"not \[-1\]"),
        ({"pos_indices": []}, r"at least one, not \[\]"),
    ],
)
def test_bad_options_are_refused(metric, options, message):
    with tf.Graph().as_default(), pytest.raises(ValueError, match=message):
        metric([0, 1], [1, 1], 3, **options)


@pytest.mark.parametrize("beta", [-1, float("inf"), float("nan")])
def test_bad_beta_is_refused(beta):
    with tf.Graph().as_default(), pytest.raises(ValueError, match="beta must be"):
        tf_metrics.fbeta([0, 1], [1, 1], 3, beta=beta)


def test_an_estimator_evaluates_from_zero_each_time_and_writes_the_metrics(tmp_path):
    labels = np.int32([0, 1, 2, 1, 0, 2, 1, 0, 2, 1])
    predictions = np.int32([0, 1, 2, 0, 0, 1, 1, 1, 2, 2])
    is_real_example = np.float32([1, 1, 1, 1, 1, 1, 1, 1, 1, 0])

    def input_fn():
        columns = {"predictions": predictions, "is_real_example": is_real_example}
        return tf.data.Dataset.from_tensor_slices((columns, labels)).batch(4)

    def model_fn(features, labels, mode):
        examples = (labels, features["predictions"], 3)
        weights = features["is_real_example"]
        return tf.estimator.EstimatorSpec(
            mode,
            loss=tf.constant(0.0),
            eval_metric_ops={
                "macro_f1": tf_metrics.f1(*examples, weights=weights, average="macro"),
                "precision_1": tf_metrics.precision(*examples, [1], weights),
                "matthews": tf_metrics.matthews_correlation(*examples, weights),
            },
        )

    real = labels[:9], predictions[:9]
    expected = {
        "macro_f1": sklearn.metrics.f1_score(*real, average="macro"),
        "precision_1": sklearn.metrics.precision_score(*real, labels=[1], average="micro"),
        "matthews": sklearn.metrics.matthews_corrcoef(*real),
    }
    estimator = tf.estimator.Estimator(model_fn, model_dir=str(tmp_path))
    for _ in range(2):
        result = estimator.evaluate(input_fn)
        assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-6)

    (event_file,) = glob.glob(os.path.join(str(tmp_path), "eval", "*tfevents*"))
    written = {
        value.tag: value.simple_value
        for event in tf.train.summary_iterator(event_file)
        for value in event.summary.value
    }
    assert {name: written[name] for name in expected} == {name: result[name] for name in expected}
