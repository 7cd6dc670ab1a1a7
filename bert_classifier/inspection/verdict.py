"""Whether the best model of a run has learned anything, and what to try if it has not."""

from __future__ import annotations

from bert_classifier import problem_types
from bert_classifier.config import Config
from bert_classifier.data.inputs import Inputs
from bert_classifier.inspection import baseline, checks
from bert_classifier.training.history import EvalHistory
from bert_classifier.training.schedule import Schedule


def judge(config: Config, inputs: Inputs, schedule: Schedule, history: EvalHistory) -> str | None:
    """Return what is wrong with the best model of a run, and what to try; None if nothing is."""
    metric, best = history.watched.metric, history.best()
    if best is None:
        return "no evaluation has a finite %s; lower --learning_rate" % metric
    labels = (example.label for example in inputs.examples["dev"])
    problem = problem_types.get(inputs.problem_type)
    not_above = baseline.judge(problem.best_constants(labels, inputs.labels), metric, best.metrics)
    if not_above is None:
        return None
    name, constant = not_above
    return (
        "the best model is no better than the same answer to everything (%s): %s is %.4f, and %.4f "
        "for that; try %s"
        % (
            constant.text,
            name,
            best.metrics[name],
            constant.score,
            _what_to_try(config, schedule),
        )
    )


def _what_to_try(config: Config, schedule: Schedule) -> str:
    """Return what most often helps where a model has learned nothing, the likeliest first."""
    cures = []
    if not config.model.init_checkpoint and not config.model.warm_start_from:
        cures.append("an --init_checkpoint")
    if config.training.optimizer == "adamw":
        cures.append("--optimizer=adamw_corrected")
    if schedule.num_train_steps < checks.FEW_STEPS:
        cures.append("more --num_train_epochs")
    cures += ["another --seed", "a lower --learning_rate", "--dry_run to look at the data"]
    return ", ".join(cures)
