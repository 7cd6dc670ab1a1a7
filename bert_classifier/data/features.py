"""InputExample -> InputFeatures. Needs no TensorFlow."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import numpy as np

from bert_classifier import problem_types
from bert_classifier.data.examples import InputExample
from bert_classifier.errors import BadInput
from tokenization import FullTokenizer

# Part of every fingerprint: raise it when the format of the records changes.
_RECORD_FORMAT = 2

TOKEN_FEATURES = ("input_ids", "input_mask", "segment_ids")


class _Truncation(NamedTuple):
    """What is kept of a text that is too long.

    Attributes:
        from_head: share of the kept tokens that comes from the beginning, from 0 to 1.
        done: end of a sentence in the log.
    """

    from_head: float
    done: str


TRUNCATIONS = {
    "head": _Truncation(1.0, "were cut to their beginning"),
    "tail": _Truncation(0.0, "were cut to their end"),
    # The best of Sun et al. 2019 (https://arxiv.org/abs/1905.05583): of up to 510 tokens, the first
    # 128 and the last 382.
    "head+tail": _Truncation(0.25, "were cut to their beginning and end"),
}


class InputFeatures(NamedTuple):
    """One example as numbers: three lists of equal length, and the label if it is known.

    Attributes:
        input_ids: ids of the tokens, 0 for padding.
        input_mask: 1 for tokens and 0 for padding.
        segment_ids: 0 for the first text and 1 for the second.
        label_id: see `ProblemType.label_id`; None if the label is not known.
        num_tokens: of the whole example, before it was cut.
    """

    input_ids: list[int]
    input_mask: list[int]
    segment_ids: list[int]
    label_id: int | float | list[int] | None = None
    num_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Converter:
    """InputExample -> InputFeatures by the convention of BERT, here with a length of 14.

        pair    tokens       [CLS] is it late ? [SEP] no it is not . [SEP] [PAD] [PAD]
                segment_ids    0    0  0   0  0   0    1  1  1  1  1   1     0     0
                input_mask     1    1  1   1  1   1    1  1  1  1  1   1     0     0
        single  tokens       [CLS] it came broken . [SEP] [PAD] ...
                segment_ids    0    0   0     0   0   0     0

    The classifier reads the vector of `[CLS]`, which is trained to stand for the whole sequence.

    Attributes:
        labels: in the order of their indices.
        max_seq_length: number of tokens that the model reads at once.
        tokenizer: splits the texts.
        problem_type: one of `PROBLEM_TYPES`; it defines what a label is.
        truncation: which part is kept of a text that is too long: `head`, `tail`, or `head+tail`,
            whose first quarter is from the beginning and the rest from the end.
        window_stride: if not 0, a longer example is not cut, but read in windows of
            `max_seq_length`, each beginning so many tokens after the one before it. Of a pair the
            longer text slides, and the other one is repeated. It is not for training.

    Raises:
        BadInput: windows that are so far apart would leave out tokens.
    """

    labels: Sequence[str]
    max_seq_length: int
    tokenizer: FullTokenizer
    problem_type: str = "classification"
    truncation: str = "head"
    window_stride: int = 0
    _ids: Mapping[str, int] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.window_stride > self.max_seq_length - 2:
            raise BadInput(
                "--window_stride=%d: leaves out tokens between windows of --max_seq_length=%d; "
                "give up to %d" % (self.window_stride, self.max_seq_length, self.max_seq_length - 2)
            )
        # A frozen dataclass has no other way to set an attribute that follows from others.
        object.__setattr__(self, "_ids", {label: i for i, label in enumerate(self.labels)})

    @property
    def has_windows(self) -> bool:
        """Return whether examples are read in windows."""
        return self.window_stride > 0

    def settings(self) -> Sequence[Any]:
        """Return all that features depend on, but the examples."""
        return (
            list(self._ids),
            self.max_seq_length,
            self.tokenizer.do_lower_case,
            self.tokenizer.identity(),
            self.problem_type,
            self.truncation,
            self.window_stride,
        )

    def convert(self, example: InputExample) -> InputFeatures:
        """Convert one example, without padding at its end.

        Several windows follow one another, and all but the last one are padded to `max_seq_length`.
        """
        tokens_a = self.tokenizer.tokenize(example.text_a)
        tokens_b = self.tokenizer.tokenize(example.text_b) if example.text_b else []
        # [CLS], and one [SEP] per text.
        num_special = 3 if tokens_b else 2
        input_ids: list[int] = []
        input_mask: list[int] = []
        segment_ids: list[int] = []
        for part_a, part_b in self._parts(tokens_a, tokens_b, self.max_seq_length - num_special):
            padding = [0] * (-len(input_ids) % self.max_seq_length)
            tokens = ["[CLS]", *part_a, "[SEP]"]
            segments = [0] * len(tokens)
            if part_b:
                tokens += [*part_b, "[SEP]"]
                segments += [1] * (len(part_b) + 1)
            input_ids += padding + self.tokenizer.convert_tokens_to_ids(tokens)
            input_mask += padding + [1] * len(tokens)
            segment_ids += padding + segments
        return InputFeatures(
            input_ids,
            input_mask,
            segment_ids,
            self.label_id(example.label),
            len(tokens_a) + len(tokens_b) + num_special,
        )

    def convert_padded(self, example: InputExample) -> InputFeatures:
        """Convert one example, padded to `max_seq_length` or, with windows, to a multiple of it."""
        features = self.convert(example)
        padding = [0] * (-len(features.input_ids) % self.max_seq_length)
        return features._replace(
            input_ids=features.input_ids + padding,
            input_mask=features.input_mask + padding,
            segment_ids=features.segment_ids + padding,
        )

    def count_tokens(self, examples: Iterable[InputExample]) -> np.ndarray:
        """Count the tokens of whole examples, as `records` does: int64 `[num_examples]`."""
        return np.array([self.convert(example).num_tokens for example in examples], np.int64)

    def describe(self, num_tokens: np.ndarray) -> str:
        """Return a sentence about the examples that are too long.

        Args:
            num_tokens: of each example, int `[num_examples]`.
        """
        num_longer, longest = (num_tokens > self.max_seq_length).sum(), num_tokens.max()
        if not num_longer:
            return "All %d examples fit into %d tokens; the longest has %d" % (
                len(num_tokens),
                self.max_seq_length,
                longest,
            )
        return (
            "%d of %d examples (%.1f %%) are longer than %d tokens and %s; the longest has %d"
            % (
                num_longer,
                len(num_tokens),
                100.0 * num_longer / len(num_tokens),
                self.max_seq_length,
                "are read in windows" if self.has_windows else TRUNCATIONS[self.truncation].done,
                longest,
            )
        )

    def _parts(
        self, tokens_a: list[str], tokens_b: list[str], room: int
    ) -> list[tuple[list[str], list[str]]]:
        """Return the parts of two texts that are read together, one pair for each window."""
        share_a, share_b = _shares(len(tokens_a), len(tokens_b), room)
        if self.has_windows and len(tokens_a) + len(tokens_b) > room:
            if len(tokens_a) > len(tokens_b):
                tokens_b = self._cut(tokens_b, share_b)
                return [(window, tokens_b) for window in self._windows(tokens_a, share_a)]
            tokens_a = self._cut(tokens_a, share_a)
            return [(tokens_a, window) for window in self._windows(tokens_b, share_b)]
        return [(self._cut(tokens_a, share_a), self._cut(tokens_b, share_b))]

    def _cut(self, tokens: list[str], length: int) -> list[str]:
        if len(tokens) <= length:
            return tokens
        head = math.ceil(length * TRUNCATIONS[self.truncation].from_head)
        return tokens[:head] + tokens[len(tokens) - (length - head) :]

    def _windows(self, tokens: list[str], length: int) -> list[list[str]]:
        """Return the windows of a text that is too long for one; only the last may be shorter."""
        # Beside another text windows are shorter than usual, and they must leave no gap.
        stride = max(1, min(self.window_stride, length))
        starts = range(0, len(tokens) - length + stride, stride)
        return [tokens[start : start + length] for start in starts]

    def label_id(self, label: Any) -> int | float | list[int] | None:
        """Return the number or numbers of a label, see `InputFeatures`."""
        if label is None:
            return None
        return problem_types.get(self.problem_type).label_id(label, self._ids)


def _shares(length_a: int, length_b: int, room: int) -> tuple[int, int]:
    """Return how many tokens of two texts are kept, `room` at most together.

    The longer one is shortened first, and both in turn when they are equal, the second one before
    the first. A token of a short text says more than one of a long text.
    """
    share_a = max(room - length_b, (room + 1) // 2)
    share_b = max(room - length_a, room // 2)
    return min(length_a, share_a), min(length_b, share_b)


def fingerprint(examples: Iterable[InputExample], converter: Converter) -> str:
    """Return 12 hex digits that change with anything that the records depend on."""
    digest = hashlib.sha256(repr((_RECORD_FORMAT, converter.settings())).encode("utf-8"))
    for example in examples:
        digest.update(repr((example.text_a, example.text_b, example.label)).encode("utf-8"))
    return digest.hexdigest()[:12]
