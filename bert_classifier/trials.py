"""Several trainings of one plan with different seeds: trials.json has mean and deviation."""

from __future__ import annotations

import functools
import logging
import os
import shlex
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from bert_classifier import files
from bert_classifier.config import Config
from bert_classifier.data.inputs import make_task
from bert_classifier.data.processors import get_processor
from bert_classifier.job import watched_metric
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
        name: {
            "mean": float(np.mean([result[name] for result in results])),
            # Of a sample: what another seed may be expected to differ by.
            "standard_deviation": float(np.std([result[name] for result in results], ddof=1)),
        }
        for name in results[0]
        if name.startswith("eval_")
    }
    best = find_best_trial(results, watched)
    files.write_json(
        os.path.join(output_dir, "trials.json"),
        {"trials": results, "summary": summary, "best_trial": best},
    )
    _LOG.info("***** %d trials *****", len(results))
    for name, numbers in summary.items():
        _LOG.info("  %s = %.4f +- %.4f", name, numbers["mean"], numbers["standard_deviation"])
    if best:
        _LOG.info("  the best is trial %(trial)d, in %(output_dir)s", best)
        folder = shlex.quote(best["output_dir"])
        _LOG.info("  export it: python run_classifier_gpu.py --do_export --output_dir=%s", folder)


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
