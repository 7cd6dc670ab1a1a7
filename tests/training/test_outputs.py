"""What a model says about each example; that of whole runs is in `end_state` of every run."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier.errors import BadInput
from bert_classifier.training import outputs
from bert_classifier.training.history import EvalHistory, Watched
from bert_classifier.training.outputs import Outputs, OutputsHook, OutputsRecorder

FOUND = Outputs(
    5,
    "0123456789ab",
    np.array([0, 1]),
    np.array([1, 1], np.int32),
    np.array([2.5, 0.1], np.float32),
    np.array([[0.1, 0.9], [0.2, 0.8]], np.float32),
)


def assert_same(found, expected):
    for name, value in expected._asdict().items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


@pytest.mark.parametrize("expected", [FOUND, FOUND._replace(probabilities=None)])
def test_what_is_written_is_read(tmp_path, expected):
    path = str(tmp_path / "outputs.npz")
    assert outputs.read(path) is None
    outputs.write(path, expected)
    assert_same(outputs.read(path), expected)
    first = (tmp_path / "outputs.npz").read_bytes()
    outputs.write(path, expected)
    assert (tmp_path / "outputs.npz").read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"\0" * 300, None, b"{}"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "outputs.npz"
    outputs.write(str(path), FOUND)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(BadInput, match="outputs.npz: is damaged.*--do_eval"):
        outputs.read(str(path))


def evaluate(hook, batches):
    """Evaluates batches of (labels, weights), each example with the loss of its label."""
    with tf.Graph().as_default():
        step = tf.train.get_or_create_global_step()
        shape = {"labels": tf.int64, "weights": tf.float32}
        dataset = tf.data.Dataset.from_generator(
            lambda: ({"labels": l, "weights": w} for l, w in batches),  # noqa: E741
            shape,
            dict.fromkeys(shape, [None]),
        )
        batch = tf.data.make_one_shot_iterator(dataset).get_next()
        of_model = dict(batch, predictions=batch["labels"] + 1, losses=batch["labels"] * 10)
        for name, tensor in of_model.items():
            tf.identity(tensor, name="evaluated/" + name)
        fetched, to_20 = tf.identity(batch["labels"]), step.assign(20)
        with tf.train.SingularMonitoredSession([hook]) as session:
            session.raw_session().run(to_20)
            while not session.should_stop():
                session.run(fetched)


def test_rows_come_back_in_the_order_of_the_file_without_padding():
    hook = OutputsHook(np.array([2, 0, 1, 3]), "fingerprint")
    evaluate(hook, [([12, 10], [1, 1]), ([11, 13], [1, 0])])
    found = hook.outputs
    assert (found.step, found.fingerprint, found.probabilities) == (20, "fingerprint", None)
    assert found.label_ids.tolist() == [10, 11, 12]
    assert found.predictions.tolist() == [11, 12, 13]
    assert found.losses.tolist() == [100, 110, 120]


def test_those_of_all_workers_are_joined():
    others = {}

    def from_all(value):
        others.setdefault("mine", value)
        return [others["mine"], value, (np.zeros(0, np.int64), {})]

    evaluate(OutputsHook(np.array([3, 0]), "", from_all), [([13, 10], [1, 1])])
    hook = OutputsHook(np.array([2, 1]), "", from_all)
    evaluate(hook, [([12, 11], [1, 1])])
    assert hook.outputs.label_ids.tolist() == [10, 11, 12, 13]


def test_a_second_evaluation_replaces_the_first():
    hook = OutputsHook(np.array([0]), "")
    for label in (1, 2):
        evaluate(hook, [([label], [1])])
    assert hook.outputs.label_ids.tolist() == [2]


class TestTheBest:
    def record(self, folder, step, value):
        """Evaluates as Estimator does: first the outputs are recorded, then the history."""
        history = EvalHistory(str(folder / "history"), Watched("f1", True))
        hook = OutputsHook(np.zeros(0, int), "")
        hook.outputs = FOUND._replace(step=step)
        metrics = {"f1": value, "global_step": step}
        path = OutputsRecorder(str(folder), hook, history).export(None, "", "", metrics, False)
        history.add(step, metrics)
        return path

    def kept(self, folder):
        found = outputs.read(outputs.outputs_path(str(folder)))
        return None if found is None else found.step

    def test_is_kept(self, tmp_path):
        values = [(5, float("nan"), None), (10, 0.5, 10), (15, 0.5, 10), (20, 0.7, 20)]
        for step, value, expected in values + [(25, 0.6, 20)]:
            self.record(tmp_path, step, value)
            assert self.kept(tmp_path) == expected

    def test_an_evaluation_that_is_made_again_is_not_compared_with_itself(self, tmp_path):
        self.record(tmp_path, 5, 0.5)
        assert self.record(tmp_path, 5, 0.5)

    def test_outputs_of_another_step_are_not_written(self, tmp_path):
        history = EvalHistory(str(tmp_path / "history"), Watched("f1", True))
        hook = OutputsHook(np.zeros(0, int), "")
        recorder = OutputsRecorder(str(tmp_path), hook, history)
        metrics = {"f1": 1.0, "global_step": 7}
        assert recorder.export(None, "", "", metrics, False) is None
        hook.outputs = FOUND
        assert recorder.export(None, "", "", metrics, False) is None
        assert self.kept(tmp_path) is None
