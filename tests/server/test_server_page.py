"""The page in a real browser."""

from __future__ import annotations

import json
import os

import pytest
from browser import CHROMIUM, Browser
from program import ROOT
from served import TOKEN, wait_for

from bert_classifier.serving.predictor import Predictor

TEXTS = ["the film was good .", "the phone was really not nice", "<b>awful</b> & sad"]
ENTER = ("Enter", 13)
CTRL = 2


@pytest.fixture
def browser(tmp_path, server):
    browser = Browser(tmp_path, "http://127.0.0.1:%d/" % server.port)
    yield browser
    browser.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_page(browser, tmp_path, served_export):
    with Predictor(served_export) as predictor:
        expected = predictor.predict(TEXTS)

    # The text area has the focus. The server wants a token, and the page asks for it.
    assert browser.evaluate("document.activeElement.id") == "texts"
    browser.type("\n".join(TEXTS))
    browser.press(*ENTER, modifiers=CTRL)
    browser.wait("document.activeElement.id === 'token'")
    assert browser.evaluate("document.getElementById('status').className") == "wrong"
    browser.troubles.clear()  # The 401.
    browser.type(TOKEN)
    browser.evaluate("document.getElementById('form').requestSubmit()")
    browser.wait("document.querySelectorAll('#answers > li').length === 3")

    # What is shown is what the model says, and the texts are texts.
    shown = browser.evaluate(
        "[...document.querySelectorAll('#answers > li')].map(item => ["
        "item.querySelector('.text').textContent, item.querySelector('.best').textContent,"
        "[...item.querySelectorAll('progress')].map(bar => bar.value)])"
    )
    for (text, label, bars), wanted, prediction in zip(shown, TEXTS, expected):
        assert (text, label) == (wanted, prediction.label)
        assert bars == pytest.approx([p for _, p in prediction.top_k], abs=1e-5)
    assert browser.evaluate("document.querySelectorAll('#answers b').length") == 0
    assert browser.evaluate("document.activeElement.id") == "heading"

    # A screen reader finds names for all that can be used.
    names = browser.names()
    for role, name in (
        ("textbox", "Texts"),
        ("textbox", "Token"),
        ("button", "Classify"),
        ("heading", "Answers"),
        ("link", "Save answers.tsv"),
    ):
        assert (role, name) in names
    assert any(name == "A file of texts" for _, name in names)
    assert any(role == "status" for role, _ in names)
    for role, name in names:
        assert name or role not in ("textbox", "button", "link", "heading")

    # The picture for the documentation.
    browser.screenshot(tmp_path / "serve.png")
    assert 5_000 < os.path.getsize(str(tmp_path / "serve.png")) < 100_000
    if os.environ.get("SCREENSHOT"):
        browser.screenshot(os.path.join(ROOT, os.environ["SCREENSHOT"]))

    # A file that is dropped; the answers are saved.
    lines = [text for _ in range(100) for text in TEXTS]
    browser.evaluate(
        "(() => { const data = new DataTransfer();"
        "data.items.add(new File([%s], 'texts.txt'));"
        "document.dispatchEvent(new DragEvent('drop', {dataTransfer: data})); })()"
        % json.dumps("\r\n".join(lines) + "\r\n\r\n")
    )
    message = "Answered: 300 texts. The first 100 are shown."
    browser.wait("document.getElementById('status').textContent === %s" % json.dumps(message))
    assert browser.evaluate("document.querySelectorAll('#answers > li').length") == 100
    browser.evaluate("document.getElementById('download').click()")
    path = tmp_path / "answers.tsv"
    wait_for(path.exists)
    header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert header[:2] == ["label", "confidence"] and header[-1] == "text" and len(rows) == 300
    for row, text, prediction in zip(rows, lines, expected * 100):
        assert (row[0], row[-1]) == (prediction.label, text)
        assert float(row[1]) == pytest.approx(prediction.confidence, abs=1e-5)

    # A file that is chosen; then it has changed to one that is not UTF-8.
    path = tmp_path / "two.txt"
    for content, message in (
        (b"good\nbad\n", "Answered: 2 texts."),
        (b"\xff", "two.txt is not UTF-8."),
    ):
        path.write_bytes(content)
        root = browser.send("DOM.getDocument")["root"]["nodeId"]
        node = browser.send("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        browser.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
        browser.wait("document.getElementById('status').textContent === %s" % json.dumps(message))

    # The policy has refused nothing, and nothing was thrown.
    assert browser.troubles == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_can_be_read(browser, scheme):
    """A contrast of 4.5 to 1 at least, as WCAG 2.1 wants it for text (1.4.3)."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.send("Emulation.setEmulatedMedia", features=[feature])
    colours = browser.evaluate(
        "['body', '.hint', 'button'].map(name => {"
        "const style = getComputedStyle(document.querySelector(name));"
        "return [style.color, style.backgroundColor]; })"
    )
    ground = colours[0][1]
    for ink, behind in colours:
        behind = ground if behind == "rgba(0, 0, 0, 0)" else behind
        darker, lighter = sorted([_luminance(ink), _luminance(behind)])
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5
    assert (_luminance(ground) > 0.5) == (scheme == "light")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_narrow_window_needs_no_scrolling_to_the_side(browser):
    """Nor do words without an end: 320 pixels are enough, as WCAG 2.1 wants it (1.4.10)."""
    browser.send(
        "Emulation.setDeviceMetricsOverride",
        width=320,
        height=600,
        deviceScaleFactor=1,
        mobile=True,
    )
    label = "a_label_without_an_end_" * 10
    answer = {"label": label, "confidence": 1.0, "probabilities": {label: 1.0}}
    answer["top_k"] = [{"label": label, "probability": 1.0}]
    browser.evaluate("list([%s], [%s])" % (json.dumps("x" * 500), json.dumps(answer)))
    browser.evaluate("say(%s, true)" % json.dumps(label))
    assert browser.evaluate("document.querySelectorAll('#answers > li').length") == 1
    assert browser.evaluate("document.documentElement.scrollWidth") <= 320


def _luminance(colour):
    """The relative luminance of WCAG 2.1."""
    values = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear))
