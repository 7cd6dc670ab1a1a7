"""scikit-learn and scipy are the oracles: all examples at once must give the same numbers."""

import glob
import os

import numpy as np
import pytest
import scipy.stats
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
        if len({*labels, *predictions}) == 1:  # It would warn, and say the same.
            return 0.0
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


MULTI_LABEL_ASKED = [
    (average, name, options)
    for average in ["micro", "macro", "weighted"]
    for name, options in [
        ("precision", {}),
        ("recall", {}),
        ("fbeta", {"beta": 0.5}),
        ("fbeta", {"beta": 1}),
        ("fbeta", {"beta": 2}),
    ]
]


@pytest.mark.parametrize("num_classes", [2, 5, 9])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_multi_label_metric_equals_scikit_learn(num_classes, weighted):
    random = np.random.RandomState(num_classes)
    with tf.Graph().as_default(), tf.Session() as session:
        labels, predictions = (tf.placeholder(tf.int32, [None, num_classes]) for _ in range(2))
        weights = tf.placeholder(tf.float32, [None]) if weighted else None
        values, update_ops = zip(
            *[
                getattr(tf_metrics, "multi_label_" + name)(
                    labels, predictions, num_classes, weights, average, **options
                )
                for average, name, options in MULTI_LABEL_ASKED
            ]
        )
        reset = tf.local_variables_initializer()

        for num_updates in [0, 1, 1, 2, 3, 5]:
            session.run(reset)
            seen = [np.zeros([0, num_classes]), np.zeros([0, num_classes]), np.zeros([0])]
            # Some labels are never given, or never predicted.
            rates = random.choice([0.0, 0.3, 0.8], [2, num_classes])
            for _ in range(num_updates):
                size = random.randint(1, 9)
                batch = [random.uniform(size=[size, num_classes]) < rate for rate in rates]
                batch.append(random.choice([0.0, 0.25, 1.0, 3.0], size))
                feed = dict(zip([labels, predictions] + [weights] * weighted, batch))
                updated = session.run(update_ops, feed)
                seen = [np.concatenate(columns) for columns in zip(seen, batch)]
            first, second = session.run(values), session.run(values)

            expected = [
                getattr(sklearn.metrics, name + "_score")(
                    seen[0],
                    seen[1],
                    average=average,
                    sample_weight=seen[2] if weighted else None,
                    zero_division=0,
                    **options,
                )
                if num_updates
                else 0.0
                for average, name, options in MULTI_LABEL_ASKED
            ]
            np.testing.assert_allclose(first, expected, rtol=0, atol=1e-6)
            assert first == second, "reading a value must not change it"
            if num_updates:
                assert updated == first, "an update gives the metric with its batch in it"


@pytest.mark.parametrize(
    "options, message",
    [({"average": "samples"}, "not 'samples'"), ({"beta": -1}, "beta must be")],
)
def test_bad_options_of_multi_label_metrics_are_refused(options, message):
    with tf.Graph().as_default(), pytest.raises(ValueError, match=message):
        tf_metrics.multi_label_fbeta([[0, 1]], [[1, 1]], 2, **options)


class Correlations:
    """Both correlations of a stream."""

    def __init__(self, weighted=True, dtype=tf.float32):
        self.columns = [tf.placeholder(dtype, [None]), tf.placeholder(tf.float32, [None])]
        if weighted:
            self.columns.append(tf.placeholder(tf.float32, [None]))
        pearson = tf_metrics.pearson_correlation(*self.columns)
        spearman = tf_metrics.spearman_correlation(*self.columns)
        self.values, self.update_ops = zip(pearson, spearman)
        self.reset = tf.local_variables_initializer()

    def of(self, session, batches):
        session.run(self.reset)
        for batch in batches:
            session.run(self.update_ops, dict(zip(self.columns, batch)))
        return session.run(self.values)


@pytest.mark.parametrize("dtype", [tf.float32, tf.int32])
@pytest.mark.parametrize("weighted", [False, True])
def test_correlations_equal_scipy(dtype, weighted):
    """Numbers with many ties, some with none; weights leave examples out."""
    random = np.random.RandomState(0)
    with tf.Graph().as_default(), tf.Session() as session:
        correlations = Correlations(weighted, dtype)
        for sizes in [[2], [5, 1, 7], [1, 1, 1], [30, 8, 30, 20], [500]]:
            batches = []
            for size in sizes:
                labels = random.randint(0, 11, size) / (1 if dtype == tf.int32 else 2)
                guesses = labels + random.normal(scale=2, size=size)
                predictions = np.where(random.uniform(size=size) < 0.5, guesses, np.round(guesses))
                # The first two always count: one number alone has no correlation.
                counts = random.randint(0, 2, size) | (np.arange(size) < 2)
                batches.append([labels, predictions.astype(np.float32), counts][: 2 + weighted])
            labels, predictions, *counts = map(np.concatenate, zip(*batches))
            if weighted:
                labels, predictions = (c[counts[0] > 0] for c in (labels, predictions))
            assert len(set(labels)) > 1
            pearson, spearman = correlations.of(session, batches)
            assert pearson == pytest.approx(scipy.stats.pearsonr(labels, predictions)[0], abs=1e-6)
            assert spearman == pytest.approx(
                scipy.stats.spearmanr(labels, predictions)[0], abs=1e-6
            )


def test_the_pearson_correlation_counts_an_example_by_its_weight():
    random = np.random.RandomState(0)
    labels, predictions = random.normal(size=[2, 20])
    weights = random.choice([0.0, 0.25, 1.0, 3.0], 20)
    covariance = np.cov(labels, predictions, aweights=weights)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    with tf.Graph().as_default(), tf.Session() as session:
        pearson, _ = Correlations().of(session, [[labels, predictions, weights]])
    assert pearson == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4, 3e-5])
def test_the_pearson_correlation_of_nearly_equal_numbers_is_exact(spread):
    """A long stream of predictions that differ by less and less of their mean."""
    random = np.random.RandomState(0)
    labels = random.uniform(0, 5, 4000).astype(np.float32)
    predictions = (2.7 * (1 + spread * (labels + random.normal(size=4000)))).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        batches = list(zip(np.split(labels, 500), np.split(predictions, 500)))
        pearson, _ = Correlations(weighted=False).of(session, batches)
    expected, _ = scipy.stats.pearsonr(labels.astype(np.float64), predictions.astype(np.float64))
    assert pearson == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("constant", ["labels", "predictions", "both"])
def test_the_correlation_with_a_constant_is_zero_even_if_its_sums_round(constant):
    random = np.random.RandomState(0)
    with tf.Graph().as_default(), tf.Session() as session:
        correlations = Correlations(weighted=False)
        for value in [0.0, 0.1, 3.3, 1e6, -1 / 3, *random.normal(size=15)]:
            columns = random.normal(size=[2, 60]).astype(np.float32)
            if constant != "predictions":
                columns[0] = value
            if constant != "labels":
                columns[1] = value
            assert correlations.of(session, np.split(columns, 20, axis=1)) == (0, 0)


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([], id="no batch"),
        pytest.param([([], [], [])], id="an empty batch"),
        pytest.param([([1], [2], [1])], id="one example"),
        pytest.param([([1, 2, 3], [1, 2, 3], [1, 0, 0])], id="one example that counts"),
        pytest.param([([1, 2, 3], [1, 2, 3], [0, 0, 0])], id="none that counts"),
    ],
)
def test_the_correlation_of_less_than_two_examples_is_zero(batches):
    with tf.Graph().as_default(), tf.Session() as session:
        assert Correlations().of(session, batches) == (0, 0)


def test_a_prediction_that_is_not_a_number_gives_no_correlation():
    with tf.Graph().as_default(), tf.Session() as session:
        correlations = Correlations(weighted=False)
        result = correlations.of(session, [([1, 2, 3], [1, np.nan, 3]), ([4], [4])])
        assert np.isnan(result).all()


def test_the_variables_of_correlations_are_a_list_and_sums_that_estimator_resets():
    with tf.Graph().as_default() as graph, tf.Session() as session:
        correlations = Correlations(weighted=False)
        variables = graph.get_collection(tf.GraphKeys.METRIC_VARIABLES)
        sums, pairs = variables
        assert graph.get_collection(tf.GraphKeys.LOCAL_VARIABLES) == variables
        assert not graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
        assert not graph.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES)
        assert sums.shape.as_list() == [6] and pairs.shape.as_list() == [None, 2]
        for _ in range(2):
            correlations.of(session, [([1, 2], [3, 5]), ([4], [0.5])])
            np.testing.assert_array_equal(session.run(pairs), [[1, 3], [2, 5], [4, 0.5]])
            # The number of examples, and the sums of x, y, xx, yy and xy.
            np.testing.assert_array_equal(session.run(sums), [3, 7, 8.5, 21, 34.25, 15])


def test_xla_leaves_the_growing_list_alone():
    """It would refuse a variable whose shape changes."""
    with tf.Graph().as_default(), tf.Session() as session:
        with tf.xla.experimental.jit_scope():
            correlations = Correlations()
        batches = [([1, 2, 3], [5, 4, 4], [1, 1, 1]), ([4, 0], [1, 6], [1, 0])]
        _, spearman = correlations.of(session, batches)
    assert spearman == pytest.approx(scipy.stats.spearmanr([1, 2, 3, 4], [5, 4, 4, 1])[0])


def test_an_estimator_takes_a_list_for_a_metric(tmp_path):
    labels = np.float32([0, 1, 2.5, 2.5, 4, 5, 3, 1])
    predictions = np.float32([0.5, 0.5, 2, 3, 3, 4, 3.5, -1])

    def input_fn():
        return tf.data.Dataset.from_tensor_slices((predictions, labels)).batch(3)

    def model_fn(features, labels, mode):
        return tf.estimator.EstimatorSpec(
            mode,
            loss=tf.constant(0.0),
            eval_metric_ops={
                "pearson": tf_metrics.pearson_correlation(labels, features),
                "spearman": tf_metrics.spearman_correlation(labels, features),
            },
        )

    estimator = tf.estimator.Estimator(model_fn, model_dir=str(tmp_path))
    for _ in range(2):
        result = estimator.evaluate(input_fn)
        assert result["pearson"] == pytest.approx(scipy.stats.pearsonr(labels, predictions)[0])
        assert result["spearman"] == pytest.approx(scipy.stats.spearmanr(labels, predictions)[0])
