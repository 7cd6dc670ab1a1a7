"""The program as its users run it: real processes, files on disk, the three uses."""

from __future__ import annotations

import glob
import inspect
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from program import model_flags, numbers_of, parsed, run, succeed, write_data

import run_classifier_gpu
import tokenization
from bert_classifier import devices
from bert_classifier.config import Devices
from bert_classifier.data import features, serialization
from bert_classifier.data.examples import InputExample
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle, writer
from bert_classifier.serving.predictor import Predictor
from bert_classifier.training import outputs as outputs_files
from bert_classifier.training.schedule import make_schedule, scale_learning_rate


class Trained:
    """A finished training run with everything switched on, and how to go on with it."""

    def __init__(self, folder, tiny_bert):
        self.output_dir = str(folder / "output")
        self.data_dir = write_data(folder / "data")
        self.common = [
            "--task_name=file",
            "--data_dir=" + self.data_dir,
            "--output_dir=" + self.output_dir,
            "--max_seq_length=16",
            *model_flags(tiny_bert),
        ]
        self.training = [
            *self.common,
            "--do_train",
            "--train_batch_size=8",
            "--num_train_epochs=40",
            "--learning_rate=1e-3",
            # With bias correction the tiny model guesses for longer than the patience.
            "--optimizer=adamw",
            "--warmup_proportion=0",
            "--save_checkpoints_steps=20",
            "--best_metric=eval_accuracy",
            "--max_steps_without_improvement=40",
        ]
        self.stderr = succeed(
            *self.training,
            "--do_eval",
            "--do_predict",
            "--do_export",
            "--do_frozen",
            "--log_every_n_iter=20",
        )

    def path(self, *names):
        return os.path.join(self.output_dir, *names)

    def read(self, *names):
        with open(self.path(*names), encoding="utf-8") as stream:
            return stream.read()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_bert):
    return Trained(tmp_path_factory.mktemp("trained"), tiny_bert)


def test_a_training_run_leaves_what_the_readme_says(trained):
    found = set(os.listdir(trained.output_dir))
    assert {
        "best",
        "checkpoint",
        "eval",
        "eval_history.jsonl",
        "eval_results.json",
        "eval_results.txt",
        "export",
        "labels.txt",
        "run.json",
        "run.log",
        "test_results.tsv",
    } <= found
    assert not [name for name in found if ".tmp-" in name]
    assert len([name for name in found if re.match(r"model\.ckpt-\d+\.index", name)]) == 2
    assert len(writer.list_exports(trained.path("export", "best_exporter"))) <= 2
    assert len(writer.list_exports(trained.path("export", "saved_model"))) == 1
    assert trained.read("labels.txt") == "negative\npositive\n"


def test_it_learns_and_stops_early_and_says_so(trained):
    history = [json.loads(line) for line in trained.read("eval_history.jsonl").splitlines()]
    accuracies = [record["metrics"]["eval_accuracy"] for record in history]
    best = [record["step"] for record in history if record["is_best"]][-1]
    assert max(accuracies) == 1.0
    assert history[-1]["step"] == best + 40 < 200
    result = json.loads(trained.read("run.json"))["result"]
    assert result["status"] == "stopped early"
    assert (result["best_step"], result["last_step"]) == (best, best + 40)
    assert "Early stopping at step %d" % (best + 40) in trained.stderr


def test_the_log_has_the_loss_once_every_few_steps(trained):
    result = json.loads(trained.read("run.json"))["result"]
    logged = re.findall(r"step (\d+)/200 \| epoch [\d.]+ \| loss [\d.]+", trained.stderr)
    assert [int(step) for step in logged] == list(range(20, result["last_step"] + 1, 20))
    assert trained.read("run.log").count("**** Trainable Variables ****") == 1
    assert "***** Eval results of" in trained.stderr
    for line in ("*** Features ***", "*INIT_FROM_CKPT*", "***** Eval results of"):
        assert line in trained.read("run.log")


def test_the_log_is_short_before_the_first_step(trained):
    lines = [line[9:] for line in trained.stderr.splitlines()]
    first_step = next(n for n, line in enumerate(lines) if line.startswith("step 20/"))
    assert first_step < 25, "\n".join(lines[:first_step])


def test_the_best_checkpoint_is_evaluated(trained):
    result = json.loads(trained.read("run.json"))["result"]
    evaluated = json.loads(trained.read("eval_results.json"))
    assert evaluated["global_step"] == result["best_step"]
    assert evaluated["eval_accuracy"] == result["best_eval_accuracy"]
    lines = dict(line.split(" = ") for line in trained.read("eval_results.txt").splitlines())
    assert {name: float(value) for name, value in lines.items()} == numbers_of(evaluated)


def predictions_of(trained):
    header, *rows = [line.split("\t") for line in trained.read("test_results.tsv").splitlines()]
    assert header == ["index", "label", "confidence", "p(negative)", "p(positive)", "text"]
    return rows


def test_predictions_have_labels_and_texts(trained):
    rows = predictions_of(trained)
    assert [row[0] for row in rows] == [str(index) for index in range(10)]
    for _, label, confidence, negative, positive, text in rows:
        expected = "positive" if re.search("good|great|fine", text) else "negative"
        assert label == expected
        assert float(negative) + float(positive) == pytest.approx(1, abs=2e-6)
        assert confidence == max(negative, positive)


@pytest.mark.parametrize(
    "exported",
    ["export/best_exporter/*", "export/saved_model/*", "frozen_model.pb"],
)
def test_an_export_answers_like_the_program_without_its_output_dir(trained, exported, tmp_path):
    moved = str(tmp_path / "moved")
    subprocess.run(["cp", "-r", sorted(glob.glob(trained.path(exported)))[-1], moved], check=True)
    rows = predictions_of(trained)
    with Predictor(moved) as predictor:
        answers = predictor.predict([row[5] for row in rows])
    for row, answer in zip(rows, answers):
        assert answer.label == row[1]
        assert answer.probabilities["positive"] == pytest.approx(float(row[4]), abs=2e-6)
        assert answer.confidence == max(answer.probabilities.values())


def test_the_three_signatures_agree_and_none_needs_a_label(trained):
    export_dir = writer.list_exports(trained.path("export", "saved_model"))[-1]
    labels = ["negative", "positive"]
    tokenizer = tokenization.FullTokenizer(os.path.join(export_dir, "assets.extra", "vocab.txt"))
    converter = features.Converter(labels, 16, tokenizer)
    rows = [
        converter.convert_padded(InputExample("", text))
        for text in ("the film was good .", "the phone was bad .")
    ]
    columns = {
        name: [getattr(row, name) for row in rows]
        for name in ("input_ids", "input_mask", "segment_ids")
    }
    serialized = [serialization._serialize(row) for row in rows]
    with tf.Session(graph=tf.Graph()) as session:
        signatures = tf.saved_model.load(session, ["serve"], export_dir).signature_def

        def ask(name, inputs):
            signature = signatures[name]
            assert set(signature.outputs) == {"probabilities", "predictions", "top_3"}
            assert set(signature.inputs) == set(inputs)
            feed = {signature.inputs[key].name: value for key, value in inputs.items()}
            return session.run({k: v.name for k, v in signature.outputs.items()}, feed)

        plain = ask("serving_default", columns)
        with_label = ask("label_ids:serving_default", dict(columns, label_ids=[0, 0]))
        examples = ask("examples:serving_default", {"examples": serialized})
        # Shorter than max_seq_length is welcome: padding is masked out anyway.
        short = ask("serving_default", {k: [row[:8] for row in v] for k, v in columns.items()})
    for other in (with_label, examples):
        for name in plain:
            np.testing.assert_allclose(plain[name], other[name], atol=1e-6)
    np.testing.assert_allclose(plain["probabilities"], short["probabilities"], atol=1e-6)
    assert plain["predictions"].dtype == plain["top_3"].dtype == np.int32
    assert plain["top_3"].shape == (2, 2)


def test_no_path_of_this_machine_travels_in_an_export(trained):
    export_dir = writer.list_exports(trained.path("export", "saved_model"))[-1]
    with open(os.path.join(export_dir, "saved_model.pb"), "rb") as stream:
        graph = stream.read()
    for value in (trained.output_dir, trained.data_dir, "bert_model.ckpt"):
        assert value.encode() not in graph


def snapshot(trained):
    names = [n for n in os.listdir(trained.output_dir) if n.startswith(("model.ckpt", "check"))]
    return {name: os.path.getmtime(trained.path(name)) for name in names}


def test_an_evaluation_only_run_gives_the_same_numbers_and_trains_nothing(trained):
    before, expected = snapshot(trained), json.loads(trained.read("eval_results.json"))
    os.remove(trained.path("eval_results.json"))
    # Without a training file: the labels are those of the run.
    succeed(*trained.common, "--do_eval", "--train_file=missing.tsv")
    assert json.loads(trained.read("eval_results.json")) == expected
    assert snapshot(trained) == before


def test_a_prediction_only_run_gives_the_same_rows(trained):
    before, expected = snapshot(trained), predictions_of(trained)
    os.remove(trained.path("test_results.tsv"))
    succeed(*trained.common, "--do_predict", "--predict_batch_size=3")
    for row, expected_row in zip(predictions_of(trained), expected):
        assert row[:2] + row[5:] == expected_row[:2] + expected_row[5:]
        assert float(row[3]) == pytest.approx(float(expected_row[3]), abs=2e-6)
    assert snapshot(trained) == before


def test_an_export_only_run(trained, tmp_path):
    before = snapshot(trained)
    # It needs no data at all, and knows the length that texts had in training.
    needless = ("--data_dir", "--max_seq_length")
    arguments = [a for a in trained.common if not a.startswith(needless)]
    succeed(
        *arguments,
        "--do_export",
        "--export_dir=" + str(tmp_path / "mine"),
        "--export_checkpoint=last",
        "--min_confidence=0.5",
    )
    (export_dir,) = writer.list_exports(str(tmp_path / "mine"))
    opened = bundle.open_bundle(export_dir)
    opened.model.close()
    assert opened.settings.max_seq_length == 16
    assert opened.settings.min_confidence == 0.5
    result = json.loads(trained.read("run.json"))["result"]
    assert json.loads(opened.parts["metrics.json"].decode())["step"] == result["last_step"]
    with Predictor(export_dir) as predictor:
        assert predictor.predict(["the film was really awful ."])[0].label == "negative"
    assert snapshot(trained) == before


def test_unlabelled_and_labelled_test_files_predict_alike(trained, tmp_path):
    texts = [row[5] for row in predictions_of(trained)]
    labelled = tmp_path / "labelled.tsv"
    labelled.write_text("text\tlabel\n" + "".join(text + "\tnegative\n" for text in texts))
    before = [row[1] for row in predictions_of(trained)]
    succeed(*trained.common, "--do_predict", "--test_file=" + str(labelled))
    header, *rows = [line.split("\t") for line in trained.read("test_results.tsv").splitlines()]
    assert header[5:] == ["true_label", "text"]
    assert [row[1] for row in rows] == before
    assert {row[5] for row in rows} == {"negative"}


def test_grouping_by_length_changes_no_number_and_no_row(trained, tmp_path):
    texts = ["the film was " + "really " * (number * 7 % 11) + "good" for number in range(40)]
    path = tmp_path / "texts.tsv"
    path.write_text("text\tlabel\n" + "".join(text + "\tpositive\n" for text in texts))
    output_dir = tmp_path / "output"
    shutil.copytree(trained.output_dir, str(output_dir))
    # Outputs are kept of the dev set of the training, and nothing tells any longer which that is.
    os.remove(str(output_dir / "run.json"))
    metrics, rows, outputs = [], [], []
    for switch in ("--group_by_length", "--nogroup_by_length"):
        succeed(
            *trained.common,
            "--output_dir=%s" % output_dir,
            "--do_eval",
            "--do_predict",
            "--dev_file=%s" % path,
            "--test_file=%s" % path,
            "--eval_batch_size=3",
            "--predict_batch_size=3",
            switch,
        )
        metrics.append(numbers_of(json.loads((output_dir / "eval_results.json").read_text())))
        lines = (output_dir / "test_results.tsv").read_text().splitlines()[1:]
        rows.append([line.split("\t") for line in lines])
        outputs.append(outputs_files.read(outputs_files.outputs_path(str(output_dir))))
    # Estimator's own `loss` is the mean over batches.
    del metrics[0]["loss"], metrics[1]["loss"]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-5)
    for of_dev, of_test in zip(outputs, rows):
        probabilities = [[float(p) for p in row[3:5]] for row in of_test]
        np.testing.assert_allclose(of_dev.probabilities, probabilities, atol=2e-6)
    for grouped, plain, text in zip(rows[0], rows[1], texts):
        assert grouped[6] == plain[6] == text
        assert grouped[:2] == plain[:2]
        np.testing.assert_allclose(
            [float(p) for p in grouped[2:5]], [float(p) for p in plain[2:5]], atol=2e-6
        )


@pytest.fixture
def data_dir(tmp_path):
    return write_data(tmp_path / "data")


def test_xla_compiles_and_gives_the_same_numbers(trained, tmp_path):
    expected = json.loads(trained.read("eval_results.json"))
    os.remove(trained.path("eval_results.json"))
    dump = tmp_path / "xla"
    succeed(*trained.common, "--do_eval", "--use_xla", XLA_FLAGS="--xla_dump_to=%s" % dump)
    assert list(dump.iterdir()), "nothing was compiled"
    result = json.loads(trained.read("eval_results.json"))
    assert sorted(result) == sorted(expected)
    for name, value in numbers_of(expected).items():
        assert result[name] == pytest.approx(value, abs=1e-5), name


def test_two_runs_with_one_seed_are_equal_bit_for_bit(tmp_path, tiny_bert, data_dir):
    outputs = [str(tmp_path / name) for name in ("first", "second")]
    for output_dir in outputs:
        succeed(
            "--do_train",
            "--task_name=file",
            "--data_dir=" + data_dir,
            "--output_dir=" + output_dir,
            "--max_seq_length=16",
            "--num_train_epochs=4",
            *model_flags(tiny_bert),
        )
    first, second = [tf.train.load_checkpoint(output_dir) for output_dir in outputs]
    names = sorted(first.get_variable_to_shape_map())
    assert len(names) == 41 * 3 + 1
    for name in names:
        np.testing.assert_array_equal(first.get_tensor(name), second.get_tensor(name), name)


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_a_run_with_gradient_checkpointing_ends_where_one_without_does(
    tmp_path, tiny_bert, data_dir, optimizer
):
    outputs = [str(tmp_path / name) for name in ("without", "with")]
    for output_dir, switches in zip(outputs, ([], ["--gradient_checkpointing"])):
        command = [
            "--do_train",
            "--task_name=file",
            "--data_dir=" + data_dir,
            "--output_dir=" + output_dir,
            "--max_seq_length=16",
            "--num_train_epochs=4",
            "--save_checkpoints_steps=4",
            "--optimizer=" + optimizer,
            *model_flags(tiny_bert),
        ]
        succeed(*command, *switches)
    first, second = [tf.train.load_checkpoint(output_dir) for output_dir in outputs]
    shapes = first.get_variable_to_shape_map()
    assert second.get_variable_to_shape_map() == shapes
    for name in shapes:
        np.testing.assert_allclose(
            first.get_tensor(name), second.get_tensor(name), rtol=1e-4, atol=1e-6, err_msg=name
        )
    run_json = json.loads(pathlib.Path(outputs[1], "run.json").read_text())
    assert run_json["result"]["peak_memory_mb"] > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--do_train", "--learing_rate=1"], "learning_rate"),
        (["--do_train", "do_eval"], "'do_eval' is no flag"),
        ([], "nothing to do"),
        (["--do_train", "--train_batch_size=x"], "train_batch_size"),
        (["--do_train", "--data_dir=missing"], "missing/train.tsv"),
    ],
)
def test_bad_input_ends_with_one_line_and_status_2(
    tmp_path, tiny_bert, data_dir, arguments, message
):
    output_dir = tmp_path / "output"
    process = run(
        "--task_name=file",
        "--data_dir=" + data_dir,
        "--output_dir=" + str(output_dir),
        "--max_seq_length=16",
        *model_flags(tiny_bert),
        *arguments,
    )
    assert process.returncode == 2
    assert process.stdout == ""
    assert len(process.stderr.splitlines()) == 1
    assert message in process.stderr
    assert not output_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--do_eval", "--nodo_train"], "no trained checkpoint; give --do_train"),
        (["--task_name=mprc"], "did you mean mrpc"),
        (["--best_metric=eval_f2"], "eval_f1"),
        (["--max_seq_length=64"], "allows up to 32"),
        (["--train_batch_size=1000"], "make no single step"),
        (["--init_checkpoint=missing.ckpt"], "missing.ckpt: no readable checkpoint"),
        (["--vocab_file=missing.txt"], "missing.txt"),
        (["--bert_config_file=missing.json"], "missing.json: no such file"),
    ],
)
def test_bad_input_is_found_before_anything_is_written(
    tmp_path, tiny_bert, data_dir, arguments, message
):
    output_dir = tmp_path / "output"
    files = [
        "--data_dir=" + data_dir,
        "--output_dir=" + str(output_dir),
        "--max_seq_length=16",
        *model_flags(tiny_bert),
    ]
    with pytest.raises(BadInput) as error:
        run_classifier_gpu.run_classifier(planned(*files, *arguments))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not output_dir.exists()


def test_debug_shows_the_traceback(tmp_path, tiny_bert, data_dir):
    process = run(
        "--do_train",
        "--debug",
        "--task_name=file",
        "--data_dir=missing",
        "--output_dir=" + str(tmp_path / "output"),
        *model_flags(tiny_bert),
    )
    assert process.returncode != 0
    assert "Traceback" in process.stderr and "BadInput" in process.stderr


def planned(*arguments):
    required = ["--task_name=file", "--bert_config_file=c", "--vocab_file=v", "--output_dir=o"]
    return parsed("--do_train", *required, *arguments)


@pytest.mark.parametrize(
    ("arguments", "num_workers", "num_examples", "expected"),
    [
        # MRPC as google's program plans it: int(3668 / 32 * 3), int(343 * 0.1).
        ([], 1, 3668, (343, 34, 58, 174)),
        (["--train_batch_size=8", "--num_train_epochs=2.5"], 1, 1000, (312, 31, 63, 189)),
        ([], 1, 400000, (37500, 3750, 1000, 3000)),
        (["--save_checkpoints_steps=50"], 1, 3668, (343, 34, 50, 150)),
        (["--max_steps_without_improvement=0"], 1, 3668, (343, 34, 58, 0)),
        (["--train_batch_size=8", "--num_accumulation_steps=4"], 1, 3668, (343, 34, 58, 174)),
        (["--train_batch_size=8"], 4, 3668, (343, 34, 58, 174)),
        (["--train_batch_size=4", "--num_accumulation_steps=2"], 4, 3668, (343, 34, 58, 174)),
    ],
)
def test_the_schedule(arguments, num_workers, num_examples, expected):
    schedule = make_schedule(planned(*arguments).training, num_examples, num_workers)
    assert (
        schedule.num_train_steps,
        schedule.num_warmup_steps,
        schedule.save_checkpoints_steps,
        schedule.max_steps_without_improvement,
    ) == expected
    assert schedule.steps_per_epoch * schedule.examples_per_step == num_examples
    assert schedule.learning_rate == 5e-5


@pytest.mark.parametrize("num_examples", [54, 64, 75, 85, 97, 129, 560, 3668, 67349, 400000])
def test_early_stopping_can_act_by_default(num_examples):
    schedule = make_schedule(planned().training, num_examples, 1)
    save_steps = schedule.save_checkpoints_steps
    assert save_steps + schedule.max_steps_without_improvement < schedule.num_train_steps
    assert schedule.max_steps_without_improvement == 3 * save_steps
    assert save_steps == 1000 or abs(save_steps - schedule.steps_per_epoch / 2) < 1


@pytest.mark.parametrize(
    "scaling,num_workers,expected",
    [("none", 4, 1e-4), ("linear", 4, 4e-4), ("sqrt", 4, 2e-4), ("linear", 1, 1e-4)],
)
def test_the_learning_rate_is_scaled_when_told_to(scaling, num_workers, expected, caplog):
    caplog.set_level("INFO")
    config = planned("--learning_rate=1e-4", "--learning_rate_scaling=" + scaling)
    assert scale_learning_rate(config.training, num_workers) == pytest.approx(expected)
    assert ("%g" % expected in caplog.text) == (expected != 1e-4)


@pytest.mark.parametrize(
    "has_gpu,use_xla,expected", [(False, False, 1), (True, False, 8), (False, True, 24)]
)
def test_lengths_are_rounded_to_what_the_device_gains_by(has_gpu, use_xla, expected, monkeypatch):
    monkeypatch.setattr(devices, "has_gpu", lambda: has_gpu)
    assert devices.pad_to_multiple_of(Devices(use_xla=use_xla), 96) == expected


@pytest.mark.parametrize(
    "hidden_size,cores,has_gpu,use_xla,expected,num_threads",
    [
        (384, 2, False, False, 2, 1),
        (384, 16, False, False, 2, 14),
        (384, 1, False, False, 1, 1),
        (768, 16, False, False, 1, 16),
        (384, 2, True, False, 1, 0),
        (384, 2, False, True, 1, 2),
    ],
)
def test_a_narrow_model_has_its_batches_cut_in_parts_on_a_cpu(
    hidden_size, cores, has_gpu, use_xla, expected, num_threads, monkeypatch
):
    monkeypatch.setattr(devices, "has_gpu", lambda: has_gpu)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert devices.count_parts(Devices(use_xla=use_xla), hidden_size, cores) == expected
    config = run_classifier_gpu.make_run_config("", None, 1, 0, False, num_parts=expected)
    assert config.session_config.intra_op_parallelism_threads == num_threads
    rewrites = config.session_config.graph_options.rewrite_options.optimizers
    assert ("remap" in rewrites) == (not has_gpu)  # A GPU has all that is TensorFlow's default.


def test_google_flags_have_googles_defaults():
    values = planned().values()
    expected = {
        "max_seq_length": 128,
        "train_batch_size": 32,
        "eval_batch_size": 8,
        "predict_batch_size": 8,
        "learning_rate": 5e-5,
        "num_train_epochs": 3.0,
        "warmup_proportion": 0.1,
        "do_lower_case": True,
        "do_eval": False,
        "do_predict": False,
    }
    assert {name: values[name] for name in expected} == expected


def test_the_run_config_carries_xla_and_the_saving_of_checkpoints(tmp_path):
    for use_xla, level in ((False, tf.OptimizerOptions.DEFAULT), (True, tf.OptimizerOptions.ON_1)):
        config = run_classifier_gpu.make_run_config(
            str(tmp_path), save_checkpoints_steps=7, keep_checkpoint_max=3, seed=5, use_xla=use_xla
        )
        options = config.session_config.graph_options.optimizer_options
        assert options.global_jit_level == level
    assert config.model_dir == str(tmp_path)
    assert (config.save_checkpoints_steps, config.keep_checkpoint_max) == (7, 3)
    assert config.tf_random_seed == 5


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("InputExample", "guid text_a text_b label"),
        ("InputFeatures", "input_ids input_mask segment_ids label_id"),
        ("convert_single_example", "ex_index example label_list max_seq_length tokenizer"),
        (
            "file_based_convert_examples_to_features",
            "examples label_list max_seq_length tokenizer output_file",
        ),
        ("file_based_input_fn_builder", "input_file seq_length is_training drop_remainder"),
        (
            "create_model",
            "bert_config is_training input_ids input_mask segment_ids labels num_labels "
            "use_one_hot_embeddings",
        ),
        (
            "model_fn_builder",
            "bert_config num_labels init_checkpoint learning_rate num_train_steps num_warmup_steps",
        ),
    ],
)
def test_a_bert_user_finds_the_names_in_the_script(name, parameters):
    """They take google's arguments by position, in google's order."""
    found = getattr(run_classifier_gpu, name)
    names = getattr(found, "_fields", None) or list(inspect.signature(found).parameters)
    assert list(names)[: len(parameters.split())] == parameters.split()


def test_a_bert_user_finds_the_classes_and_modules_in_the_script():
    for method in ("get_train_examples", "get_dev_examples", "get_test_examples", "get_labels"):
        assert callable(getattr(run_classifier_gpu.DataProcessor, method))
    assert run_classifier_gpu.modeling.BertModel
    assert run_classifier_gpu.tokenization.FullTokenizer


def test_a_model_that_has_learned_nothing_is_told(small_run, tmp_path, caplog):
    output_dir = str(tmp_path / "output")
    small_run.run(output_dir, "--learning_rate=0", "--best_metric=eval_f1", "--init_checkpoint=")
    with open(os.path.join(output_dir, "run.json")) as stream:
        warning = json.load(stream)["result"]["warning"]
    assert warning.startswith("the best model is no better than the same answer to everything")
    for cure in ("an --init_checkpoint", "more --num_train_epochs", "another --seed"):
        assert cure in warning
    # It is the last that the log says.
    assert caplog.records[-1].getMessage() == "WARNING: " + warning


def test_a_dry_run_needs_no_other_flag(small_run, tmp_path, capsys):
    output_dir = tmp_path / "output"
    flag_values = parsed("--dry_run", "--output_dir=%s" % output_dir, *small_run.arguments)
    assert run_classifier_gpu.run_classifier(flag_values) == {}
    assert "early stopping" in capsys.readouterr().out
    assert not output_dir.exists()


def test_the_summary_ends_with_commands_that_work(small_run, tmp_path, caplog):
    caplog.set_level("INFO")
    output_dir = str(tmp_path / "out put")
    small_run.run(output_dir, "--num_train_epochs=1")
    lines = [record.getMessage() for record in caplog.records]
    of_summary = lines[lines.index("***** Training finished *****") :]
    commands = [line[19:] for line in of_summary if "run_classifier_gpu.py --do_" in line]
    assert len(commands) == 3
    for command in commands:
        run_classifier_gpu.run_classifier(parsed(*shlex.split(command)[2:]))
    assert "'--output_dir=%s'" % output_dir in commands[0]
