"""The report of whole runs: when it is written, and that it never costs a run."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
import sklearn.metrics
from program import parsed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run_classifier_gpu
from bert_classifier.report import page
from bert_classifier.training import outputs as outputs_files


@pytest.fixture
def output_dir(small_run, tmp_path):
    return small_run.copy(tmp_path / "output")


def train_alone(small_run, output_dir):
    """Gives the command of the run again, without its evaluation: nothing is left to train."""
    arguments = ["--do_train", *small_run.arguments, "--output_dir=" + output_dir]
    return run_classifier_gpu.run_classifier(parsed(*arguments))


def read(output_dir, name):
    with open(os.path.join(output_dir, name), encoding="utf-8") as stream:
        return stream.read()


def steps_of_events(output_dir, name):
    events = EventAccumulator(os.path.join(output_dir, name)).Reload()
    return [event.step for event in events.Scalars("eval_f1")]


def outputs_of(output_dir):
    return outputs_files.read(outputs_files.outputs_path(output_dir))


def test_the_outputs_are_those_of_the_file_and_of_the_numbers(small_run):
    outputs, results = (
        outputs_of(small_run.output_dir),
        json.loads(read(small_run.output_dir, "eval_results.json")),
    )
    with open(os.path.join(small_run.data_dir, "dev.tsv")) as stream:
        labels = [line.split("\t")[0] for line in stream][-len(outputs.label_ids) :]
    names = read(small_run.output_dir, "labels.txt").split()
    assert [names[n] for n in outputs.label_ids] == labels
    assert outputs.step == results["global_step"]
    assert outputs.losses.mean() == pytest.approx(results["eval_loss"], abs=1e-6)
    accuracy = sklearn.metrics.accuracy_score(outputs.label_ids, outputs.predictions)
    assert accuracy == pytest.approx(results["eval_accuracy"])
    np.testing.assert_array_equal(outputs.probabilities.argmax(axis=1), outputs.predictions)
    of_truth = outputs.probabilities[np.arange(len(labels)), outputs.label_ids]
    np.testing.assert_allclose(-np.log(of_truth), outputs.losses, atol=1e-5)


def test_the_page_tells_of_the_run(small_run):
    text, results = (
        read(small_run.output_dir, name) for name in ("report.html", "eval_results.json")
    )
    value = json.loads(results)["eval_recall"]
    assert 'id="headline-value">%.4f<' % value in text
    assert "The model gives the same answer to every row" in text
    assert "stopped early: eval_recall has not improved for 10 steps" in text
    assert "rows that were looked at of" in text and "Tokens per example of train" in text
    assert "--do_predict --output_dir=%s" % small_run.output_dir in text
    assert "precision" in read(small_run.output_dir, "report_results.txt")


def test_a_training_alone_has_a_report_too(small_run, output_dir):
    before = read(output_dir, "report.html")
    os.remove(os.path.join(output_dir, "report.html"))
    train_alone(small_run, output_dir)
    found = read(output_dir, "report.html")
    headline = re.compile('id="headline-value">[0-9.]+<')
    assert headline.search(found).group() == headline.search(before).group()


def test_another_dev_file_has_a_report_and_the_outputs_of_the_run_stay(
    small_run, output_dir, tmp_path
):
    other = tmp_path / "other.tsv"
    other.write_text("label\ttext\n" + "positive\tthe film was good .\n" * 3)
    before = outputs_of(output_dir)
    arguments = ["--do_eval", "--dev_file=%s" % other, "--output_dir=" + output_dir]
    metrics = run_classifier_gpu.run_classifier(parsed(*arguments))
    page = read(output_dir, "report.html")
    assert "Result on 3 dev rows" in page and "These are not the dev rows of the training" in page
    assert "--dev_file" in page and str(other) in page
    results = json.loads(read(output_dir, "eval_results.json"))
    assert results["num_examples"] == 3
    assert results["classes"]["positive"]["support"] == 3
    assert results["eval_accuracy"] == metrics["eval_accuracy"]
    np.testing.assert_array_equal(outputs_of(output_dir).predictions, before.predictions)
    assert steps_of_events(output_dir, "eval_other") == [5]
    events = os.listdir(os.path.join(output_dir, "eval_best"))
    assert events == os.listdir(os.path.join(small_run.output_dir, "eval_best"))


def test_outputs_of_another_dev_file_do_not_take_the_place_of_the_own(
    small_run, output_dir, tmp_path
):
    other = tmp_path / "other.tsv"
    other.write_text("label\ttext\n" + "positive\tthe film was good .\n" * 3)
    before = outputs_of(output_dir)
    os.remove(outputs_files.outputs_path(output_dir))
    evaluate = ["--do_eval", "--output_dir=" + output_dir]
    run_classifier_gpu.run_classifier(parsed(*evaluate, "--dev_file=%s" % other))
    assert outputs_of(output_dir) is None
    run_classifier_gpu.run_classifier(parsed(*evaluate))
    np.testing.assert_array_equal(outputs_of(output_dir).predictions, before.predictions)
    assert "These are not the dev rows" not in read(output_dir, "report.html")
    run_classifier_gpu.run_classifier(parsed(*evaluate, "--eval_checkpoint=last"))
    assert outputs_of(output_dir).step == before.step
    assert steps_of_events(output_dir, "eval_best") == [5]
    assert steps_of_events(output_dir, "eval_other") == [5, 15]


def test_one_dev_row(small_run, output_dir, tmp_path):
    one = tmp_path / "one.tsv"
    one.write_text("label\ttext\npositive\tthe <b>film</b> was bad .\n")
    arguments = ["--do_eval", "--dev_file=%s" % one, "--output_dir=" + output_dir]
    metrics = run_classifier_gpu.run_classifier(parsed(*arguments))
    text = read(output_dir, "report.html")
    assert "Result on 1 dev rows" in text and "<b>film" not in text
    assert metrics["eval_accuracy"] == 1.0 and "There are none." in text


def test_a_report_that_fails_is_a_warning(small_run, output_dir, monkeypatch, caplog):
    def fail(*arguments):
        raise RuntimeError("no ink")

    before = read(output_dir, "report.html")
    monkeypatch.setattr(page, "render", fail)
    train_alone(small_run, output_dir)
    assert "report.html could not be written: RuntimeError('no ink')" in caplog.text
    assert read(output_dir, "report.html") == before


def test_damaged_outputs_are_a_warning(small_run, output_dir, caplog):
    with open(outputs_files.outputs_path(output_dir), "wb"):
        pass
    train_alone(small_run, output_dir)
    assert "dev_outputs.npz: is damaged" in caplog.text


def test_outputs_of_other_data_are_not_reported(small_run, output_dir, caplog):
    path = outputs_files.outputs_path(output_dir)
    outputs_files.write(path, outputs_of(output_dir)._replace(fingerprint="0" * 12))
    os.remove(os.path.join(output_dir, "report.html"))
    train_alone(small_run, output_dir)
    assert not os.path.exists(os.path.join(output_dir, "report.html"))
