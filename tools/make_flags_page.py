"""Write docs/flags.md from the flag definitions.

    .venv/bin/python tools/make_flags_page.py

Run it after a change of `bert_classifier/flags.py`; a test compares the page with the definitions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Sequence

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bert_classifier.flags import groups  # noqa: E402

PAGE = ROOT / "docs" / "flags.md"

INTRODUCTION = """\
# Flags

`tools/make_flags_page.py` writes this page from the flag definitions: do not edit it by hand.
`--help` prints the same list.

- Flags with a name from google's `run_classifier.py` have google's meaning and default. The one
  exception is `--save_checkpoints_steps`, which is 1000 there. `--optimizer` is a flag of its own:
  by default it has the bias correction that google's optimizer lacks, see
  [Optimizer](training.md#optimizer).
- A switch is set with `--do_train` and cleared with `--nodo_train`.
- In flags that name a file or a folder, `~` and `~user` are expanded. A shell does not expand them
  after `--data_dir=`.
- An unknown or misspelled flag stops the program.
- A later call on the same `--output_dir` takes what you do not give from the training run, see
  [Evaluate, predict, export](export_and_serving.md#evaluate-predict-export).
"""


def page() -> str:
    """Return the page: a table for each group of flags."""
    return "\n".join([INTRODUCTION, *(_section(*group) for group in groups().items())])


def _section(title: str, of_group: Sequence[Any]) -> str:
    rows = [
        "| `--%s` | %s | %s |" % (flag.name, _default(flag), _meaning(flag)) for flag in of_group
    ]
    return "\n".join(["## " + title, "", "| flag | default | |", "|---|---|---|", *rows, ""])


def _default(flag: Any) -> str:
    if flag.default in (None, ""):
        return ""
    return "`%s`" % (str(flag.default).lower() if flag.boolean else flag.default)


def _meaning(flag: Any) -> str:
    text = flag.help
    choices = getattr(flag.parser, "enum_values", None)
    if choices:
        # absl writes the choices before the text of the definition, between bars.
        text = text.replace("<%s>: " % "|".join(choices), "")
        text += " One of: %s." % ", ".join("`%s`" % choice for choice in choices)
    return text.replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
