"""A run and its folder: who may go on in it, and what becomes of what is there."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from conftest import VOCAB
from program import assert_equal, end_state, numbers_of, parsed

import run_classifier_gpu
from bert_classifier import devices
from bert_classifier.config import Devices
from bert_classifier.data import pipeline
from bert_classifier.errors import BadInput
from bert_classifier.training import runs
from bert_classifier.trials import run_trials

IDENTITY = {
    "vocab_file": "0a1b2c",
    "labels": ["negative", "positive"],
    "class_weights": None,
    "best_metric": ["eval_loss", False],
    "train data": "123456",
    "learning_rate": 5e-05,
    "seed": 1,
}


def write_record(folder, **result):
    runs.write_record(str(folder), IDENTITY, {}, result)


def tree(folder):
    """Content by path, of all that is in a folder but the lock."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != runs.LOCK]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class TestIdentity:
    def test_the_same_run_may_go_on(self, tmp_path):
        runs.check_identity(str(tmp_path), IDENTITY)
        write_record(tmp_path)
        (tmp_path / "model.ckpt-5.index").touch()
        runs.check_identity(str(tmp_path), IDENTITY)

    @pytest.mark.parametrize(
        "name,value",
        [
            ("vocab_file", "ffffff"),
            ("labels", ["negative", "positive", "mixed"]),
            ("labels", ["positive", "negative"]),
            ("class_weights", [1.0, 2.0]),
            ("best_metric", ["eval_loss", True]),
            ("train data", "654321"),
            ("learning_rate", 3e-05),
            ("seed", 2),
            ("a setting that a new version knows", 0.1),
        ],
    )
    def test_what_is_different_is_named(self, tmp_path, name, value):
        write_record(tmp_path)
        (tmp_path / "model.ckpt-5.index").touch()
        before = tree(tmp_path)
        with pytest.raises(BadInput) as error:
            runs.check_identity(str(tmp_path), dict(IDENTITY, **{name: value}))
        message = str(error.value)
        assert "%s was %s and is %s;" % (name, IDENTITY.get(name), value) in message
        assert message.count(" and is ") == 1
        assert "--output_dir" in message and "--overwrite_output_dir" in message
        assert "\n" not in message
        assert tree(tmp_path) == before

    def test_every_difference_is_named(self, tmp_path):
        write_record(tmp_path)
        (tmp_path / "model.ckpt-5.index").touch()
        with pytest.raises(BadInput, match="learning_rate was 5e-05 and is 1, seed was 1 and is 2"):
            runs.check_identity(str(tmp_path), dict(IDENTITY, learning_rate=1, seed=2))

    @pytest.mark.parametrize(
        "name",
        [
            "model.ckpt-0.index",
            "best/model.ckpt-5.index",
            "best/slim/model.ckpt-5.index",
            "eval_history.jsonl",
            "export/best_exporter/1700000000/saved_model.pb",
        ],
    )
    def test_only_a_run_that_has_come_to_something_binds_its_folder(self, tmp_path, name):
        write_record(tmp_path)
        write_files(tmp_path, ["labels.txt", "graph.pbtxt", "train.0123456789ab.tf_record"])
        runs.check_identity(str(tmp_path), dict(IDENTITY, seed=2))
        write_files(tmp_path, [name])
        with pytest.raises(BadInput, match="seed was 1 and is 2"):
            runs.check_identity(str(tmp_path), dict(IDENTITY, seed=2))

    @pytest.mark.parametrize("folder", ["", "best", "best/slim"])
    def test_checkpoints_of_nobody_knows_what(self, tmp_path, folder):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "model.ckpt-5.index").touch()
        with pytest.raises(BadInput, match="no run.json.*another --output_dir"):
            runs.check_identity(str(tmp_path), IDENTITY)

    @pytest.mark.parametrize("content", [b"", b'{"identity": {', b"\xff\xfe", b"{}", b"[]", b"7"])
    def test_a_damaged_record_is_told(self, tmp_path, content):
        (tmp_path / "run.json").write_bytes(content)
        with pytest.raises(BadInput, match="run.json: is damaged.*--overwrite_output_dir") as error:
            runs.check_identity(str(tmp_path), IDENTITY)
        assert "\n" not in str(error.value)
        runs.clear(str(tmp_path))
        runs.check_identity(str(tmp_path), IDENTITY)

    @pytest.mark.parametrize(
        "status,ended",
        [("finished", True), ("stopped early", True), ("interrupted", False), ("training", False)],
    )
    def test_has_ended(self, tmp_path, status, ended):
        assert not runs.has_ended(str(tmp_path))
        write_record(tmp_path, status=status)
        assert runs.has_ended(str(tmp_path)) == ended

    def test_the_hash_is_of_the_content(self, tmp_path):
        for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
            (tmp_path / name).write_bytes(content)
        a, b, c = [runs.content_hash(str(tmp_path / name)) for name in "abc"]
        assert a == b != c


OWN = [
    "run.json",
    "run.log",
    "checkpoint",
    "graph.pbtxt",
    "labels.txt",
    "model.ckpt-5.index",
    "model.ckpt-5.data-00000-of-00001.corrupt",
    "model.ckpt-10_temp_0a1b/part-00000-of-00001.index",
    "train.0123456789ab.tf_record",
    "train.0123456789ab.tf_record.index",
    "dev.0123456789ab.tf_record.tmp-123",
    "dev.0123456789ab.tf_record.index.tmp-123",
    "eval_history.jsonl",
    "eval/events.out.tfevents.1700000000.host",
    "best/checkpoint",
    "best/model.ckpt-5.index",
    "best/slim/model.ckpt-5.index",
    "export/best_exporter/1700000000/saved_model.pb",
    "export/best_exporter/temp-1700000000/saved_model.pb",
    "export/saved_model/1700000000/assets.extra/vocab.txt",
    # Made while the clock was wrong.
    "export/best_exporter/5/saved_model.pb",
    "export/best_exporter/temp-b'86400'/saved_model.pb",
]
USERS = [
    "notes.txt",
    "train.tsv",
    "my_labels.txt",
    "labels.txt.bak",
    "model.ckpt",
    "train.tf_record",
    "best/mine.txt",
    "best/slim/mine.txt",
    "eval/plot.png",
    "export/best_exporter/readme",
    "export/latest/saved_model.pb",
    "mine/run.json",
    "mine/model.ckpt-5.index",
    "mine/best/checkpoint",
    "mine/1700000000/saved_model.pb",
    "1700000000/diary.txt",
    "temp-2/diary.txt",
]


def write_files(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content of " + name)


class Killed(Exception):
    """Stands for a kill in the middle of a removal."""


class TestClear:
    def test_it_removes_a_run_and_nothing_else(self, tmp_path):
        write_files(tmp_path, OWN + USERS)
        runs.clear(str(tmp_path))
        assert sorted(tree(tmp_path)) == sorted(USERS)

    def test_without_files_of_the_user_nothing_is_left(self, tmp_path):
        write_files(tmp_path, OWN)
        runs.clear(str(tmp_path))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("moment", range(14))
    def test_it_can_be_repeated_when_it_was_killed(self, tmp_path, monkeypatch, moment):
        write_files(tmp_path, OWN + USERS)
        remove, calls = os.remove, []

        def killed_later(path, **options):
            calls.append(path)
            if len(calls) > moment:
                raise Killed
            remove(path, **options)

        with monkeypatch.context() as patched:
            patched.setattr(os, "remove", killed_later)
            with pytest.raises(Killed):
                runs.clear(str(tmp_path))
        assert (tmp_path / "run.json").exists()
        runs.clear(str(tmp_path))
        assert sorted(tree(tmp_path)) == sorted(USERS)

    @pytest.mark.parametrize(
        "names",
        [["notes.txt"], ["photos/summer.png"], ["model.ckpt-5.index", "checkpoint"]],
        ids=lambda names: names[0],
    )
    def test_a_folder_that_is_no_runs_is_refused(self, tmp_path, names):
        write_files(tmp_path, names)
        before = tree(tmp_path)
        with pytest.raises(BadInput, match="no run.json.*another --output_dir"):
            runs.clear(str(tmp_path))
        assert tree(tmp_path) == before

    def test_a_run_that_was_killed_before_it_trained_is_one(self, tmp_path):
        write_files(tmp_path, ["run.log", "labels.txt", "train.0123456789ab.tf_record", runs.LOCK])
        runs.clear(str(tmp_path))
        assert tree(tmp_path) == {}

    def test_a_folder_that_is_a_link_stays_and_loses_what_runs_have_written(self, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        write_files(elsewhere, ["best_exporter/1700000000/saved_model.pb", "mine.txt"])
        output_dir = tmp_path / "output"
        write_files(output_dir, ["run.json"])
        (output_dir / "export").symlink_to(elsewhere)
        runs.clear(str(output_dir))
        assert (output_dir / "export").is_symlink()
        assert sorted(tree(elsewhere)) == ["mine.txt"]

    def test_there_may_be_nothing_to_clear(self, tmp_path):
        runs.clear(str(tmp_path))
        runs.clear(str(tmp_path / "missing"))
        assert not (tmp_path / "missing").exists()


class TestWhatIsReadIsKept:
    @pytest.fixture
    def output_dir(self, tmp_path):
        write_files(tmp_path / "output", OWN + USERS)
        (tmp_path / "link").symlink_to(tmp_path / "output")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "words").symlink_to(
            tmp_path / "output/export/saved_model/1700000000/assets.extra/vocab.txt"
        )
        (tmp_path / "output" / "eval_results.txt").symlink_to(tmp_path / "data" / "rows")
        return tmp_path / "output"

    @pytest.mark.parametrize(
        "path",
        [
            "output/labels.txt",
            "output/best/slim/model.ckpt-5.index",
            "output/best/slim/../model.ckpt-5.index",
            "link/best/model.ckpt-5.index",
            "output/export/saved_model/1700000000/assets.extra/vocab.txt",
            "output/export/saved_model/1700000000/assets.extra",
            "data/words",
            "data/rows",
            "output/eval_results.txt",
            "output/dev.0123456789ab.tf_record.tmp-123",
        ],
    )
    def test_what_would_be_removed_is_told(self, output_dir, monkeypatch, path):
        monkeypatch.chdir(output_dir.parent)
        before = tree(output_dir)
        for name in (path, os.path.abspath(path)):
            with pytest.raises(BadInput) as error:
                runs.check_is_kept("output", True, {"vocab_file": [], "dev_file": ["x", name]})
            message = "--dev_file: %s would be removed from --output_dir=output before" % name
            assert str(error.value).startswith(message)
            assert "copy it" in str(error.value) and "\n" not in str(error.value)
        assert tree(output_dir) == before
        if "tmp" not in path:
            runs.check_is_kept("output", False, {"dev_file": [path]})

    def test_all_else_may_be_read(self, output_dir):
        paths = [str(output_dir / name) for name in USERS]
        paths += [str(output_dir), str(output_dir.parent), str(output_dir / "missing")]
        runs.check_is_kept(str(output_dir), True, {"data_dir": paths})
        runs.check_is_kept(str(output_dir / "missing"), True, {"data_dir": paths})

    def test_a_leftover_is_removed_without_being_asked_for(self, output_dir):
        path = str(output_dir / "dev.0123456789ab.tf_record.tmp-123")
        with pytest.raises(BadInput, match="would be removed"):
            runs.check_is_kept(str(output_dir), False, {"dev_file": [path]})


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    leftovers = [
        "run.json.tmp-123",
        "dev.0123456789ab.tf_record.tmp-123",
        "checkpoint.tmp0123456789abcdef0123456789abcdef",
        "best/model.ckpt-5.index.tmp-99",
        "best/slim/model.ckpt-5.data-00000-of-00001.tempstate123456",
        "export/best_exporter/temp-1700000000/saved_model.pb",
        "export/best_exporter/temp-b'86400'/saved_model.pb",
    ]
    kept = ["mine.tmp-123", "mine/run.json.tmp-123", "best/mine.tmp-1", *USERS]
    kept += [name for name in OWN if "tmp" not in name and "temp-" not in name]
    write_files(tmp_path, leftovers + kept)
    runs.remove_leftovers(str(tmp_path))
    assert sorted(tree(tmp_path)) == sorted(kept)


@pytest.fixture
def output_dir(small_run, tmp_path):
    """A copy of a run that has stopped early at step 15."""
    small_run.copy(tmp_path / "output")
    return tmp_path / "output"


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return caplog


class TestLock:
    def test_it_makes_the_folder(self, tmp_path):
        folder = tmp_path / "new" / "folder"
        with runs.locked(str(folder)):
            assert folder.is_dir()

    def test_a_second_one_is_refused(self, tmp_path):
        with runs.locked(str(tmp_path)):
            with pytest.raises(BadInput, match="another process is at work there") as error:
                with runs.locked(str(tmp_path)):
                    pass
            assert "\n" not in str(error.value)
            with runs.locked(str(tmp_path / "other")):
                pass
        with runs.locked(str(tmp_path)):
            pass

    def test_it_ends_with_its_process_however_that_ends(self, tmp_path):
        read, write = os.pipe()
        holder = os.fork()
        if not holder:
            try:
                with runs.locked(str(tmp_path)):
                    os.write(write, b"locked")
                    time.sleep(60)
            finally:
                os._exit(1)
        os.read(read, 6)
        with pytest.raises(BadInput), runs.locked(str(tmp_path)):
            pass
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        with runs.locked(str(tmp_path)):
            pass

    def test_a_second_process_ends_with_one_line(self, small_run, forks, output_dir, tmp_path):
        before = tree(output_dir)
        stderr = tmp_path / "stderr"
        with runs.locked(str(output_dir)):
            status = forks.run(small_run.command(output_dir), stderr)
        assert status == 2
        (line,) = stderr.read_text().splitlines()
        assert line.startswith("run_classifier_gpu.py: --output_dir=%s: another" % output_dir)
        assert tree(output_dir) == before

    def test_a_folder_that_cannot_be_made_is_told(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(BadInput, match="give a folder that can be written to"):
            with runs.locked(str(tmp_path / "file")):
                pass


def result_of(output_dir):
    return json.loads((output_dir / "run.json").read_text())["result"]


def evaluated_steps(output_dir):
    lines = (output_dir / "eval_history.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


class TestTheSameCommandAgain:
    def test_a_run_that_has_stopped_says_so_and_stays_as_it_is(self, small_run, output_dir, log):
        before = tree(output_dir)
        metrics = small_run.run(output_dir)
        after = tree(output_dir)
        assert "Nothing left to train: the run in %s has ended" % output_dir in log.text
        assert "***** Training stopped early *****" in log.text
        assert numbers_of(json.loads(before["eval_results.json"].decode())) == metrics
        grown = {name for name in after if after[name] != before.get(name)}
        # The report has the name of the folder, and this is a copy.
        expected = re.compile("run.log|report.html|eval_best/events")
        assert all(expected.match(name) for name in grown), grown

    def test_more_patience_lets_it_go_on(self, small_run, output_dir, log):
        before = (output_dir / "eval_history.jsonl").read_text()
        small_run.run(output_dir, "--max_steps_without_improvement=15")
        assert (output_dir / "eval_history.jsonl").read_text().startswith(before)
        assert evaluated_steps(output_dir) == [5, 10, 15, 20]
        result = result_of(output_dir)
        assert (result["status"], result["last_step"]) == ("stopped early", 20)
        assert result["reason"] == "eval_recall has not improved for 15 steps, since step 5"

    def test_no_damage_changes_how_it_ends(self, small_run, output_dir, log):
        """Of the newest checkpoint, what names it, and every event file, which a kill truncates."""
        newest = output_dir / "model.ckpt-15.data-00000-of-00001"
        newest.write_bytes(newest.read_bytes()[:1000])
        (output_dir / "checkpoint").write_bytes(b"")
        events = list(output_dir.rglob("events.out.tfevents.*"))
        assert {path.parent.name for path in events} == {"output", "eval", "eval_best"}
        for path in events:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\xff")
        small_run.run(output_dir, "--do_predict")
        assert "model.ckpt-15 cannot be read" in log.text
        assert "Resuming from %s/model.ckpt-10" % output_dir in log.text
        state, expected = end_state(output_dir), end_state(small_run.output_dir)
        assert [name.split(".")[-1] for name in state["leftovers"]] == ["corrupt"] * 3
        assert_equal(dict(state, leftovers=[]), expected)
        for name in ("eval_results.json", "test_results.tsv"):
            with open(os.path.join(small_run.output_dir, name)) as stream:
                assert (output_dir / name).read_text() == stream.read()

    def test_the_last_checkpoint_can_be_evaluated(self, small_run, output_dir):
        history = (output_dir / "eval_history.jsonl").read_text().splitlines()
        metrics = small_run.run(output_dir, "--nodo_train", "--eval_checkpoint=last")
        assert metrics["global_step"] == 15
        last = json.loads(history[-1])["metrics"]
        assert {name: metrics[name] for name in last} == last


ROWS = "label\ttext\n" + "negative\tbad film\npositive\tgood film\n" * 20


class TestAnotherCommand:
    @pytest.mark.parametrize(
        "flag,difference",
        [
            ("--seed=7", "seed was 12345 and is 7"),
            ("--train_batch_size=4", "examples_per_step was 8 and is 4"),
            ("--num_train_epochs=7", "num_train_epochs was 6.0 and is 7.0"),
            ("--learning_rate=2e-3", "learning_rate was 0.001 and is 0.002"),
            ("--warmup_proportion=0", "warmup_proportion was 0.1 and is 0.0"),
            ("--weight_decay_rate=0", "weight_decay_rate was 0.01 and is 0.0"),
            ("--clip_norm=2", "clip_norm was 1.0 and is 2.0"),
            ("--optimizer=lamb", "optimizer was adamw_corrected and is lamb"),
            ("--layerwise_lr_decay=0.9", "layerwise_lr_decay was 1.0 and is 0.9"),
            ("--num_accumulation_steps=2", "examples_per_step was 8 and is 16"),
            ("--label_smoothing=0.1", "label_smoothing was 0.0 and is 0.1"),
            ("--class_weights=balanced", "class_weights was None and is ["),
            ("--save_checkpoints_steps=3", "save_checkpoints_steps was 5 and is 3"),
            ("--best_metric=eval_f1", "best_metric was ['eval_recall', True] and is ['eval_f1',"),
            ("--max_seq_length=8", "max_seq_length was 16 and is 8"),
            ("--nogroup_by_length", "group_by_length was True and is False"),
            ("--nodo_lower_case", "do_lower_case was True and is False"),
            ("--amp", "amp was False and is True"),
            ("--train_file={rows}", "train data was "),
            ("--dev_file={rows}", "dev data was "),
            ("--train_file={three}", "labels was ['negative', 'positive'] and is ['mixed',"),
            ("--vocab_file={vocab}", "vocab_file was "),
            ("--bert_config_file={config}", "bert_config_file was "),
            ("--init_checkpoint={other}", "init_checkpoint was "),
        ],
    )
    def test_it_may_not_go_on_with_the_run(
        self, small_run, output_dir, tmp_path, tiny_bert, flag, difference
    ):
        (tmp_path / "rows.tsv").write_text(ROWS)
        (tmp_path / "three.tsv").write_text(ROWS + "mixed\tfine film\n")
        (tmp_path / "vocab.txt").write_text("\n".join(VOCAB[:-2] + VOCAB[:-3:-1]))
        flag = flag.format(
            rows=tmp_path / "rows.tsv",
            three=tmp_path / "three.tsv",
            vocab=tmp_path / "vocab.txt",
            config=tiny_bert.bert_config_file,
            other=output_dir / "best" / "slim" / "model.ckpt-5",
        )
        before = tree(output_dir)
        with pytest.raises(BadInput) as error:
            small_run.run(output_dir, flag)
        assert difference in str(error.value)
        assert "--overwrite_output_dir" in str(error.value)
        assert "\n" not in str(error.value)
        assert tree(output_dir) == before

    def test_the_process_ends_with_one_line(self, small_run, forks, output_dir, tmp_path):
        before = tree(output_dir)
        command = small_run.command(output_dir, "--seed=7", "--train_batch_size=4")
        assert forks.run(command, tmp_path / "stderr") == 2
        (line,) = (tmp_path / "stderr").read_text().splitlines()
        assert line.startswith("run_classifier_gpu.py: --output_dir=%s: " % output_dir)
        assert "examples_per_step was 8 and is 4, seed was 12345 and is 7" in line
        assert tree(output_dir) == before

    def test_what_does_not_change_the_weights_may_change(self, small_run, output_dir, log):
        small_run.run(
            output_dir,
            "--eval_batch_size=3",
            "--predict_batch_size=3",
            "--exports_to_keep=1",
            "--keep_checkpoint_max=1",
            "--log_every_n_iter=1",
            "--early_stopping_min_steps=10",
        )
        assert "Nothing left to train" in log.text

    def test_overwriting_begins_anew_and_spares_the_users_files(self, small_run, output_dir, log):
        write_files(output_dir, ["notes.txt", "best/mine.txt", "export/best_exporter/readme"])
        small_run.run(output_dir, "--overwrite_output_dir", "--num_train_epochs=1", "--seed=7")
        assert "Num steps = 5, from step 0" in log.text
        assert evaluated_steps(output_dir) == [5]
        result = result_of(output_dir)
        assert (result["status"], result["last_step"]) == ("finished", 5)
        for name in ("notes.txt", "best/mine.txt", "export/best_exporter/readme"):
            assert (output_dir / name).read_text() == "content of " + name
        # Of the run before nothing is left, and nothing else is there than before.
        assert not (output_dir / "test_results.tsv").exists()
        assert not list(output_dir.glob("model.ckpt-15*"))

    def test_clearing_a_real_run_leaves_nothing(self, output_dir):
        runs.clear(str(output_dir))
        assert os.listdir(str(output_dir)) == [runs.LOCK]


def test_a_loss_that_is_not_a_number_ends_the_run(small_run, tmp_path, log):
    with pytest.raises(BadInput) as error:
        small_run.run(tmp_path, "--learning_rate=1e30", "--warmup_proportion=0")
    assert "the loss of step 2 is NaN; lower --learning_rate=1e+30" in str(error.value)
    assert "--overwrite_output_dir" in str(error.value)
    result = result_of(tmp_path)
    assert (result["status"], result["reason"]) == ("failed", "the loss is NaN")


def test_a_run_that_ends_for_no_known_reason_has_not_finished(small_run, tmp_path, monkeypatch):
    """TensorFlow takes some errors for the end of the data, which these data do not have."""
    make_input_fn = pipeline.records_input_fn

    def three_batches(*arguments, **options):
        input_fn = make_input_fn(*arguments, **options)

        def ends_early():
            return input_fn().take(3)

        ends_early.rows = input_fn.rows
        return ends_early

    monkeypatch.setattr(pipeline, "records_input_fn", three_batches)
    with pytest.raises(RuntimeError, match="ended at step 3 of 30"):
        small_run.run(tmp_path)
    assert result_of(tmp_path)["status"] == "failed"


def trials_of(small_run, output_dir, *arguments):
    config = parsed(*small_run.command(output_dir, "--seed=5", *arguments))
    run_classifier = run_classifier_gpu.run_classifier
    run_trials(
        run_classifier, config, run_classifier_gpu.Interruption(), run_classifier_gpu.Workers()
    )
    return json.loads((output_dir / "trials.json").read_text())


def test_trials_are_summed_up(small_run, tmp_path, monkeypatch):
    results = {
        5: {"eval_loss": 0.5, "eval_f1": 0.25, "loss": 0.6, "global_step": 10},
        6: {"eval_loss": 0.75, "eval_f1": 0.25, "loss": 0.5, "global_step": 30},
        7: {"eval_loss": 0.625, "eval_f1": 0.5, "loss": 0.4, "global_step": 20},
    }
    folders = []

    def trial(config, interruption, workers):
        folders.append(config.output.output_dir)
        return results[config.training.seed]

    monkeypatch.setattr(run_classifier_gpu, "run_classifier", trial)
    trials = trials_of(small_run, tmp_path, "--num_trials=3", "--best_metric=eval_f1")
    assert folders == [str(tmp_path / ("trial_%d" % number)) for number in (1, 2, 3)]
    assert trials["trials"] == [
        dict(results[seed], seed=seed, output_dir=folder)
        for seed, folder in zip((5, 6, 7), folders)
    ]
    assert trials["best_trial"] == {"trial": 3, "output_dir": folders[2], "eval_f1": 0.5}
    assert set(trials["summary"]) == {"eval_loss", "eval_f1"}
    for name, summary in trials["summary"].items():
        values = np.array([results[seed][name] for seed in (5, 6, 7)])
        assert summary["mean"] == pytest.approx(values.sum() / 3)
        deviation = np.sqrt(((values - values.mean()) ** 2).sum() / 2)
        assert summary["standard_deviation"] == pytest.approx(deviation)


@pytest.mark.slow
def test_trials_differ_by_their_seed(small_run, tmp_path):
    trials = trials_of(small_run, tmp_path, "--num_trials=2", "--num_train_epochs=1")
    folders = [tmp_path / "trial_1", tmp_path / "trial_2"]
    paths = [folder / "eval_results.json" for folder in folders]
    results = [numbers_of(json.loads(path.read_text())) for path in paths]
    assert trials["trials"] == [
        dict(result, seed=seed, output_dir=str(folder))
        for result, seed, folder in zip(results, (5, 6), folders)
    ]
    assert results[0]["eval_loss"] != results[1]["eval_loss"]
    seeds = [json.loads((folder / "run.json").read_text())["flags"]["seed"] for folder in folders]
    assert seeds == [5, 6]
    for folder, result in zip(folders, results):
        report = (folder / "report.html").read_text(encoding="utf-8")
        assert 'id="headline-value">%.4f<' % result["eval_recall"] in report


def test_all_that_changes_training_together(small_run, tmp_path, log):
    small_run.run(
        tmp_path,
        "--num_train_epochs=1",
        "--save_checkpoints_steps=1",
        "--train_batch_size=10",
        "--num_accumulation_steps=2",
        "--optimizer=lamb",
        "--layerwise_lr_decay=0.8",
        "--class_weights=balanced",
        "--label_smoothing=0.1",
        "--amp",
    )
    precision = devices.choose_precision(Devices(amp=True))
    assert ("--amp has no effect: there is no GPU" in log.text) == (precision.dtype == "float32")
    assert evaluated_steps(tmp_path) == [1, 2]
    record = json.loads((tmp_path / "run.json").read_text())
    # 40 examples, of which the file has 20 or so of each label.
    assert sorted(record["identity"]["class_weights"]) == sorted(balanced_weights(small_run))
    assert record["flags"]["optimizer"] == "lamb"
    assert record["result"]["status"] == "finished"
    weights = tf.train.load_checkpoint(str(tmp_path / "model.ckpt-2"))
    assert weights.get_tensor("output_weights/adam_v").any()


def balanced_weights(small_run):
    with open(os.path.join(small_run.data_dir, "train.tsv")) as stream:
        labels = [line.split("\t")[0] for line in stream][1:]
    return [40 / (2 * labels.count(label)) for label in ("negative", "positive")]
