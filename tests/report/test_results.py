"""Tests of the files with the results of an evaluation."""

from __future__ import annotations

import json
import os

import made_up
import numpy as np
import pytest
import sklearn.metrics

from bert_classifier.report import results

LABELS = ["bad", "good", "שלום"]


def write(folder, evaluated, metrics=None):
    results.write(str(folder), metrics or evaluated.metrics, evaluated.scores)
    text = (folder / "report_results.txt").read_text(encoding="utf-8")
    return json.loads((folder / "eval_results.json").read_text()), text


def test_the_json_has_the_metrics_and_each_class_as_scikit_learn(tmp_path):
    evaluated = made_up.classified(200, LABELS)
    metrics = {"eval_accuracy": 0.5, "global_step": 7}
    found, _ = write(tmp_path, evaluated, metrics)
    assert {name: found[name] for name in metrics} == metrics
    outputs = evaluated.outputs
    expected = sklearn.metrics.classification_report(
        outputs.label_ids, outputs.predictions, target_names=LABELS, output_dict=True
    )
    averages = {name + " avg": found["averages"][name] for name in ("macro", "weighted")}
    for name, numbers in {**found["classes"], **averages}.items():
        for key, value in expected[name].items():
            of_file = numbers.get(key.replace("f1-score", "f1"))
            assert of_file is None or of_file == pytest.approx(value), (name, key)
    assert list(found["classes"]) == LABELS
    matrix = sklearn.metrics.confusion_matrix(outputs.label_ids, outputs.predictions)
    assert found["confusion_matrix"] == matrix.tolist()
    counts = np.bincount(outputs.label_ids)
    expected = {"answer": LABELS[counts.argmax()], "score": counts.max() / 200}
    assert found["baseline"]["eval_accuracy"] == expected
    assert found["num_examples"] == 200
    low, high = found["intervals"]["eval_accuracy"]
    assert low < evaluated.scores.values["eval_accuracy"] < high


def test_the_table_is_that_of_scikit_learn_with_intervals(tmp_path):
    evaluated = made_up.classified(200, LABELS)
    _, text = write(tmp_path, evaluated)
    expected = sklearn.metrics.classification_report(
        evaluated.outputs.label_ids, evaluated.outputs.predictions, target_names=LABELS, digits=4
    )
    rows = {tuple(line.split()[:5]) for line in text.splitlines()}
    for line in expected.splitlines():
        if line and "accuracy" not in line and "precision" not in line:
            assert tuple(line.split()[:5]) in rows, line
    assert "eval_accuracy" in text and "constant: " in text


def test_a_regression_and_several_labels(tmp_path):
    found, text = write(tmp_path, made_up.numbers(50))
    assert "classes" not in found and found["rmse"] > found["mae"] > 0
    assert "rmse" in text and "precision" not in text
    found, text = write(tmp_path, made_up.several(50, LABELS))
    assert np.shape(found["confusion_matrix"]) == (3, 2, 2)
    assert "eval_f1_micro" in text and "weighted avg" in text


def test_names_that_are_long_or_have_new_lines_stay_on_a_line(tmp_path):
    evaluated = made_up.classified(20, ["a\nb", "x" * 500])
    _, text = write(tmp_path, evaluated)
    assert max(map(len, text.splitlines())) < 140
    assert "a b" in text


def test_without_outputs_there_are_the_metrics_alone(tmp_path):
    results.write(str(tmp_path), {"eval_loss": 1.5}, None)
    assert sorted(os.listdir(str(tmp_path))) == ["eval_results.json", "eval_results.txt"]
    assert (tmp_path / "eval_results.txt").read_text() == "eval_loss = 1.5\n"
