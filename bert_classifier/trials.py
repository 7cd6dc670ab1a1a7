"""Several trainings of one plan with different seeds, and what trials.json says of them."""

from __future__ import annotations

import functools
import logging
import math
import os
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from bert_classifier import files
from bert_classifier.config import Config
from bert_classifier.data.inputs import make_task
from bert_classifier.data.processors import get_processor
from bert_classifier.errors import BadInput
from bert_classifier.job import watched_metric
from bert_classifier.report import compare
from bert_classifier.report.next_commands import export_command
from bert_classifier.training import preconditions
from bert_classifier.training.history import Watched
from bert_classifier.training.interruption import Interruption
from bert_classifier.training.workers import Workers

_LOG = logging.getLogger(__name__)


def run_trials(
    run_classifier: Callable[[Config, Interruption, Workers], Mapping[str, float]],
    config: Config,
    interruption: Interruption,
    workers: Workers,
) -> None:
    """Train with several seeds; write mean and standard deviation of the metrics to trials.json.

    Args:
        run_classifier: trains and evaluates as a config says; returns the metrics.
        config: the plan, with the seed of the first trial.
        interruption: watches for signals.
        workers: those who train together.
    """
    trials = [
        config.replace(
            seed=config.training.seed + number,
            output_dir=os.path.join(config.output.output_dir, "trial_%d" % (number + 1)),
        )
        for number in range(config.training.num_trials)
    ]
    # Before the first of them has removed anything, or taken its time.
    for trial in trials:
        workers.from_chief(functools.partial(preconditions.check_folders, trial))
    results = []
    for number, trial in enumerate(trials, start=1):
        seed, output_dir = trial.training.seed, trial.output.output_dir
        _LOG.info("***** Trial %d of %d: seed %d *****", number, len(trials), seed)
        metrics = run_classifier(trial, interruption, workers)
        if config.actions.dry_run:  # All of them have the same data and the same plan.
            return
        results.append({**metrics, "seed": seed, "output_dir": output_dir})
    if workers.is_chief:
        task = get_processor(config.data.task_name, None, make_task(config.own_files)).task
        watched = watched_metric(config.evaluation, task)
        _write_results(config.output.output_dir, results, watched)


def _write_results(output_dir: str, results: Sequence[Mapping[str, Any]], watched: Watched) -> None:
    summary = {
        name: _summarize([result[name] for result in results])
        for name in results[0]
        if name.startswith("eval_")
    }
    best = find_best_trial(results, watched)
    compared = _compare([result["output_dir"] for result in results])
    files.write_json(
        os.path.join(output_dir, "trials.json"),
        {"trials": results, "summary": summary, "best_trial": best, **compared},
    )
    _LOG.info("***** %d trials *****", len(results))
    for name, numbers in summary.items():
        _LOG.info(
            "  %s = %.4f +- %.4f, standard error %.4f",
            name,
            numbers["mean"],
            numbers["standard_deviation"],
            numbers["standard_error"],
        )
    for test in compared.get("mcnemar", []):
        if test["differ"]:
            _LOG.info(
                "  trials %d and %d differ: McNemar's p = %.4f", *test["pair"], test["p_value"]
            )
    if best:
        _LOG.info("  the best is trial %(trial)d, in %(output_dir)s", best)
        _LOG.info("  export it: %s", export_command(best["output_dir"]))


@np.errstate(invalid="ignore")  # Metrics that are not finite have no deviation.
def _summarize(values: Sequence[float]) -> dict[str, float]:
    # Of a sample: what another seed may be expected to differ by.
    deviation = float(np.std(values, ddof=1))
    return {
        "mean": float(np.mean(values)),
        "standard_deviation": deviation,
        "standard_error": deviation / math.sqrt(len(values)),
    }


def _compare(folders: Sequence[str]) -> dict[str, Any]:
    """Return the 95 % interval of each trial's metric, and McNemar's test of each pair."""
    try:
        trials = [compare.read(folder) for folder in folders]
    except BadInput as error:
        _LOG.warning("WARNING: the trials are not compared: %s", error)
        return {}
    intervals = [trial.interval and list(trial.interval) for trial in trials]
    return {"intervals": intervals, "mcnemar": compare.all_pairs(trials)}


def find_best_trial(
    results: Sequence[Mapping[str, Any]], watched: Watched
) -> dict[str, Any] | None:
    """Return number, output_dir and watched metric of the best trial; None if all are NaN."""
    best, best_value = None, None
    for number, result in enumerate(results, start=1):
        value = result[watched.metric]
        if watched.improves(value, best_value):
            best_value = value
            best = {"trial": number, "output_dir": result["output_dir"], watched.metric: value}
    return best
