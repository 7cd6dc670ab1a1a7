"""The tutorial: each of its commands is run, in its order, as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from program import ROOT

PAGE = os.path.join(ROOT, "docs", "tutorial.md")
# Set up already: these tests run in it.
SET_UP = "make venv"


def commands():
    """The code of the page, one block after the other."""
    with open(PAGE, encoding="utf-8") as page:
        return re.findall(r"^```\n(.*?)^```$", page.read(), re.MULTILINE | re.DOTALL)


def test_the_page_begins_with_the_set_up():
    assert commands()[0].strip() == SET_UP
    assert len(commands()) > 8


@pytest.mark.slow
def test_every_command_of_the_tutorial_works(tmp_path):
    """In a copy of the project, in one shell, with this Python as .venv."""
    project = tmp_path / "project"
    ignored = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(ROOT, str(project), ignore=ignored)
    (project / ".venv" / "bin").mkdir(parents=True)
    python = project / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nexec "%s" "$@"\n' % sys.executable)
    python.chmod(0o755)
    model = os.path.join(ROOT, ".cache", "minilm-l6-uncased")
    if os.path.isdir(model):  # What is there is not fetched again.
        shutil.copytree(model, str(project / ".cache" / "minilm-l6-uncased"))
    script = "set -eum\n" + "\n".join(commands()[1:])
    process = subprocess.run(
        ["bash", "-c", script],
        cwd=str(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert process.returncode == 0, process.stdout[-4000:]
    run = project / ".cache" / "tutorial" / "run"
    for name in ("report.html", "report_results.txt", "test_results.tsv", "best"):
        assert (run / name).exists(), name
    assert "order_status" in process.stdout
