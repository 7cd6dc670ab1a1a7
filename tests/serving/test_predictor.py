import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from conftest import CONFIG, VOCAB, WORDS
from hypothesis import given, settings
from hypothesis import strategies as st
from program import ROOT
from test_encoder_runs import ENCODERS

import modeling
import tokenization
from bert_classifier import predict
from bert_classifier.data import features
from bert_classifier.data.examples import InputExample
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle, writer
from bert_classifier.model import classifier
from bert_classifier.problem_types import ClassOptions
from bert_classifier.serving import predictor
from bert_classifier.serving.predictor import Predictor

LENGTH = 16

# name -> what differs from the first; those with a window_stride read in windows.
KINDS = {
    "classification": {},
    "pairs": {"texts_per_example": 2, "window_stride": 5},
    "multi_label": {
        "problem_type": "multi_label",
        "window_stride": 6,
        "thresholds": [0.5, 0.2, 0.8],
    },
    "regression": {"problem_type": "regression", "window_stride": 6, "labels": ["score"]},
}

SHORT = ["the film was good .", "bad", "", "the phone was really not nice . the film is sad"]
LONG = [" ".join(WORDS), " ".join(WORDS * 4), " ".join(reversed(WORDS * 2)) + " films"]
TEXTS = [*SHORT, *LONG, "the film was good ."]
PAIRS = list(zip(TEXTS, reversed(TEXTS)))


class Export:
    """A bundle of random weights, its forms, and what its checkpoint says."""

    def __init__(self, folder, model, kind, encoder=None):
        self.settings = bundle.Settings(
            **{
                "labels": ["negative", "neutral", "positive"],
                "problem_type": "classification",
                "max_seq_length": LENGTH,
                "do_lower_case": True,
                "truncation": "head",
                "window_stride": 0,
                "texts_per_example": 1,
                **KINDS[kind],
            }
        )
        self._estimator = tf.estimator.Estimator(
            classifier.model_fn_builder(
                modeling.BertConfig.from_dict({**CONFIG, **(encoder or {})}),
                len(self.settings.labels),
                None,
                0.0,
                0,
                0,
                problem_type=self.settings.problem_type,
                class_options=ClassOptions(thresholds=self.settings.thresholds),
            ),
            str(folder),
        )
        self._checkpoint = save_random_weights(self._estimator, str(folder / "model.ckpt"))
        self._tokenizer = tokenization.FullTokenizer(model.vocab_file)
        config_file = folder / "bert_config.json"
        config_file.write_text(json.dumps({**CONFIG, **(encoder or {})}))
        self._writer = writer.BundleWriter(
            self._estimator,
            self.settings,
            self._tokenizer,
            {bundle.VOCAB: model.vocab_file, bundle.CONFIG: str(config_file)},
            [self._example(self.texts[0])],
        )
        self.frozen = str(folder / "frozen.pb")
        to = writer.Destinations(str(folder / "export"), self.frozen)
        self.path = self._writer.write(self._checkpoint, {"step": 0}, to)[0]
        self.expected = self._predict(self.texts)

    def write_onnx(self, folder):
        """Writes the ONNX model; returns its folder."""
        to = writer.Destinations(onnx=str(folder))
        return self._writer.write(self._checkpoint, {"step": 0}, to)[0]

    @property
    def texts(self):
        return TEXTS if self.settings.texts_per_example == 1 else PAIRS

    @property
    def answers(self):
        """The probabilities, or numbers, that the checkpoint gives."""
        is_regression = self.settings.problem_type == "regression"
        return self.expected["predictions" if is_regression else "probabilities"]

    def _example(self, text):
        return InputExample("", *([text] if isinstance(text, str) else text))

    def _predict(self, texts):
        """Asks the Estimator, all at once, everything as long as can be."""
        converter = features.Converter(
            self.settings.labels,
            LENGTH,
            self._tokenizer,
            window_stride=self.settings.window_stride,
        )
        rows = [converter.convert_padded(self._example(text)) for text in texts]
        longest = max(len(row.input_ids) for row in rows)
        columns = {
            name: np.array(
                [getattr(row, name) + [0] * (longest - len(row.input_ids)) for row in rows],
                np.int32,
            ).reshape([len(rows), -1, LENGTH])
            for name in ("input_ids", "input_mask", "segment_ids")
        }
        if not self.settings.window_stride:
            columns = {name: column[:, 0] for name, column in columns.items()}
        return next(
            self._estimator.predict(
                lambda: tf.data.Dataset.from_tensors(columns),
                checkpoint_path=self._checkpoint,
                yield_single_examples=False,
            )
        )


def save_random_weights(estimator, prefix):
    """Saves weights so large that texts differ in their answers."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(3)
        ids = tf.zeros([1, 4], tf.int32)
        estimator.model_fn(
            {"input_ids": ids, "input_mask": ids, "segment_ids": ids},
            None,
            tf.estimator.ModeKeys.PREDICT,
            None,
        )
        tf.train.get_or_create_global_step()
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables():
            if re.search("kernel|embeddings/|output_weights", variable.name):
                variable.load(session.run(variable) * 8.0, session)
        return tf.train.Saver().save(session, prefix)


@pytest.fixture(scope="module")
def exports(tmp_path_factory, tiny_bert):
    made = {}

    def export(kind):
        if kind not in made:
            made[kind] = Export(tmp_path_factory.mktemp(kind), tiny_bert, kind)
        return made[kind]

    return export


@pytest.fixture(scope="module", autouse=True)
def open_once():
    """Opens each bundle once, which takes longer than most of what is then asked."""
    opened = {}
    open_bundle = bundle.open_bundle

    def open_or_reuse(path, session_config=None):
        if path not in opened:
            opened[path] = open_bundle(path, session_config)
            opened[path].model.close = lambda: None
        return opened[path]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "open_bundle", open_or_reuse)
        yield


@pytest.fixture(scope="module")
def export(exports):
    return exports("classification")


@pytest.fixture(scope="module")
def loaded(export):
    with Predictor(export.path) as predictor:
        yield predictor


def numbers_of(predictions):
    return [list(p.probabilities.values()) or p.label for p in predictions]


# Answers


@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_are_those_of_the_estimator(exports, kind):
    export = exports(kind)
    with Predictor(export.path, batch_size=3) as predictor:
        answers = predictor.predict(export.texts)
    np.testing.assert_allclose(numbers_of(answers), export.answers, atol=1e-5, rtol=1e-5)
    # Texts that all get the same answer would not show in which order they come.
    assert len(np.unique(np.round(export.answers, 3), axis=0)) > 4
    labels, predictions = export.settings.labels, export.expected["predictions"]
    expected = {
        "classification": lambda row: labels[row],
        "multi_label": lambda row: tuple(itertools.compress(labels, row)),
        "regression": lambda row: pytest.approx(row, abs=1e-5),
    }[export.settings.problem_type]
    assert [answer.label for answer in answers] == [expected(row) for row in predictions]
    if export.settings.problem_type == "classification":
        assert [a.confidence for a in answers] == [max(a.probabilities.values()) for a in answers]
    else:
        assert {answer.confidence for answer in answers} == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_graph_answers_like_the_saved_model(exports, kind):
    export = exports(kind)
    with Predictor(export.frozen) as predictor:
        answers = predictor.predict(export.texts)
    np.testing.assert_allclose(numbers_of(answers), export.answers, atol=1e-5, rtol=1e-5)


def assert_onnx_answers_like_the_checkpoint(export, folder):
    with Predictor(export.write_onnx(folder), batch_size=3) as predictor:
        answers = predictor.predict(export.texts)
    np.testing.assert_allclose(numbers_of(answers), export.answers, atol=1e-5, rtol=1e-5)
    if export.settings.problem_type != "regression":
        with Predictor(export.path) as predictor:
            expected = predictor.predict(export.texts)
        assert [answer.label for answer in answers] == [answer.label for answer in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_an_onnx_model_answers_like_the_checkpoint(exports, kind, tmp_path):
    pytest.importorskip("tf2onnx")
    assert_onnx_answers_like_the_checkpoint(exports(kind), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_an_onnx_model_may_be_of_any_encoder(tiny_bert, name, tmp_path):
    pytest.importorskip("tf2onnx")
    export = Export(tmp_path, tiny_bert, "pairs", ENCODERS[name])
    assert len(np.unique(np.round(export.answers, 3), axis=0)) > 2
    assert_onnx_answers_like_the_checkpoint(export, tmp_path / "onnx")


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_neither_batches_nor_streams_change_an_answer(export, batch_size, monkeypatch):
    monkeypatch.setattr(predictor, "_TEXTS_PER_CHUNK", 3)
    with Predictor(export.path, batch_size=batch_size) as loaded:
        answers = loaded.predict(TEXTS * 3)
        streamed = list(loaded.predict_stream(iter(TEXTS * 3)))
    np.testing.assert_allclose(numbers_of(answers), np.tile(export.answers, [3, 1]), atol=1e-5)
    np.testing.assert_allclose(numbers_of(streamed), numbers_of(answers), atol=1e-5)


def test_a_batch_is_padded_to_its_longest_text_only(loaded, monkeypatch):
    shapes = []
    model = loaded._model
    run = model._model.run

    def recorded(inputs):
        shapes.append(inputs["input_ids"].shape)
        return run(inputs)

    monkeypatch.setattr(model._model, "run", recorded)
    monkeypatch.setattr(model._runner, "_batch_size", 2)
    loaded.predict(["good " * 9, "good", "good " * 8, "good good"])
    assert sorted(shapes) == [(2, 4), (2, 11)]


@pytest.mark.parametrize("top_k, length", [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_top_k_has_the_most_probable_labels(export, loaded, top_k, length):
    for answer, row in zip(loaded.predict(TEXTS, top_k), export.answers):
        best = np.argsort(-row)[:top_k]
        assert [label for label, _ in answer.top_k] == [export.settings.labels[i] for i in best]
        assert len(answer.top_k) == length
        assert all(answer.probabilities[label] == p for label, p in answer.top_k)


@pytest.mark.parametrize("temperature", [0.02, 0.5, 1, 3.0, 1e6])
@pytest.mark.parametrize("kind", ["classification", "pairs", "multi_label"])
def test_a_temperature_divides_the_logits(exports, kind, temperature):
    export = exports(kind)
    p = export.answers.astype(np.float64)
    if kind == "multi_label":
        expected = 1 / (1 + ((1 - p) / p) ** (1 / temperature))
    else:
        powers = (p / p.max(axis=1, keepdims=True)) ** (1 / temperature)
        expected = powers / powers.sum(axis=1, keepdims=True)
    with Predictor(export.path, temperature=temperature) as predictor:
        answers = predictor.predict(export.texts)
    np.testing.assert_allclose(numbers_of(answers), expected, atol=1e-4 / min(temperature, 1))


def test_where_the_model_is_not_sure_there_is_no_answer(export):
    confidences = np.sort(export.answers.max(axis=1))
    between = float(confidences[1] + confidences[-1]) / 2
    with Predictor(export.path, min_confidence=between) as predictor:
        answers = predictor.predict(TEXTS)
    abstained = [answer.label is None for answer in answers]
    assert abstained == [row.max() < between for row in export.answers]
    assert True in abstained and False in abstained
    # What it would have said is told all the same.
    assert [answer.confidence for answer in answers] == [answer.top_k[0][1] for answer in answers]


def test_a_bundle_says_its_own_temperature_and_confidence(export, monkeypatch):
    opened = bundle.open_bundle(export.path)
    own = opened.settings._replace(temperature=2.0, min_confidence=0.99)
    monkeypatch.setattr(bundle, "open_bundle", lambda path: opened._replace(settings=own))
    with Predictor(export.path) as predictor:
        assert predictor.settings == own
    with Predictor(export.path, temperature=1, min_confidence=0) as predictor:
        assert predictor.settings == export.settings


@settings(deadline=None, max_examples=60)
@given(
    st.one_of(
        st.text(st.characters(), max_size=60),
        st.text(
            st.sampled_from("\0\ud800\udfff\u2028\u200d\u0301\t\r\n\x1b \u00a0\ufeff漢😀ßİ"),
            max_size=60,
        ),
        st.lists(st.sampled_from([*VOCAB, "[CLS][SEP]", "\ud83d"]), max_size=30).map(" ".join),
    )
)
def test_any_text_has_an_answer(loaded, text):
    (answer,) = loaded.predict([text])
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert answer.label in loaded.settings.labels


@pytest.mark.parametrize("kind", KINDS)
def test_empty_and_very_long_texts(exports, kind):
    export = exports(kind)
    # With windows all of it is read.
    length = 3000 if export.settings.window_stride else 100000
    texts = ["", " ", "\t\r\n", "x" * length, "good " * (length // 5), "漢" * length]
    if export.settings.texts_per_example == 2:
        texts = list(zip(texts, reversed(texts)))
    with Predictor(export.path) as predictor:
        assert np.isfinite(numbers_of(predictor.predict(texts))).all()


def test_no_texts(loaded):
    assert loaded.predict([]) == []
    assert list(loaded.predict_stream([])) == []


def test_threads_get_the_answers_that_one_gets(export, loaded):
    jobs = [random.Random(number).choices(TEXTS, k=40) for number in range(8)]
    answers = {}

    def work(number):
        answers[number] = [loaded.predict(jobs[number]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = dict(zip(TEXTS, export.answers))
    for number, job in enumerate(jobs):
        for turn in answers[number]:
            np.testing.assert_allclose(
                numbers_of(turn), [expected[text] for text in job], atol=1e-5
            )


def test_each_core_has_a_batch_of_its_own(export, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    with Predictor(export.path, batch_size=20) as predictor:
        model = predictor._model._model
        run = model.run
        all_are_here = threading.Barrier(2, timeout=60)

        def run_together(inputs):
            all_are_here.wait()
            return run(inputs)

        monkeypatch.setattr(model, "run", run_together)
        texts = random.Random(0).choices(TEXTS, k=40)
        expected = dict(zip(TEXTS, export.answers))
        np.testing.assert_allclose(
            numbers_of(predictor.predict(texts)), [expected[text] for text in texts], atol=1e-5
        )


def test_a_stream_has_a_bounded_part_in_memory(loaded):
    taken = itertools.count()

    def texts(text):
        while True:
            next(taken)
            yield text

    for text, most in (("good", 1024), ("x" * 100000, 11)):
        before = next(taken)
        stream = loaded.predict_stream(texts(text))
        assert next(stream).label
        assert next(taken) - before - 1 <= most


def test_a_stream_answers_what_came_before_an_error(loaded):
    stream = loaded.predict_stream(["good", "bad", None])
    assert [next(stream).label for _ in range(2)] == [
        a.label for a in loaded.predict(["good", "bad"])
    ]
    with pytest.raises(TypeError, match=r"texts\[2\] is None"):
        next(stream)


@pytest.mark.parametrize(
    "texts, message",
    [
        ("good", "texts is one str; give a list"),
        (b"good", "texts is one bytes; give a list"),
        (None, "not iterable"),
        ([None], r"texts\[0\] is None"),
        (["good", 3], r"texts\[1\] is 3"),
        ([b"good"], r"texts\[0\] is b'good'"),
        ([("a", "b", "c")], r"texts\[0\] is \('a', 'b', 'c'\)"),
        ([()], r"texts\[0\] is \(\)"),
        ([("a", None)], r"texts\[0\] is \('a', None\)"),
    ],
)
def test_what_is_no_list_of_texts_is_a_type_error(loaded, texts, message):
    for ask in (loaded.predict, lambda texts: list(loaded.predict_stream(texts))):
        with pytest.raises(TypeError, match=message):
            ask(texts)


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("classification", ("a", "b"), "is a pair, and the model reads single texts; give a str"),
        ("pairs", "a", r"is one text, and the model reads pairs; give \(text, text_b\)"),
    ],
)
def test_pairs_are_for_a_model_of_pairs(exports, kind, text, message):
    with Predictor(exports(kind).path) as predictor:
        with pytest.raises(BadInput, match=message):
            predictor.predict([text])


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        ("classification", {"temperature": 0}, "temperature=0: give a number above 0"),
        ("classification", {"temperature": float("nan")}, "temperature=nan"),
        ("classification", {"temperature": float("inf")}, "temperature=inf"),
        ("classification", {"min_confidence": 1.5}, "min_confidence=1.5: give a number from 0 to"),
        ("classification", {"batch_size": 0}, "batch_size=0: give 1 or more"),
        ("regression", {"temperature": 2}, "a regression has no probabilities"),
        ("regression", {"min_confidence": 0.5}, "is for classification, and this is regression"),
        ("multi_label", {"min_confidence": 0.5}, "is for classification, and this is multi_label"),
    ],
)
def test_arguments_that_do_not_fit(exports, kind, arguments, message):
    with pytest.raises(BadInput, match=message):
        Predictor(exports(kind).path, **arguments)


def test_a_negative_top_k(loaded):
    with pytest.raises(BadInput, match="top_k=-1: give 0 or more"):
        loaded.predict(["good"], top_k=-1)


# The command line


@pytest.fixture
def cli(exports, monkeypatch, capsys):
    """Calls the program with a kind of model; gives status, stdout and stderr."""

    def call(kind, *arguments, stdin=b"", is_terminal=False):
        stream = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
        monkeypatch.setattr(sys, "stdin", stream)
        status = predict.main([exports(kind).path, *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def rows_of(tsv):
    header, *rows = [line.split("\t") for line in tsv.split("\n")[:-1]]
    return [dict(zip(header, row)) for row in rows]


def label_cells(export):
    labels, predictions = export.settings.labels, export.expected["predictions"]
    if export.settings.problem_type == "multi_label":
        return [",".join(itertools.compress(labels, row)) for row in predictions]
    return [labels[row] for row in predictions]


LINES = "".join(text + "\n" for text in TEXTS)
PAIR_LINES = "".join("%s\t%s\n" % pair for pair in PAIRS)


def test_lines_become_a_table(cli, export):
    status, out, err = cli("classification", stdin=LINES.encode())
    assert (status, err) == (0, "")
    header = "label confidence p(negative) p(neutral) p(positive) text"
    assert out.split("\n")[0].split("\t") == header.split()
    rows = rows_of(out)
    assert [row["text"] for row in rows] == TEXTS
    assert [row["label"] for row in rows] == label_cells(export)
    for row, probabilities in zip(rows, export.answers):
        assert float(row["confidence"]) == pytest.approx(probabilities.max(), abs=1e-5)
        told = [float(row["p(%s)" % label]) for label in export.settings.labels]
        np.testing.assert_allclose(told, probabilities, atol=1e-5)


def test_lines_of_pairs(cli, exports):
    status, out, _ = cli("pairs", stdin=PAIR_LINES.encode())
    rows = rows_of(out)
    assert status == 0
    assert [(row["text"], row["text_b"]) for row in rows] == PAIRS
    assert [row["label"] for row in rows] == label_cells(exports("pairs"))


def test_several_labels_share_a_cell(cli, exports):
    _, out, _ = cli("multi_label", stdin=LINES.encode())
    rows = rows_of(out)
    assert [row["label"] for row in rows] == label_cells(exports("multi_label"))
    assert out.split("\n")[0] == "label\tp(negative)\tp(neutral)\tp(positive)\ttext"
    _, out, _ = cli("multi_label", "--output_format=jsonl", stdin=LINES.encode())
    told = [json.loads(line) for line in out.splitlines()]
    assert {tuple(answer) for answer in told} == {("label", "probabilities", "top_k", "text")}
    lists = [answer["label"] for answer in told]
    assert [",".join(labels) for labels in lists] == [row["label"] for row in rows]


def test_numbers(cli, exports):
    _, out, _ = cli("regression", stdin=LINES.encode())
    assert out.split("\n")[0] == "score\ttext"
    told = [float(row["score"]) for row in rows_of(out)]
    np.testing.assert_allclose(told, exports("regression").answers, atol=1e-4)
    _, out, _ = cli("regression", "--output_format=jsonl", stdin=LINES.encode())
    lines = [json.loads(line) for line in out.splitlines()]
    assert {tuple(line) for line in lines} == {("score", "text")}
    np.testing.assert_allclose([line["score"] for line in lines], told, atol=1e-6)


def test_json_lines(cli, export):
    _, out, _ = cli("classification", "--output_format=jsonl", "--top_k=2", stdin=LINES.encode())
    answers = [json.loads(line) for line in out.split("\n")[:-1]]
    assert [answer["text"] for answer in answers] == TEXTS
    for answer, label, row in zip(answers, label_cells(export), export.answers):
        assert list(answer) == ["label", "confidence", "probabilities", "top_k", "text"]
        assert answer["label"] == label
        np.testing.assert_allclose(list(answer["probabilities"].values()), row, atol=1e-5)
        best, second = answer["top_k"]
        assert best == {"label": label, "probability": answer["confidence"]}
        assert second["probability"] == sorted(answer["probabilities"].values())[-2]


@pytest.mark.parametrize("output_format, nothing", [("tsv", ""), ("jsonl", None)])
def test_no_answer_is_empty(cli, output_format, nothing):
    _, out, _ = cli(
        "classification",
        "--min_confidence=1",
        "--temperature=1000",
        "--output_format=" + output_format,
        stdin=b"good\n",
    )
    (row,) = rows_of(out) if output_format == "tsv" else [json.loads(out)]
    assert row["label"] == nothing
    assert float(row["confidence"]) == pytest.approx(1 / 3, abs=0.01)


def test_one_text_as_an_argument(cli, export, exports):
    _, out, _ = cli("classification", "--top_k=1", TEXTS[0], "--output_format=tsv")
    (row,) = rows_of(out)
    assert (row["label"], row["text"]) == (label_cells(export)[0], TEXTS[0])
    _, out, _ = cli("pairs", *PAIRS[1])
    (row,) = rows_of(out)
    assert (row["label"], row["text_b"]) == (label_cells(exports("pairs"))[1], PAIRS[1][1])


@pytest.mark.parametrize(
    "kind, name, content, arguments",
    [
        ("classification", "t.csv", 'label,text\n0,"good, is it"\n1,bad\n', ()),
        (
            "classification",
            "t.csv",
            'x,review\n0,"good, is it"\n1,bad\n',
            ("--text_column=review",),
        ),
        ("classification", "t.csv", '0;"good, is it"\n1;bad\n', ("--text_column=2",)),
        ("classification", "t.tsv", "good, is it\t1\nbad\t2\n", ("--text_column=1",)),
        ("classification", "t.tsv", "text\ngood, is it\nbad\n", ()),
        ("classification", "t", "x\ngood, is it\nbad\n", ("--has_header", "--text_column=x")),
        ("classification", "t.jsonl", '{"text": "good, is it"}\n{"text": "bad"}\n', ()),
        ("pairs", "t.tsv", "good, is it\tfilm\nbad\tphone\n", ()),
        ("pairs", "t.tsv", "text_b\ttext\nfilm\tgood, is it\nphone\tbad\n", ()),
        (
            "pairs",
            "t.csv",
            'q,b\nfilm,"good, is it"\nphone,bad\n',
            ("--text_column=b", "--text_b_column=q"),
        ),
    ],
)
def test_tables_are_read_as_in_training(cli, tmp_path, kind, name, content, arguments):
    path = tmp_path / name
    path.write_text(content)
    if name == "t":
        arguments = (*arguments, "--file_format=tsv")
    status, out, err = cli(kind, "--input_file=%s" % path, *arguments)
    assert (status, err) == (0, "")
    rows = rows_of(out)
    assert [row["text"] for row in rows] == ["good, is it", "bad"]
    if kind == "pairs":
        assert [row["text_b"] for row in rows] == ["film", "phone"]


def test_nohas_header_makes_the_first_row_a_text(cli, tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("text\ngood\n")
    _, out, _ = cli("classification", "--input_file=%s" % path, "--nohas_header")
    assert [row["text"] for row in rows_of(out)] == ["text", "good"]


def test_which_of_several_columns_is_not_guessed(cli, tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("negative\tgood\n")
    status, out, err = cli("classification", "--input_file=%s" % path)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "2 columns" in err and "--text_column" in err
    _, out, _ = cli("classification", "--input_file=%s" % path, "--text_column=2")
    assert [row["text"] for row in rows_of(out)] == ["good"]


def test_an_output_file_appears_when_it_is_complete(cli, tmp_path):
    path = tmp_path / "answers.tsv"
    arguments = ("classification", "--output_file=%s" % path)
    status, out, _ = cli(*arguments, stdin=b"good\nbad\n")
    assert (status, out) == (0, "")
    complete = path.read_bytes()
    assert [row["text"] for row in rows_of(complete.decode())] == ["good", "bad"]
    assert cli(*arguments, stdin=b"sad\n\xff\n")[0] == 2
    assert path.read_bytes() == complete
    assert os.listdir(str(tmp_path)) == ["answers.tsv"]


def test_a_pipe_is_written_to_and_not_replaced(cli, tmp_path):
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert cli("classification", "--output_file=" + path, "good")[0] == 0
    assert [row["text"] for row in rows_of(os.read(reader, 1 << 16).decode())] == ["good"]
    os.close(reader)


def test_whatever_a_line_holds_is_one_text_and_one_line(cli):
    texts = ["a\tb", "", "\u2028x\x85", "\x1b[31m", "漢\0字", "crlf", "last"]
    stdin = b"\xef\xbb\xbf" + "\n".join(texts).replace("crlf", "crlf\r").encode()
    _, out, _ = cli("classification", stdin=stdin)
    shown = ["a b", "", " x ", " [31m", "漢 字", "crlf", "last"]
    assert [row["text"] for row in rows_of(out)] == shown
    _, out, _ = cli("classification", "--output_format=jsonl", stdin=stdin)
    assert [json.loads(line)["text"] for line in out.split("\n")[:-1]] == texts


def test_half_a_character_does_no_harm(cli):
    _, out, _ = cli("classification", "bad \ud800!")
    assert rows_of(out)[0]["text"] == "bad \\ud800!"
    _, out, _ = cli("classification", "bad \ud800!", "--output_format=jsonl")
    assert json.loads(out)["text"] == "bad \ud800!"


def test_lines_are_found_however_they_come(cli, monkeypatch):
    _, expected, _ = cli("classification", stdin=LINES.encode())
    monkeypatch.setattr(predict, "_BYTES_PER_READ", 3)
    assert cli("classification", stdin=LINES.encode())[1] == expected


@pytest.mark.parametrize(
    "kind, stdin, where, answered",
    [
        ("classification", b"good\nbad\nsch\xf6n\nsad\n", "<stdin>:3: is not UTF-8; convert", 2),
        ("classification", b"\xff\xfeg\0o\0\n\0", "<stdin>:1: is not UTF-8; convert", 0),
        ("pairs", b"good\tbad\ngood\n", "<stdin>:2: tabs: 0; write the two texts", 1),
        ("pairs", b"a\tb\tc\n", "<stdin>:1: tabs: 2; write the two texts", 0),
    ],
)
def test_a_bad_line_is_named_and_those_before_it_are_answered(cli, kind, stdin, where, answered):
    status, out, err = cli(kind, stdin=stdin)
    assert status == 2
    assert err.startswith("bert_classifier.predict: " + where) and err.count("\n") == 1
    assert len(rows_of(out)) == answered


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        ("classification", ("is", "it"), "TEXT: there are 2, and the model reads 1; quote"),
        ("pairs", ("good",), "TEXT: there are 1, and the model reads 2"),
        (
            "classification",
            ("--input_file=none.tsv",),
            "none.tsv: No such file or directory; check --i",
        ),
        ("classification", ("--output_file=no/where",), "--output_file=no/where: there is no such"),
        (
            "classification",
            ("--output_file=" + ROOT,),
            "--output_file=%s: is a folder; give" % ROOT,
        ),
        ("classification", ("x", "--temperature=-1"), "temperature=-1.0: give a number above 0"),
        ("classification", ("x", "--top_k=-1"), "top_k=-1: give 0 or more"),
    ],
)
def test_bad_arguments_end_with_one_line(cli, kind, arguments, message):
    status, out, err = cli(kind, *arguments)
    assert status == 2
    assert err.startswith("bert_classifier.predict: " + message) and err.count("\n") == 1


@pytest.mark.parametrize(
    "content, arguments, message",
    [
        ("x\ty\na\tb\n", ("--text_column=text2", "--has_header"), ":1: no column 'text2'"),
        ("text\ty\na\tb\na\n", (), ":3: columns: 1, but 2 in line 1"),
        ("text\ty\na\tb\n", ("--text_b_column=y",), "--text_b_column: the model reads single"),
    ],
)
def test_bad_tables_end_with_one_line(cli, tmp_path, content, arguments, message):
    path = tmp_path / "t.tsv"
    path.write_text(content)
    status, _, err = cli("classification", "--input_file=%s" % path, *arguments)
    assert status == 2
    assert message in err and err.count("\n") == 1


def test_what_is_read_is_not_written_over(cli, export, tmp_path):
    names = [tmp_path / name for name in ("t.tsv", "soft", "hard")]
    names[0].write_text("text\ngood\n")
    names[1].symlink_to(names[0])
    os.link(str(names[0]), str(names[2]))
    for name in names:
        for read, written in ((names[0], name), (name, names[0])):
            status, out, err = cli(
                "classification", "--input_file=%s" % read, "--output_file=%s" % written
            )
            assert (status, out) == (2, "")
            told = "--output_file=%s: is a file that is read; give another one" % written
            assert told in err and err.count("\n") == 1
        assert name.read_text() == "text\ngood\n"
    assert predict.main([export.frozen, "good", "--output_file=" + export.frozen]) == 2
    with Predictor(export.frozen) as predictor:
        assert predictor.predict(["good"])


def test_what_comes_from_stdin_is_not_written_over(export, tmp_path):
    path = write_lines(tmp_path / "lines", 3)
    before = path.read_text()
    for arguments, status, after in (([], 2, before), (["good"], 0, None)):
        command = [sys.executable, "-m", "bert_classifier.predict", export.path, *arguments]
        with path.open() as stdin:
            ended = subprocess.run([*command, "--output_file=%s" % path], stdin=stdin, cwd=ROOT)
        assert ended.returncode == status
        assert (path.read_text() == before) == (after == before)


def test_a_text_and_a_file_are_too_much(cli, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli("classification", "good", "--input_file=x.tsv")
    assert stopped.value.code == 2
    assert "not both" in capsys.readouterr().err


def test_no_export(capsys, tmp_path):
    assert predict.main([str(tmp_path), "good"]) == 2
    err = capsys.readouterr().err
    assert "no saved_model.pb or model.onnx, and no export below it; give" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "kind, stdin, shown",
    [
        (
            "classification",
            b"good\nbad\n",
            r"(text: \w+   \((\w+ [01]\.\d{4}(, )?){3}\)\n){2}text: \n",
        ),
        ("pairs", b"good\nbad\n", r"text: text_b: \w+   \((\w+ [01]\.\d{4}(, )?){3}\)\ntext: \n"),
        ("regression", b"good\n", r"text: -?\d+\.\d{6}\ntext: \n"),
    ],
)
def test_a_person_is_asked_and_told(cli, kind, stdin, shown):
    status, out, err = cli(kind, stdin=stdin, is_terminal=True)
    assert (status, err) == (0, "")
    assert re.fullmatch(shown, out)


def test_a_person_is_told_that_there_is_no_answer(cli):
    arguments = ("classification", "--min_confidence=1", "--top_k=0")
    assert cli(*arguments, stdin=b"good\n", is_terminal=True)[1] == "text: no answer\ntext: \n"


def start(export, **options):
    # Importing the front door, as these tests do, has already set what the program sets for itself.
    environment = {key: os.environ[key] for key in os.environ if key != "TF_CPP_MIN_LOG_LEVEL"}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(
        [sys.executable, "-m", "bert_classifier.predict", export.path, "--batch_size=1000"],
        env=dict(environment, LC_ALL="C", PYTHONPATH=ROOT),
        # What a shell without job control starts in the background is told to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **dict(streams, **options),
    )


def test_who_writes_a_line_and_waits_gets_its_answer(export, tmp_path):
    process = start(export, cwd=str(tmp_path))
    for number, (text, label) in enumerate(zip(TEXTS, label_cells(export))):
        process.stdin.write(text.encode() + b"\n")
        process.stdin.flush()
        if number == 0:
            assert process.stdout.readline().startswith(b"label\tconfidence\t")
        assert process.stdout.readline().decode().split("\t")[0] == label
    process.send_signal(signal.SIGINT)
    # Its input stays open meanwhile: the end of it would be a reason to end, too.
    assert process.wait(timeout=60) == 130
    assert process.communicate() == (b"", b"")


def test_who_reads_the_answers_may_have_enough(export, tmp_path):
    # More than a pipe holds.
    with write_lines(tmp_path / "lines", 20000).open() as stdin:
        process = start(export, stdin=stdin)
        assert process.stdout.readline().startswith(b"label\t")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def write_lines(path, count):
    chance = random.Random(0)
    with path.open("w") as stream:
        for _ in range(count):
            stream.write(" ".join(chance.choices(WORDS, k=chance.randrange(9))) + "\n")
    return path


# With tf.function, a Keras model and a gradient, before and after there is a Predictor.
EAGER_APPLICATION = """
import json, sys
import numpy as np
import tensorflow as tf
from bert_classifier import Predictor

tf.compat.v1.enable_eager_execution()  # TensorFlow 2 begins so.
model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(2,))])
model.compile(tf.keras.optimizers.SGD(), "mse")
double = tf.function(lambda number: 2 * number)

def check():
    assert tf.executing_eagerly()
    weight = tf.Variable(3.0)
    with tf.GradientTape() as tape:
        square = weight * weight
    assert tape.gradient(square, weight).numpy() == 6
    assert double(tf.constant(4)).numpy() == 8
    model.fit(np.ones([4, 2]), np.ones([4, 1]), verbose=0)
    assert model.predict(np.ones([1, 2]), verbose=0).shape == (1, 1)

check()
with Predictor(sys.argv[1]) as predictor:
    check()
    texts = json.loads(sys.argv[2])
    answers = [list(answer.probabilities.values()) for answer in predictor.predict(texts)]
    with tf.Graph().as_default():
        again = predictor.predict(texts)
    check()
check()
assert [list(answer.probabilities.values()) for answer in again] == answers
print(json.dumps(answers))
"""


@pytest.mark.parametrize("form", ["path", "frozen"])
def test_eager_execution_goes_on_beside_a_predictor(export, form):
    command = [sys.executable, "-c", EAGER_APPLICATION, getattr(export, form), json.dumps(SHORT)]
    answers = json.loads(subprocess.check_output(command, cwd=ROOT).decode().splitlines()[-1])
    with Predictor(export.path) as predictor:
        expected = [list(a.probabilities.values()) for a in predictor.predict(SHORT)]
    np.testing.assert_allclose(answers, expected, atol=1e-6)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_lines(export, tmp_path):
    def peak_of(count):
        with write_lines(tmp_path / str(count), count).open() as stdin:
            process = start(export, stdin=stdin, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        return usage.ru_maxrss  # In kB.

    # As strings the lines alone would be 70 MB.
    assert peak_of(1000000) - peak_of(100000) < 16000
