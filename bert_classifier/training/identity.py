"""The identity of a run: a run of another identity may not go on in its folder."""

from __future__ import annotations

from typing import Any

from bert_classifier.config import Config
from bert_classifier.data.inputs import Inputs
from bert_classifier.model import weights
from bert_classifier.training import runs
from bert_classifier.training.history import Watched
from bert_classifier.training.schedule import Schedule

# Files of the pre-trained model that a run reads anew in each call.
MODEL_FILES = ("bert_config_file", "vocab_file", "spm_model_file")
_FLAGS = (
    "warm_start_from",
    "do_lower_case",
    "max_seq_length",
    "num_train_epochs",
    "warmup_proportion",
    "seed",
    "optimizer",
    "weight_decay_rate",
    "clip_norm",
    "layerwise_lr_decay",
    "label_smoothing",
    "group_by_length",
    "amp",
)


def make_identity(
    config: Config, inputs: Inputs, watched: Watched, schedule: Schedule
) -> dict[str, Any]:
    """Collect everything that the weights of a run, and its choice of the best, depend on.

    Patience, and how the examples of a step are divided into batches and among workers, are left
    out, so they may change when a run is resumed.
    """
    values = config.values()
    init_checkpoint = config.model.init_checkpoint
    identity = {
        **{name: runs.content_hash(values[name]) for name in MODEL_FILES if values[name]},
        "init_checkpoint": None,
        "labels": inputs.labels,
        "class_weights": inputs.class_weights,
        "thresholds": inputs.thresholds,
        "best_metric": list(watched),
        "examples_per_step": schedule.examples_per_step,
        "learning_rate": schedule.learning_rate,
        "save_checkpoints_steps": schedule.save_checkpoints_steps,
        "train data": inputs.fingerprints["train"],
        "dev data": inputs.fingerprints["dev"],
    }
    if init_checkpoint:
        identity["init_checkpoint"] = runs.content_hash(weights.index_file(init_checkpoint))
    return {**identity, **{name: values[name] for name in _FLAGS}}
