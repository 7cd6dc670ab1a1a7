"""Checkpoints that are damaged or half-written, as a killed process or a disk leaves them."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from program import ROOT, assert_equal, end_state

from bert_classifier.errors import BadInput
from bert_classifier.training import checkpoints, runs
from bert_classifier.training.initial_weights import warm_start

STEPS = (20, 40)


def values_of(step):
    """The variables of a model with one weight, at a step."""
    weight = np.arange(12, dtype=np.float32).reshape(3, 4) + step
    return {"weight": weight, "weight/adam_m": weight / 2, "weight/adam_v": weight**2}


def save_run(folder, steps=STEPS):
    """Save as an Estimator does: `model.ckpt-<step>` and the file `checkpoint`."""
    with tf.Graph().as_default(), tf.Session() as session:
        variables = {n: tf.get_variable(n, initializer=v) for n, v in values_of(0).items()}
        global_step = tf.train.get_or_create_global_step()
        saver = tf.train.Saver(sharded=True)
        for step in steps:
            for name, value in values_of(step).items():
                variables[name].load(value, session)
            global_step.load(step, session)
            saver.save(session, str(folder / "model.ckpt"), step, write_meta_graph=False)


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_run")
    save_run(folder)
    return folder


@pytest.fixture
def run_dir(saved_run, tmp_path):
    """A folder with the readable checkpoints of steps 20 and 40."""
    folder = tmp_path / "run"
    shutil.copytree(str(saved_run), str(folder))
    return folder


def index_file(folder, step):
    return folder / ("model.ckpt-%d.index" % step)


def data_file(folder, step):
    return folder / ("model.ckpt-%d.data-00000-of-00001" % step)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def fill_with_garbage(path):
    path.write_bytes(b"\xff\x00 no checkpoint")


def name_another(path):
    path.write_text('model_checkpoint_path: "model.ckpt-60"\n')


DAMAGES = [
    pytest.param(file_of, damage, id="%s %s" % (file_of.__name__, damage.__name__))
    for file_of, damages in (
        (data_file, (cut_in_half, flip_a_byte, empty, remove)),
        (index_file, (cut_in_half, flip_a_byte, empty, remove, fill_with_garbage)),
    )
    for damage in damages
]


def assert_holds(path, step):
    reader = tf.train.load_checkpoint(path)
    assert sorted(reader.get_variable_to_shape_map()) == sorted([*values_of(step), "global_step"])
    assert checkpoints.step_of(path) == step
    for name, value in values_of(step).items():
        np.testing.assert_array_equal(reader.get_tensor(name), value)


class TestFindResumable:
    @pytest.mark.parametrize("file_of,damage", DAMAGES)
    def test_a_damaged_newest_checkpoint_is_set_aside(self, run_dir, file_of, damage):
        damage(file_of(run_dir, 40))
        damaged = {p.name: p.read_bytes() for p in run_dir.iterdir() if "-40." in p.name}
        path = checkpoints.find_resumable(str(run_dir))
        assert path == str(run_dir / "model.ckpt-20")
        assert_holds(path, 20)
        # What an Estimator goes by, and what is left for who wants to look into it.
        assert tf.train.latest_checkpoint(str(run_dir)) == path
        set_aside = {p.name: p.read_bytes() for p in run_dir.iterdir() if "-40." in p.name}
        assert set_aside == {name + ".corrupt": content for name, content in damaged.items()}

    @pytest.mark.parametrize("damage", [empty, remove, fill_with_garbage, name_another])
    def test_the_file_that_names_the_newest_is_not_needed(self, run_dir, damage):
        damage(run_dir / "checkpoint")
        path = checkpoints.find_resumable(str(run_dir))
        assert path == str(run_dir / "model.ckpt-40")
        state = tf.train.get_checkpoint_state(str(run_dir))
        assert state.model_checkpoint_path == path
        # Both are there for the Saver to count, or it would never remove the older one.
        assert list(state.all_model_checkpoint_paths) == [str(run_dir / "model.ckpt-20"), path]

    def test_what_a_killed_saver_left_is_removed(self, run_dir):
        part = run_dir / "model.ckpt-60_temp_0a1b" / "part-00000-of-00001.data-00000-of-00001"
        part.parent.mkdir()
        part.write_bytes(b"half")
        assert checkpoints.find_resumable(str(run_dir)) == str(run_dir / "model.ckpt-40")
        assert not part.parent.exists()

    def test_the_newest_is_that_of_the_largest_step(self, tmp_path):
        save_run(tmp_path, steps=(9, 100, 80))
        assert checkpoints.find_resumable(str(tmp_path)) == str(tmp_path / "model.ckpt-100")

    def test_a_damaged_one_may_come_again_at_the_same_step(self, run_dir):
        for _ in range(2):
            cut_in_half(data_file(run_dir, 40))
            assert checkpoints.find_resumable(str(run_dir)) == str(run_dir / "model.ckpt-20")
            save_run(run_dir)
        kept = checkpoints.keep_best(str(run_dir / "model.ckpt-40"), str(run_dir))
        assert [p for p in os.listdir(os.path.dirname(kept)) if "corrupt" in p] == []

    def test_the_best_outlives_the_one_it_was(self, run_dir, monkeypatch):
        def no_links(source, target):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        content = data_file(run_dir, 40).read_bytes()
        # As a killed process leaves it, whose number is given again, as in a container.
        (run_dir / "best").mkdir()
        left = run_dir / "best" / ("%s.tmp-%d" % (data_file(run_dir, 40).name, os.getpid()))
        os.link(str(data_file(run_dir, 40)), str(left))
        for _ in range(2):
            kept = checkpoints.keep_best(str(run_dir / "model.ckpt-40"), str(run_dir))
            monkeypatch.setattr(os, "link", no_links)
        for path in run_dir.glob("model.ckpt-40.*"):
            path.unlink()
        assert pathlib.Path(kept + ".data-00000-of-00001").read_bytes() == content

    def test_when_all_are_damaged_nothing_is_touched(self, run_dir):
        for step in STEPS:
            cut_in_half(data_file(run_dir, step))
        before = {p.name: p.read_bytes() for p in run_dir.iterdir()}
        # Twice: a second attempt must not begin anew either.
        for _ in range(2):
            with pytest.raises(BadInput, match="none of its checkpoints.*--overwrite_output_dir"):
                checkpoints.find_resumable(str(run_dir))
        assert {p.name: p.read_bytes() for p in run_dir.iterdir()} == before

    @pytest.mark.parametrize("steps,newest", [((0,), None), ((0, 20), "model.ckpt-0")])
    def test_a_save_that_was_killed_between_its_renames_never_was(self, tmp_path, steps, newest):
        save_run(tmp_path, steps)
        remove(index_file(tmp_path, steps[-1]))
        (tmp_path / ("model.ckpt-%d_temp_0a1b" % steps[-1])).mkdir()
        path = checkpoints.find_resumable(str(tmp_path))
        assert path == (newest and str(tmp_path / newest))
        assert not [n for n in os.listdir(str(tmp_path)) if "-%d" % steps[-1] in n]

    def test_a_surplus_that_a_killed_saver_had_to_remove_is_removed(self, tmp_path):
        save_run(tmp_path, steps=(20, 40, 60))
        path = checkpoints.find_resumable(str(tmp_path), keep_checkpoint_max=2)
        assert path == str(tmp_path / "model.ckpt-60")
        assert not index_file(tmp_path, 20).exists() and not data_file(tmp_path, 20).exists()
        state = tf.train.get_checkpoint_state(str(tmp_path))
        assert list(state.all_model_checkpoint_paths) == [str(tmp_path / "model.ckpt-40"), path]

    def test_a_new_folder_has_none(self, tmp_path):
        assert checkpoints.find_resumable(str(tmp_path)) is None
        assert checkpoints.find_resumable(str(tmp_path / "missing")) is None
        assert checkpoints.step_of(None) == 0


class TestFind:
    def test_best_last_or_a_path(self, run_dir):
        assert checkpoints.find(str(run_dir), "best") == str(run_dir / "model.ckpt-40")
        checkpoints.keep_best(str(run_dir / "model.ckpt-20"), str(run_dir))
        assert checkpoints.find(str(run_dir), "best") == str(run_dir / "best" / "model.ckpt-20")
        assert checkpoints.find(str(run_dir), "last") == str(run_dir / "model.ckpt-40")
        path = str(run_dir / "model.ckpt-20")
        assert checkpoints.find(str(run_dir), path) == path

    @pytest.mark.parametrize("file_of,damage", DAMAGES)
    @pytest.mark.parametrize("which", ["best", "last", "path"])
    def test_a_damaged_one_is_never_replaced_by_another(self, run_dir, file_of, damage, which):
        checkpoints.keep_best(str(run_dir / "model.ckpt-20"), str(run_dir))
        folder, step = (run_dir / "best", 20) if which == "best" else (run_dir, 40)
        damage(file_of(folder, step))
        path = str(folder / ("model.ckpt-%d" % step))
        with pytest.raises(BadInput) as error:
            checkpoints.find(str(run_dir), path if which == "path" else which)
        assert str(error.value).startswith(path + ": cannot be read")
        assert "--eval_checkpoint" in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("damage", [empty, fill_with_garbage, name_another])
    def test_which_is_best_is_never_guessed(self, run_dir, damage):
        checkpoints.keep_best(str(run_dir / "model.ckpt-20"), str(run_dir))
        damage(run_dir / "best" / "checkpoint")
        with pytest.raises(BadInput, match="/best/.*--eval_checkpoint"):
            checkpoints.find(str(run_dir), "best")

    @pytest.mark.parametrize("damage", [empty, remove, fill_with_garbage, name_another])
    def test_which_is_last_is_told_by_its_step(self, run_dir, damage):
        damage(run_dir / "checkpoint")
        assert checkpoints.find(str(run_dir), "last") == str(run_dir / "model.ckpt-40")

    @pytest.mark.parametrize("which", ["best", "last"])
    def test_there_is_none(self, tmp_path, which):
        with pytest.raises(BadInput, match="no trained checkpoint; give --do_train"):
            checkpoints.find(str(tmp_path), which)

    def test_a_path_of_nothing(self, tmp_path):
        with pytest.raises(BadInput, match="model.ckpt-7: cannot be read"):
            checkpoints.find(str(tmp_path), str(tmp_path / "model.ckpt-7"))


class TestKeepBest:
    def test_the_copy_is_whole_and_the_slim_one_has_the_weights(self, run_dir):
        (run_dir / "model.ckpt-40.meta").write_bytes(b"graph")
        path = checkpoints.keep_best(str(run_dir / "model.ckpt-40"), str(run_dir))
        best = run_dir / "best"
        assert path == str(best / "model.ckpt-40") == tf.train.latest_checkpoint(str(best))
        for name in ("index", "data-00000-of-00001", "meta"):
            copied = (best / ("model.ckpt-40." + name)).read_bytes()
            assert copied == (run_dir / ("model.ckpt-40." + name)).read_bytes()
        slim = tf.train.latest_checkpoint(str(best / "slim"))
        assert slim == str(best / "slim" / "model.ckpt-40")
        assert dict(tf.train.list_variables(slim)) == {"weight": [3, 4], "global_step": []}
        np.testing.assert_array_equal(
            tf.train.load_variable(slim, "weight"), values_of(40)["weight"]
        )

    def test_the_slim_one_initializes_a_model(self, run_dir):
        checkpoints.keep_best(str(run_dir / "model.ckpt-40"), str(run_dir))
        slim = str(run_dir / "best" / "slim" / "model.ckpt-40")
        checkpoints.validate_init_checkpoint(slim)
        weight = tf.get_variable("weight", [3, 4])
        tf.train.init_from_checkpoint(slim, {"weight": weight})
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            np.testing.assert_array_equal(session.run(weight), values_of(40)["weight"])

    def test_it_takes_the_place_of_the_one_before(self, run_dir):
        for step in (40, 20):
            checkpoints.keep_best(str(run_dir / ("model.ckpt-%d" % step)), str(run_dir))
        expected = {"checkpoint", "model.ckpt-20.data-00000-of-00001", "model.ckpt-20.index"}
        assert set(os.listdir(str(run_dir / "best"))) == expected | {"slim"}
        assert set(os.listdir(str(run_dir / "best" / "slim"))) == expected

    def test_the_folder_may_be_moved(self, run_dir, tmp_path):
        checkpoints.keep_best(str(run_dir / "model.ckpt-20"), str(run_dir))
        moved = tmp_path / "moved"
        run_dir.rename(moved)
        assert checkpoints.find(str(moved), "best") == str(moved / "best" / "model.ckpt-20")

    def test_a_kill_at_any_moment_leaves_a_readable_best(self, run_dir):
        """A process is killed before each change that it makes to the folder, in turn."""
        checkpoints.keep_best(str(run_dir / "model.ckpt-20"), str(run_dir))
        driver = subprocess.run(
            [sys.executable, "-c", KILLED_WHILE_KEEPING, str(run_dir)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        *killed, finished = driver.stdout.split()
        assert int(finished) == 0
        assert {int(status) for status in killed} == {signal.SIGKILL}
        # Each file copied, both `checkpoint` files written, each file of the one before removed.
        assert len(killed) >= 8
        bests = []
        for copy in sorted(run_dir.parent.glob("killed-*"), key=lambda p: int(p.name[7:])):
            best = checkpoints.find(str(copy), "best")
            bests.append(checkpoints.step_of(best))
            assert_holds(best, bests[-1])
            slim = tf.train.latest_checkpoint(str(copy / "best" / "slim"))
            step = checkpoints.step_of(slim)
            np.testing.assert_array_equal(
                tf.train.load_variable(slim, "weight"), values_of(step)["weight"]
            )
            # And the next attempt completes it, with nothing left over.
            runs.remove_leftovers(str(copy))
            checkpoints.keep_best(str(copy / "model.ckpt-40"), str(copy))
            assert len(os.listdir(str(copy / "best"))) == 4
            assert len(os.listdir(str(copy / "best" / "slim"))) == 3
        assert bests == sorted(bests)
        assert set(bests) == {20, 40}


# Forks once per moment, which saves importing TensorFlow anew for each.
KILLED_WHILE_KEEPING = """
import os, shutil, signal, sys
from bert_classifier.training import checkpoints

run_dir = sys.argv[1]

def killed_before(moment):
    copy = os.path.join(os.path.dirname(run_dir), "killed-%d" % moment)
    shutil.copytree(run_dir, copy)
    calls = []

    def counted(function):
        def call(*arguments, **options):
            calls.append(function)
            if len(calls) > moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call

    os.replace, os.remove = counted(os.replace), counted(os.remove)
    checkpoints.tf.train.update_checkpoint_state = counted(
        checkpoints.tf.train.update_checkpoint_state
    )
    checkpoints.keep_best(os.path.join(copy, "model.ckpt-40"), copy)

moment, status = 0, None
while status != 0:
    child = os.fork()
    if not child:
        killed_before(moment)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(status)
    moment += 1
"""


@pytest.mark.parametrize("damage", [remove, empty, fill_with_garbage])
def test_an_init_checkpoint_must_be_one(run_dir, damage):
    path = str(run_dir / "model.ckpt-40")
    checkpoints.validate_init_checkpoint(path)
    damage(index_file(run_dir, 40))
    with pytest.raises(BadInput, match="no readable checkpoint .*is a prefix") as error:
        checkpoints.validate_init_checkpoint(path)
    assert "\n" not in str(error.value)


def variables_of(path):
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


class TestWarmStart:
    @pytest.mark.parametrize(
        ("source", "name"),
        [
            ("", "best/model.ckpt-5"),
            ("model.ckpt-15", "model.ckpt-15"),
            ("best", "best/model.ckpt-5"),
            ("best/model.ckpt-5", "best/model.ckpt-5"),
            ("best/slim", "best/slim/model.ckpt-5"),
            ("best/slim/model.ckpt-5", "best/slim/model.ckpt-5"),
        ],
    )
    @pytest.mark.parametrize(
        ("labels", "with_classifier"),
        [
            (["negative", "positive"], True),
            (["positive", "negative"], False),
            (["negative", "positive", "mixed"], False),
        ],
    )
    def test_where_from_and_how_much(self, small_run, source, name, labels, with_classifier):
        source = os.path.join(small_run.output_dir, source)
        weights = warm_start(source, labels)
        path = os.path.join(small_run.output_dir, name)
        assert os.path.samefile(weights.checkpoint + ".index", path + ".index")
        assert weights.with_classifier == with_classifier

    @pytest.mark.parametrize("source", ["missing", "data", "small_run/model.ckpt-99"])
    def test_there_is_nothing_to_start_from(self, small_run, tmp_path, source):
        source = os.path.join(os.path.dirname(small_run.output_dir), source)
        output_dir = tmp_path / "output"
        with pytest.raises(BadInput) as error:
            small_run.run(output_dir, "--init_checkpoint=", "--warm_start_from=" + source)
        assert str(error.value).startswith("--warm_start_from=%s: no readable" % source)
        assert "\n" not in str(error.value)
        assert not output_dir.exists()

    def test_with_the_same_labels_it_predicts_the_same_before_the_first_step(
        self, small_run, tmp_path
    ):
        small_run.run(
            tmp_path,
            "--init_checkpoint=",
            "--warm_start_from=" + small_run.output_dir,
            "--num_train_epochs=0.2",
            "--do_predict",
            "--eval_checkpoint=%s" % (tmp_path / "model.ckpt-0"),
        )
        expected = os.path.join(small_run.output_dir, "test_results.tsv")
        with open(expected) as stream:
            assert (tmp_path / "test_results.tsv").read_text() == stream.read()
        variables = variables_of(tmp_path / "model.ckpt-0")
        assert variables["global_step"] == 0
        assert not variables["output_weights/adam_m"].any()

    def test_with_other_labels_the_classifier_is_new(self, small_run, tmp_path):
        data_dir = tmp_path / "data"
        shutil.copytree(small_run.data_dir, str(data_dir))
        for path in data_dir.iterdir():
            path.write_text(path.read_text().replace("positive", "yes").replace("negative", "no"))
        small_run.run(
            tmp_path / "output",
            "--data_dir=%s" % data_dir,
            "--init_checkpoint=",
            "--warm_start_from=" + small_run.output_dir,
            "--num_train_epochs=0.2",
        )
        source = variables_of(os.path.join(small_run.output_dir, "best", "model.ckpt-5"))
        variables = variables_of(tmp_path / "output" / "model.ckpt-0")
        encoder = [n for n in source if n.startswith("bert/") and "adam" not in n]
        assert len(encoder) == 23
        for name in encoder:
            np.testing.assert_array_equal(variables[name], source[name], name)
        assert (variables["output_weights"] != source["output_weights"]).all()
        assert not variables["output_bias"].any()


@contextlib.contextmanager
def limited(folder):
    """No file may grow beyond some size, as where quotas are."""
    folder.mkdir()
    yield (
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50000, hard))"
    )


@contextlib.contextmanager
def filled(folder):
    """A disk of 20 MB, on which something else takes all that is left."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield (
            "with contextlib.suppress(OSError), open(%r, 'wb', buffering=0) as filler:\n"
            "    while True: filler.write(bytes(4096))" % str(folder / "filler")
        )
    finally:
        # Lazily: the events of an evaluation are still open.
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("disk", [limited, pytest.param(filled, marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_while_saving(small_run, forks, tmp_path, disk):
    with disk(tmp_path / "disk") as fills_up:
        output_dir = tmp_path / "disk" / "output"
        command = small_run.command(output_dir)
        log = tmp_path / "log"
        # The checkpoints of steps 0 and 5, the export, and here it is that of step 10.
        assert forks.run(command, log, "tf.train.Saver.save", 4, fills_up) == 2
        complaint = "the disk is full; free some space, then the same command goes on"
        assert log.read_text().splitlines()[-1] == "run_classifier_gpu.py: " + complaint
        assert "Traceback" not in log.read_text()
        last = checkpoints.find(str(output_dir), "last")
        assert checkpoints.step_of(last) == 5

        filler = tmp_path / "disk" / "filler"
        if filler.exists():
            assert forks.run(command, log) == 2
            assert log.read_text().splitlines()[-1] == "run_classifier_gpu.py: " + complaint
            assert "Traceback" not in log.read_text()
            filler.unlink()
        small_run.run(output_dir)
        assert_equal(end_state(output_dir), end_state(small_run.output_dir))
