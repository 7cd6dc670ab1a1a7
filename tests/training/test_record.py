"""What run.json tells of the versions that have trained a run."""

from __future__ import annotations

import json
import logging
import types

import pytest

from bert_classifier.training import runs
from bert_classifier.training.history import Watched
from bert_classifier.training.record import Run, RunRecord
from bert_classifier.training.workers import Workers

OLD = {"python": "3.7.17", "tensorflow": "1.15.5", "numpy": "1.18.5"}
NEW = {"python": "3.11.9", "tensorflow": "2.15.1", "numpy": "1.26.4"}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Writes the record of a process that trains; returns its `trained_with`."""

    def train(versions, start_step, last_step):
        monkeypatch.setattr(runs, "versions", lambda: versions)
        record = RunRecord(
            Run(str(tmp_path), {}, {}),
            types.SimpleNamespace(num_train_steps=30),
            types.SimpleNamespace(watched=Watched("eval_loss", False), best=lambda: None),
            types.SimpleNamespace(step=last_step, examples_per_second=1.0),
            start_step,
            Workers(),
        )
        record.write("training")
        return json.loads((tmp_path / "run.json").read_text())["result"]["trained_with"]

    return train


def test_a_run_within_one_version_has_one_part(train):
    assert train(OLD, 0, 5) == [dict(OLD, from_step=0)]
    assert train(OLD, 5, 10) == [dict(OLD, from_step=0)]


def test_each_change_of_versions_begins_a_part_and_is_logged(train, caplog):
    caplog.set_level(logging.INFO)
    train(OLD, 0, 10)
    assert "other versions" not in caplog.text
    parts = [dict(OLD, from_step=0), dict(NEW, from_step=10)]
    assert train(NEW, 10, 20) == parts
    assert "python 3.11.9 was 3.7.17, tensorflow 2.15.1 was 1.15.5" in caplog.text
    assert train(OLD, 20, 30) == [*parts, dict(OLD, from_step=20)]


def test_steps_that_are_trained_again_belong_to_the_later_part(train):
    train(OLD, 0, 10)
    train(NEW, 10, 14)
    assert train(OLD, 10, 20) == [dict(OLD, from_step=0)]
    assert train(NEW, 0, 5) == [dict(NEW, from_step=0)]


def test_a_record_without_parts_has_one(train, tmp_path):
    train(OLD, 0, 10)
    record = json.loads((tmp_path / "run.json").read_text())
    del record["result"]["trained_with"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert train(NEW, 10, 20) == [dict(OLD, from_step=0), dict(NEW, from_step=10)]
