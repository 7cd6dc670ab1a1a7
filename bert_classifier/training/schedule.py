"""The plan of a training run: epochs become steps, and workers a learning rate."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

from bert_classifier.config import Training
from bert_classifier.errors import BadInput

_LOG = logging.getLogger(__name__)

# Evaluations without an improvement that end a run, unless a flag says otherwise.
_PATIENCE = 3
_MOST_STEPS_BETWEEN_CHECKPOINTS = 1000


class Schedule(NamedTuple):
    """The plan of a training run; a step is one update of the weights."""

    examples_per_step: int  # by all workers together
    learning_rate: float  # the highest, after the warm-up
    num_train_steps: int
    num_warmup_steps: int
    steps_per_epoch: float
    save_checkpoints_steps: int
    max_steps_without_improvement: int  # 0: never stop early

    def is_due(self, step: int) -> bool:
        """Tell whether a run that is not interrupted evaluates the checkpoint of a step."""
        if step == 0:
            return False
        return step % self.save_checkpoints_steps == 0 or step == self.num_train_steps


def make_schedule(training: Training, num_examples: int, num_workers: int) -> Schedule:
    """Turn epochs into steps.

    Raises:
        BadInput: there would be no step, or more than TensorFlow can count.
    """
    examples_per_step = training.train_batch_size * training.num_accumulation_steps * num_workers
    steps_per_epoch = num_examples / examples_per_step
    num_train_steps = int(steps_per_epoch * training.num_train_epochs)
    if num_train_steps == 0:
        raise BadInput(
            "--train_batch_size=%d: %d training examples and --num_train_epochs=%s make no single "
            "step of %d examples; lower the batch size or raise the epochs"
            % (
                training.train_batch_size,
                num_examples,
                training.num_train_epochs,
                examples_per_step,
            )
        )
    if num_train_steps >= 2**63:
        raise BadInput(
            "--num_train_epochs=%s: makes more steps than can be counted; lower it"
            % training.num_train_epochs
        )
    save_steps = training.save_checkpoints_steps or half_an_epoch(steps_per_epoch, num_train_steps)
    patience = training.max_steps_without_improvement
    return Schedule(
        examples_per_step=examples_per_step,
        learning_rate=scale_learning_rate(training, num_workers),
        num_train_steps=num_train_steps,
        num_warmup_steps=int(num_train_steps * training.warmup_proportion),
        steps_per_epoch=steps_per_epoch,
        save_checkpoints_steps=save_steps,
        max_steps_without_improvement=_PATIENCE * save_steps if patience is None else patience,
    )


def half_an_epoch(steps_per_epoch: float, num_train_steps: int) -> int:
    """Return the default of --save_checkpoints_steps, at most 1000.

    It is rounded up, so that no evaluation comes right before the last one, but not where the
    default patience would then outlast the run.
    """
    steps = math.ceil(steps_per_epoch / 2)
    if (1 + _PATIENCE) * steps >= num_train_steps:
        steps = max(1, math.floor(steps_per_epoch / 2))
    return min(_MOST_STEPS_BETWEEN_CHECKPOINTS, steps)


def scale_learning_rate(training: Training, num_workers: int) -> float:
    """Return the learning rate for the batches of several workers, and log how it was scaled."""
    scaling = training.learning_rate_scaling
    factor = {"none": 1.0, "linear": float(num_workers), "sqrt": math.sqrt(num_workers)}[scaling]
    learning_rate = training.learning_rate * factor
    if factor != 1:
        _LOG.info(
            "Learning rate %g x %g = %g: --learning_rate_scaling=%s, %d workers",
            training.learning_rate,
            factor,
            learning_rate,
            scaling,
            num_workers,
        )
    return learning_rate
