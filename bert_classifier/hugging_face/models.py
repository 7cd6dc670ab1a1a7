"""Fine-tuned models: what the folder of a run, or an export, has of one."""

from __future__ import annotations

import os
from typing import Any, Mapping, NamedTuple

from bert_classifier.errors import BadInput, bad_input
from bert_classifier.export import bundle
from bert_classifier.hugging_face.configs import Classifier
from bert_classifier.hugging_face.tokenizers import (
    SENTENCE_PIECES,
    WORD_PIECES,
    Tokenizer,
)
from bert_classifier.training import checkpoints, labels_file, later_call, runs
from modeling import BertConfig

_VARIABLES = os.path.join("variables", "variables")


class Model(NamedTuple):
    """A model, as files.

    Attributes:
        config: Of the encoder.
        config_file: Where it was read.
        checkpoint: The prefix of a checkpoint that has the weights.
        tokenizer: How texts are split.
        max_seq_length: The number of tokens that it reads at once.
        classifier: On the encoder; None for an encoder alone.
        thresholds: Of a multi_label model, other than 0.5; None if there are none.
        temperature: The divisor of the logits; see `calibration`.
    """

    config: BertConfig
    config_file: str
    checkpoint: str
    tokenizer: Tokenizer
    max_seq_length: int
    classifier: Classifier | None
    thresholds: list[float] | None = None
    temperature: float = 1.0


def find(path: str) -> Model:
    """Find the model of a run, its best checkpoint, or that of an export.

    Args:
        path: output_dir of a run, or the folder of an export.

    Raises:
        BadInput: there is none, or something of it is missing or damaged.
    """
    record = runs.read_record(path)
    if record is not None:
        return _of_run(path, record)
    if not os.path.isdir(path):
        raise BadInput("%s: no such folder; give the output_dir of a run, or an export" % path)
    return _of_export(path)


def _of_run(output_dir: str, record: Mapping[str, Any]) -> Model:
    checkpoint = checkpoints.find(output_dir, "best")
    labels = labels_file.read(output_dir)
    if labels is None:
        raise BadInput("%s: no such file; restore it" % labels_file.path_in(output_dir))
    labels_file.check_number(labels, output_dir, checkpoint)
    flags = later_call.take_up(record, {})
    try:
        later_call.check_model_files(record, flags)
    except BadInput as error:
        raise BadInput(
            "%s; an export of the run has copies, and can be given too" % error
        ) from None
    return Model(
        _read_config(flags["bert_config_file"]),
        flags["bert_config_file"],
        checkpoint,
        _tokenizer_of_flags(flags),
        flags["max_seq_length"],
        Classifier(labels, later_call.problem_type_of(flags)),
        record["identity"].get("thresholds"),
    )


def _of_export(path: str) -> Model:
    folder = bundle.find(path)
    if not os.path.isdir(folder):
        raise BadInput("%s: is a frozen graph; give the output_dir of the run" % folder)
    if bundle.is_onnx(folder):
        raise BadInput("%s: is an ONNX model; give the output_dir of the run" % folder)
    opened = bundle.open_bundle(folder)
    opened.model.close()
    assets, settings = os.path.join(folder, bundle.ASSETS), opened.settings
    has_pieces = bundle.SPM_MODEL in opened.parts
    splitting = SENTENCE_PIECES if has_pieces else WORD_PIECES
    config_file = os.path.join(assets, bundle.CONFIG)
    return Model(
        _read_config(config_file),
        config_file,
        os.path.join(folder, _VARIABLES),
        Tokenizer(splitting, os.path.join(assets, splitting.file_name), settings.do_lower_case),
        settings.max_seq_length,
        Classifier(settings.labels, settings.problem_type),
        list(settings.thresholds) if settings.thresholds else None,
        settings.temperature,
    )


def _read_config(path: str) -> BertConfig:
    with bad_input():
        return BertConfig.from_json_file(path)


def _tokenizer_of_flags(flags: Mapping[str, Any]) -> Tokenizer:
    splitting = SENTENCE_PIECES if flags.get(SENTENCE_PIECES.flag) else WORD_PIECES
    return Tokenizer(splitting, flags[splitting.flag], flags["do_lower_case"])
