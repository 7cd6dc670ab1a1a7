"""What a later call is not told it takes from the training; what does not fit the model it refuses.

The names are those of the kinds of faults: F01 and what belongs to it.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest
from program import numbers_of, parsed

import run_classifier_gpu
from bert_classifier.errors import BadInput
from bert_classifier.export import writer
from bert_classifier.serving.predictor import Predictor
from bert_classifier.training import runs

TEXTS = [
    "the film was %s ." % word for word in ("good", "bad", "fine", "awful", "great", "sad")
] * 6
TAGS = ["film;praise", "film", "praise"] * 12
# Another vocabulary of the same size, another number of layers, another activation.
CHANGED_FILES = {
    "other.txt": ("vocab_file", lambda text: "\n".join(sorted(text.split())) + "\n"),
    "fewer.json": ("bert_config_file", lambda text: _config(text, num_hidden_layers=1)),
    "more.json": ("bert_config_file", lambda text: _config(text, num_hidden_layers=3)),
    "relu.json": ("bert_config_file", lambda text: _config(text, hidden_act="relu")),
}


def _config(text, **changes):
    return json.dumps(dict(json.loads(text), **changes))


def write_rows(path, *rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return str(path)


def call(*arguments):
    return run_classifier_gpu.run_classifier(parsed(*arguments))


class Runs:
    """A training run of each kind, each by its name, and files to call them with."""

    def __init__(self, folder, tiny_bert):
        self.folder = folder
        self._model = ["--%s=%s" % item for item in tiny_bert._asdict().items()]
        for name, (flag, change) in CHANGED_FILES.items():
            with open(getattr(tiny_bert, flag)) as stream:
                (folder / name).write_text(change(stream.read()))
        (folder / "thresholds.tsv").write_text("film\t0.9\npraise\t0.001\n")
        (folder / "swapped.txt").write_text("positive\nnegative\n")
        write_rows(folder / "test.tsv", ("text",), *((text,) for text in TEXTS[:5]))
        sentiments = ["positive" if number % 2 else "negative" for number in range(len(TEXTS))]
        self._train("plain", [("label", "text"), *zip(sentiments, TEXTS)])
        # A dev set of its own: in `plain` it is set aside from the training file.
        self._train(
            "numbers",
            [("label", "text"), *((str(n % 5), text) for n, text in enumerate(TEXTS))],
            "--problem_type=regression",
        )
        self._train(
            "tags",
            [("label", "text"), *zip(TAGS, TEXTS)],
            "--problem_type=multi_label",
            "--label_separator=;",
            "--thresholds=%s" % (folder / "thresholds.tsv"),
        )
        pairs = [(label, text, "the phone") for label, text in zip(sentiments, TEXTS)]
        self._train("pairs", [("label", "text", "text_b"), *pairs])

    def _train(self, name, rows, *arguments):
        call(
            "--do_train",
            "--do_eval",
            "--do_export",
            "--task_name=file",
            "--train_file=" + write_rows(self.folder / (name + ".tsv"), *rows),
            "--dev_fraction=0.3",
            "--max_seq_length=16",
            "--train_batch_size=8",
            "--num_train_epochs=1",
            "--output_dir=" + self.path(name),
            *self._model,
            *arguments,
        )

    def path(self, *names):
        return str(self.folder.joinpath(*names))

    def call(self, name, *arguments):
        """Calls with nothing but the output_dir, and these flags, {} being the folder of files."""
        arguments = [argument.format(self.folder) for argument in arguments]
        return call("--output_dir=" + self.path(name), *arguments)

    def read(self, *names):
        with open(self.path(*names), encoding="utf-8") as stream:
            return stream.read()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_bert):
    return Runs(tmp_path_factory.mktemp("trained"), tiny_bert)


def exported(trained, name, tmp_path, *arguments):
    """Exports, and returns what Predictor knows and says then."""
    trained.call(name, "--do_export", "--export_dir=%s" % tmp_path, *arguments)
    (export_dir,) = writer.list_exports(str(tmp_path))
    with Predictor(export_dir) as predictor:
        pair = predictor.settings.texts_per_example == 2
        return predictor.settings, predictor.predict([(TEXTS[0], "x") if pair else TEXTS[0]])[0]


@pytest.mark.parametrize("name", ["plain", "numbers", "tags", "pairs"])
def test_an_evaluation_with_output_dir_alone_gives_the_numbers_of_the_training(trained, name):
    before = numbers_of(json.loads(trained.read(name, "eval_results.json")))
    assert trained.call(name, "--do_eval") == pytest.approx(before, abs=1e-6)


def test_f01a_a_regression_is_exported_as_one(trained, tmp_path):
    settings, prediction = exported(trained, "numbers", tmp_path)
    assert settings.problem_type == "regression"
    assert isinstance(prediction.label, float) and prediction.probabilities == {}


def test_f01b_a_regression_predicts_numbers(trained):
    trained.call("numbers", "--do_predict", "--test_file={}/test.tsv")
    header, *rows = trained.read("numbers", "test_results.tsv").splitlines()
    assert "p(" not in header and len(rows) == 5
    # The softmax of one output would be 1.
    assert all(0 < abs(float(row.split("\t")[1])) < 0.9 for row in rows)


def test_f01d_thresholds_are_those_of_the_training(trained, tmp_path):
    settings, _ = exported(trained, "tags", tmp_path / "a")
    assert settings.thresholds == [0.9, 0.001]
    settings, _ = exported(trained, "tags", tmp_path / "b", "--thresholds=0.3")
    assert settings.thresholds == [0.3, 0.3]
    # The file that they came from is not needed any more.
    moved = trained.path("thresholds.tsv")
    os.rename(moved, moved + ".moved")
    try:
        settings, _ = exported(trained, "tags", tmp_path / "c")
        assert settings.thresholds == [0.9, 0.001]
    finally:
        os.rename(moved + ".moved", moved)


# name -> the run, the flags, what the line has to say
REFUSED = {
    "F01f fewer layers": (
        "plain",
        ["--do_eval", "--do_export", "--bert_config_file={}/fewer.json"],
        "--bert_config_file=.*fewer.json is not what it was",
    ),
    "F01h another activation": (
        "plain",
        ["--do_eval", "--bert_config_file={}/relu.json"],
        "--bert_config_file=.*relu.json is not what it was",
    ),
    "F01i another vocabulary": (
        "plain",
        ["--do_eval", "--vocab_file={}/other.txt"],
        "--vocab_file=.*other.txt is not what it was",
    ),
    "F01j single texts for pairs": (
        "pairs",
        ["--do_predict", "--test_file={}/test.tsv"],
        "test.tsv: single texts, but the model was trained with pairs of texts",
    ),
    "pairs for single texts": (
        "plain",
        ["--do_predict", "--test_file={}/pairs.tsv"],
        "pairs.tsv: pairs of texts, but the model was trained with single texts",
    ),
    "pairs to evaluate": (
        "plain",
        ["--do_eval", "--dev_file={}/pairs.tsv"],
        "pairs.tsv: pairs of texts",
    ),
    "F01l a classifier as multi_label": (
        "plain",
        ["--do_predict", "--problem_type=multi_label", "--test_file={}/test.tsv"],
        "--problem_type=multi_label: the model was trained for classification",
    ),
    "F01m a classifier as regression": (
        "plain",
        ["--do_predict", "--problem_type=regression", "--test_file={}/test.tsv"],
        "--problem_type=regression: the model was trained for classification",
    ),
    "a regression as a classifier": (
        "numbers",
        ["--do_export", "--problem_type=classification"],
        "--problem_type=classification: the model was trained for regression",
    ),
    "a built-in task of another kind": (
        "plain",
        ["--do_predict", "--task_name=sts-b", "--test_file={}/test.tsv"],
        "the model was trained for classification",
    ),
    "F01n more layers": (
        "plain",
        ["--do_eval", "--bert_config_file={}/more.json"],
        "--bert_config_file=.*more.json is not what it was",
    ),
    "no such vocabulary": (
        "plain",
        ["--do_frozen", "--vocab_file={}/missing.txt"],
        "--vocab_file=.*missing.txt is not there",
    ),
    "another case": (
        "plain",
        ["--do_export", "--nodo_lower_case"],
        "--do_lower_case=False: the model was trained with True",
    ),
    "labels in another order": (
        "plain",
        ["--do_eval", "--labels_file={}/swapped.txt"],
        "--labels_file=.*swapped.txt: the model was trained with the labels negative, positive",
    ),
    "checkpoints of two runs": (
        "plain",
        ["--do_eval", "--do_export", "--export_checkpoint={}/numbers/model.ckpt-3"],
        "is of another run",
    ),
}


@pytest.mark.parametrize("run, flags, message", REFUSED.values(), ids=list(REFUSED))
def test_what_does_not_fit_the_model_is_refused(trained, run, flags, message):
    names = ("eval_results.json", "test_results.tsv", "labels.txt", "run.json")
    paths = [trained.path(run, name) for name in names if os.path.exists(trained.path(run, name))]
    before = [os.path.getmtime(path) for path in paths]
    with pytest.raises(BadInput, match=message):
        trained.call(run, *flags)
    assert [os.path.getmtime(path) for path in paths] == before


@pytest.mark.parametrize(
    "flag, value", [("max_seq_length", "12"), ("truncation", "tail"), ("window_stride", "4")]
)
def test_what_reads_texts_otherwise_is_done_with_a_warning(trained, caplog, flag, value):
    trained.call("plain", "--do_predict", "--test_file={}/test.tsv", "--%s=%s" % (flag, value))
    assert "--%s=%s, but the model was trained with" % (flag, value) in caplog.text


def test_rows_that_were_set_aside_have_to_be_the_same(trained):
    path = trained.path("plain.tsv")
    shutil.copy(path, path + ".before")
    with open(path, "a") as stream:
        stream.write("positive\tthe phone was nice .\n")
    try:
        with pytest.raises(BadInput, match="plain.tsv: has changed since the training"):
            trained.call("plain", "--do_eval")
        # Rows of their own are no part of any other file.
        assert trained.call("plain", "--do_eval", "--dev_file={}/plain.tsv")
    finally:
        os.replace(path + ".before", path)


def test_the_folder_of_the_call_makes_no_difference(trained, tiny_bert, tmp_path, monkeypatch):
    (tmp_path / "begun").mkdir()
    (tmp_path / "other").mkdir()
    shutil.copy(trained.path("plain.tsv"), str(tmp_path / "begun" / "mine.tsv"))
    monkeypatch.chdir(tmp_path / "begun")
    names = [os.path.relpath(path) for path in (tiny_bert.bert_config_file, tiny_bert.vocab_file)]
    flags = ["--task_name=file", "--train_file=mine.tsv", "--output_dir=out", "--max_seq_length=8"]
    flags += ["--bert_config_file=" + names[0], "--vocab_file=" + names[1]]
    before = call("--do_train", "--do_eval", "--num_train_epochs=1", "--train_batch_size=8", *flags)
    monkeypatch.chdir(tmp_path / "other")
    after = call("--do_eval", "--output_dir=" + os.path.join("..", "begun", "out"))
    assert after == pytest.approx(before, abs=1e-6)


def test_a_checkpoint_of_another_run_brings_its_own_settings(trained, tmp_path):
    source = trained.path("tags", "best", "slim")
    (index,) = [name for name in os.listdir(source) if name.endswith(".index")]
    checkpoint = os.path.join(source, index[: -len(".index")])
    call(
        "--do_predict",
        "--output_dir=%s" % (tmp_path / "new"),
        "--eval_checkpoint=" + checkpoint,
        "--test_file=" + trained.path("test.tsv"),
    )
    assert "p(film)" in (tmp_path / "new" / "test_results.tsv").read_text()


def test_without_a_record_the_flags_are_asked_for(trained, tmp_path):
    shutil.copytree(trained.path("plain", "best"), str(tmp_path / "best"))
    with pytest.raises(BadInput, match="--task_name is missing"):
        call("--do_eval", "--output_dir=%s" % tmp_path)
    with pytest.raises(BadInput, match="--task_name is missing"):
        call("--do_train", "--output_dir=%s" % (tmp_path / "new"))


def test_the_record_tells_where_it_was_begun(trained):
    assert runs.read_record(trained.path("plain"))["folder"] == os.getcwd()


def test_metrics_of_a_labelled_test_file(trained):
    trained.call("plain", "--do_predict", "--test_file={}/plain.tsv")
    metrics = json.loads(trained.read("plain", "test_metrics.json"))
    _, *rows = trained.read("plain", "test_results.tsv").splitlines()
    wanted = [row.split("\t")[0] for row in trained.read("plain.tsv").splitlines()[1:]]
    right = [row.split("\t")[1] == label for row, label in zip(rows, wanted)]
    assert metrics["test_accuracy"] == pytest.approx(sum(right) / len(right))
    assert set(metrics) >= {"test_f1", "test_loss", "test_precision", "test_recall"}
