"""Runs beside each other, from folders whose numbers are known."""

from __future__ import annotations

import fcntl
import html.parser
import itertools
import os
import re
import stat
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from program import ROOT, parsed

from bert_classifier import compare as command
from bert_classifier import trials
from bert_classifier.errors import BadInput
from bert_classifier.report import compare
from bert_classifier.training import outputs as outputs_files
from bert_classifier.training import runs
from bert_classifier.training.history import EvalHistory, Watched, eval_history_path
from bert_classifier.training.outputs import Outputs, outputs_path

ACCURACY = Watched("eval_accuracy", higher_is_better=True)
TRUTH = np.random.RandomState(0).randint(2, size=200)


def answers(share_right, seed=1):
    """Predictions of which such a share is right."""
    random = np.random.RandomState(seed)
    return np.where(random.rand(len(TRUTH)) < share_right, TRUTH, 1 - TRUTH)


def make_run(folder, predictions, watched=ACCURACY, truth=TRUTH, fingerprint="f", **flags):
    """Writes what a run leaves that has evaluated twice, the second time better."""
    os.makedirs(str(folder))
    outputs = Outputs(
        20,
        fingerprint,
        truth,
        predictions,
        np.ones(len(truth), np.float32),
        np.eye(2, dtype=np.float32)[predictions],
    )
    value = float((predictions == truth).mean())
    history = EvalHistory(eval_history_path(str(folder)), watched)
    worse = value / 2 if watched.higher_is_better else value * 2 + 1
    history.add(10, {watched.metric: worse})
    history.add(20, {watched.metric: value})
    outputs_files.write(outputs_path(str(folder)), outputs)
    values = parsed("--task_name=file", "--do_train", "--output_dir=%s" % folder).values()
    runs.write_record(
        str(folder),
        {"labels": ["no", "yes"], "best_metric": list(watched), "dev data": fingerprint},
        {**values, **flags},
        {
            "status": "finished",
            "best_step": 20,
            "last_step": 30,
            "seconds": 12.5,
            "examples_per_second": 99.0,
            "workers": 1,
        },
    )
    return str(folder)


@pytest.fixture
def two(tmp_path):
    return [
        make_run(tmp_path / "small rate", answers(0.6), learning_rate=1e-5),
        make_run(tmp_path / "large_rate", answers(0.9, seed=2), learning_rate=1e-4),
    ]


def run(capsys, *arguments):
    status = command.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_table(two, capsys):
    status, out, _ = run(capsys, *two)
    assert status == 0
    header, first, second = out.splitlines()[:3]
    assert header.split()[:3] == ["run", "metric", "value"]
    for folder, line, predictions in zip(two, (first, second), (answers(0.6), answers(0.9, 2))):
        accuracy = sklearn.metrics.accuracy_score(TRUTH, predictions)
        assert line.startswith(folder)
        rest = line[len(folder) :]
        found = re.search(
            r"eval_accuracy +(\S+) +(\S+) to (\S+) +20 +30 +12.5 +99.0 +finished", rest
        )
        value, low, high = map(float, found.groups())
        assert value == pytest.approx(accuracy, abs=1e-4)
        # The bootstrap interval of a share is close to that of the binomial distribution.
        deviation = scipy.stats.binom.std(len(TRUTH), accuracy) / len(TRUTH)
        assert low == pytest.approx(accuracy - 1.96 * deviation, abs=0.015)
        assert high == pytest.approx(accuracy + 1.96 * deviation, abs=0.015)
    settings = out.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in settings] == ["setting", "learning_rate"]
    assert settings[1].split()[1:] == ["1e-05", "0.0001"]


def test_the_best_two_of_three_are_tested(two, tmp_path, capsys):
    third = make_run(tmp_path / "third", answers(0.85, seed=3))
    _, out, _ = run(capsys, two[0], third, two[1])
    assert "best: %s, then %s" % (two[1], third) in out
    right = [answers(0.9, 2) == TRUTH, answers(0.85, 3) == TRUTH]
    only = [int((a & ~b).sum()) for a, b in (right, right[::-1])]
    assert "%d dev examples are right only in %s" % (only[0], two[1]) in out
    statistic = (abs(only[0] - only[1]) - 1) ** 2 / sum(only)
    p_value = scipy.stats.chi2.sf(statistic, 1)
    if sum(only) < 25:
        p_value = min(1, 2 * scipy.stats.binom.cdf(min(only), sum(only), 0.5))
    assert ("p = %.4f" % p_value if p_value >= 0.0001 else "p < 0.0001") in out
    assert ("the two differ" in out) == (p_value < 0.05)


def test_lower_is_better_for_a_loss(tmp_path, capsys):
    loss = Watched("eval_loss", higher_is_better=False)
    folders = [
        make_run(tmp_path / name, answers(share), loss) for name, share in (("a", 0.9), ("b", 0.5))
    ]
    _, out, _ = run(capsys, *folders)
    assert "best: %s, then %s" % (folders[1], folders[0]) in out


@pytest.mark.parametrize(
    "change,remark",
    [
        ({"watched": Watched("eval_f1", True)}, "other: another metric than in"),
        ({"fingerprint": "g", "data_dir": "elsewhere"}, "other: another dev set than in"),
    ],
)
def test_what_cannot_be_compared_is_said(two, tmp_path, capsys, change, remark):
    other = make_run(tmp_path / "other", answers(0.95), **change)
    status, out, _ = run(capsys, *two, other)
    assert status == 0
    assert remark in out
    # The others are ranked.
    assert "best: %s, then %s" % (two[1], two[0]) in out


def test_another_length_has_the_same_dev_examples(two, tmp_path, capsys):
    """The fingerprint of the dev set depends on it; the labels and the file do not."""
    other = make_run(tmp_path / "other", answers(0.95), fingerprint="g", max_seq_length=64)
    _, out, _ = run(capsys, *two, other)
    assert "best: %s, then %s" % (other, two[1]) in out
    assert "McNemar's test (" in out


def test_without_outputs_it_says_why_there_is_no_test(two, capsys):
    os.remove(outputs_path(two[0]))
    status, out, _ = run(capsys, *two)
    assert status == 0
    assert "no McNemar's test: %s has no dev_outputs.npz" % two[0] in out


def test_outputs_of_another_checkpoint_do_not_count(two, capsys):
    history = EvalHistory(eval_history_path(two[0]), ACCURACY)
    history.add(30, {"eval_accuracy": 1.0})
    _, out, _ = run(capsys, *two)
    assert re.search(re.escape(two[0]) + r" +eval_accuracy +1.0000 +- ", out)
    assert "no McNemar's test: %s has no dev_outputs.npz" % two[0] in out


def test_a_run_that_goes_on_is_said_to(two, capsys):
    record = runs.read_record(two[0])
    result = dict(record["result"], status="training")
    runs.write_record(two[0], record["identity"], record["flags"], result)
    _, out, _ = run(capsys, *two)
    assert "%s: is not at its end (training)" % two[0] in out


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.cells = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


def test_the_page_has_the_same_and_needs_no_other_file(two, tmp_path, capsys):
    evil = make_run(tmp_path / "<script>alert(1)<&", answers(0.7), init_checkpoint='"><img src=x>')
    page = tmp_path / "compared.html"
    status, out, _ = run(capsys, *two, evil, "--html=%s" % page)
    assert status == 0
    content = page.read_text(encoding="utf-8")
    parser = _Page()
    parser.feed(content)
    assert not {"script", "img", "link", "iframe"} & set(parser.tags)
    assert not {"src", "href", "onerror"} & {name for name, _ in parser.attributes}
    assert not re.search(r"https?:|@import|url\(", content)
    cells = [cell.strip() for cell in parser.cells]
    rows = [compare.read(folder) for folder in (*two, evil)]
    for row in rows:
        assert set(compare.cells(row)) <= set(cells)
    assert '"><img src=x>' in cells
    assert content.count("<circle") == 3


@pytest.mark.parametrize(
    "make_arguments,message",
    [
        (lambda two, tmp: [two[0]], "is one run; give two or more"),
        (lambda two, tmp: [two[0], two[0] + "/"], "is given twice; give each run once"),
        (lambda two, tmp: [two[0], tmp], "has no run.json; give the --output_dir of a training"),
        (
            lambda two, tmp: [two[0], tmp / "x"],
            "has no run.json; give the --output_dir of a training",
        ),
        (lambda two, tmp: [*two, "--html=%s/x/y" % tmp], "there is no such folder; make it first"),
        (lambda two, tmp: [*two, "--html=%s" % tmp], "is a folder; give the name of a file"),
        (lambda two, tmp: [*two, "--html="], "--html=: give the name of a file"),
        (lambda two, tmp: [*two, "--html=/proc/x.html"], "give a folder that can be written to"),
    ],
)
def test_bad_input(two, tmp_path, capsys, make_arguments, message):
    status, out, err = run(capsys, *make_arguments(two, tmp_path))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("bert_classifier.compare: ")
    assert message in err


def test_a_page_goes_through_a_pipe_and_a_link(two, tmp_path, capsys):
    pipe, link, target = (str(tmp_path / name) for name in ("pipe", "link", "target.html"))
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, 1031, 1 << 20)  # F_SETPIPE_SZ: a page is larger than a pipe.
    assert run(capsys, *two, "--html=" + pipe)[0] == 0
    page = os.read(reader, 1 << 20)
    os.close(reader)
    os.symlink(target, link)
    assert run(capsys, *two, "--html=" + link)[0] == 0
    assert os.path.islink(link) and stat.S_ISFIFO(os.stat(pipe).st_mode)
    with open(target, "rb") as stream:
        assert stream.read() == page and page.startswith(b"<!DOCTYPE html>")


def test_other_data_under_the_same_path_is_a_difference(tmp_path, capsys):
    folders = [make_run(tmp_path / name, answers(0.8), lr=1) for name in ("a", "b")]
    record = runs.read_record(folders[1])
    identity = {**record["identity"], "train data": "e" * 12, "init_checkpoint": "d" * 12}
    runs.write_record(folders[1], identity, record["flags"], record["result"])
    _, out, _ = run(capsys, *folders)
    settings = out.split("\n\n")[1].splitlines()
    assert [line.split() for line in settings[1:]] == [
        ["content", "of", "init_checkpoint", "-", "d" * 12],
        ["content", "of", "train", "data", "-", "e" * 12],
    ]
    assert "best: %s and %s, which are equal" % tuple(folders) in out


def test_what_a_call_does_is_no_setting(tmp_path, capsys):
    changed = {"do_onnx": True, "onnx_int8": True, "do_export": True, "exports_to_keep": 9}
    folders = [
        make_run(tmp_path / name, answers(0.8), **flags)
        for name, flags in (("a", {}), ("b", changed))
    ]
    _, out, _ = run(capsys, *folders)
    assert "setting" not in out


@pytest.mark.parametrize("name", ["run.json", "eval_history.jsonl", "dev_outputs.npz"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"{}", b"[1"])
def test_a_damaged_file_is_named(two, capsys, name, content):
    with open(os.path.join(two[0], name), "wb") as stream:
        stream.write(content)
    status, out, err = run(capsys, *two)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert os.path.join(two[0], name) in err


def check_is_damaged(capsys, path, folders):
    """Checks that one line names the file, the status is 2, and no page is written."""
    page = os.path.join(os.path.dirname(path), "compared.html")
    status, out, err = run(capsys, *folders, "--html=" + page)
    assert (status, out) == (2, "")
    assert err.startswith("bert_classifier.compare: %s: is damaged (" % path)
    assert err.count("\n") == 1
    assert not os.path.exists(page)


PARTS = ["result", "identity", "flags", "versions"]


@pytest.mark.parametrize(
    "keys,values",
    [
        *(([part], (None, 3, "x", [1])) for part in PARTS),
        (["result"], ({},)),
        (["identity", "labels"], (None, 3)),
        (["identity", "best_metric"], (None, "x", ["eval_accuracy"], {})),
    ],
)
def test_a_record_with_something_else_in_it(two, capsys, keys, values):
    path = runs.record_path(two[0])
    record = command.files.read_json(path, "")
    *parents, last = keys
    part = record
    for key in parents:
        part = part[key]
    for value in values:
        part[last] = value
        command.files.write_json(path, record)
        check_is_damaged(capsys, path, two)
    del part[last]
    command.files.write_json(path, record)
    check_is_damaged(capsys, path, two)


@pytest.mark.parametrize("name", ["label_ids", "predictions"])
@pytest.mark.parametrize(
    "array",
    [
        None,
        np.zeros(3, int),
        np.zeros((200, 3), int),
        np.full(200, 7),
        np.array("x"),
        np.full(200, np.nan),
    ],
    ids=str,
)
def test_outputs_with_something_else_in_them(two, capsys, name, array):
    path = outputs_path(two[0])
    with np.load(path) as stored:
        arrays = dict(stored)
    del arrays[name]
    if array is not None:
        arrays[name] = array
    with open(path, "wb") as stream:
        np.savez(stream, **arrays)
    check_is_damaged(capsys, path, two)


def test_an_evaluation_without_the_metric(two, capsys):
    path = eval_history_path(two[0])
    with open(path, "w") as stream:
        stream.write('{"step": 20, "metrics": {}}\n')
    check_is_damaged(capsys, path, two)


@pytest.mark.parametrize("trials", [None, 3, [{}], [{"output_dir": 3}], ["x"]])
def test_trials_with_something_else_in_them(tmp_path, capsys, trials):
    path = str(tmp_path / "trials.json")
    command.files.write_json(path, {} if trials is None else {"trials": trials})
    check_is_damaged(capsys, path, [tmp_path])


def test_outputs_of_other_rows_under_the_same_fingerprint_are_not_tested(two, tmp_path, capsys):
    fewer = make_run(tmp_path / "fewer", answers(0.9)[:150], truth=TRUTH[:150])
    status, out, _ = run(capsys, two[0], fewer)
    assert status == 0
    assert "no McNemar's test: the runs have other dev examples" in out


def test_trials_are_compared_by_their_folder(tmp_path, capsys):
    results = []
    for number, share in enumerate((0.6, 0.62, 0.95), start=1):
        folder = make_run(tmp_path / ("trial_%d" % number), answers(share), seed=number)
        accuracy = float((answers(share) == TRUTH).mean())
        results.append({"eval_accuracy": accuracy, "seed": number, "output_dir": folder})
    trials._write_results(str(tmp_path), results, ACCURACY)
    status, out, _ = run(capsys, tmp_path)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[1:4]] == [r["output_dir"] for r in results]
    written = command.files.read_json(str(tmp_path / "trials.json"), "")
    values = [result["eval_accuracy"] for result in results]
    assert written["summary"]["eval_accuracy"]["standard_error"] == pytest.approx(
        scipy.stats.sem(values)
    )
    for value, (low, high) in zip(values, written["intervals"]):
        assert low < value < high
    tests = {tuple(test["pair"]): test for test in written["mcnemar"]}
    assert set(tests) == set(itertools.combinations((1, 2, 3), 2))
    assert [tests[pair]["differ"] for pair in ((1, 2), (1, 3), (2, 3))] == [False, True, True]


def test_trials_that_cannot_be_compared_are_summed_up(tmp_path, caplog):
    results = [{"eval_accuracy": 0.5, "output_dir": "%s/trial_%d" % (tmp_path, n)} for n in (1, 2)]
    trials._write_results(str(tmp_path), results, ACCURACY)
    assert "the trials are not compared: " in caplog.text
    written = command.files.read_json(str(tmp_path / "trials.json"), "")
    assert written["summary"]["eval_accuracy"]["mean"] == 0.5


def test_a_regression_has_no_right_answers(two):
    first, second = (compare.read(folder) for folder in two)
    numbers = first.outputs._replace(probabilities=None)
    reason = compare.mcnemar_of_pair(first._replace(outputs=numbers), second)
    assert reason == "a regression has no right and wrong answers"


def test_a_folder_that_is_none():
    with pytest.raises(BadInput, match="has no run.json"):
        compare.read("/dev/null")


@pytest.mark.slow
def test_the_command(two):
    process = subprocess.run(
        [sys.executable, "-m", "bert_classifier.compare", *two],
        cwd=ROOT,
        capture_output=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.decode().startswith("run")
