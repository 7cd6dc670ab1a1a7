"""The benchmark of dev scores: what it trains on, and how it sums up."""

from __future__ import annotations

import json

import numpy as np
import quality


def test_the_first_rows_of_the_training_file_are_taken(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (source / name).write_text("label\ttext\n" + "".join("%d\tx\n" % n for n in range(5)))
    quality.take_rows(str(source), str(tmp_path / "some"), 2)
    assert (tmp_path / "some" / "train.tsv").read_text() == "label\ttext\n0\tx\n1\tx\n"
    quality.take_rows(str(source), str(tmp_path / "all"), None)
    for folder in ("some", "all"):
        dev = (tmp_path / folder / "dev.tsv").read_text()
        assert dev == (source / "dev.tsv").read_text()
    assert (tmp_path / "all" / "train.tsv").read_text() == (source / "train.tsv").read_text()


def test_mean_and_standard_error():
    scores = [0.81, 0.84, 0.86]
    error = np.std(scores, ddof=1) / np.sqrt(3)
    assert quality.summary(scores) == "%.4f +- %.4f" % (np.mean(scores), error)
    assert quality.summary([0.5]) == "0.5000"


def test_the_table_has_a_row_for_each_peer(tmp_path, capsys):
    path = tmp_path / "results.jsonl"
    assert quality.read_results(str(path)) == []
    rows = [
        {"task": "mrpc", "peer": peer, "seed": seed, "last": 0.8, "best": 0.9}
        for peer in quality.PEERS
        for seed in (1, 2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    quality.print_table(quality.read_results(str(path)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "| mrpc | eval_f1 | %s | 0.8000 +- 0.0000 | 0.9000 +- 0.0000 | %s |"
        % (peer, "0.8000 / 0.9000, 0.8000 / 0.9000")
        for peer in quality.PEERS
    ]
