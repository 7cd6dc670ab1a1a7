"""What the runners of `bench.py` share: the command line and the form of an answer.

    python RUNNER.py JOB '{"setting": value}'

Each runs one job in a process of its own, in the environment of its program, and prints what it has
measured as its last line on stdout, a JSON object. Python 3.7 and 3.11, no packages.
"""

from __future__ import annotations

import glob
import json
import os
import re
import sys
import time
from typing import Any, Callable, Iterable, NamedTuple, Sequence

LABELS = ["0", "1"]
# The matrix products of a layer of MiniLM-L6 with 32 examples of 128 tokens, [m, k] x [k, n]:
# attention, and the two of the feed-forward network.
PRODUCTS = ((4096, 384, 384), (4096, 384, 1536), (4096, 1536, 384))
PRODUCT_TURNS = 15


class Example(NamedTuple):
    """A row of the data; the second text is None where there is one text."""

    label: str
    text: str
    text_b: str | None


def read_examples(path: str) -> list[Example]:
    """Read a file of `bench.py`: a header, then label, text and perhaps a second text."""
    with open(path, encoding="utf-8") as stream:
        rows = [line.rstrip("\n").split("\t") for line in stream][1:]
    return [Example(*row) if len(row) == 3 else Example(row[0], row[1], None) for row in rows]


def answer(**jobs: Callable[..., dict[str, Any]]) -> None:
    """Run the job that the command line names, and print what it returns."""
    name, settings = sys.argv[1:]
    print("\n" + json.dumps(jobs[name](**json.loads(settings))))


def time_calls(call: Callable[[Any], Any], inputs: Sequence[Any], warm_up: int = 5) -> list[float]:
    """Return the seconds of a call with each of the inputs, after some calls that do not count."""
    for one in inputs[:warm_up]:
        call(one)
    return [_time_call(call, one) for one in inputs]


def time_products(make_product: Callable[[int, int, int], Callable[[], Any]]) -> dict[str, float]:
    """Return the best GFLOP/s of each of PRODUCTS, and of all together.

    Args:
        make_product: prepares a product [m, k] x [k, n], and returns what computes it once.
    """
    speeds, operations, seconds = {}, 0, 0.0
    for m, k, n in PRODUCTS:
        product = make_product(m, k, n)
        best = min(_time_call(product) for _ in range(PRODUCT_TURNS))
        speeds["[%d,%d]x[%d,%d]" % (m, k, k, n)] = 2e-9 * m * k * n / best
        operations += 2 * m * k * n
        seconds += best
    speeds["all"] = 1e-9 * operations / seconds
    return speeds


def _time_call(call: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def megabytes(paths: Iterable[str]) -> float:
    """Return the total size of files."""
    return 1e-6 * sum(os.path.getsize(path) for path in paths)


def newest_checkpoint(output_dir: str) -> str:
    """Return the prefix of TensorFlow's checkpoint with the highest step in a folder."""
    indices = glob.glob(os.path.join(output_dir, "model.ckpt-*.index"))
    newest = max(indices, key=lambda path: int(re.search(r"-(\d+)\.index$", path).group(1)))
    return newest[: -len(".index")]


def packages(*names: str) -> dict[str, str]:
    """Return the versions of those packages that this interpreter has."""
    found = {}
    for folder in sys.path:
        for path in glob.glob(os.path.join(folder, "*.dist-info")):
            name, version = os.path.basename(path)[: -len(".dist-info")].split("-", 1)
            found[name.replace("_", "-")] = version
    return {name: found[name] for name in names if name in found}
