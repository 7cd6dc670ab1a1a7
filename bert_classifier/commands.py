"""The commands that `pip install .` makes: `python -m` of a module under a shorter name."""

from __future__ import annotations

import runpy


def predict() -> None:
    """Run `python -m bert_classifier.predict`."""
    _run("bert_classifier.predict")


def convert() -> None:
    """Run `python -m bert_classifier.convert`."""
    _run("bert_classifier.convert")


def compare() -> None:
    """Run `python -m bert_classifier.compare`."""
    _run("bert_classifier.compare")


def serve() -> None:
    """Run `python -m bert_classifier.serve`."""
    _run("bert_classifier.serve")


def _run(module: str) -> None:
    # As `__main__`, because these modules prepare the standard streams, and the environment that
    # TensorFlow reads, before they import anything else, and only then.
    runpy.run_module(module, run_name="__main__", alter_sys=True)
