"""Make one table from the numbers of many turns, and describe the machine."""

from __future__ import annotations

import collections
import os
import platform
import statistics
import subprocess
from typing import Any, Dict, Iterable, Mapping, NamedTuple, Sequence, Tuple

import cases

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "KMP_BLOCKTIME",
    "KMP_AFFINITY",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
SHARE = "share of the fastest products, %"
# Measures for which a ratio has no meaning.
WITHOUT_RATIO = ("dev accuracy", SHARE)


class Turn(NamedTuple):
    """The numbers of one peer in one turn of one case."""

    case: str
    peer: str
    load: float  # of the machine, before
    numbers: dict[str, float]


# (case, measure) -> peer -> number, in the order in which they were measured
Table = Dict[Tuple[str, str], Dict[str, float]]


def medians(turns: Iterable[Turn]) -> Table:
    """Return the median of each number over the turns."""
    values = collections.defaultdict(lambda: collections.defaultdict(list))
    for turn in turns:
        for measure, number in turn.numbers.items():
            values[turn.case, measure][turn.peer].append(number)
    return {
        row: {peer: statistics.median(numbers) for peer, numbers in peers.items()}
        for row, peers in values.items()
    }


def add_shares(table: Table, config: Mapping[str, int]) -> None:
    """Add the speed of a step's products as a share of that of the fastest product.

    If a share is above 100 % the machine was busier while the products were measured than during
    the steps, and none is added.
    """
    case = cases.steps_title(cases.MAX_SEQ_LENGTH)
    speeds = table.get(("products", "all, GFLOP/s"))
    steps = table.get((case, "a step, s"))
    if speeds and steps:
        gigaflop = cases.step_gigaflop(config, cases.BATCH_SIZE, cases.MAX_SEQ_LENGTH)
        shares = {
            peer: 100 * gigaflop / seconds / max(speeds.values()) for peer, seconds in steps.items()
        }
        if max(shares.values()) <= 100:
            table[case, SHARE] = shares


def markdown(table: Table, peers: Sequence[str]) -> str:
    """Return a table with a column for each peer, and in brackets the ratio to the first peer."""
    first, *_ = peers
    lines = [["", *peers], ["---"] * (1 + len(peers))]
    for (case, measure), numbers in table.items():
        base = None if measure in WITHOUT_RATIO else numbers.get(first)
        lines.append(
            ["%s: %s" % (case, measure)]
            + [cell(numbers.get(peer), base if peer != first else None) for peer in peers]
        )
    return "".join("| %s |\n" % " | ".join(line) for line in lines)


def cell(number: float | None, base: float | None) -> str:
    """Format a number with three digits, and its ratio to another."""
    if number is None:
        return "-"
    text = "%.0f" % number if number >= 100 else "%.3g" % number
    return text + (" (%.2fx)" % (number / base) if base else "")


def as_json(
    facts: Mapping[str, Any], size: Mapping[str, Any], table: Table, turns: Iterable[Turn]
) -> dict[str, Any]:
    """Return all results as values for JSON."""
    rows = [
        {"case": case, "measure": measure, "peers": numbers}
        for (case, measure), numbers in table.items()
    ]
    return {
        "facts": facts,
        "size": size,
        "medians": rows,
        "turns": [turn._asdict() for turn in turns],
    }


def machine() -> dict[str, Any]:
    """Describe the machine."""
    with open("/proc/cpuinfo") as stream:
        fields = (line.partition(":") for line in stream)
        cpu = {name.strip(): value.strip() for name, _, value in fields}
    features = cpu.get("flags", "").split()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty"]
    return {
        "CPU": cpu.get("model name", "unknown"),
        "CPU features": [feature for feature in CPU_FEATURES if feature in features],
        "cores": len(os.sched_getaffinity(0)),
        "memory, GB": round(1e-9 * memory, 1),
        "system": platform.platform(),
        "load at the start": round(os.getloadavg()[0], 2),
        "thread settings": {
            name: os.environ[name] for name in THREAD_SETTINGS if name in os.environ
        }
        or "none: each program's own",
        "commit": subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.strip(),
    }


def bullets(facts: Mapping[str, Any]) -> str:
    """Format facts as a Markdown list."""

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join("%s %s" % item for item in value.items())
        return ", ".join(value) if isinstance(value, list) else str(value)

    return "".join("- %s: %s\n" % (name, text(value)) for name, value in facts.items())
