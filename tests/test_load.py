"""The load test of the server, and wrk with our script."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import load
import pytest
from program import ROOT


def test_a_small_run(onnx_export):
    command = [sys.executable, "benchmarks/load.py", onnx_export, "--clients=4", "--seconds=1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    *turns, ratio = ended.stdout.splitlines()
    assert [int(turn.split()[0]) for turn in turns] == [1, 4, 1]
    assert all(turn.endswith("errors: 0") for turn in turns)
    before, loaded, after = (float(re.search(r"([\d.]+)/s", turn).group(1)) for turn in turns)
    assert float(ratio.split()[0]) == pytest.approx(2 * loaded / (before + after), abs=0.01)


def test_answers_that_are_errors_are_counted(server):
    """This server wants a token."""
    turn = load._clients(server.port, [load._request("good")], 3, 0.2)
    assert turn.num_errors >= 3 and turn.latencies == []
    assert "errors: %d" % turn.num_errors in str(turn)


def test_percentiles():
    turn = load.Turn(1, 2.0, [number / 1000 for number in range(1, 101)], 0)
    assert turn.throughput == 50
    for percent in (50, 99, 100):
        value = turn.percentile(percent) / 1000
        assert sum(latency <= value for latency in turn.latencies) >= percent
        assert value == pytest.approx(percent / 1000, abs=0.0011)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="there is no wrk")
def test_wrk_asks_for_the_texts_of_the_demo(start, onnx_export):
    server = start(onnx_export)
    url = "http://127.0.0.1:%d/v1/texts" % server.port
    command = ["wrk", "-t1", "-c4", "-d1s", "-s", "benchmarks/load.lua", url]
    printed = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert float(re.search(r"Requests/sec: +([\d.]+)", printed).group(1)) > 0
    assert "Non-2xx" not in printed and "Socket errors" not in printed
    assert b'status="200"' in server.raw_request("GET", "/metrics")[2]
