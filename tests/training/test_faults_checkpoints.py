"""Checkpoints and what is beside them in a folder: lost, damaged, of other numbers, oddly named."""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from program import assert_equal, end_state, parsed, tensors

import run_classifier_gpu
from bert_classifier.errors import BadInput
from bert_classifier.model import weights
from bert_classifier.training import loop, runs
from bert_classifier.training.history import Watched
from bert_classifier.trials import find_best_trial, run_trials


def tree(folder):
    """Content by path, of all that is in a folder but the lock."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != runs.LOCK]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def strict_json(text):
    def refuse(constant):
        raise AssertionError("not JSON: " + constant)

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def output_dir(small_run, tmp_path):
    small_run.copy(tmp_path / "output")
    return tmp_path / "output"


@pytest.fixture
def refused(small_run):
    """Runs the command of the small run with further flags; gives the one line that ends it."""

    def run(output_dir, *arguments):
        with pytest.raises(BadInput) as error:
            small_run.run(output_dir, *arguments)
        assert "\n" not in str(error.value)
        return str(error.value)

    return run


# Review 2.1: what is read is in the run that is to be removed.

IN_THE_RUN = {
    "warm_start_from": ["--warm_start_from={output}", "--init_checkpoint="],
    "warm_start_from, best": ["--warm_start_from={output}/best/slim", "--init_checkpoint="],
    "warm_start_from, through a link": ["--warm_start_from={link}", "--init_checkpoint="],
    "init_checkpoint": ["--init_checkpoint={output}/best/slim/model.ckpt-5"],
    "init_checkpoint, relative": ["--init_checkpoint=output/model.ckpt-15"],
    "eval_checkpoint": ["--eval_checkpoint={output}/best/model.ckpt-5"],
    "eval_checkpoint, to export": ["--export_checkpoint={output}/best/slim/model.ckpt-5"],
    "vocab_file": ["--vocab_file={export}/assets.extra/vocab.txt"],
    "vocab_file, relative through a link": ["--vocab_file=words"],
    "bert_config_file": ["--bert_config_file={export}/assets.extra/bert_config.json"],
    "labels_file": ["--labels_file={output}/labels.txt"],
    "train_file": ["--train_file={output}/test_results.tsv"],
    "dev_file": ["--data_dir={output}", "--dev_file=test_results.tsv"],
    "test_file": ["--do_predict", "--test_file={link}/test_results.tsv"],
    "data_dir": ["--data_dir={export}/assets.extra"],
    "class_weights": ["--class_weights={output}/eval_results.txt"],
}


@pytest.mark.parametrize("name", IN_THE_RUN)
@pytest.mark.parametrize("further", [[], ["--dry_run"]], ids=["run", "dry run"])
def test_what_is_read_is_not_removed_before(
    small_run, output_dir, refused, monkeypatch, name, further
):
    monkeypatch.chdir(output_dir.parent)
    (export,) = glob.glob(str(output_dir / "export" / "saved_model" / "*"))
    (output_dir.parent / "link").symlink_to(output_dir)
    (output_dir.parent / "words").symlink_to(os.path.join(export, "assets.extra", "vocab.txt"))
    places = {"output": output_dir, "link": output_dir.parent / "link", "export": export}
    arguments = [argument.format(**places) for argument in IN_THE_RUN[name]]
    before = tree(output_dir)
    line = refused("output", "--overwrite_output_dir", *arguments, *further)
    assert line.startswith("--%s: " % name.split(",")[0])
    assert "would be removed from --output_dir=output before it is read; copy it" in line
    assert tree(output_dir) == before


def test_no_trial_removes_what_a_later_one_reads(small_run, output_dir, tmp_path):
    run_dir = tmp_path / "trials"
    os.makedirs(str(run_dir / "trial_1"))
    shutil.copytree(str(output_dir), str(run_dir / "trial_2"))
    before = tree(run_dir)
    arguments = [
        "--num_trials=2",
        "--overwrite_output_dir",
        "--init_checkpoint=%s" % (run_dir / "trial_2" / "best" / "slim" / "model.ckpt-5"),
    ]
    config = parsed(*small_run.command(run_dir, *arguments))
    interruption, workers = run_classifier_gpu.Interruption(), run_classifier_gpu.Workers()
    with pytest.raises(BadInput, match="trial_2/best/slim/model.ckpt-5.* would be removed"):
        run_trials(run_classifier_gpu.run_classifier, config, interruption, workers)
    assert tree(run_dir) == before


def test_a_copy_of_a_best_checkpoint_is_not_removed(small_run, output_dir, refused, tmp_path):
    """Whoever keeps nothing but `best/` of a run begins another one elsewhere."""
    kept = tmp_path / "kept"
    shutil.copytree(str(output_dir / "best"), str(kept / "best"))
    before = tree(kept)
    line = refused(kept, "--init_checkpoint=%s/best/slim/model.ckpt-5" % kept)
    assert "holds checkpoints, but no run.json" in line
    assert tree(kept) == before


# Review 2.2: what is looked at after a training is checked before.

AFTER_TRAINING = {
    "eval_checkpoint": (["--eval_checkpoint=bset"], "bset: cannot be read", "give best, last, or"),
    "export_checkpoint": (["--export_checkpoint=lsat"], "lsat: cannot be read", "best, last"),
    "a missing path": (["--eval_checkpoint={tmp}/model.ckpt-3"], "model.ckpt-3: cannot", "last"),
    "a step that is not saved": (
        ["--eval_checkpoint={output}/model.ckpt-7"],
        "model.ckpt-7: this training saves no checkpoint of step 7",
        "give best or last",
    ),
    "export_dir below a file": (
        ["--do_export", "--export_dir={data}/train.tsv/exports"],
        "--export_dir={data}/train.tsv/exports: Not a directory",
        "give a folder that can be written to",
    ),
    "export_dir that cannot be made": (
        ["--do_export", "--export_dir=/proc/exports"],
        "--export_dir=/proc/exports: ",
        "give a folder that can be written to",
    ),
}


@pytest.mark.parametrize("name", AFTER_TRAINING)
def test_what_is_looked_at_after_the_training_is_checked_before(small_run, refused, tmp_path, name):
    arguments, *parts = AFTER_TRAINING[name]
    places = {"tmp": tmp_path, "output": tmp_path / "new", "data": small_run.data_dir}
    line = refused(tmp_path / "new", *[argument.format(**places) for argument in arguments])
    for part in parts:
        assert part.format(**places) in line
    assert not (tmp_path / "new").exists()


def test_trials_have_checkpoints_of_their_own(small_run):
    with pytest.raises(Exception, match="each trial has checkpoints of its own"):
        parsed(*small_run.command("x", "--num_trials=2", "--eval_checkpoint=y/model.ckpt-5"))


# F05: characters that TensorFlow takes for a pattern.

ODD_NAMES = ["lr=[5e-5]", "run[1]", "a\\b", "*", "what?"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_F05_a_run_whose_folder_has_an_odd_name(small_run, tmp_path, caplog, name):
    """Also F05a, c, g, i: it is trained, resumed, evaluated, predicted and exported as any other.

    Beside it is a folder of which its name is a pattern: nothing is removed from there.
    """
    caplog.set_level(logging.INFO)
    beside = tmp_path / {"*": "other", "what?": "whats", "run[1]": "run1"}.get(name, "beside")
    small_run.copy(beside)
    before = tree(beside)
    output_dir = tmp_path / name
    small_run.run(output_dir, "--do_predict")
    output_dir.rename(tmp_path / "plain")  # What looks at it now has no trouble with the name.
    assert_equal(end_state(str(tmp_path / "plain")), end_state(small_run.output_dir))
    (tmp_path / "plain").rename(output_dir)
    record = json.loads((output_dir / "run.json").read_text())
    assert record["flags"]["output_dir"] == str(output_dir)
    exported = "Exported %s/model.ckpt-5 to %s/export/best_exporter/" % (output_dir, output_dir)
    assert exported in caplog.text
    state = (output_dir / "checkpoint").read_text()
    assert "/" not in state

    more = ["--eval_checkpoint=%s/model.ckpt-15" % output_dir, "--do_predict", "--do_export"]
    assert small_run.run(output_dir, "--nodo_train", *more)["global_step"] == 15
    small_run.run(output_dir, "--max_steps_without_improvement=15")
    assert json.loads((output_dir / "run.json").read_text())["result"]["last_step"] == 20
    assert tree(beside) == before


@pytest.mark.parametrize("flag", ["warm_start_from", "init_checkpoint", "vocab_file"])
def test_F05h_an_input_in_a_folder_with_an_odd_name(small_run, tmp_path, output_dir, flag):
    odd = tmp_path / "run[2]"
    output_dir.rename(odd)
    (odd / "vocab.txt").write_bytes(
        open(parsed(*small_run.command("x")).model.vocab_file, "rb").read()
    )
    arguments = {
        "warm_start_from": ["--init_checkpoint=", "--warm_start_from=%s" % odd],
        "init_checkpoint": ["--init_checkpoint=%s/best/slim/model.ckpt-5" % odd],
        "vocab_file": ["--vocab_file=%s/vocab.txt" % odd],
    }[flag]
    new = tmp_path / "new"
    small_run.run(new, "--num_train_epochs=0.2", "--do_export", *arguments)
    if flag != "vocab_file":
        source = tensors(os.path.join(small_run.output_dir, "best", "model.ckpt-5"))
        begun = tensors(str(new / "model.ckpt-0"))
        names = [n for n in source if "adam" not in n and n != "global_step"]
        assert {n: begun[n] for n in names} == {n: source[n] for n in names}


# F13, F14: checkpoints that do not fit.


def changed(tiny_bert, prefix, change):
    reader = tf.train.load_checkpoint(tiny_bert.init_checkpoint)
    variables = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    weights.write_checkpoint(dict(variables, **change(variables)), prefix)


def cast(dtype):
    return lambda variables: {name: value.astype(dtype) for name, value in variables.items()}


def with_value(name, value):
    def change(variables):
        content = variables[name].copy()
        content.flat[3] = value
        return {name: content}

    return change


def classifier(num_labels):
    return lambda variables: {
        "output_weights": np.full([num_labels, 32], 7, np.float32),
        "output_bias": np.full([num_labels], 7, np.float32),
    }


KERNEL = "bert/encoder/layer_0/output/dense/kernel"
CHECKPOINTS = {
    "F13a float16": (cast(np.float16), "float16 cast to float32"),
    "F13b float64": (cast(np.float64), "float64 cast to float32"),
    "F14a classifier of three classes": (
        classifier(3),
        "has the classifier of another task: output_weights has shape [3, 32], but [2, 32]",
    ),
    "F14c classifier that fits": (classifier(2), ", and the classifier: "),
}
BAD_CHECKPOINTS = {
    "F13d NaN": (with_value(KERNEL, np.nan), KERNEL + " has NaN or infinite values; give a"),
    "F13e infinity": (with_value(KERNEL, -np.inf), KERNEL + " has NaN or infinite values"),
    "F13f too large for float32": (
        lambda variables: {KERNEL: np.full([64, 32], 1e300)},
        KERNEL + " has NaN or infinite values",
    ),
    "F13g NaN in a classifier that fits": (
        lambda variables: dict(classifier(2)(variables), output_bias=np.float32([0, np.nan])),
        "output_bias has NaN or infinite values",
    ),
    "F13h int8": (
        lambda variables: {KERNEL: variables[KERNEL].astype(np.int8)},
        KERNEL + " has dtype int8; give a checkpoint of floating point numbers",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_can_be_used(small_run, tiny_bert, tmp_path, caplog, capsys, name):
    caplog.set_level(logging.INFO)
    change, message = CHECKPOINTS[name]
    prefix = str(tmp_path / "k.ckpt")
    changed(tiny_bert, prefix, change)
    arguments = ["--init_checkpoint=" + prefix, "--num_train_epochs=0.2"]
    small_run.run(tmp_path / "dry", "--dry_run", *arguments)
    assert message in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "dry").exists()
    small_run.run(tmp_path / "output", *arguments)
    assert message in caplog.text
    given = tf.train.load_checkpoint(prefix)
    begun = tf.train.load_checkpoint(str(tmp_path / "output" / "model.ckpt-0"))
    wanted = [n for n in begun.get_variable_to_shape_map() if given.has_tensor(n)]
    assert len([n for n in wanted if n.startswith("bert/")]) == 23
    for variable in wanted:
        value = begun.get_tensor(variable)
        if variable.startswith("bert/") or name.startswith("F14c"):
            np.testing.assert_array_equal(value, given.get_tensor(variable).astype(np.float32))
        else:
            assert not (value == 7).any()


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_used(refused, tiny_bert, tmp_path, name):
    change, message = BAD_CHECKPOINTS[name]
    prefix = str(tmp_path / "k.ckpt")
    changed(tiny_bert, prefix, change)
    for further in ([], ["--dry_run"]):
        line = refused(tmp_path / "output", "--init_checkpoint=" + prefix, *further)
        assert line.startswith(prefix + ": ") and message in line
    assert not (tmp_path / "output").exists()


def test_F13_a_warm_start_too(small_run, output_dir, refused, tmp_path):
    for damage, dtype in ((np.nan, np.float32), (0, np.float16)):
        prefix = str(output_dir / "best" / "model.ckpt-5")
        reader = tf.train.load_checkpoint(os.path.join(small_run.output_dir, "best/model.ckpt-5"))
        variables = {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}
        of_model = {n: v.astype(dtype) for n, v in variables.items() if v.dtype == np.float32}
        of_model[KERNEL].flat[0] += damage
        weights.write_checkpoint(dict(variables, **of_model), prefix)
        arguments = ["--init_checkpoint=", "--warm_start_from=%s" % output_dir]
        if np.isnan(damage):
            line = refused(tmp_path / "new", *arguments)
            assert line == (
                "%s: %s has NaN or infinite values; give a checkpoint that was saved before its "
                "training failed" % (prefix, KERNEL)
            )
            continue
        small_run.run(tmp_path / "new", "--num_train_epochs=0.2", *arguments)
        begun = tf.train.load_checkpoint(str(tmp_path / "new" / "model.ckpt-0"))
        for variable in ("output_weights", KERNEL):
            np.testing.assert_array_equal(begun.get_tensor(variable), of_model[variable])


def test_F14_a_start_that_failed_does_not_bind_the_folder(small_run, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("before the first step")

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_and_evaluate", fail)
        with pytest.raises(RuntimeError):
            small_run.run(tmp_path, "--seed=7")
    assert json.loads((tmp_path / "run.json").read_text())["flags"]["seed"] == 7
    small_run.run(tmp_path, "--num_train_epochs=0.2")
    assert json.loads((tmp_path / "run.json").read_text())["flags"]["seed"] == 12345
    with pytest.raises(BadInput, match="seed was 12345 and is 7"):
        small_run.run(tmp_path, "--num_train_epochs=0.2", "--seed=7")


# F15: files that a power failure or a full disk has left damaged.

EVALUATE, EXPORT = ["--nodo_train"], ["--nodo_train", "--nodo_eval", "--do_export"]
TRAIN = ["--max_steps_without_improvement=15"]
WARM = ["--warm_start_from={output}", "--init_checkpoint=", "--output_dir={new}"]


def nothing(content):
    return b""


def half(content):
    return content[: len(content) // 2 + 3]


def zeros(content):
    return bytes(len(content))


DAMAGES = (nothing, half, zeros)
ANEW = "restore it, or give the command of the training again, which writes it anew"
FORGET = "restore it, or remove it: then which evaluation was the best so far is forgotten"
DAMAGED = {
    "F15c eval_history.jsonl": ([TRAIN, EXPORT], DAMAGES, FORGET),
    "F15f labels.txt": ([EVALUATE, EXPORT, WARM], DAMAGES, ANEW),
    "F15h dev_sample.jsonl": ([EXPORT], DAMAGES, "remove it, and give --data_dir or --dev_file"),
    "F15a run.json": (
        [TRAIN, EVALUATE, EXPORT],
        DAMAGES,
        "restore it, or begin anew with --overwrite_output_dir",
    ),
    "F15k best/checkpoint": ([EVALUATE, EXPORT, WARM], DAMAGES, ""),
}


@pytest.mark.parametrize(
    ("name", "arguments", "damage"),
    [
        pytest.param(name, arguments, damage, id="%s %s %s" % (name, damage.__name__, number))
        for name, (calls, damages, _) in DAMAGED.items()
        for number, arguments in enumerate(calls)
        for damage in damages
    ],
)
def test_F15_a_damaged_file_is_told(output_dir, refused, tmp_path, name, arguments, damage):
    path = output_dir / name.split(" ")[1]
    path.write_bytes(damage(path.read_bytes()))
    before = tree(output_dir)
    places = {"output": output_dir, "new": tmp_path / "new"}
    line = refused(output_dir, *[argument.format(**places) for argument in arguments])
    if name == "F15k best/checkpoint" and arguments is WARM:
        assert line.startswith("--warm_start_from=%s: " % output_dir)
    else:
        assert line.startswith("%s: is damaged" % path)
    assert line.endswith(DAMAGED[name][2])
    after = tree(output_dir)
    written_before = {"run.log", "labels.txt", "dev_sample.jsonl"}
    changes = {n for n in after.keys() | before.keys() if after.get(n) != before.get(n)}
    assert changes <= written_before


@pytest.mark.parametrize("content", ["negative\n", "negative\npositive\nneutral\n"])
def test_F15f_labels_that_are_not_those_of_the_checkpoint(output_dir, refused, content):
    (output_dir / "labels.txt").write_text(content)
    for arguments in (EVALUATE, EXPORT):
        line = refused(output_dir, *arguments)
        assert line.startswith(
            "%s/labels.txt: has %d labels, but" % (output_dir, content.count("\n"))
        )
        assert line.endswith("model.ckpt-5 has 2 outputs; " + ANEW)
        assert (output_dir / "labels.txt").read_text() == content


def test_F15_the_command_of_the_training_mends(small_run, output_dir):
    names = ["labels.txt", "dev_sample.jsonl", "checkpoint"]
    before = tree(output_dir)
    for name in names:
        (output_dir / name).write_bytes(b"")
    small_run.run(output_dir)
    after = tree(output_dir)
    assert {name: after[name] for name in names} == {name: before[name] for name in names}


def test_F15_damaged_records_and_indices_are_made_anew(small_run, output_dir):
    records = sorted(output_dir.glob("*.tf_record*"))
    before = tree(output_dir)
    assert len(records) >= 4
    for number, path in enumerate(records):
        path.write_bytes(DAMAGES[number % 2](path.read_bytes()))
    small_run.run(output_dir, *TRAIN)
    after = tree(output_dir)
    for path in records:
        if "test." not in path.name:
            assert after[path.name] == before[path.name]


# Review 2.6: a flipped byte in a record.


@pytest.mark.parametrize(
    ("split", "arguments"),
    [("train", TRAIN), ("dev", EVALUATE), ("test", [*EXPORT, "--do_predict"])],
)
def test_a_flipped_byte_in_a_record_ends_with_one_line(
    small_run, output_dir, forks, tmp_path, split, arguments
):
    (path,) = output_dir.glob(split + ".*.tf_record")
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    stderr = tmp_path / "stderr"
    assert forks.run(small_run.command(output_dir, *arguments), stderr) == 2
    line = stderr.read_text().splitlines()[-1]
    assert line == (
        "run_classifier_gpu.py: %s: record 1 is damaged; remove the file, and the same command "
        "makes it anew" % path
    )
    assert "Traceback" not in stderr.read_text()
    path.unlink()
    small_run.run(output_dir, *arguments)
    content[60] ^= 1
    assert path.read_bytes() == bytes(content)


# F17: metrics that are infinite or NaN.


def test_F17_metrics_that_JSON_does_not_have(small_run, tmp_path):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    rows = "".join("%d\tgood %s\n" % (n % 5, "film" * (n % 2)) for n in range(24))
    (data_dir / "train.tsv").write_text("label\ttext\n" + rows)
    (data_dir / "dev.tsv").write_text("label\ttext\n" + rows + "1e30\tgood\n")
    output_dir = tmp_path / "output"
    arguments = [
        "--problem_type=regression",
        "--data_dir=%s" % data_dir,
        "--num_train_epochs=1",
        "--best_metric=eval_loss",
        "--num_trials=2",
        "--do_export",
    ]
    config = parsed(*small_run.command(output_dir, *arguments))
    interruption, workers = run_classifier_gpu.Interruption(), run_classifier_gpu.Workers()
    run_trials(run_classifier_gpu.run_classifier, config, interruption, workers)
    trial = output_dir / "trial_1"
    assert strict_json((trial / "eval_results.json").read_text())["eval_mse"] == "inf"
    strict_json((trial / "run.json").read_text())
    for line in (trial / "eval_history.jsonl").read_text().splitlines():
        strict_json(line)
    for path in trial.glob("export/*/*/assets.extra/*.json"):
        strict_json(path.read_text())
    trials = strict_json((output_dir / "trials.json").read_text())
    assert trials["best_trial"] is None
    assert [result["output_dir"] for result in trials["trials"]] == [
        str(output_dir / "trial_1"),
        str(output_dir / "trial_2"),
    ]


@pytest.mark.parametrize(
    ("higher", "values", "best"),
    [
        (False, [0.5, 0.3, 0.4], 2),
        (True, [0.5, 0.3, 0.5], 1),
        (False, [float("nan"), 0.7], 2),
        (False, [float("nan"), float("inf")], None),
    ],
)
def test_the_best_trial(higher, values, best):
    results = [{"m": value, "output_dir": "d%d" % n} for n, value in enumerate(values, start=1)]
    found = find_best_trial(results, Watched("m", higher))
    expected = {"trial": best, "output_dir": "d%s" % best, "m": values[best - 1]} if best else None
    assert found == expected
