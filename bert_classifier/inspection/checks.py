"""Check data, model and plan of a training run before it begins; report on one screen."""

from __future__ import annotations

import array
import collections
import datetime
import itertools
import math
import os
import random
import re
import textwrap
from typing import Any, Collection, Counter, Iterable, Mapping, NamedTuple, Sequence

import numpy as np

from bert_classifier import problem_types
from bert_classifier.config import Training
from bert_classifier.data.examples import InputExample
from bert_classifier.model import weights
from bert_classifier.training.schedule import Schedule
from modeling import BertConfig
from tokenization import FullTokenizer

# A run of fewer steps often ends before the model has learned anything.
FEW_STEPS = 300

# A larger share of rows, examples or tokens is a warning.
_MAJORITY, _LEAKED, _CUT, _UNKNOWN = 0.95, 0.01, 0.2, 0.05

_SAMPLE_SIZE = 20000
_BUCKETS = 8
_SHOWN = 10  # Longer lists end with a number.
_LONGEST = datetime.timedelta.max.days * 24 * 3600

# The model of a padded vocabulary has a few rows more than there are tokens.
_PADDING_OF_VOCAB = 128
_HUGGING_FACE_KEYS = {"architectures", "model_type", "transformers_version"}

# See `memory`.
_BYTES_PER_WEIGHT = 42
_KEPT_BY_ACTIVATION = {"gelu": 4, "gelu_new": 4, "gelu_erf": 3}

_SUMMARY = (
    "baseline",
    "cut",
    "[UNK]",
    "encoder",
    "checkpoint",
    "steps",
    "evaluations",
    "early stopping",
    "advice",
)


class Report(NamedTuple):
    """The result of an inspection.

    Attributes:
        lines: the screen, 110 columns wide; warnings and fatal findings come last.
        summary: the rows of the screen that every training run logs.
        warnings: what makes the model worse, or its score misleading; one line each.
        fatal: why training would be useless; one line each, with file, line, value and cure.
    """

    lines: list[str]
    summary: list[str]
    warnings: list[str]
    fatal: list[str]

    def add(self, name: str, text: str) -> None:
        """Add a row to the screen, on several lines if it is long."""
        row, indent = f"  {name:<15} {text}", " " * 18
        self.lines.extend(textwrap.wrap(row, 110, subsequent_indent=indent, break_on_hyphens=False))
        if name in _SUMMARY:
            self.summary.append(row.strip())

    def to_log(self) -> list[str]:
        """Return the lines that the log of a training run has."""
        return [*self.summary, *("WARNING: " + warning for warning in self.warnings)]


class Data(NamedTuple):
    """The data of a training run, and how it is read.

    The splits are iterated a few times. Only numbers for each row are held in memory.

    Attributes:
        examples: split -> examples: of train, dev and, where there is one, test.
        paths: split -> file.
        labels: the classes.
        tokenizer: splits the texts.
        max_seq_length: tokens per example.
        problem_type: `classification`, where a label is a str; `multi_label`, where it is a tuple
            of str; `regression`, where it is a float.
    """

    examples: Mapping[str, Collection[InputExample]]
    paths: Mapping[str, str]
    labels: Sequence[str]
    tokenizer: FullTokenizer
    max_seq_length: int
    problem_type: str = "classification"


class Model(NamedTuple):
    """The encoder, and the weights that training begins with.

    Attributes:
        bert_config: of the encoder.
        init_checkpoint: prefix of a readable checkpoint; None or empty if there is none.
        with_classifier: whether the classifier too begins with values of the checkpoint.
    """

    bert_config: BertConfig
    init_checkpoint: str | None
    with_classifier: bool = True


def inspect(data: Data, model: Model, schedule: Schedule, training: Training) -> Report:
    """Check everything that a training run begins with."""
    report = Report(["Data"], [], [], [])
    _inspect_data(report, data)
    report.lines.append("Model")
    _add_encoder(report, model.bert_config)
    _check_config(report, model.bert_config, data.tokenizer, data.max_seq_length)
    _add_checkpoint(report, model, len(data.labels))
    report.lines.append("Plan")
    _add_plan(report, schedule, training.early_stopping_min_steps)
    _add_memory(report, model.bert_config, data.max_seq_length, training)
    num_examples = schedule.num_train_steps * schedule.examples_per_step
    _add_time(report, num_examples * flops_per_example(model.bert_config, data.max_seq_length))
    for title, findings in (("Warnings", report.warnings), ("Errors", report.fatal)):
        report.lines.extend([title] if findings else [])
        for number, finding in enumerate(findings, start=1):
            report.add(str(number), finding)
    return report


# Data


def _inspect_data(report: Report, data: Data) -> None:
    splits = {
        name: _Split(name, data.paths[name], examples, data.tokenizer, data.problem_type)
        for name, examples in data.examples.items()
    }
    for split in splits.values():
        _add_split(report, split)
    train, dev = splits["train"], splits["dev"]
    if not train.num_rows or not dev.num_rows:
        return
    _check_texts(report, train, splits.values())
    if problem_types.get(data.problem_type).has_classes:
        _check_first_row(report, train, dev)
        _check_classes(report, train, dev, data.labels)
    else:
        _check_values(report, train, dev)
    _add_duplicates(report, train)
    for split in splits.values():
        if split is not train:
            _add_leakage(report, split, train)
    _add_tokens(report, train, data.tokenizer, data.max_seq_length)


class _Split:
    """Facts about the examples of a split, from one pass over them.

    Attributes:
        num_empty: number of rows with a text that has no token.
        texts_per_row: 1 or 2, or by mistake both.
        answers: label -> number of rows; empty for a regression.
        texts: int64 `[num_rows]`, hashes, which ignore white space, and case if the tokenizer does.
        labels: `[num_rows]`, int64 hashes; for a regression the labels themselves, float64.
    """

    def __init__(
        self,
        name: str,
        path: str,
        examples: Collection[InputExample],
        tokenizer: FullTokenizer,
        problem_type: str,
    ):
        self.name, self.path, self.examples = name, path, examples
        self.num_rows, self.num_empty = len(examples), 0
        self.texts_per_row: set[int] = set()
        self.answers: Counter[Any] = collections.Counter()
        lower_cases = tokenizer.do_lower_case
        texts = array.array("q")
        has_classes = problem_types.get(problem_type).has_classes
        labels: array.array[Any] = array.array("q" if has_classes else "d")
        for example in examples:
            own_texts = _texts_of(example)
            self.num_empty += not all(has_tokens(text, tokenizer) for text in own_texts)
            self.texts_per_row.add(len(own_texts))
            text = "\0".join(" ".join(text.split()) for text in own_texts)
            texts.append(hash(text.lower() if lower_cases else text))
            answer: Any = example.label
            if not has_classes:
                labels.append(math.nan if answer is None else float(answer))
                continue
            answer = tuple(sorted(answer)) if isinstance(answer, tuple) else answer
            labels.append(hash(answer))
            self.answers[answer] += 1
        self.texts, self.labels = np.array(texts), np.array(labels)

    def class_counts(self) -> Counter[str]:
        """Count the rows of each class."""
        return collections.Counter(c for a in self.answers.elements() for c in _classes_of(a))

    def place(self, index: int) -> str:
        """Return `file:line` of an example; its guid ends with the number of lines before it."""
        guid = next(itertools.islice(self.examples, int(index), None)).guid
        lines_before = re.search(r"-(\d+)$", guid)
        return f"{self.path}:{int(lines_before.group(1)) + 1 if lines_before else guid}"

    def first(self, is_wanted: Iterable[bool]) -> str:
        """Return `file:line` of the first example for which `is_wanted` is true."""
        return self.place(next(index for index, wanted in enumerate(is_wanted) if wanted))

    def sample(self) -> Iterable[InputExample]:
        """Return 20,000 examples, always the same ones, or all if there are fewer."""
        size = min(self.num_rows, _SAMPLE_SIZE)
        chosen = frozenset(random.Random(0).sample(range(self.num_rows), size))
        return (example for n, example in enumerate(self.examples) if n in chosen)


def _texts_of(example: InputExample) -> tuple[str, ...]:
    return (example.text_a,) if example.text_b is None else (example.text_a, example.text_b)


def _classes_of(answer: Any) -> tuple[str, ...]:
    return answer if isinstance(answer, tuple) else () if answer is None else (answer,)


def has_tokens(text: str, tokenizer: FullTokenizer) -> bool:
    """Tell whether a text has any token; most texts need not be split for that."""
    return any(map(str.isalnum, text)) or bool(tokenizer.tokenize(text))


def _add_split(report: Report, split: _Split) -> None:
    with open(split.path, "rb") as stream:
        start = stream.read(1 << 16)
    form = "UTF-8 with BOM" if start.startswith(b"\xef\xbb\xbf") else "UTF-8"
    form += ", CRLF" if b"\r\n" in start else ", LF"
    form = "gzip" if start.startswith(b"\x1f\x8b") else form
    report.add(split.name, f"{split.path}, {os.path.getsize(split.path):,} bytes, {form}")
    if not split.num_rows:
        report.fatal.append(f"{split.path}: holds no examples; check --{split.name}_file")
        return
    content = f"{split.num_rows:,} {'pairs of texts' if 2 in split.texts_per_row else 'texts'}"
    if split.labels.dtype == np.float64 and not np.isnan(split.labels).any():
        low, mean, high, std = (f(split.labels) for f in (np.min, np.mean, np.max, np.std))
        content += f"; from {low:.4g} to {high:.4g}, mean {mean:.4g}, standard deviation {std:.4g}"
    counts = split.class_counts().most_common()
    shown = _list(f"{label!r:.40} {_share(n, split.num_rows)}" for label, n in counts)
    report.add("", content + ("; " + shown if counts else ""))


def _check_texts(report: Report, train: _Split, splits: Iterable[_Split]) -> None:
    usual = max(train.texts_per_row)
    for split in splits:
        if split.num_empty == split.num_rows > 0:
            report.fatal.append(f"{split.place(0)}: no row has all its texts; check the columns")
        elif split.num_empty:
            share = _share(split.num_empty, split.num_rows)
            report.warnings.append(f"{share} rows of {split.name} have a text without any token")
        if split.texts_per_row - {usual}:
            odd = split.first(len(_texts_of(example)) != usual for example in split.examples)
            cure = "give all rows of all files the same columns"
            report.fatal.append(f"{odd}: texts: {3 - usual}, but {usual} in other rows; {cure}")


def _check_first_row(report: Report, train: _Split, dev: _Split) -> None:
    """Warn of a first row that looks like a header."""
    first = next(iter(train.examples))
    if not first.guid.endswith("-0"):  # not in line 1
        return
    is_only = all(train.class_counts()[label] == 1 for label in _classes_of(first.label))
    is_in_dev = (train.texts[0], train.labels[0]) == (dev.texts[0], dev.labels[0])
    if is_only or (is_in_dev and dev.path != train.path):
        where = "dev too begins with" if is_in_dev else "no other row has"
        report.warnings.append(
            f"{train.place(0)}: {where} {first.label!r:.40}: if this is a header, give --has_header"
        )


def _check_values(report: Report, train: _Split, dev: _Split) -> None:
    mean = train.labels.mean()
    if train.labels.min() == train.labels.max():
        report.fatal.append(f"{train.place(0)}: {mean:g} in all rows; give values that differ")
    error = math.sqrt(np.mean((dev.labels - mean) ** 2))
    report.add("baseline", f"always {mean:.4g} has a root mean squared error of {error:.4g} on dev")


def _check_classes(report: Report, train: _Split, dev: _Split, labels: Sequence[str]) -> None:
    in_train, in_dev = train.class_counts(), dev.class_counts()
    for label in sorted(in_dev.keys() - in_train.keys())[:_SHOWN]:
        place = dev.first(label in _classes_of(example.label) for example in dev.examples)
        report.warnings.append(
            f"{place}: no example of {label!r:.40} in {train.path}: such rows count as errors"
        )
    unseen = [f"{label!r:.40}" for label in labels if label not in in_train]
    if unseen:
        report.warnings.append(f"no training example of {_list(unseen)}: never to be predicted")
    lonely = [label for label, number in in_train.items() if number == 1]
    if len(lonely) > max(_SHOWN, len(in_train) / 2):
        what = f"{len(lonely):,} of {len(in_train):,} labels have one example only"
        report.warnings.append(f"{what}: is this the right --label_column?")
    answer, num_rows = train.answers.most_common(1)[0]
    if len(train.answers) == 1:
        report.fatal.append(f"{train.place(0)}: {answer!r:.40} in all rows; give other labels too")
    elif num_rows > _MAJORITY * train.num_rows:
        share = _share(num_rows, train.num_rows)
        report.warnings.append(f"{share} rows of train are {answer!r:.40}: accuracy tells little")
    answer, num_rows = dev.answers.most_common(1)[0]
    accuracy = num_rows / dev.num_rows
    report.add("baseline", f"always {answer!r:.40} has an accuracy of {accuracy:.4f} on dev")


def _add_duplicates(report: Report, train: _Split) -> None:
    _, first, inverse = np.unique(train.texts, return_index=True, return_inverse=True)
    earlier = first[inverse]
    repeats = earlier != np.arange(train.num_rows)
    conflicts = train.labels != train.labels[earlier]
    text = "none in train"
    if repeats.any():
        index = np.argmax(conflicts if conflicts.any() else repeats)
        places = f"{train.place(earlier[index])} and {train.place(index)}"
        text = f"{_share(repeats.sum(), train.num_rows)} rows of train repeat an earlier text, "
        text += f"{conflicts.sum():,} of them with another label; {places}"
    report.add("duplicates", text)
    if conflicts.any():
        report.warnings.append(text)


def _add_leakage(report: Report, split: _Split, train: _Split) -> None:
    leaked = np.isin(split.texts, train.texts)
    text = f"none of {split.name}"
    if leaked.any():
        index = np.argmax(leaked)
        source = np.argmax(train.texts == split.texts[index])
        text = f"{_share(leaked.sum(), split.num_rows)} rows of {split.name}; "
        text += f"{split.place(index)} and {train.place(source)}"
    report.add("also in train", text)
    if leaked.sum() > _LEAKED * split.num_rows:
        report.warnings.append(f"also in train: {text}; a score on these is too high")


# Tokens


def count_tokens(
    examples: Iterable[InputExample], tokenizer: FullTokenizer
) -> tuple[np.ndarray, int, Counter[str]]:
    """Count the tokens of examples as `features.convert_example` makes them, before truncation.

    Returns:
        The lengths, int64 `[num_examples]`, sorted, with [CLS] and [SEP]; the number of tokens
        without these; the words that became [UNK], with their counts.
    """
    lengths, num_tokens = array.array("q"), 0
    unknown: Counter[str] = collections.Counter()
    for example in examples:
        sizes = []
        for text in _texts_of(example):
            sizes.append(len(tokenizer.tokenize(text)))
            unknown.update(tokenizer.unknown_words(text))
        num_tokens += sum(sizes)
        # [CLS] and [SEP], and another [SEP] after a second text.
        lengths.append(2 + sizes[0] + sum(size + 1 for size in sizes[1:] if size))
    return np.sort(lengths), num_tokens, unknown


def _add_tokens(
    report: Report, train: _Split, tokenizer: FullTokenizer, max_seq_length: int
) -> None:
    lengths, num_tokens, unknown = count_tokens(train.sample(), tokenizer)
    size = len(lengths)
    sampled = f", of a sample of {size:,}" if size < train.num_rows else ""
    report.lines.append(f"Tokens per example{sampled} of train, with [CLS] and [SEP]")
    half, most, nearly_all = (lengths[-(-share * size // 100) - 1] for share in (50, 95, 99))
    report.lines.extend(histogram(lengths, nearly_all))
    shares = f"50 % have up to {half}, 95 % up to {most}, 99 % up to {nearly_all}"
    report.add("length", f"{shares}; the longest has {lengths[-1]}")
    num_cut = (lengths > max_seq_length).sum()
    cut = f"{_share(num_cut, size)} examples at --max_seq_length={max_seq_length}; "
    cut += f"{_multiple_of_8(most)} would do for 95 %, {_multiple_of_8(nearly_all)} for 99 %"
    report.add("cut", cut)
    if num_cut > _CUT * size:
        report.warnings.append(f"cut are {cut}")
    _add_unknown(report, unknown, num_tokens, tokenizer)


def _add_unknown(
    report: Report, words: Counter[str], num_tokens: int, tokenizer: FullTokenizer
) -> None:
    lacking: Counter[str] = collections.Counter()
    for word, number in words.items():
        for char in tokenizer.unknown_characters(word):
            lacking[char] += number
    num_unknown = sum(words.values())
    report.add("[UNK]", f"{_share(num_unknown, num_tokens)} tokens")
    if lacking:
        worst = _list(f"{c!r} U+{ord(c):04X} {n:,} x" for c, n in lacking.most_common())
        report.add("", f"the vocabulary lacks {worst}")
    if num_unknown > _UNKNOWN * num_tokens:
        share = _share(num_unknown, num_tokens)
        report.warnings.append(f"{share} tokens are [UNK]: is the vocabulary of this language?")
    if not is_cased(tokenizer.vocab):
        if any(char != char.lower() for char in lacking):
            report.warnings.append("the vocabulary has no upper-case letters: give --do_lower_case")
    elif tokenizer.do_lower_case:
        report.warnings.append("the vocabulary has upper-case letters: give --do_lower_case=False")


def histogram(lengths: np.ndarray, high: int) -> list[str]:
    """Draw how many lengths are in each of eight ranges; the last range begins near `high`."""
    width = _multiple_of_8(-(-high // (_BUCKETS - 1)))
    counts = np.bincount(np.minimum((lengths - 1) // width, _BUCKETS - 1), minlength=_BUCKETS)
    lines = []
    for number, share in enumerate(counts / len(lengths)):
        end = f"- {(number + 1) * width}" if number < _BUCKETS - 1 else "or more"
        bar = "#" * math.ceil(60 * share)
        lines.append(f"{number * width + 1:>6} {end:<10} {100 * share:5.1f} % {bar}".rstrip())
    return lines


def is_cased(vocab: Mapping[str, int]) -> bool:
    """Tell whether a vocabulary was made from texts with upper-case letters."""
    words = [token for token in vocab if not token.startswith(("[", "<"))]
    # Users replace [unused1], [unused2] and so on by a few words of their own.
    return sum(word != word.lower() for word in words) > 0.01 * len(words)


# Model


def _check_config(
    report: Report, config: BertConfig, tokenizer: FullTokenizer, max_seq_length: int
) -> None:
    longest, vocab_size = config.max_position_embeddings, tokenizer.vocab_size
    sizes = f"{tokenizer.flag}: {vocab_size} tokens for {config.vocab_size}"
    if max_seq_length > longest:
        report.fatal.append(
            f"--max_seq_length={max_seq_length}: the model reads {longest}; lower it"
        )
    if vocab_size > config.vocab_size:
        report.fatal.append(f"{sizes} of the model; give its own vocabulary")
    elif vocab_size < config.vocab_size - _PADDING_OF_VOCAB:
        report.warnings.append(f"{sizes} of the model: is this its own vocabulary?")
    if _activation(config) == "gelu" and _is_of_hugging_face(config):
        report.warnings.append(
            "--bert_config_file is Hugging Face's, whose gelu is exact; here it means google's "
            "approximation: use bert_classifier.convert, or write gelu_erf"
        )


def _activation(config: BertConfig) -> str:
    return str(config.activation).lower()


def _is_of_hugging_face(config: BertConfig) -> bool:
    # Where google's files have keys of their own, BertConfig adds the name of the kind.
    signs = _HUGGING_FACE_KEYS - ({"model_type"} if config.kind.keys else set())
    return bool(signs & config.to_dict().keys())


def _add_encoder(report: Report, config: BertConfig) -> None:
    scopes = config.layer_scopes()
    layers = f"{len(scopes)} layers"
    if config.shares_layers:
        layers += f", {len(set(scopes))} with weights of their own"
    sizes = f"{config.hidden_size} wide with {config.num_attention_heads} heads"
    report.add("encoder", f"{config.kind.title}: {layers}, {sizes}, {_activation(config)}")


def _add_checkpoint(report: Report, model: Model, num_labels: int) -> None:
    path = model.init_checkpoint
    if not path:
        report.add("checkpoint", "none")
        report.warnings.append("no --init_checkpoint: the encoder begins with random values")
        return
    classifier = classifier_shapes(model.bert_config, num_labels) if model.with_classifier else {}
    coverage = weights.coverage(path, model.bert_config, classifier)
    report.add("checkpoint", f"{coverage.summary}: {path}")
    report.fatal.extend(coverage.faults)
    report.warnings.extend(coverage.warnings)
    damaged = None if coverage.faults else weights.find_not_finite(path, coverage.dtypes)
    if damaged:
        cure = "give a checkpoint that was saved before its training failed"
        report.fatal.append(f"{path}: {damaged} has NaN or infinite values; {cure}")


def classifier_shapes(config: BertConfig, num_labels: int) -> dict[str, list[int]]:
    """Return the shape of each variable of the classifier."""
    return {"output_weights": [num_labels, config.hidden_size], "output_bias": [num_labels]}


# Plan


def _add_plan(report: Report, schedule: Schedule, early_stopping_min_steps: int) -> None:
    last, warm_up = schedule.num_train_steps, schedule.num_warmup_steps
    steps = f"{last:,} of {schedule.examples_per_step} examples, {warm_up:,} of them warm up"
    report.add("steps", f"{steps}; {schedule.steps_per_epoch:,.1f} are an epoch")
    interval = schedule.save_checkpoints_steps
    # At the last step there is nothing left to stop.
    before_last = range(interval, last, interval)
    first = [*before_last[:_SHOWN], last]
    due = _list((f"{step:,}" for step in first), len(before_last) + 1)
    report.add("evaluations", f"{len(before_last) + 1:,}, at steps {due}")
    patience = schedule.max_steps_without_improvement
    earliest = max(interval + patience, early_stopping_min_steps)
    stop = interval * -(-earliest // interval)
    text = f"can never act: not before step {earliest:,}, and {last:,} is the last"
    if stop in before_last:
        text = f"possible from step {stop:,} on"
    report.add("early stopping", text if patience else "off")
    if last < FEW_STEPS:
        epochs = math.ceil(FEW_STEPS / schedule.steps_per_epoch)
        few = f"{last:,} steps are few for a model to learn something"
        makes = int(epochs * schedule.steps_per_epoch)
        report.add("advice", f"{few}: --num_train_epochs={epochs} makes {makes:,}")


def _add_memory(
    report: Report, config: BertConfig, max_seq_length: int, training: Training
) -> None:
    num_weights = sum(int(np.prod(shape)) for shape in config.variable_shapes().values())
    batch_size = training.train_batch_size
    num_bytes = memory(
        config, num_weights, max_seq_length, batch_size, training.gradient_checkpointing
    )
    batch = f"batches of {batch_size} x {max_seq_length} tokens in float32"
    report.add("memory", f"about {num_bytes / 1e9:.3g} GB for {num_weights:,} weights, {batch}")


def memory(
    config: BertConfig,
    num_weights: int,
    seq_length: int,
    batch_size: int,
    gradient_checkpointing: bool = False,
) -> int:
    """Estimate the bytes that training takes in float32, without those of the program itself.

    42 per weight: 16 for the weight, its gradient and its two moments, the rest for copies while
    weights are initialized and updated. Layers keep tensors for the gradients: per token and layer
    10 vectors of `hidden_size`, the attention probabilities of all heads three times, and 4 vectors
    of `intermediate_size` for gelu, 3 for gelu_erf, else 1. The last layer keeps these only for the
    first token, and 2 vectors of `hidden_size` for each other token.

    The gradients of a layer that is applied several times are all there before they are added up.

    With gradient checkpointing these are kept for one layer at a time, and the input of each layer.
    """
    num_layers = len(config.layer_scopes())
    per_token = 10 * config.hidden_size + 3 * config.num_attention_heads * seq_length
    per_token += _KEPT_BY_ACTIVATION.get(_activation(config), 1) * config.intermediate_size
    if gradient_checkpointing:
        per_example = (per_token + num_layers * config.hidden_size) * seq_length
    else:
        per_example = (num_layers - 1) * per_token * seq_length
        per_example += per_token + 2 * config.hidden_size * seq_length
    num_bytes = _BYTES_PER_WEIGHT * num_weights + 4 * batch_size * per_example
    if config.shares_layers and not gradient_checkpointing:
        num_bytes += 4 * num_layers * _weights_per_layer(config)
    return num_bytes


def _weights_per_layer(config: BertConfig) -> int:
    beginning = "%s/%s/" % (config.scope, config.layer_scopes()[0])
    shapes = config.variable_shapes()
    return sum(int(np.prod(shapes[name])) for name in shapes if name.startswith(beginning))


def flops_per_example(config: BertConfig, seq_length: int) -> int:
    """Count the operations in the matrix products after the embeddings for a training example.

    These are the projection of the embeddings, the layers, each as often as it is applied, and the
    pooler, where the encoder has them. A token takes 2 per weight of each layer's kernels, and 4
    `hidden_size` per token that it attends to. The pooler reads only [CLS], so the last layer
    computes only [CLS], without the keys and values of the other tokens: see
    `modeling._attend_from_one_position`. The gradients take twice as many operations again.
    """
    square = config.hidden_size**2
    feed_forward = 2 * config.hidden_size * config.intermediate_size
    attended = 4 * config.hidden_size * seq_length
    other_layer = (2 * (4 * square + feed_forward) + attended) * seq_length
    head = 2 * (2 * square + config.hidden_size) + attended  # kernels of key and value, a bias
    last_layer = 2 * (2 * square + feed_forward) + head * config.num_attention_heads
    pooler = 2 * square if config.kind.has_pooler else 0
    projection = 2 * config.embedding_width * config.hidden_size if config.projection else 0
    other_layers = (len(config.layer_scopes()) - 1) * other_layer
    return 3 * (projection * seq_length + other_layers + last_layer + pooler)


def _add_time(report: Report, flops: float) -> None:
    slow, fast = (
        datetime.timedelta(seconds=min(math.ceil(flops / speed), _LONGEST))
        for speed in (1e11, 1e13)
    )
    # No forecast: a matrix product that was timed before training was 1.5 to 7 times as fast.
    work = f"{flops / 1e12:,.1f} TFLOP"
    report.add("time", f"{work}: {slow} at 0.1 TFLOP/s (a CPU), {fast} at 10 TFLOP/s (a GPU)")


# Formats


def _list(items: Iterable[str], total: int | None = None) -> str:
    """Join the first ten items and the number of the others; `total` counts items not given."""
    items = list(items)
    total = len(items) if total is None else total
    more = [f"and {total - _SHOWN:,} more"] if total > _SHOWN else []
    return ", ".join(items[:_SHOWN] + more)


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / max(whole, 1):.3g} %)"


def _multiple_of_8(number: int) -> int:
    return -(-number // 8) * 8
