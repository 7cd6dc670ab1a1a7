"""What TensorBoard reads from the event files of a run, with its own reader."""

from __future__ import annotations

import contextlib
import html.parser
import io
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import browser
import matplotlib.image
import numpy as np
import pytest
import sklearn.metrics
import tensorflow.compat.v1 as tf
from program import parsed
from tensorboard import plugin_util
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from bert_classifier.data.examples import InputExample
from bert_classifier.report import images, tensorboard
from bert_classifier.training import outputs as outputs_files
from bert_classifier.training.outputs import Outputs, outputs_path

TRAINING = {"loss", "learning_rate", "gradient_norm", "examples_per_second"}


def read(folder):
    events = EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def curve(events, tag):
    return [(event.step, event.value) for event in events.Scalars(tag)]


def steps(events, tag):
    return [event.step for event in events.Scalars(tag)]


def history_of(folder):
    with open(os.path.join(str(folder), "eval_history.jsonl")) as stream:
        return [json.loads(line) for line in stream]


@pytest.fixture
def output_dir(small_run, tmp_path):
    return small_run.copy(tmp_path / "run")


class TestARun:
    def test_training_has_a_point_for_each_line_of_the_log(self, small_run):
        events = read(small_run.output_dir)
        assert set(events.Tags()["scalars"]) == TRAINING
        for tag in TRAINING:
            assert steps(events, tag) == [10]
        # With one step of warm-up of 30, the rate of the tenth step is that after nine.
        assert curve(events, "learning_rate") == [(10, pytest.approx(1e-3 * (1 - 9 / 30)))]

    def test_evaluations_have_the_numbers_of_the_history(self, small_run):
        events = read(os.path.join(small_run.output_dir, "eval"))
        history = history_of(small_run.output_dir)
        assert [line["step"] for line in history] == [5, 10, 15]
        for name in history[0]["metrics"]:
            expected = [(line["step"], pytest.approx(line["metrics"][name])) for line in history]
            assert curve(events, name) == expected, name

    def test_the_loss_of_both_is_in_one_chart(self, small_run):
        tags = [
            {tag for tag in read(os.path.join(small_run.output_dir, name)).Tags()["scalars"]}
            for name in (".", "eval")
        ]
        assert tags[0] & tags[1] == {"loss"}

    def test_the_best_evaluation_is_a_point_of_its_own(self, small_run):
        events = read(os.path.join(small_run.output_dir, "eval_best"))
        (best,) = [line for line in history_of(small_run.output_dir) if line["is_best"]]
        for name, value in best["metrics"].items():
            assert curve(events, name) == [(best["step"], pytest.approx(value))]

    def test_scores_of_classes_are_those_of_scikit_learn(self, small_run):
        outputs = outputs_files.read(outputs_path(small_run.output_dir))
        scores = sklearn.metrics.precision_recall_fscore_support(
            outputs.label_ids, outputs.predictions, labels=[0, 1], zero_division=0
        )
        for folder in ("eval", "eval_best"):
            events = read(os.path.join(small_run.output_dir, folder))
            for name, values in zip(("precision", "recall", "f1"), scores):
                for label, value in zip(("negative", "positive"), values):
                    points = dict(curve(events, "%s/%s" % (name, label)))
                    assert points[outputs.step] == pytest.approx(value)

    def test_each_evaluation_has_a_png(self, small_run):
        events = read(os.path.join(small_run.output_dir, "eval"))
        pictures = events.Images("confusion")
        assert [picture.step for picture in pictures] == [5, 10, 15]
        for picture in pictures:
            pixels = matplotlib.image.imread(io.BytesIO(picture.encoded_image_string))
            assert pixels.shape == (picture.height, picture.width, images.NUM_CHANNELS)

    def test_flags_and_what_hparams_compares(self, small_run):
        events = read(small_run.output_dir)
        (flags,) = events.Tensors("flags/text_summary")
        rows = [[as_text(cell) for cell in row] for row in tf.make_ndarray(flags.tensor_proto)]
        assert ["best_metric", "eval_recall", "yes"] in rows
        assert ["train_batch_size", "8", "yes"] in rows
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        hparams = metadata.parse_session_start_info_plugin_data(content).hparams
        assert hparams["learning_rate"].number_value == 1e-3
        assert hparams["task_name"].string_value == "file"
        assert hparams["amp"].string_value == "False"
        content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
        experiment = metadata.parse_experiment_plugin_data(content)
        assert set(hparams) <= {info.name for info in experiment.hparam_infos}
        names = {(info.name.group, info.name.tag) for info in experiment.metric_infos}
        best = read(os.path.join(small_run.output_dir, "eval_best"))
        assert names and names <= {("eval_best", tag) for tag in best.Tags()["scalars"]}


class TestTheSameRunAgain:
    def test_what_a_killed_process_wrote_is_replaced(self, small_run, output_dir):
        for folder, tag, lost in (("", "loss", (18, 20, 22)), ("eval", "eval_f1", (20, 25))):
            with tf.Graph().as_default(), tf.summary.FileWriter(
                os.path.join(str(output_dir), folder), filename_suffix=".lost"
            ) as writer:
                for step in lost:
                    value = tf.Summary.Value(tag=tag, simple_value=-1.0)
                    writer.add_summary(tf.Summary(value=[value]), step)
        assert steps(read(output_dir), "loss") == [10, 18, 20, 22]
        # TensorBoard reads files of the same second in the order of their names.
        time.sleep(1.1)
        # It goes on from step 15 to 20, and evaluates the best checkpoint once more.
        small_run.run(output_dir, "--max_steps_without_improvement=15")
        assert steps(read(output_dir), "loss") == [10, 20]
        assert all(value > 0 for _, value in curve(read(output_dir), "loss"))
        evaluations = read(os.path.join(str(output_dir), "eval"))
        for tag in ("eval_f1", "loss", "precision/negative"):
            assert steps(evaluations, tag) == [5, 10, 15, 20]
        best = read(os.path.join(str(output_dir), "eval_best"))
        for tag in ("eval_f1", "loss", "precision/negative"):
            assert steps(best, tag) == [5]

    def test_the_best_metrics_are_there_without_an_evaluation_at_the_end(
        self, small_run, output_dir
    ):
        shutil.rmtree(os.path.join(output_dir, "eval_best"))
        small_run.run(output_dir, "--max_steps_without_improvement=15", "--nodo_eval")
        best = read(os.path.join(output_dir, "eval_best"))
        of_step_5 = history_of(output_dir)[0]["metrics"]
        assert set(best.Tags()["scalars"]) == set(of_step_5)
        for tag, value in of_step_5.items():
            assert curve(best, tag) == [(5, pytest.approx(value))]


# What is written about one evaluation


def made_up(problem_type, num_examples, num_labels):
    random = np.random.RandomState(0)
    if problem_type == "regression":
        truth = random.rand(num_examples).astype(np.float32)
        predictions = truth + 0.1 * random.randn(num_examples).astype(np.float32)
        return Outputs(10, "f", truth, predictions, (truth - predictions) ** 2, None)
    probabilities = random.dirichlet(np.ones(num_labels), num_examples).astype(np.float32)
    if problem_type == "multi_label":
        truth = (random.rand(num_examples, num_labels) < 0.3).astype(np.int64)
        predictions = (probabilities > 0.5).astype(np.int32)
    else:
        truth = random.randint(num_labels, size=num_examples)
        predictions = probabilities.argmax(axis=1)
    losses = random.rand(num_examples).astype(np.float32)
    return Outputs(10, "f", truth, predictions, losses, probabilities)


def write(folder, problem_type, labels, outputs, text="text"):
    examples = [InputExample(str(n), "%s %d" % (text, n)) for n in range(len(outputs.losses))]
    with tf.Graph().as_default():
        evaluated = tensorboard.Evaluated(problem_type, labels, examples)
        tensorboard.write_evaluation(str(folder), evaluated, outputs)
    return read(folder)


@pytest.mark.parametrize("problem_type", ["classification", "multi_label"])
def test_precision_and_recall_at_each_threshold(tmp_path, problem_type):
    outputs = made_up(problem_type, 50, 3)
    events = write(tmp_path, problem_type, ["a", "b/c", "<d>"], outputs)
    for number, label in enumerate(["a", "b/c", "<d>"]):
        tag = "pr_curve/%s/pr_curves" % label
        (event,) = events.Tensors(tag)
        assert events.SummaryMetadata(tag).display_name == label
        right, wrong = tf.make_ndarray(event.tensor_proto)[:2]
        truth = outputs.label_ids
        is_class = truth[:, number] == 1 if problem_type == "multi_label" else truth == number
        for threshold in (0, 25, 50, 100):
            above = outputs.probabilities[:, number] >= threshold / 100
            assert right[threshold] == (is_class & above).sum()
            assert wrong[threshold] == (~is_class & above).sum()


def test_confidence_of_right_and_wrong_answers(tmp_path):
    outputs = made_up("classification", 50, 3)
    events = write(tmp_path, "classification", ["a", "b", "c"], outputs)
    is_right = outputs.predictions == outputs.label_ids
    for name, expected in (("right", is_right.sum()), ("wrong", (~is_right).sum())):
        (event,) = events.Tensors("confidence/%s/histogram_summary" % name)
        assert tf.make_ndarray(event.tensor_proto)[:, 2].sum() == expected


class _Text(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def as_text(markdown):
    """What a person reads of it in TensorBoard."""
    parser = _Text()
    parser.feed(plugin_util.markdown_to_safe_html(markdown))
    assert set(parser.tags) <= {"p", "strong"}, markdown
    return parser.text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script> & &lt; <b>",
        "# *not* a _title_ ![x](http://example.com/x.png) [y](z)",
        "1. one - two + `code` ~~~ | a | b | \\ \\* https://example.com",
        "> quote {x} $y$ === ---",
        "你好，世界 مرحبا 😀",
    ],
)
def test_mistakes_are_shown_as_they_are(tmp_path, text):
    outputs = made_up("classification", 40, 2)
    events = write(tmp_path, "classification", ["a|b", "<i>c</i>"], outputs, text)
    (event,) = events.Tensors("mistakes/text_summary")
    header, *rows = [[as_text(cell) for cell in row] for row in tf.make_ndarray(event.tensor_proto)]
    assert header == ["loss", "label", "prediction", "text", "text_b"]
    wrong = np.flatnonzero(outputs.predictions != outputs.label_ids)
    worst = sorted(wrong, key=lambda n: -outputs.losses[n])[:20]
    names = ["a|b", "<i>c</i>"]
    assert rows == [
        [
            "%.3f" % outputs.losses[n],
            names[outputs.label_ids[n]],
            names[outputs.predictions[n]],
            "%s %d" % (text, n),
            "",
        ]
        for n in worst
    ]


def test_a_long_text_is_cut(tmp_path):
    outputs = made_up("classification", 10, 2)
    events = write(tmp_path, "classification", ["a", "b"], outputs, "word\n" * 5000)
    (event,) = events.Tensors("mistakes/text_summary")
    cell = as_text(tf.make_ndarray(event.tensor_proto)[1][3])
    assert cell == ("word " * 60)[:300].strip() + "…" or cell == ("word " * 60)[:300] + "…"


@pytest.mark.parametrize(
    "problem_type,num_labels,num_examples",
    [
        ("classification", 2, 1),
        ("classification", 100, 60),
        ("multi_label", 1, 5),
        ("multi_label", 40, 20),
        ("regression", 1, 1),
        ("regression", 1, 50),
    ],
)
def test_any_evaluation_can_be_shown(
    tmp_path, caplog, recwarn, problem_type, num_labels, num_examples
):
    labels = ["$x$ \\frac", "标签", "<b>&", "ع", "l" * 200, *map(str, range(100))][:num_labels]
    outputs = made_up(problem_type, num_examples, num_labels)
    events = write(tmp_path, problem_type, labels, outputs)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [w for w in recwarn if "lyph" in str(w.message)]
    scalars = events.Tags()["scalars"]
    assert len(scalars) == (0 if problem_type == "regression" else 3 * min(num_labels, 30))
    tag = "predictions" if problem_type == "regression" else "confusion"
    assert [picture.step for picture in events.Images(tag)] == [10]
    assert "mistakes/text_summary" in events.Tags()["tensors"]


def test_a_failure_is_a_warning(tmp_path, caplog, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no font")

    monkeypatch.setattr(images, "matrix", fail)
    events = write(tmp_path, "classification", ["a", "b"], made_up("classification", 10, 2))
    assert "mistakes/text_summary" in events.Tags()["tensors"]
    assert events.Tags()["images"] == []
    assert "TensorBoard lacks a part of this run: RuntimeError('no font')" in caplog.text


def test_names_that_the_font_lacks_are_numbers():
    names = ["good", "标签", "x" * 30, "$a$", "Ünï", "тест", "a\nb", ""]
    assert images.drawable(names) == [
        "good",
        "#2",
        "x" * 23 + ".",
        r"\$a\$",
        "Ünï",
        "тест",
        "#7",
        "#8",
    ]


def test_all_settings_of_a_training_are_compared():
    compared = tensorboard._compared_types()
    values = parsed("--task_name=file", "--do_train", "--output_dir=x").values()
    assert set(compared) <= set(values)
    for name, is_number in compared.items():
        value = values[name]
        if value is not None:
            is_plain_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            assert is_plain_number == is_number, name


# The real program


@contextlib.contextmanager
def served(logdir):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir=%s" % logdir, "--port=%d" % port]
    process = subprocess.Popen(
        [*command, "--host=localhost", "--reload_interval=1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield "http://localhost:%d" % port
    finally:
        process.kill()
        process.wait()


def fetch(url, body=None, timeout=120):
    """Gets JSON; waits until the server is there and its answer is not empty."""
    deadline = time.time() + timeout
    while True:
        with contextlib.suppress(OSError, ValueError):
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.loads(response.read().decode())
            if answer:
                return answer
        assert time.time() < deadline, url
        time.sleep(0.5)


@pytest.mark.slow
def test_tensorboard_compares_two_runs(small_run, tmp_path):
    for name in ("first", "second"):
        small_run.copy(tmp_path / "runs" / name)
    with served(tmp_path / "runs") as url:
        deadline = time.time() + 120
        expected = {
            name + rest for name in ("first", "second") for rest in ("", "/eval", "/eval_best")
        }
        while set(fetch(url + "/data/runs")) != expected:
            assert time.time() < deadline
            time.sleep(0.5)
        wanted = {
            "allowedStatuses": [
                "STATUS_UNKNOWN",
                "STATUS_SUCCESS",
                "STATUS_FAILURE",
                "STATUS_RUNNING",
            ],
            "colParams": [{"hparam": "learning_rate"}],
            "startIndex": 0,
            "sliceSize": 10,
        }
        base = url + "/data/plugin/hparams/"
        experiment = fetch(base + "experiment", {})
        wanted["colParams"] += [{"metric": info["name"]} for info in experiment["metricInfos"]]
        groups = fetch(base + "session_groups", wanted)["sessionGroups"]
        assert len(groups) == 2
        (best,) = [line for line in history_of(small_run.output_dir) if line["is_best"]]
        for group in groups:
            assert group["hparams"]["learning_rate"] == 1e-3
            assert group["sessions"][0]["status"] == "STATUS_SUCCESS"
            found = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
            for name in ("eval_loss", "eval_recall"):
                assert found[name] == pytest.approx(best["metrics"][name])
        check_curves(url)
        check_page(url, tmp_path)


def check_curves(url):
    """Checks that training and evaluation share the loss, and that no run has a step twice."""
    tags = fetch(url + "/data/plugin/scalars/tags")
    for name in ("first", "second"):
        assert set(tags[name]) == TRAINING
        assert set(tags[name]) & set(tags[name + "/eval"]) == {"loss"}
        assert set(tags[name + "/eval_best"]) == set(tags[name + "/eval"])
        for run in (name, name + "/eval", name + "/eval_best"):
            for tag in tags[run]:
                query = urllib.parse.urlencode({"tag": tag, "run": run})
                points = fetch(url + "/data/plugin/scalars/scalars?" + query)
                found = [step for _, step, _ in points]
                assert found == sorted(set(found)), (run, tag)


def check_page(url, folder):
    """Opens the page in a real browser, and checks that it shows the runs, and loads no more."""
    if browser.CHROMIUM is None:
        pytest.skip("there is no chromium")
    window = browser.Browser(folder / "browser", url + "/#scalars")
    try:
        deadline = time.time() + 120
        expected = {name + "/eval" for name in ("first", "second")} | {"eval_recall"}
        while not expected <= {text for _, text in window.names()}:
            assert time.time() < deadline, window.names()
            time.sleep(1)
        assert all(request.startswith((url, "about:", "data:")) for request in window.requests)
    finally:
        window.close()
