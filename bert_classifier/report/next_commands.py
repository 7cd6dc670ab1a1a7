"""The commands that go on from a run: each works as it is, pasted in the folder of its call."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from typing import Sequence

import tensorboard

from bert_classifier.config import DEFAULTS, Config
from bert_classifier.data.processors import DataProcessor
from bert_classifier.export import bundle
from bert_classifier.export.from_run import sample_path
from bert_classifier.export.writer import read_sample
from bert_classifier.training import runs

_PROGRAM = "run_classifier_gpu.py"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What a later call does not take from the record of the training, and what it changes.
_NOT_TAKEN_UP = {
    "eval": ["thresholds"],
    "predict": ["thresholds"],
    "export": ["thresholds", "calibrate"],
}
_MOST_CHARACTERS = 60
_MOST_RUNS = 4


def next_commands(config: Config, processor: DataProcessor) -> list[tuple[str, str]]:
    """Return what the commands are for, and the commands, those that have what they need.

    Args:
        config: of the training.
        processor: of its data.
    """
    output_dir = config.output.output_dir
    found = [("evaluate", _call(config, "eval"))]
    if processor.has_test_file(config.data.data_dir, config.data.test_file):
        found.append(("predict", _call(config, "predict")))
    found.append(("export", _call(config, "export")))
    if bundle.list_exports(os.path.join(output_dir, "export", "best_exporter")):
        words = [_argument(output_dir), *_texts(output_dir)]
        found.append(("answer", _module("bert_classifier.predict", words)))
    others = _runs_beside(output_dir)
    if others:
        words = [_argument(folder) for folder in (output_dir, *others)]
        found.append(("compare", _module("bert_classifier.compare", words)))
    # That of TensorFlow 1.15 takes a comma for the end of a folder; a colon in a relative path for
    # the end of a name.
    if not (tensorboard.__version__.startswith("1.") and "," in os.path.abspath(output_dir)):
        folder = os.path.abspath(output_dir) if ":" in output_dir else output_dir
        found.append(("curves", _module("tensorboard.main", ["--logdir=" + folder])))
    return found


def export_command(output_dir: str) -> str:
    """Return the command that exports the best checkpoint of a run."""
    return _line([python(), _program(), "--do_export", "--output_dir=" + output_dir])


def _call(config: Config, action: str) -> str:
    words = [python(), _program(), "--do_" + action]
    values = config.values()
    for name in _NOT_TAKEN_UP[action]:
        if values[name] != DEFAULTS[name]:
            words.append("--%s=%s" % (name, values[name]))
    return _line([*words, "--output_dir=" + config.output.output_dir])


def _module(name: str, words: Sequence[str]) -> str:
    """Return the command of a module; ours is found in another folder if it is installed."""
    line = _line([python(), "-m", name, *words])
    is_found = os.getcwd() == _ROOT or os.path.basename(_ROOT) in ("site-packages", "dist-packages")
    if is_found or not name.startswith("bert_classifier."):
        return line
    return "PYTHONPATH=%s %s" % (shlex.quote(_ROOT), line)


def _line(words: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, words))


def python() -> str:
    """Return this interpreter as a command: `python` if a shell finds it so, else its path."""
    found = shutil.which("python")
    if not sys.executable or found and os.path.dirname(found) == os.path.dirname(sys.executable):
        return "python"
    relative = os.path.relpath(sys.executable)
    return sys.executable if relative.startswith(os.pardir) else relative


def _program() -> str:
    """Return the path of the program as it was called, or else as it is found from here."""
    if os.path.basename(sys.argv[0]) == _PROGRAM:
        return sys.argv[0]
    relative = os.path.relpath(os.path.join(_ROOT, _PROGRAM))
    return os.path.join(_ROOT, _PROGRAM) if relative.startswith(os.pardir) else relative


def _argument(path: str) -> str:
    """Return a path that is not taken for an option."""
    return os.path.join(os.curdir, path) if path.startswith("-") else path


def _texts(output_dir: str) -> list[str]:
    """Return an example of what to classify: the first of the dev set, shortened."""
    example = read_sample(sample_path(output_dir))[0]
    texts = [example.text_a] if example.text_b is None else [example.text_a, example.text_b]
    return [_shorten(text) for text in texts]


def _shorten(text: str) -> str:
    # A tab or an escape sequence would not come through a terminal, and a dash begins an option.
    line = "".join(c for c in " ".join(text.split()) if c.isprintable()).lstrip("- ")
    return line[:_MOST_CHARACTERS].rstrip() or "text"


def _runs_beside(output_dir: str) -> list[str]:
    """Return the folders of other runs in the same folder, the most recent ones, by name."""
    parent = os.path.dirname(os.path.abspath(output_dir))
    found = []
    # Another user's folder may not be readable.
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            path = runs.record_path(entry.path)
            if os.path.isfile(path) and not _is_same(entry.path, output_dir):
                found.append((os.path.getmtime(path), entry.name))
    latest = sorted(found)[-_MOST_RUNS:]
    return sorted(os.path.join(_parent(output_dir), name) for _, name in latest)


def _parent(folder: str) -> str:
    """Return the folder that a folder is in, relative if the path is."""
    path = os.path.normpath(folder)
    if os.path.basename(path) in (os.curdir, os.pardir):
        return os.path.join(path, os.pardir)
    return os.path.dirname(path)


def _is_same(first: str, second: str) -> bool:
    return os.path.realpath(first) == os.path.realpath(second)
