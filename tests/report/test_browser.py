"""A real browser opens the page, and the network is watched: nothing is asked for."""

from __future__ import annotations

import json
import os

import browser
import made_up
import numpy as np
import pytest
import sklearn.metrics
from program import ROOT, model_flags, parsed

import run_classifier_gpu
from bert_classifier.data.examples import InputExample
from bert_classifier.report import page

EVIL = "<script>document.title='run'</script><img src='/asked'><style>@import '/asked'</style>"
PANELS = ["headline", "curves", "confusion", "classes", "calibration", "confidence", "length"]
PANELS += ["confused-pairs", "mistakes", "label-noise", "data", "settings", "files", "commands"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no chromium"),
]


@pytest.fixture
def browse(tmp_path):
    """Opens a file in a browser of its own, in a window of a width."""
    opened = []

    def open_file(path, width=1100, scheme="light"):
        window = browser.Browser(tmp_path / ("browser_%d" % len(opened)), "about:blank")
        opened.append(window)
        window.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": scheme}
        window.send("Emulation.setEmulatedMedia", features=[scheme])
        window.send("Page.navigate", url="file://%s" % path)
        window.wait("document.readyState === 'complete' && !!document.querySelector('#commands')")
        return window

    yield open_file
    for window in opened:
        window.close()


def panels(window):
    return window.evaluate("[...document.querySelectorAll('section')].map(s => s.id)")


def text_of(window, selector):
    return window.evaluate("document.querySelector(%s).textContent" % json.dumps(selector))


def rows_of(window, section):
    """The texts of the cells of the tables in a section, row by row."""
    return window.evaluate(
        "[...document.querySelectorAll('#%s tr')].map("
        "row => [...row.cells].map(cell => cell.innerText.trim()))" % section
    )


def check_is_alone(window, path):
    """Checks that nothing else was asked for, and that nothing was refused: it was not tried."""
    assert set(window.requests) - {"about:blank"} == {"file://%s" % path}
    assert window.troubles == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_each_panel_is_there_and_no_request_leaves_the_page(tmp_path, browse, scheme, width):
    labels = ["good" + EVIL, "bad"]
    evaluated = made_up.classified(60, labels, texts=[EVIL, "x" * 3000] * 30)
    suspects = page.Suspects(1, 1, [(InputExample("t-1", EVIL, EVIL, "bad"), EVIL, 1.0)])
    path = tmp_path / "report.html"
    page.write(str(path), made_up.run(name=EVIL), evaluated, suspects)
    window = browse(path, width, scheme)
    assert panels(window) == PANELS
    assert len(window.evaluate("[...document.querySelectorAll('svg')].map(s => s.id)")) == 5
    assert window.evaluate("document.title").endswith(EVIL)
    check_is_alone(window, path)
    # Nothing makes the page wider than the window; what is wide scrolls by itself.
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    (red, green, blue) = window.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number)"
    )
    assert (red + green + blue < 200) == (scheme == "dark")


# Whole runs


def write_pairs(folder):
    """Sentence pairs in the format of MRPC, 48 to learn from and 30 to evaluate."""
    random = np.random.RandomState(0)
    folder.mkdir()
    for name, count in (("train", 48), ("dev", 30)):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        for number in range(count):
            words = [random.choice(["good", "bad", "fine"]) for _ in range(2)]
            label = int(words[0] == words[1])
            texts = ["the film was %s <b>&amp; %d" % (word, number) for word in words]
            lines.append("%d\t%d\t%d\t%s\t%s" % (label, number, number, *texts))
        (folder / (name + ".tsv")).write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.fixture(scope="module", params=["demo", "pairs"])
def output_dir(request, tmp_path_factory, tiny_bert):
    """A run on the data of the demo, with its seven classes, and one of MRPC's kind."""
    folder = tmp_path_factory.mktemp("run_to_look_at")
    data = {
        "demo": ["--task_name=file", "--data_dir=" + os.path.join(ROOT, "examples", "data")],
        "pairs": ["--task_name=mrpc"],
    }[request.param]
    if request.param == "pairs":
        data.append("--data_dir=" + write_pairs(folder / "data"))
    output = str(folder / "output")
    flags = ["--do_train", "--do_eval", "--max_seq_length=24", "--num_train_epochs=2"]
    flags += ["--learning_rate=1e-3", "--best_metric=eval_accuracy", "--output_dir=" + output]
    run_classifier_gpu.run_classifier(parsed(*flags, *data, *model_flags(tiny_bert)))
    return output


def test_the_page_of_a_run_has_the_numbers_of_its_files(output_dir, browse):
    path = os.path.join(output_dir, "report.html")
    window = browse(path)
    assert set(panels(window)) >= set(PANELS) - {"confused-pairs"}
    check_is_alone(window, path)
    check_numbers(window, output_dir)


def check_numbers(window, output_dir):
    """Checks the numbers of a page against the files beside it, and those against scikit-learn."""
    with open(os.path.join(output_dir, "eval_results.json"), encoding="utf-8") as stream:
        results = json.load(stream)
    with open(os.path.join(output_dir, "labels.txt"), encoding="utf-8") as stream:
        labels = stream.read().split("\n")[:-1]
    outputs = np.load(os.path.join(output_dir, "dev_outputs.npz"))
    truth, predictions = outputs["label_ids"], outputs["predictions"]
    assert text_of(window, "#headline-value") == "%.4f" % results["eval_accuracy"]
    assert results["eval_accuracy"] == pytest.approx(
        sklearn.metrics.accuracy_score(truth, predictions)
    )
    low, high = results["intervals"]["eval_accuracy"]
    assert text_of(window, "#headline-interval") == "%.4f to %.4f" % (low, high)
    shown = {row[0]: row[1] for row in rows_of(window, "headline")[1:]}
    metrics = {name: value for name, value in results.items() if name.startswith("eval_")}
    assert shown == {name: "%.4f" % value for name, value in metrics.items()}
    matrix = sklearn.metrics.confusion_matrix(truth, predictions, labels=range(len(labels)))
    confusion = rows_of(window, "confusion")
    assert confusion[0][1:] == [row[0] for row in confusion[1:]] == labels
    assert [row[1:] for row in confusion[1:]] == matrix.astype(str).tolist()
    scores = sklearn.metrics.precision_recall_fscore_support(
        truth, predictions, labels=range(len(labels)), zero_division=0
    )
    for number, row in enumerate(rows_of(window, "classes")[1 : 1 + len(labels)]):
        of_class = [column[number] for column in scores]
        assert row[:4] == [labels[number], *("%.4f" % value for value in of_class[:3])]
        assert int(row[5]) == of_class[3]
        stored = results["classes"][labels[number]]
        assert [stored[name] for name in ("precision", "recall", "f1", "support")] == pytest.approx(
            of_class
        )
    wrong = np.sort(outputs["probabilities"][truth != predictions].max(axis=1))[::-1]
    mistakes = rows_of(window, "mistakes")[1:]
    assert [row[3] for row in mistakes] == ["%.4f" % value for value in wrong[:30]]
