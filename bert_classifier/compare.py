"""Compare runs: metric with interval, time, settings that differ, McNemar's test of the best two.

    python -m bert_classifier.compare RUN RUN ...       a table
    python -m bert_classifier.compare RUN RUN ... --html=compared.html      and a page

RUN is the output_dir of a training; or that of `--num_trials`, for all its trials.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Iterator, Sequence

from bert_classifier import streams

if __name__ == "__main__":
    streams.fill_closed()
    # Read by TensorFlow's C++ side when it is imported, which is only asked for its version.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from bert_classifier import files
from bert_classifier.errors import BadInput
from bert_classifier.report import compare
from bert_classifier.report.compare_page import as_page

PROGRAM = "bert_classifier.compare"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m " + PROGRAM,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the output_dir of a training")
    parser.add_argument("--html", metavar="FILE", help="write a page too")
    options = parser.parse_intermixed_args(arguments)
    try:
        if options.html is not None:
            options.html = files.user_path(options.html)
            files.check_output("html", options.html)
        folders = list(_expand([files.user_path(folder) for folder in options.runs]))
        comparison = compare.compare([compare.read(folder) for folder in folders])
        if options.html is not None:
            _write_page(options.html, as_page(comparison))
        print(compare.as_text(comparison), flush=True)
    except BrokenPipeError:
        streams.leave_stdout()
    except (BadInput, OSError) as error:
        print(PROGRAM + ": %s" % error, file=sys.stderr)
        return 2
    return 0


def _write_page(path: str, page: str) -> None:
    with files.output(path) as written, open(written, "w", encoding="utf-8") as stream:
        stream.write(page)


def _expand(folders: Sequence[str]) -> Iterator[str]:
    """Yield the folders of runs, those of the trials for a folder of trials.

    Raises:
        BadInput: there are fewer than two, or one comes twice.
    """
    found: list[str] = []
    for folder in folders:
        found += _trials(folder) or [folder]
    seen: set[str] = set()
    for folder in found:
        if os.path.realpath(folder) in seen:
            raise BadInput("%s: is given twice; give each run once" % folder)
        seen.add(os.path.realpath(folder))
    if len(found) < 2:
        raise BadInput("%s: is one run; give two or more" % found[0])
    yield from found


def _trials(folder: str) -> list[str]:
    path, cure = os.path.join(folder, "trials.json"), "restore it, or give the trials"
    if not os.path.exists(path):
        return []
    trials = files.read_json(path, cure)
    with files.damage_told(path, cure):
        # The folder may have been moved.
        names = [os.path.basename(trial["output_dir"]) for trial in trials["trials"]]
    return [os.path.join(folder, name) for name in names]


if __name__ == "__main__":
    sys.exit(main())
