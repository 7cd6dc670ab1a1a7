"""Two hosts on one machine, see two_hosts.sh: all of training over ssh and a network."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import time

import pytest
from program import ROOT

CANNOT_RUN = 77


def start(python=sys.executable):
    return subprocess.Popen(
        [os.path.join("tests", "two_hosts.sh")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHON=python),
    )


def networks():
    """The network namespace of every process."""
    found = set()
    for link in glob.glob("/proc/[0-9]*/ns/net"):
        try:
            found.add(os.readlink(link))
        except OSError:
            # The process has ended meanwhile.
            continue
    return found


def wait_for_networks(are_as_expected):
    deadline = time.time() + 20
    while not are_as_expected(networks()):
        assert time.time() < deadline, networks()
        time.sleep(0.05)


def test_where_it_cannot_run_it_says_why_in_one_sentence():
    script = start(python="no/python")
    output, error = script.communicate()
    assert (script.returncode, output) == (CANNOT_RUN, "")
    assert error.startswith("tests/two_hosts.sh needs ")
    assert error.endswith(".\n") and error.count("\n") == 1


@pytest.mark.slow
def test_two_hosts_train_stop_export_and_go_on():
    before = networks()
    script = start()
    output, error = script.communicate()
    if script.returncode == CANNOT_RUN:
        pytest.skip(error.strip())
    assert script.returncode == 0, output + error
    for evidence in (
        "[0]<stdout>:worker 0 on first ",
        "[1]<stdout>:worker 1 on second ",
        "Early stopping at step 15: ",
        "saved_model.pb",
        "over the cable: ",
        "the second host has no file in ",
        "Nothing left to train",
    ):
        assert evidence in output
    wait_for_networks(before.issuperset)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(number):
    before = networks()
    script = start()
    try:
        wait_for_networks(lambda now: script.poll() is not None or len(now - before) >= 2)
        if script.returncode == CANNOT_RUN:
            pytest.skip(script.stderr.read().strip())
        script.send_signal(number)
        assert script.wait() == -number
        wait_for_networks(before.issuperset)
    finally:
        script.kill()
        script.communicate()
