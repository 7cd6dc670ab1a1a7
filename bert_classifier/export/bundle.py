"""Format of an exported model, a bundle: seal, find, open and verify one.

A bundle is a folder with a SavedModel, or with an ONNX model, and its parts in `assets.extra/`; or
one file with a frozen graph, in which the parts are the constants `bundle/<part>`. The models are
read by `graphs` and `onnx_models`, so that one of ONNX needs no TensorFlow. The parts are

    vocab.txt or spiece.model                as in training: what the texts are split by
    labels.txt bert_config.json              as in training; the labels in the order of the outputs
    metrics.json                             of the evaluation of these weights, if there was one
    sample_request.json                      a request for TensorFlow Serving
    bundle.json                              `Settings`, and the digests of all else
"""

from __future__ import annotations

import abc
import contextlib
import json
import os
import re
import sys
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from bert_classifier import files, threads
from bert_classifier.data.features import TRUNCATIONS
from bert_classifier.errors import BadInput
from bert_classifier.problem_types import PROBLEM_TYPES
from encoder_config import BertConfig

# Increase it when a program that reads the present format would misread the new one.
FORMAT = 1

ASSETS = "assets.extra"
# A bundle has one of the first two.
VOCAB, SPM_MODEL = "vocab.txt", "spiece.model"
LABELS, CONFIG = "labels.txt", "bert_config.json"
METRICS, SAMPLE_REQUEST = "metrics.json", "sample_request.json"
DESCRIPTION = "bundle.json"

# The names of inputs and outputs; in a frozen graph and in ONNX users rely on them.
INPUTS = ("input_ids", "input_mask", "segment_ids")
OUTPUTS = ("probabilities", "predictions", "top_3")
SERVING_DEFAULT = "serving_default"  # The name that TensorFlow Serving takes if it gets none.

# Folders of exports, the better ones first: of a run, and of its `export`.
_KINDS = ("best_exporter", "saved_model", "onnx")
_OF_A_RUN = tuple(os.path.join("export", kind) for kind in _KINDS)
# What is read: a file, or a folder with one of the two others.
FROZEN_GRAPH = "frozen_model.pb"
ONNX_MODEL, _SAVED_MODEL = "model.onnx", "saved_model.pb"
_TIMESTAMP = re.compile("[0-9]+")

CURE = "export the model again with --do_export, --do_frozen or --do_onnx"


class Settings(NamedTuple):
    """The settings with which texts become inputs of the model, and its outputs answers.

    Attributes:
        labels: in the order of the outputs.
        problem_type: one of `PROBLEM_TYPES`.
        max_seq_length: tokens that the model reads at once.
        do_lower_case: as of `FullTokenizer`.
        truncation: as of `features.Converter`.
        window_stride: as of `features.Converter`.
        texts_per_example: 1, or 2 for pairs.
        thresholds: for multi_label, the probability of each label above which a text has it.
        temperature: divisor of the logits; see `calibration`.
        min_confidence: the label is None where the best one has a lower probability.
        label_separator: separates the labels in a cell that has several.
    """

    labels: Sequence[str]
    problem_type: str
    max_seq_length: int
    do_lower_case: bool
    truncation: str
    window_stride: int
    texts_per_example: int
    thresholds: Sequence[float] | None = None
    temperature: float = 1.0
    min_confidence: float = 0.0
    label_separator: str = ","


class Model(abc.ABC):
    """A model that computes, which threads may share.

    Attributes:
        signatures: signature -> (input -> its name in the model, output -> its name in the model).
            All but `SERVING_DEFAULT` are for clients of TensorFlow Serving.
    """

    signatures: Mapping[str, Any] = {SERVING_DEFAULT: ({name: name for name in INPUTS}, {})}

    @abc.abstractmethod
    def run(
        self, inputs: Mapping[str, Any], signature: str = SERVING_DEFAULT
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature for a batch of inputs, both by name."""

    def num_outputs(self) -> int | None:
        """Return the number of probabilities per example, None where there are none, or unknown."""
        return None

    def calls_at_a_time(self) -> int:
        """Return how many calls at the same time are worth it: one per core."""
        return len(os.sched_getaffinity(0))

    @abc.abstractmethod
    def close(self) -> None:
        """Free what the model holds."""


class Contents(NamedTuple):
    """What a bundle has beside the model; `parts` is name -> content, without `bundle.json`."""

    settings: Settings
    parts: Mapping[str, bytes]

    def encoder(self) -> BertConfig:
        """Return the configuration of the encoder."""
        return BertConfig.from_dict(json.loads(self.parts[CONFIG].decode("utf-8-sig")))

    def num_threads(self) -> int:
        """Return the number of threads that share an operation of the model; 0 for one per core."""
        return threads.count_threads_of_callers(self.encoder().hidden_size)


class Bundle(NamedTuple):
    """An open bundle: a model and its `Contents`."""

    model: Model
    settings: Settings
    parts: Mapping[str, bytes]


def seal(
    settings: Settings,
    parts: Mapping[str, bytes],
    digests: Mapping[str, str],
    made_with: Mapping[str, str],
) -> dict[str, bytes]:
    """Return the parts of a bundle with `bundle.json` added.

    Args:
        settings: of the model.
        parts: name -> content.
        digests: name -> `files.digest` of everything else in the bundle: of each file of a folder,
            or, as `graph`, of a frozen graph. `open_bundle` checks them.
        made_with: package -> version.
    """
    own = {name: files.digest(content) for name, content in parts.items()}
    values = settings._asdict()
    del values["labels"]  # They are in labels.txt.
    description = {
        "format": FORMAT,
        "made_with": made_with,
        "settings": values,
        "digests": {**own, **digests},
    }
    return {**parts, DESCRIPTION: (files.to_json(description, indent=2) + "\n").encode()}


def find(path: str) -> str:
    """Return the path of the export, or frozen graph, that a path stands for.

    A folder of exports stands for its newest; an output_dir for its best export, else for its
    newest of `--do_export`, else of `--do_onnx`, else for its frozen graph; an ONNX model for its
    folder.

    Raises:
        BadInput: there is none.
    """
    if os.path.isfile(path) and os.path.basename(path) == ONNX_MODEL:
        return os.path.dirname(path) or os.curdir
    if os.path.isfile(path) or _has_model(path):
        return path
    if not os.path.isdir(path):
        raise BadInput("%s: no such file or folder; give an export or a frozen graph" % path)
    for folder in ("", *_KINDS, *_OF_A_RUN):
        exports = list_exports(os.path.join(path, folder))
        if exports:
            return exports[-1]
    frozen = os.path.join(path, FROZEN_GRAPH)
    if os.path.isfile(frozen):
        return frozen
    raise BadInput(
        "%s: no %s or %s, and no export below it; give the folder of an export, of several "
        "exports, or an output_dir that has one" % (path, _SAVED_MODEL, ONNX_MODEL)
    )


def _has_model(folder: str) -> bool:
    return any(os.path.exists(os.path.join(folder, name)) for name in (_SAVED_MODEL, ONNX_MODEL))


def is_onnx(path: str) -> bool:
    """Tell whether the export at a path that `find` has returned is an ONNX model."""
    return os.path.exists(os.path.join(path, ONNX_MODEL))


def is_export(text: str) -> bool:
    """Tell whether a text is the path of an export, of several, or of a frozen graph."""
    try:
        find(text)
    except (BadInput, OSError, ValueError):  # Some texts cannot be a path.
        return False
    if os.path.isfile(text):
        return text.endswith((".pb", ".onnx"))
    # A text of one word may also be the name of an output_dir.
    return _has_model(text) or os.sep in text


def list_exports(export_path: str) -> list[str]:
    """List the exports in a folder, oldest first: their names are timestamps."""
    if not os.path.isdir(export_path):
        return []
    names = sorted(filter(_TIMESTAMP.fullmatch, os.listdir(export_path)), key=int)
    paths = [os.path.join(export_path, name) for name in names]
    return list(filter(os.path.isdir, paths))


def open_bundle(path: str, session_config: Any = None) -> Bundle:
    """Load a bundle and check all of it.

    Args:
        path: see `find`.
        session_config: `tf.ConfigProto` of the session of a model of TensorFlow; by default as
            `threads.count_threads_of_callers` says.

    Raises:
        BadInput: something is missing, damaged, of another version, or does not fit the rest.
    """
    path = find(path)
    if is_onnx(path):
        from bert_classifier.export import onnx_models  # noqa: PLC0415

        return onnx_models.open_folder(path)
    return _graphs(path).open_bundle(path, session_config)


def read_contents(path: str) -> Contents:
    """Read all of a bundle but its model, and check it.

    The arguments and errors are those of `open_bundle`.
    """
    path = find(path)
    if os.path.isdir(path):
        return contents_of_folder(path, has_model=False)
    return _graphs(path).contents_of_frozen_graph(path)


def _graphs(path: str) -> Any:
    """Return the module that reads models of TensorFlow."""
    try:
        from bert_classifier.export import graphs  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("tensorflow", "google"):
            raise
        raise BadInput(
            "%s: needs TensorFlow, which is not installed; install it, or %s"
            % (path, _cure_without_tensorflow(path))
        ) from error
    return graphs


def _cure_without_tensorflow(path: str) -> str:
    """Name the newest ONNX export of the run, or of the `--export_dir`, that an export is in."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.basename(folder) in _KINDS:
        folder = os.path.dirname(folder)
    found = [*list_exports(folder + "/onnx"), *list_exports(folder + "/export/onnx")]
    exports = sorted(filter(is_onnx, found), key=lambda export: int(os.path.basename(export)))
    return "give %s" % exports[-1] if exports else "export with --do_onnx"


def contents_of_folder(folder: str, has_model: bool = True) -> Contents:
    """Read the parts of a folder, and check the digests, those of the model only if it is used."""

    def read(part: str) -> bytes:
        with open(os.path.join(folder, ASSETS, part), "rb") as stream:
            return stream.read()

    def digest(name: str) -> str:
        in_assets = os.path.join(folder, ASSETS, name)
        path = in_assets if os.path.exists(in_assets) else os.path.join(folder, name)
        return files.digest_of_file(path)

    description = _read_description(folder, read, _files_of_model(folder) if has_model else [])
    names = [name for name in description["digests"] if has_model or is_part(name)]
    _check_digests(folder, description, names, digest)
    return _contents(folder, description, read)


def _files_of_model(folder: str) -> list[str]:
    """Return the files that a model is read from; others in its folder are left alone."""
    if is_onnx(folder):
        return [ONNX_MODEL]
    weights = os.path.join(folder, "variables")
    names = os.listdir(weights) if os.path.isdir(weights) else []
    return [_SAVED_MODEL, *(os.path.join("variables", name) for name in names)]


def contents_of_one_file(
    path: str, content: Mapping[str, bytes], digest: Callable[[str], str]
) -> Contents:
    """Return the parts that are in one file with the model, and check the digests.

    Args:
        path: of the file.
        content: name -> content of what is in it.
        digest: returns the `files.digest` of what has a name.
    """
    description = _read_description(path, content.__getitem__, ["graph"])
    _check_digests(path, description, description["digests"], digest)
    return _contents(path, description, content.__getitem__)


def _contents(path: str, description: Mapping[str, Any], read: Callable[[str], bytes]) -> Contents:
    parts = {name: read(name) for name in description["digests"] if is_part(name)}
    with failures_are_bad_input(path):
        labels = parts[LABELS].decode("utf-8").split("\n")[:-1]
        settings = Settings(labels=labels, **description["settings"])
        contents = Contents(settings, parts)
        longest = contents.encoder().max_position_embeddings
    wrong = _wrong_setting(settings)
    if wrong is not None:
        raise BadInput(
            "%s: %s has %s %r; %s" % (path, DESCRIPTION, wrong, getattr(settings, wrong), CURE)
        )
    if settings.max_seq_length > longest:
        raise BadInput(
            "%s: %s has max_seq_length %d, and %s max_position_embeddings %d; %s"
            % (path, DESCRIPTION, settings.max_seq_length, CONFIG, longest, CURE)
        )
    return contents


def join(path: str, model: Model, contents: Contents) -> Bundle:
    """Return an open bundle.

    Raises:
        BadInput: its model has another number of outputs than it has labels. The model is closed.
    """
    num_outputs, num_labels = model.num_outputs(), len(contents.settings.labels)
    if num_outputs is not None and num_outputs != num_labels:
        model.close()
        raise BadInput(
            "%s: %s has %d labels, and the model %d outputs; %s"
            % (path, LABELS, num_labels, num_outputs, CURE)
        )
    return Bundle(model, *contents)


@contextlib.contextmanager
def failures_are_bad_input(path: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what a damaged bundle makes its readers raise into BadInput.

    Args:
        path: of the bundle.
        *kinds: exceptions of the package that reads the model.
    """
    of_damage: tuple[type[Exception], ...] = (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        *kinds,
    )
    try:
        yield
    except BadInput:
        raise
    except of_damage as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput("%s: cannot be loaded (%s); %s" % (path, reason, CURE)) from error


def is_part(name: str) -> bool:
    """Tell whether a name is that of a part."""
    return name in (VOCAB, SPM_MODEL, LABELS, CONFIG, METRICS, SAMPLE_REQUEST)


def _read_description(path: str, read: Any, of_model: Sequence[str]) -> dict[str, Any]:
    """Read `bundle.json`; `of_model` are the names of what else must have a digest."""
    try:
        description = json.loads(read(DESCRIPTION).decode("utf-8"))
        version = description["format"]
    except (OSError, KeyError) as error:
        raise BadInput(
            "%s: no %s, so it is no export of this program; %s" % (path, DESCRIPTION, CURE)
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput("%s: %s is damaged; %s" % (path, DESCRIPTION, CURE)) from error
    if version != FORMAT:
        raise BadInput(
            "%s: %s has format %r, and this program reads %d; use the program that made it, or %s"
            % (path, DESCRIPTION, version, FORMAT, CURE)
        )
    digests, settings = description.get("digests"), description.get("settings")
    are_objects = isinstance(digests, dict) and isinstance(settings, dict)
    if not (
        are_objects
        and {LABELS, CONFIG, *of_model} <= set(digests)
        and len({VOCAB, SPM_MODEL} & set(digests)) == 1
    ):
        raise BadInput("%s: %s is damaged; %s" % (path, DESCRIPTION, CURE))
    return description


def _check_digests(
    path: str,
    description: Mapping[str, Any],
    names: Iterable[str],
    digest: Callable[[str], str],
) -> None:
    for name in names:
        try:
            found = digest(name)
        # A name that no file can have is a ValueError.
        except (OSError, KeyError, ValueError) as error:
            raise BadInput("%s: %s is missing; %s" % (path, name, CURE)) from error
        if found != description["digests"][name]:
            raise BadInput("%s: %s is not what was exported; %s" % (path, name, CURE))


def _wrong_setting(settings: Settings) -> str | None:
    """Name the first setting that has an impossible value; None if all are possible."""
    thresholds = [] if settings.thresholds is None else settings.thresholds
    are_possible = {
        "problem_type": settings.problem_type in PROBLEM_TYPES,
        "max_seq_length": _is_number(settings.max_seq_length, int, 1),
        "do_lower_case": isinstance(settings.do_lower_case, bool),
        "truncation": settings.truncation in list(TRUNCATIONS),  # It may be no key.
        "window_stride": _is_number(settings.window_stride, int, 0),
        "texts_per_example": settings.texts_per_example in (1, 2),
        "thresholds": isinstance(thresholds, list)
        and len(thresholds) in (0, len(settings.labels))
        and all(_is_number(threshold, (int, float), 0, 1) for threshold in thresholds),
        "temperature": _is_number(settings.temperature, (int, float), 1e-300),
        "min_confidence": _is_number(settings.min_confidence, (int, float), 0, 1),
        "label_separator": isinstance(settings.label_separator, str),
    }
    return next((name for name, is_possible in are_possible.items() if not is_possible), None)


def _is_number(value: Any, kind: Any, low: float, high: float = sys.float_info.max) -> bool:
    # In Python True is the number 1; in bundle.json it is a mistake.
    return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high
