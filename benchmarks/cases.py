"""Define what `bench.py` measures: the jobs, how much of each, and the resulting numbers."""

from __future__ import annotations

import functools
import statistics
from typing import Any, Callable, Mapping, NamedTuple, Sequence

BATCH_SIZE = 32
MAX_SEQ_LENGTH = 128
# High, so that few steps are enough to learn something.
LEARNING_RATE = 1e-4
LENGTHS = (32, 64, 128, 256)
# The first steps build, plan and allocate; they are part of the start-up.
WARM_UP_STEPS = 2
GROUPS = ("products", "conversion", "latency", "answers", "prediction", "steps", "fine_tuning")
# Models of ONNX, which only answer.
OF_ONNX = ("onnx", "int8")


class Training(NamedTuple):
    """How much is fine-tuned."""

    train_rows: int
    dev_rows: int
    num_epochs: float


class Size(NamedTuple):
    """How much is measured."""

    short_turns: int  # of what takes seconds
    long_turns: int  # of what takes minutes
    pairs: Training
    sentences: Training
    log_steps: int  # between two lines of the log
    lengths: tuple[int, ...]
    steps: int  # of each length
    predicted_pairs: int
    answered_sentences: int
    converted_sentences: int


SIZES = {
    # Checks that everything works: its numbers have no meaning.
    "smoke": Size(1, 1, Training(64, 32, 1), Training(64, 32, 1), 1, (32,), 4, 64, 10, 500),
    # After three epochs of the pairs one run still answered with the most frequent label.
    "quick": Size(
        3, 2, Training(512, 384, 4), Training(384, 384, 2), 10, LENGTHS, 5, 512, 200, 20000
    ),
    "full": Size(
        3, 3, Training(3667, 408, 2), Training(3360, 872, 2), 10, LENGTHS, 8, 1725, 500, 60000
    ),
}


class Answer(NamedTuple):
    """The answer of a runner, and the resources of its process."""

    numbers: dict[str, Any]
    started: float  # seconds since the epoch
    seconds: float
    cpu_seconds: float  # of all processes that it started
    peak_megabytes: float  # resident, of the largest of these processes


class Case(NamedTuple):
    """Something to measure of several peers."""

    group: str  # one of GROUPS
    title: str
    job: str  # what the runners call it
    settings: dict[str, Any]
    turns: int
    measure: Callable[[Answer], dict[str, float]]  # returns the numbers of the table
    variants: tuple[str, ...] = ()  # of peers, that make a difference


def measure_fine_tuning(first_step: int, answer: Answer) -> dict[str, float]:
    """Return the numbers of a training run; its speed is measured from a given step on."""
    return {
        "start to end, s": answer.seconds,
        "CPU time, s": answer.cpu_seconds,
        "training, examples/s": examples_per_second(
            [step for step in answer.numbers["steps"] if step[0] >= first_step]
        ),
        "dev accuracy": answer.numbers["accuracy"],
        "peak memory, MB": answer.peak_megabytes,
        "checkpoint, MB": answer.numbers["checkpoint_megabytes"],
    }


def examples_per_second(steps: Sequence[Sequence[float]]) -> float:
    """Return the speed between the end of the first and of the last of the given steps."""
    (first, started), (last, ended) = steps[0], steps[-1]
    return BATCH_SIZE * (last - first) / (ended - started)


def measure_steps(answer: Answer) -> dict[str, float]:
    """Return the time of a training step, and the time until the first one is done."""
    ends = [end for _, end in answer.numbers["steps"]]
    times = [after - before for before, after in zip(ends, ends[1:])]
    return {
        "a step, s": statistics.median(times[WARM_UP_STEPS - 1 :]),
        "start to end of the first step, s": ends[0] - answer.started,
        "peak memory, MB": answer.peak_megabytes,
    }


def measure_latency(answer: Answer) -> dict[str, float]:
    """Return the time within which half of the texts are answered, and 95 % of them."""
    milliseconds = [1000 * seconds for seconds in answer.numbers["seconds"]]
    return {
        "p50, ms": percentile(milliseconds, 50),
        "p95, ms": percentile(milliseconds, 95),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` per cent of the values do not exceed."""
    rank = -(-len(values) * percent // 100)
    return sorted(values)[max(0, int(rank) - 1)]


def measure_products(answer: Answer) -> dict[str, float]:
    """Return the speed of each product of matrices."""
    return {name + ", GFLOP/s": speed for name, speed in answer.numbers.items()}


def step_gigaflop(config: Mapping[str, int], batch_size: int, seq_length: int) -> float:
    """Count the operations of a training step's matrix products: backward has twice as many.

    Per layer and token: query, key, value and output, the two products of the feed-forward network,
    and attention's two products with `seq_length` others. Pooler and classifier are left out.
    """
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    per_token = 2 * (4 * hidden * hidden + 2 * hidden * inner + 2 * seq_length * hidden)
    return 3e-9 * batch_size * seq_length * config["num_hidden_layers"] * per_token


def steps_title(seq_length: int) -> str:
    """Return the title of the training steps of a fixed length."""
    return "training, %d x %d" % (BATCH_SIZE, seq_length)


def make_cases(size: Size, data: Mapping[str, str]) -> list[Case]:
    """List the cases, the short ones first; `data` has the folders of the rows."""
    length = {"max_seq_length": MAX_SEQ_LENGTH}
    training = {"batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}
    cases = [
        Case("products", "products", "products", {}, size.short_turns, measure_products),
        Case(
            "conversion",
            "conversion of sentences",
            "convert",
            dict(length, data_dir=data["conversion"]),
            size.short_turns,
            lambda answer: {"rows/s": size.converted_sentences / answer.numbers["seconds"]},
        ),
        Case(
            "latency",
            "one sentence",
            "latency",
            dict(length, data_dir=data["sentences"], num_texts=size.answered_sentences),
            size.short_turns,
            measure_latency,
            ("bf16", *OF_ONNX),
        ),
        Case(
            "answers",
            "many sentences",
            "answer",
            dict(
                length,
                data_dir=data["sentences"],
                num_texts=size.answered_sentences,
                batch_size=BATCH_SIZE,
            ),
            size.short_turns,
            lambda answer: {"texts/s": size.answered_sentences / answer.numbers["seconds"]},
            ("bf16", *OF_ONNX),
        ),
        Case(
            "prediction",
            "prediction of pairs",
            "predict",
            dict(length, data_dir=data["pairs"], batch_size=BATCH_SIZE),
            size.short_turns,
            lambda answer: {"examples/s": size.predicted_pairs / answer.numbers["seconds"]},
            ("padded", "bf16"),
        ),
    ]
    for seq_length in size.lengths:
        settings = dict(training, max_seq_length=seq_length, num_epochs=1, log_steps=1)
        cases.append(
            Case(
                "steps",
                steps_title(seq_length),
                "fine_tune",
                dict(settings, data_dir=data["long texts"]),
                size.long_turns,
                measure_steps,
                ("amp", "bf16"),
            )
        )
    for kind, what, variants in (
        ("sentences", size.sentences, ("amp", "bf16")),
        ("pairs", size.pairs, ("amp", "padded", "bf16")),
    ):
        settings = dict(length, **training, num_epochs=what.num_epochs, log_steps=size.log_steps)
        cases.append(
            Case(
                "fine_tuning",
                "fine-tuning, %d %s, %g epochs" % (what.train_rows, kind, what.num_epochs),
                "fine_tune",
                dict(settings, data_dir=data[kind]),
                size.long_turns,
                functools.partial(measure_fine_tuning, size.log_steps),
                variants,
            )
        )
    return cases
