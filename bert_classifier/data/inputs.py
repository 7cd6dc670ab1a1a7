"""Read and check everything that a call works with, before anything is written."""

from __future__ import annotations

import logging
from typing import Any, Collection, Mapping, NamedTuple, Sequence

import modeling
import tokenization
from bert_classifier import config as configs
from bert_classifier import files, problem_types
from bert_classifier.config import Config
from bert_classifier.data.examples import Examples
from bert_classifier.data.features import Converter, fingerprint
from bert_classifier.data.labels import load_class_weights, load_labels, load_thresholds
from bert_classifier.data.processors import DataProcessor, get_processor
from bert_classifier.data.tasks import Task, file_task
from bert_classifier.data.trained import Trained
from bert_classifier.errors import BadInput, bad_input
from bert_classifier.problem_types import ProblemType

_LOG = logging.getLogger(__name__)

# The model answers with other values of these too, if not as well.
MAY_DIFFER = ("max_seq_length", "truncation", "window_stride")


class Inputs(NamedTuple):
    """Encoder, vocabulary, labels and examples of a call."""

    bert_config: modeling.BertConfig
    tokenizer: tokenization.FullTokenizer
    processor: DataProcessor
    examples: dict[str, Examples]  # the splits that are needed: train, dev, test
    converters: dict[str, Converter]  # what makes features of each of them
    fingerprints: dict[str, str]  # of each of them, see `features.fingerprint`
    labels: list[str]
    class_weights: list[float] | None
    thresholds: list[float] | None  # where an example has several labels

    @property
    def task(self) -> Task:
        """The task that the examples are of."""
        return self.processor.task

    @property
    def problem_type(self) -> str:
        """One of `PROBLEM_TYPES`."""
        return self.processor.task.problem_type


def load_inputs(config: Config, trained: Trained, splits: Collection[str]) -> Inputs:
    """Read encoder configuration, vocabulary and the splits of the data that are needed.

    Raises:
        BadInput: a file is missing or damaged, or does not fit the others.
    """
    bert_config, tokenizer = _load_encoder(config.model, config.data.max_seq_length)
    processor = _make_processor(config, trained)
    task = processor.task
    problem = problem_types.get(task.problem_type)
    _check_options(config, problem)
    examples = _read_examples(config.data, processor, splits)
    for of_split in examples.values():
        _check_texts_per_row(of_split, trained.is_pair)
    labels = processor.get_labels()
    class_weights = None
    if config.actions.do_train and config.training.class_weights:
        class_weights = load_class_weights(
            config.training.class_weights, labels, examples["train"].label_counts
        )
    thresholds = None
    if problem.has_thresholds:
        thresholds = trained.thresholds
        if thresholds is None or "thresholds" in config.given:
            thresholds = load_thresholds(config.data.thresholds, labels)
    converters = {
        split: _make_converter(config.data, labels, tokenizer, task.problem_type, split)
        for split in examples
    }
    fingerprints = {
        split: fingerprint(of_split, converters[split]) for split, of_split in examples.items()
    }
    if trained.record and not any(name in config.given for name in MAY_DIFFER):
        _check_set_aside(examples, fingerprints, trained.record["identity"])
    return Inputs(
        bert_config,
        tokenizer,
        processor,
        examples,
        converters,
        fingerprints,
        labels,
        class_weights,
        thresholds,
    )


def needed_splits(actions: configs.Actions, exports_by_dev: bool, has_sample: bool) -> list[str]:
    """Return which splits the wanted actions need.

    Args:
        actions: what the call does.
        exports_by_dev: whether an export takes the whole dev set.
        has_sample: whether the run has kept some rows of it, by which exports are tested.
    """
    needs_dev = (
        actions.do_train
        or actions.do_eval
        or exports_by_dev
        or (actions.exports and not has_sample)
    )
    wanted = {"train": actions.do_train, "dev": needs_dev, "test": actions.do_predict}
    return [split for split, is_needed in wanted.items() if is_needed]


def make_task(own_files: configs.OwnFiles) -> Task:
    """Declare the user's own files."""
    labels_file = own_files.labels_file
    return file_task(own_files, load_labels(labels_file) if labels_file else None)


def _make_converter(
    data: configs.Data,
    labels: Sequence[str],
    tokenizer: tokenization.FullTokenizer,
    problem_type: str,
    split: str,
) -> Converter:
    """Return what makes features of the examples of a split."""
    return Converter(
        labels,
        data.max_seq_length,
        tokenizer,
        problem_type,
        data.truncation,
        # In training, the part of a text that the label is about may not be in a window.
        window_stride=0 if split == "train" else data.window_stride,
    )


def _load_encoder(
    model: configs.Model, max_seq_length: int
) -> tuple[modeling.BertConfig, tokenization.FullTokenizer]:
    # They are read again for the run's identity and for each export.
    for path in (model.bert_config_file, model.tokenizer_file):
        files.check_rereadable(path)
    with bad_input():
        bert_config = modeling.BertConfig.from_json_file(model.bert_config_file)
    tokenizer = _load_tokenizer(model, bert_config)
    if max_seq_length > bert_config.max_position_embeddings:
        raise BadInput(
            "--max_seq_length=%d: %s allows up to %d (max_position_embeddings)"
            % (max_seq_length, model.bert_config_file, bert_config.max_position_embeddings)
        )
    return bert_config, tokenizer


def _load_tokenizer(
    model: configs.Model, bert_config: modeling.BertConfig
) -> tokenization.FullTokenizer:
    """Load the tokenizer and check that it belongs to the model."""
    with bad_input():
        tokenization.validate_case_matches_checkpoint(model.do_lower_case, model.init_checkpoint)
        tokenizer = tokenization.FullTokenizer(
            model.vocab_file, model.do_lower_case, model.spm_model_file
        )
        if model.vocab_file:
            tokenization.validate_vocab(tokenizer.vocab, model.vocab_file)
            tokenization.log_repeated_tokens(model.vocab_file)
    if tokenizer.vocab_size > bert_config.vocab_size:
        raise BadInput(
            "%s: %d tokens, but vocab_size is %d in %s; give the model's own vocabulary"
            % (
                model.tokenizer_file,
                tokenizer.vocab_size,
                bert_config.vocab_size,
                model.bert_config_file,
            )
        )
    return tokenizer


def _make_processor(config: Config, trained: Trained) -> DataProcessor:
    task = make_task(config.own_files)
    labels_file = config.own_files.labels_file
    if labels_file and trained.labels and list(task.labels or ()) != trained.labels:
        raise BadInput(
            "--labels_file=%s: the model was trained with the labels %s; leave it out"
            % (labels_file, ", ".join(trained.labels))
        )
    return get_processor(config.data.task_name, trained.labels, task)


def _check_options(config: Config, problem: ProblemType) -> None:
    """Raise BadInput if an option is for another problem type."""
    training, export = config.training, config.export
    if not problem.has_classes and (training.class_weights or training.label_smoothing):
        raise BadInput(
            "--class_weights and --label_smoothing are for classes, and this task's labels are "
            "numbers; leave them out"
        )
    if export.min_confidence and not problem.has_confidence:
        raise BadInput(
            "--min_confidence=%s: applies to classification only, and this is %s; leave it out"
            % (export.min_confidence, problem.name)
        )
    if export.calibrate and not problem.has_classes:
        raise BadInput("--calibrate: a regression has no probabilities; leave it out")


def _read_examples(
    data: configs.Data, processor: DataProcessor, splits: Collection[str]
) -> dict[str, Examples]:
    """Read some of the splits; without a dev file, divide the training examples."""
    divides = "dev" in splits and not processor.has_dev_file(data.data_dir, data.dev_file)
    examples = {}
    if "train" in splits or divides:
        examples["train"] = processor.get_train_examples(data.data_dir, data.train_file)
    if divides:
        examples["train"], examples["dev"] = examples["train"].divide(data.dev_fraction)
        _LOG.info(
            "No dev file: %d of the %d training examples are set aside for the evaluation",
            len(examples["dev"]),
            len(examples["train"]) + len(examples["dev"]),
        )
    elif "dev" in splits:
        examples["dev"] = processor.get_dev_examples(data.data_dir, data.dev_file)
    if "test" in splits:
        examples["test"] = processor.get_test_examples(data.data_dir, data.test_file)
    for of_split in examples.values():
        if of_split.skipped:
            _LOG.info("%s: %d malformed rows are left out", of_split.path, of_split.skipped)
    if "train" not in splits:
        examples.pop("train", None)
    return examples


def _check_texts_per_row(examples: Examples, is_pair: bool | None) -> None:
    """Raise BadInput unless rows have as many texts as the model was trained with."""
    if is_pair is None or examples.is_pair == is_pair:
        return
    found, wanted, cure = ("pairs of texts", "single texts", ", or remove the second text")
    if is_pair:
        found, wanted, cure = (wanted, found, " and --text_b_column")
    raise BadInput(
        "%s: %s, but the model was trained with %s; name the columns with --text_column%s"
        % (examples.path, found, wanted, cure)
    )


def _check_set_aside(
    examples: Mapping[str, Examples], fingerprints: Mapping[str, str], identity: Mapping[str, Any]
) -> None:
    """Raise BadInput if rows that were set aside for the evaluation may have been learned since."""
    if (
        "dev" in examples
        and examples["dev"].is_part
        and fingerprints["dev"] != identity["dev data"]
    ):
        raise BadInput(
            "%s: has changed since the training, so that the rows set aside for the evaluation "
            "would be others, which the model has learned; give a --dev_file" % examples["dev"].path
        )
