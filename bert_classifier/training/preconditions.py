"""Whether a call asks for what cannot be done: files, checkpoints and rates."""

from __future__ import annotations

import os
import re

from bert_classifier import files
from bert_classifier.config import Config, Training
from bert_classifier.errors import BadInput
from bert_classifier.model import weights
from bert_classifier.training import runs
from bert_classifier.training.identity import MODEL_FILES
from bert_classifier.training.initial_weights import find_fine_tuned
from bert_classifier.training.schedule import Schedule
from encoder_config import BertConfig

_READ_AS_THEY_ARE = (
    "data_dir",
    "labels_file",
    "class_weights",
    "thresholds",
    *MODEL_FILES,
)


def check_folders(config: Config) -> None:
    """Check that nothing that is read is removed before, and that exports can be written.

    Raises:
        BadInput: one of them is not so.
    """
    overwrites = config.output.overwrite_output_dir and config.actions.do_train
    runs.check_is_kept(config.output.output_dir, overwrites, _files_to_read(config))
    writes_folders = config.actions.do_export or config.actions.do_onnx
    if writes_folders and config.export.export_dir:
        files.check_can_be_written("export_dir", config.export.export_dir)


def _files_to_read(config: Config) -> dict[str, list[str]]:
    """Return the files and folders that a call reads, by flag."""
    values = config.values()
    named = {name: [values[name]] for name in _READ_AS_THEY_ARE if values[name]}
    for name in ("train_file", "dev_file", "test_file"):
        if values[name]:
            # They are looked for in data_dir first.
            named[name] = [os.path.join(config.data.data_dir or "", values[name]), values[name]]
    if config.model.init_checkpoint:
        named["init_checkpoint"] = weights.files_of(config.model.init_checkpoint)
    if config.actions.do_train:
        if config.model.warm_start_from:
            path = find_fine_tuned(config.model.warm_start_from)
            named["warm_start_from"] = weights.files_of(path)
        for path in other_checkpoints(config):
            named.setdefault("eval_checkpoint", []).extend(weights.files_of(path))
    return named


def other_checkpoints(config: Config) -> list[str]:
    """Return the checkpoints to evaluate and export that are named and not of this run."""
    paths = {config.evaluation.eval_checkpoint, config.checkpoint_to_export()} - {"best", "last"}
    return sorted(path for path in paths if _own_step(config.output.output_dir, path) is None)


def check_steps(config: Config, schedule: Schedule) -> None:
    """Raise BadInput if a checkpoint is to be evaluated, or exported, that is never saved."""
    for path in (config.evaluation.eval_checkpoint, config.checkpoint_to_export()):
        step = _own_step(config.output.output_dir, path)
        if step and not schedule.is_due(step) and not weights.files_of(path):
            raise BadInput(
                "%s: this training saves no checkpoint of step %d; give best or last as "
                "--eval_checkpoint or --export_checkpoint" % (path, step)
            )


def check_rates(training: Training, bert_config: BertConfig) -> None:
    """Raise BadInput if layers are to have rates of their own, but not weights of their own."""
    if training.layerwise_lr_decay != 1 and bert_config.shares_layers:
        raise BadInput(
            "--layerwise_lr_decay=%s: the layers of %s in --bert_config_file share their weights, "
            "so none is below another one; leave it out"
            % (training.layerwise_lr_decay, bert_config.kind.title)
        )


def check_has_config(config: Config) -> None:
    """Raise BadInput if the encoder has no configuration; its checkpoint tells which it needs."""
    if config.model.bert_config_file or not config.model.init_checkpoint:
        return
    found = weights.contents(config.model.init_checkpoint)
    cure = weights.cure_of_config({name: stored.shape for name, stored in found.items()})
    raise BadInput(
        "--bert_config_file is missing; for --init_checkpoint=%s %s"
        % (config.model.init_checkpoint, cure)
    )


def _own_step(output_dir: str, checkpoint_path: str) -> int | None:
    """Return the step of a checkpoint that a run saves, None if the path is none of that run."""
    folder, name = os.path.split(checkpoint_path)
    saved = re.fullmatch(r"model\.ckpt-(\d+)", name)
    if saved and os.path.realpath(folder) == os.path.realpath(output_dir):
        return int(saved.group(1))
    return None
