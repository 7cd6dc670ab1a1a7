"""The commands that `pip install .` makes: `python -m` of a module under a shorter name."""

from __future__ import annotations

import runpy
import sys

# What some commands need, and the extra of pyproject.toml that installs it.
_EXTRAS = {
    "tensorflow": "tensorflow",
    "httptools": "server",
    "prometheus_client": "server",
    "starlette": "server",
    "uvicorn": "server",
}


def predict() -> int:
    """Run `python -m bert_classifier.predict`; return the exit status."""
    return _run("bert_classifier.predict")


def convert() -> int:
    """Run `python -m bert_classifier.convert`; return the exit status."""
    return _run("bert_classifier.convert")


def compare() -> int:
    """Run `python -m bert_classifier.compare`; return the exit status."""
    return _run("bert_classifier.compare")


def serve() -> int:
    """Run `python -m bert_classifier.serve`; return the exit status."""
    return _run("bert_classifier.serve")


def tell_missing(program: str, error: ModuleNotFoundError) -> int:
    """Tell in one line which package is missing; return the exit status of bad input.

    Args:
        program: its name.
        error: is raised again if no extra has the package.
    """
    name = (error.name or "").split(".")[0]
    if name not in _EXTRAS:
        raise error
    shown = "TensorFlow" if name == "tensorflow" else name
    cure = "install it with `pip install '.[%s]'`" % _EXTRAS[name]
    print("%s: needs %s, which is not installed; %s" % (program, shown, cure), file=sys.stderr)
    return 2


def _run(module: str) -> int:
    # As `__main__`, because these modules prepare the standard streams, and the environment that
    # TensorFlow reads, before they import anything else, and only then.
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        return tell_missing(module, error)
    return 0
