"""Tests of the page: its panels, its numbers, and what users may have in texts and labels."""

from __future__ import annotations

import html.parser
import re
import warnings

import made_up
import matplotlib
import numpy as np
import pytest
import sklearn.metrics

from bert_classifier.data.examples import InputExample
from bert_classifier.report import page
from bert_classifier.report.scores import score
from bert_classifier.training.outputs import Outputs

ALWAYS = {"headline", "curves", "length", "mistakes", "label-noise", "data", "settings", "files"}
ALWAYS |= {"commands"}
OF_CLASSES = {"confusion", "classes", "calibration", "confidence"}
EVIL = """<script>alert("x")</script><img src=x onerror='alert(1)'>&amp;"' {{ 7*7 }} </pre>"""


class Parsed(html.parser.HTMLParser):
    """The sections by identifier, the cells of their tables, all tags and all attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.rows = [], [], {}
        self.text = {}
        self._section, self._in_cell = None, False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.attributes += attributes.items()
        if tag == "section":
            self._section = attributes["id"]
            self.rows[self._section], self.text[self._section] = [], ""
        elif tag == "tr":
            self.rows[self._section].append([])
        elif tag in ("td", "th"):
            self._in_cell = True
            self.rows[self._section][-1].append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False
        elif tag == "section":
            self._section = None

    def handle_data(self, data):
        if self._section:
            self.text[self._section] += data
            if self._in_cell:
                self.rows[self._section][-1][-1] += data


def render(evaluated, *arguments, **fields):
    metric = "eval_accuracy" if evaluated.scores.classes else "eval_pearson"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = page.render(made_up.run(metric, **fields), evaluated, *arguments)
    parsed = Parsed(text)
    check_is_alone(text, parsed)
    return text, parsed


def check_is_alone(text, parsed):
    """Checks that nothing is loaded, run or followed, and that no identifier is there twice."""
    assert not {"script", "link", "iframe", "img", "base", "object", "embed"} & set(parsed.tags)
    for name, value in parsed.attributes:
        assert not name.startswith("on"), name
        if name in ("href", "src", "xlink:href", "action"):
            assert value.startswith(("#", "data:image/png;")), value
    assert not re.search(r"@import|url\((?!#)", re.sub(r"<p class=.text.*?</p>", "", text))
    identifiers = [value for name, value in parsed.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    targets = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert set(targets) <= set(identifiers)


def test_each_panel_is_there():
    evaluated = made_up.classified(200, ["a", "b", "c"])
    _, parsed = render(evaluated)
    assert parsed.rows.keys() == ALWAYS | OF_CLASSES | {"confused-pairs"}
    assert parsed.tags.count("svg") == 5
    headline = " ".join(parsed.text["headline"].split())
    assert "best step 20 of 30" in headline and "This is the checkpoint of step 20." in headline
    assert "stopped early: no progress" in parsed.text["headline"]
    assert made_up.COMMANDS[0][1] in parsed.text["commands"]
    assert parsed.rows["files"] == [["eval_results.json", "the metrics"]]
    assert ["--learning_rate", "3e-05"] in parsed.rows["settings"]
    assert "train 100 rows" in parsed.text["data"]


def test_the_numbers_are_those_of_scikit_learn():
    labels = ["a", "b", "c"]
    evaluated = made_up.classified(300, labels)
    text, parsed = render(evaluated)
    truth, predictions = evaluated.outputs.label_ids, evaluated.outputs.predictions
    expected = sklearn.metrics.precision_recall_fscore_support(truth, predictions)
    rows = [row for row in parsed.rows["classes"] if row[0] in labels]
    for n, row in enumerate(rows):
        assert row[1:4] == ["%.4f" % of[n] for of in expected[:3]]
        assert row[5:] == [str(expected[3][n]), str((predictions == n).sum())]
    matrix = sklearn.metrics.confusion_matrix(truth, predictions)
    assert [row[1:] for row in parsed.rows["confusion"][1:]] == matrix.astype(str).tolist()
    accuracy = "%.4f" % sklearn.metrics.accuracy_score(truth, predictions)
    assert 'id="headline-value">%s<' % accuracy in text
    low, high = evaluated.scores.to_json()["intervals"]["eval_accuracy"]
    assert 'id="headline-interval">%.4f to %.4f<' % (low, high) in text
    assert "15 bins" in parsed.text["calibration"]
    assert "above 0.5" not in parsed.text["calibration"]
    baseline = np.bincount(truth).max() / len(truth)
    assert 'id="headline-baseline">%.4f<' % baseline in text


def test_the_most_confident_mistakes_come_first():
    evaluated = made_up.classified(400, ["a", "b"])
    _, parsed = render(evaluated)
    outputs = evaluated.outputs
    wrong = outputs.probabilities[outputs.label_ids != outputs.predictions].max(axis=1)
    rows = parsed.rows["mistakes"][1:]
    assert len(rows) == 30 < len(wrong)
    assert {row[0].split("text")[0] for row in rows} == {
        "row %s" % re.search(r"row (\d+)", row[0]).group(1) for row in rows
    }
    assert [row[3] for row in rows] == ["%.4f" % p for p in sorted(wrong)[::-1][:30]]
    for text, label, answer, _ in rows:
        number = int(re.search(r"row (\d+)", text).group(1)) - 1
        assert "text number %d" % number in text
        assert label == "ab"[outputs.label_ids[number]]
        assert answer == "ab"[outputs.predictions[number]] != label


def test_the_most_confused_pairs_come_first():
    evaluated = made_up.evaluated(
        "classification", ["a", "b", "c"], [0, 0, 0, 1, 1, 2], [1, 1, 0, 2, 1, 2]
    )
    _, parsed = render(evaluated)
    assert parsed.rows["confused-pairs"][1:] == [
        ["a", "b", "2 of 3"],
        ["b", "c", "1 of 2"],
    ]


def test_html_in_texts_and_names_is_text():
    labels = [EVIL, "b" + EVIL]
    evaluated = made_up.classified(40, labels, texts=[EVIL + str(n) for n in range(40)])
    suspects = page.Suspects(1, 1, [(InputExample("t-1", EVIL, EVIL, EVIL), EVIL, 1.5)])
    fields = {
        "name": EVIL,
        "data_summary": [EVIL],
        "settings": {"task_name": EVIL},
        "given": ["task_name"],
        "files": [(EVIL, EVIL)],
        "commands": [(EVIL, EVIL)],
        "result": {"status": EVIL, "reason": EVIL, "best_step": 1, "last_step": 2, "warning": EVIL},
    }
    _, parsed = render(evaluated, suspects, **fields)
    for section in ALWAYS - {"curves", "length"} | {"confusion", "classes", "confused-pairs"}:
        assert EVIL in parsed.text[section], section


@pytest.mark.parametrize(
    "text",
    [
        "שלום עולם",
        "\u202eright to left mark",
        "手机很好用",
        "a\x00b\x1b[31m\ud800",
        "",
        "x" * 10**6,
    ],
    ids=["hebrew", "override", "chinese", "unprintable", "empty", "long"],
)
def test_any_text_and_label(text, tmp_path):
    labels = [text[:50], "other"]
    evaluated = made_up.evaluated(
        "classification", labels, [0, 1, 0], [1, 1, 0], np.full((3, 2), 0.5), [text] * 3
    )
    path = tmp_path / "report.html"
    page.write(str(path), made_up.run(), evaluated)
    written = path.read_text(encoding="utf-8")
    assert len(written) < 200000
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff]", written)
    parsed = Parsed(written)
    shown = re.sub("[\x00-\x08\x0b-\x1f\ud800-\udfff]", "\ufffd", text[:900])
    assert shown in parsed.text["mistakes"]
    assert ("(1000000 characters)" in parsed.text["mistakes"]) == (len(text) == 10**6)
    assert parsed.attributes.count(("dir", "auto")) == 1


def test_a_class_that_is_absent_and_an_answer_that_is_always_the_same():
    evaluated = made_up.evaluated(
        "classification", ["a", "b", "c"], [0, 0, 1, 1], [1, 1, 1, 1], np.full((4, 3), 1 / 3)
    )
    _, parsed = render(evaluated)
    assert parsed.rows["classes"][3][:4] == ["c", "0.0000", "0.0000", "0.0000"]
    assert "the same answer to every row: b" in parsed.text["headline"]


def test_no_answer_is_right():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    evaluated = made_up.evaluated("classification", ["a", "b"], [1, 0, 1], [0, 1, 0], probabilities)
    text, parsed = render(evaluated)
    assert parsed.rows.keys() == ALWAYS | OF_CLASSES | {"confused-pairs"}
    assert 'id="headline-value">0.0000<' in text
    assert [row[3] for row in parsed.rows["mistakes"][1:]] == ["0.9000", "0.8000", "0.6000"]


@pytest.mark.parametrize("problem_type", ["classification", "multi_label", "regression"])
def test_losses_that_are_not_numbers(problem_type):
    """A model whose weights have become NaN answers class 0, with probabilities of NaN."""
    evaluated = {
        "classification": lambda: made_up.classified(30, ["a", "b"]),
        "multi_label": lambda: made_up.several(30, ["a", "b"]),
        "regression": lambda: made_up.numbers(30),
    }[problem_type]()
    outputs = evaluated.outputs
    losses = np.full_like(outputs.losses, np.nan)
    predictions, probabilities = outputs.predictions * 0, outputs.probabilities
    if probabilities is None:
        predictions = np.full_like(predictions, np.nan)
    else:
        probabilities = np.full_like(probabilities, np.nan)
    arguments = (outputs.label_ids, predictions, probabilities, losses)
    scores = score(problem_type, evaluated.scores.labels, *arguments)
    outputs = Outputs(20, "", outputs.label_ids, predictions, losses, probabilities)
    metrics = {name: value for name, value in scores.values.items() if name.startswith("eval_")}
    _, parsed = render(evaluated._replace(metrics=metrics, outputs=outputs, scores=scores))
    values = {row[0]: row[1] for row in parsed.rows["headline"]}
    assert values["eval_loss"] == "nan"
    assert "calibration" not in parsed.rows and "scatter" not in parsed.rows


@pytest.mark.parametrize("is_right", [True, False])
def test_one_row(is_right):
    evaluated = made_up.evaluated(
        "classification", ["a", "b"], [1], [int(is_right)], np.array([[0.4, 0.6]])
    )
    _, parsed = render(evaluated)
    assert parsed.rows.keys() >= ALWAYS | OF_CLASSES
    assert ("There are none" in parsed.text["mistakes"]) == is_right
    assert "The model gives the same answer" not in parsed.text["headline"]


def test_of_very_many_probabilities_some_rows_are_calibrated(monkeypatch):
    evaluated = made_up.classified(200, ["a", "b", "c", "d"])
    _, parsed = render(evaluated)
    assert "drawn at random" not in parsed.text["calibration"]
    monkeypatch.setattr(page, "_MOST_PROBABILITIES", 400)
    _, parsed = render(evaluated)
    assert "These two plots are of 100 rows, drawn at random." in parsed.text["calibration"]


def test_a_hundred_classes():
    labels = ["class %d" % n for n in range(100)]
    text, parsed = render(made_up.classified(2000, labels))
    assert parsed.rows.keys() == ALWAYS | OF_CLASSES | {"confused-pairs"}
    assert len(parsed.rows["classes"]) == 1 + 100 + 3
    assert "data:image/png" in text and not parsed.rows["confusion"]
    assert len(parsed.rows["confused-pairs"]) == 21


@pytest.mark.parametrize("num_examples", [1, 2, 200])
def test_a_regression(num_examples):
    evaluated = made_up.numbers(num_examples)
    _, parsed = render(evaluated)
    assert parsed.rows.keys() == ALWAYS | {"scatter", "residuals"}
    truth, predictions = evaluated.outputs.label_ids, evaluated.outputs.predictions
    values = {row[0]: row[1] for row in parsed.rows["headline"]}
    mse = sklearn.metrics.mean_squared_error(truth, predictions)
    assert float(values["rmse"]) == pytest.approx(mse**0.5, abs=1e-4)
    worst = sorted(abs(truth - predictions))[::-1][:30]
    found = [float(row[3]) for row in parsed.rows["mistakes"][1:]]
    assert found == pytest.approx(worst, abs=1e-4)


def test_a_regression_that_has_failed():
    evaluated = made_up.numbers(5)
    outputs = evaluated.outputs._replace(predictions=np.full(5, np.nan, np.float32))
    _, parsed = render(evaluated._replace(outputs=outputs))
    assert "scatter" not in parsed.rows


@pytest.mark.parametrize("num_labels", [1, 4, 60])
def test_several_labels(num_labels):
    labels = ["label %d" % n for n in range(num_labels)]
    evaluated = made_up.several(100, labels)
    _, parsed = render(evaluated)
    assert parsed.rows.keys() == ALWAYS | OF_CLASSES
    truth, predictions = evaluated.outputs.label_ids, evaluated.outputs.predictions
    expected = sklearn.metrics.multilabel_confusion_matrix(truth, predictions)
    if num_labels == 1:
        expected = sklearn.metrics.confusion_matrix(truth[:, 0], predictions[:, 0])[np.newaxis]
    assert "yes above 0.5" in parsed.text["calibration"]
    for row, ((neither, only_answer), (only_label, both)) in zip(
        parsed.rows["confusion"][1:], expected
    ):
        assert row[1:] == [str(n) for n in (both, only_label, only_answer, neither)]


def test_probabilities_that_are_not_finite_have_no_calibration():
    evaluated = made_up.evaluated(
        "classification", ["a", "b"], [0, 1], [0, 0], np.full((2, 2), np.nan)
    )
    _, parsed = render(evaluated)
    assert "calibration" not in parsed.rows and "classes" in parsed.rows


def test_without_evaluations_and_a_record():
    evaluated = made_up.classified(20, ["a", "b"])
    _, parsed = render(evaluated, evaluations=[], result={}, data_summary=[], trained=[])
    assert "curves" not in parsed.rows
    assert "has not read the training set" in parsed.text["data"]


def test_likely_label_noise_is_of_the_rows_that_were_looked_at():
    example = InputExample("train-7", "a fine film", label="negative")
    suspects = page.Suspects(500, 80000, [(example, "positive", 7.25)])
    _, parsed = render(made_up.classified(20, ["negative", "positive"]), suspects)
    noise = " ".join(parsed.text["label-noise"].split())
    assert "500 rows that were looked at of 80000" in noise
    assert parsed.rows["label-noise"][1][1:] == ["negative", "positive", "7.2500"]


def test_the_same_run_has_the_same_page_and_pyplot_is_left_alone():
    settings = dict(matplotlib.rcParams)
    evaluated = made_up.classified(50, ["a", "b"])
    assert page.render(made_up.run(), evaluated) == page.render(made_up.run(), evaluated)
    assert dict(matplotlib.rcParams) == settings
