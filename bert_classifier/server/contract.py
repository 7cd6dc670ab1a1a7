"""The JSON of requests and answers: TensorFlow Serving's REST API, and `/v1/texts`.

Everything here is a function of its arguments. What TensorFlow Serving promises is on
https://www.tensorflow.org/tfx/serving/api_rest.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, Iterable, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from bert_classifier import problem_types
from bert_classifier.export.bundle import INPUTS, SERVING_DEFAULT, Settings
from bert_classifier.server.limits import Limits
from bert_classifier.serving.predictor import Text

# Signatures with these inputs are answered as `SERVING_DEFAULT`, which does not read labels.
IGNORED = "label_ids"
EXAMPLES = "examples"

# input -> output -> their names in the graph, as in `Predictor.signatures`.
Signatures = Mapping[str, Tuple[Mapping[str, str], Mapping[str, str]]]

_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:\s]+)(?:/versions/(?P<version>[0-9]{1,19})|/labels/(?P<label>[^/:\s]+))?"
    r"(?::(?P<verb>predict|classify|regress)|(?P<metadata>/metadata))?"
)


class Refusal(Exception):
    """A request that is not answered: the status, and one line that says why."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


def gone() -> Refusal:
    """Return the answer to a client that is gone, for the metrics; the status is nginx's."""
    return Refusal(499, "the client is gone")


class Address(NamedTuple):
    """What a path below `/v1/models/` asks for; `question` is also `status` or `metadata`."""

    name: str
    version: int | None
    question: str


class Reads(NamedTuple):
    """What a model can read."""

    signatures: Signatures
    max_seq_length: int
    vocab_size: int
    type_vocab_size: int


class Query(NamedTuple):
    """A parsed `:predict`.

    Attributes:
        signature: the one that is to be run.
        rows: each tokens, int32 `[3, seq_length]` in the order of `INPUTS`; or, for a signature
            that reads them, the bytes of a `tf.Example`.
        is_columnar: whether `inputs` were given, and `outputs` are wanted.
    """

    signature: str
    rows: Sequence[Any]
    is_columnar: bool


# Paths


def parse_path(method: str, path: str) -> Address:
    """Return what a path below `/v1/models/` asks for.

    Raises:
        Refusal: 400 as TensorFlow Serving has it, for a method or a path that it does not know.
    """
    found = _PATH.fullmatch(path)
    verb = found.group("verb") if found else None
    if not found or method != ("POST" if verb else "GET"):
        raise Refusal(400, "Malformed request: %s %s" % (method, _shown(path)))
    if found.group("label"):
        raise Refusal(400, "Unrecognized servable version label: %s" % _shown(found.group("label")))
    version = found.group("version")
    question = verb or ("metadata" if found.group("metadata") else "status")
    return Address(found.group("name"), int(version) if version else None, question)


def not_found(address: Address) -> Refusal:
    """Return the 404 for a model, or a version of it, that is not served."""
    name = _shown(address.name)[1:-1]  # Without the quotation marks.
    which = "Latest(%s)" % name
    if address.version is not None:
        which = "Specific(%s, %d)" % (name, address.version)
    return Refusal(404, "Servable not found for request: %s" % which)


# :predict


def parse_predict(body: bytes, reads: Reads, limits: Limits) -> Query:
    """Return what a `:predict` asks.

    Raises:
        Refusal: 400, or 413 if there are too many rows.
    """
    request = parse_json(body)
    name = request.get("signature_name", SERVING_DEFAULT)
    # TensorFlow Serving takes an empty name for the default.
    name = SERVING_DEFAULT if name == "" else name
    if not isinstance(name, str) or name not in reads.signatures:
        raise Refusal(
            400,
            "signature_name: %s is none of the model's; give one of %s"
            % (_shown(name), ", ".join(sorted(reads.signatures))),
        )
    given = [key for key in ("instances", "inputs") if key in request]
    if len(given) != 1:
        raise Refusal(
            400,
            "the request has %s; give one of the two"
            % ("both instances and inputs" if given else "neither instances nor inputs"),
        )
    inputs = sorted(reads.signatures[name][0])
    (form,) = given
    value = request[form]
    columns = _columns_of_rows(value, inputs) if form == "instances" else _columns(value, inputs)
    _check_number_of_rows(len(columns[inputs[0]]), limits)
    if EXAMPLES in columns:
        rows: Sequence[Any] = [_binary(item) for item in columns[EXAMPLES]]
    else:
        rows = _token_rows(columns, reads)
        name = SERVING_DEFAULT
    return Query(name, rows, form == "inputs")


def answer_predict(outputs: Sequence[Mapping[str, np.ndarray]], is_columnar: bool) -> dict:
    """Return the answer to a `:predict`, in the form in which it was asked.

    Args:
        outputs: of each row, by name.
        is_columnar: see `Query`.
    """
    names = list(outputs[0])
    if is_columnar:
        columns = {name: [row[name].tolist() for row in outputs] for name in names}
        return {"outputs": columns if len(names) > 1 else columns[names[0]]}
    rows = [{name: value.tolist() for name, value in row.items()} for row in outputs]
    return {"predictions": rows if len(names) > 1 else [row[names[0]] for row in rows]}


def refuse_other_methods(question: str) -> None:
    """Refuse `:classify` and `:regress`, as TensorFlow Serving does for our signatures.

    Raises:
        Refusal: 400.
    """
    if question in ("classify", "regress"):
        raise Refusal(
            400,
            "Expected %s signature method_name to be tensorflow/serving/%s. Was: "
            "tensorflow/serving/predict; ask :predict"
            % ("classification" if question == "classify" else "regression", question),
        )


def _columns_of_rows(instances: Any, inputs: Sequence[str]) -> dict[str, list[Any]]:
    """Return input -> its value in each instance."""
    if not isinstance(instances, list) or not instances:
        raise Refusal(400, "instances: give a list with at least one instance")
    columns: dict[str, list[Any]] = {name: [] for name in inputs}
    for number, instance in enumerate(instances):
        # With one input its name may be left out; {"b64": ...} is a value.
        is_value = not isinstance(instance, dict) or set(instance) == {"b64"}
        if len(inputs) == 1 and is_value:
            instance = {inputs[0]: instance}
        _check_names(instance, inputs, "instances[%d]" % number)
        for name in inputs:
            columns[name].append(instance[name])
    return columns


def _columns(value: Any, inputs: Sequence[str]) -> dict[str, list[Any]]:
    if len(inputs) == 1 and not isinstance(value, dict):
        value = {inputs[0]: value}
    _check_names(value, inputs, "inputs")
    lengths = set()
    for name in inputs:
        if not isinstance(value[name], list) or not value[name]:
            raise Refusal(400, "inputs.%s: give a list with at least one row" % name)
        lengths.add(len(value[name]))
    if len(lengths) > 1:
        raise Refusal(400, "inputs: %s have different numbers of rows" % ", ".join(inputs))
    return value


def _check_names(value: Any, inputs: Sequence[str], where: str) -> None:
    if not isinstance(value, dict):
        raise Refusal(400, "%s: give an object with %s" % (where, ", ".join(inputs)))
    missing = [name for name in inputs if name not in value]
    if missing:
        raise Refusal(400, "%s: %s is missing" % (where, missing[0]))
    unknown = [name for name in value if name not in inputs]
    if unknown:
        raise Refusal(
            400,
            "%s: %s is no input of the signature; they are %s"
            % (where, _shown(unknown[0]), ", ".join(inputs)),
        )


def _binary(value: Any) -> bytes:
    """Return the bytes of a string, or of `{"b64": ...}`."""
    if isinstance(value, str):
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Refusal(400, "examples: half of a character; give a b64 object") from error
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"].encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error) as error:
            raise Refusal(400, "b64: is not base64") from error
    raise Refusal(
        400, 'examples: %s is no serialized tf.Example; give {"b64": "..."}' % _shown(value)
    )


def _token_rows(columns: Mapping[str, list[Any]], reads: Reads) -> list[np.ndarray]:
    if IGNORED in columns:
        for number, label in enumerate(columns[IGNORED]):
            if not _is_int32(label):
                raise Refusal(
                    400, "%s of row %d: %s is no int32" % (IGNORED, number, _shown(label))
                )
    most = {"input_ids": reads.vocab_size, "input_mask": 2, "segment_ids": reads.type_vocab_size}
    length = None
    rows = []
    for number, row in enumerate(zip(*(columns[name] for name in INPUTS))):
        for name, values in zip(INPUTS, row):
            where = "%s of row %d" % (name, number)
            _check_values(values, most[name], where)
            if len(values) > reads.max_seq_length:
                raise Refusal(
                    400,
                    "%s: has %d values, and the model reads %d"
                    % (where, len(values), reads.max_seq_length),
                )
            length = len(values) if length is None else length
            if len(values) != length:
                raise Refusal(
                    400,
                    "%s: has %d values, and others %d; pad all to the same length with 0"
                    % (where, len(values), length),
                )
        rows.append(np.array(row, np.int32))
    return rows


def _check_values(values: Any, most: int, where: str) -> None:
    """Check that this is a list of integers from 0 to below `most`."""
    if not isinstance(values, list) or not values:
        raise Refusal(400, "%s: give a list with at least one integer" % where)
    # Neither true nor 1.0 is an integer in JSON's mapping to DT_INT32.
    if set(map(type, values)) != {int}:
        wrong = next(value for value in values if type(value) is not int)
        raise Refusal(400, "%s: %s is no integer" % (where, _shown(wrong)))
    if min(values) < 0 or max(values) >= most:
        wrong = next(value for value in values if not 0 <= value < most)
        raise Refusal(400, "%s: %s is not from 0 to %d" % (where, _shown(wrong), most - 1))


def _is_int32(value: Any) -> bool:
    return type(value) is int and -(1 << 31) <= value < 1 << 31


def _check_number_of_rows(number: int, limits: Limits) -> None:
    if number > limits.most_texts:
        raise Refusal(
            413, "the request has %d texts; send at most %d" % (number, limits.most_texts)
        )


# Status and metadata


def answer_status(states: Mapping[int, str]) -> dict:
    """Return the answer about versions; their states are as TensorFlow Serving names them."""
    return {
        "model_version_status": [
            {
                "version": str(version),
                "state": state,
                "status": {"error_code": "OK", "error_message": ""},
            }
            for version, state in sorted(states.items(), reverse=True)
        ]
    }


def answer_metadata(name: str, version: int, signatures: Signatures, settings: Settings) -> dict:
    """Return the answer about the signatures of a version.

    Args:
        name: of the model.
        version: of the model.
        signatures: of the model.
        settings: of its bundle.
    """
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    signature: {
                        "inputs": {
                            key: _tensor(key, tensor, settings) for key, tensor in inputs.items()
                        },
                        "outputs": {
                            key: _tensor(key, tensor, settings) for key, tensor in outputs.items()
                        },
                        "method_name": "tensorflow/serving/predict",
                    }
                    for signature, (inputs, outputs) in signatures.items()
                }
            }
        },
    }


def _tensor(key: str, tensor: str, settings: Settings) -> dict:
    problem, num_labels = problem_types.get(settings.problem_type), len(settings.labels)
    shapes = {
        **{name: (-1, -1) for name in INPUTS},
        "probabilities": (-1, num_labels),
        "predictions": (-1, num_labels) if problem.has_thresholds else (-1,),
        "top_3": (-1, min(3, num_labels)),
    }
    is_number = key == "predictions" and not problem.has_classes
    dtype = "DT_FLOAT" if key == "probabilities" or is_number else "DT_INT32"
    return {
        "name": tensor,
        "dtype": "DT_STRING" if key == EXAMPLES else dtype,
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in shapes.get(key, (-1,))],
            "unknown_rank": False,
        },
    }


# /v1/texts


def parse_texts(body: bytes, texts_per_example: int, limits: Limits) -> tuple[list[Text], int]:
    """Return the texts of a request, and how many labels are wanted in `top_k`.

    Raises:
        Refusal: 400, or 413 if there are too many texts, or one is too long.
    """
    request = parse_json(body)
    unknown = set(request) - {"texts", "top_k"}
    if unknown:
        raise Refusal(400, "%s: is unknown; give texts and top_k" % _shown(min(unknown)))
    top_k = request.get("top_k", 3)
    if type(top_k) is not int or not 0 <= top_k <= 1_000_000:
        raise Refusal(400, "top_k: %s is no number of labels" % _shown(top_k))
    texts = request.get("texts")
    if not isinstance(texts, list):
        raise Refusal(400, "texts: give a list of texts")
    _check_number_of_rows(len(texts), limits)
    return [
        _text(number, text, texts_per_example, limits.longest_text)
        for number, text in enumerate(texts)
    ], top_k


def _text(number: int, value: Any, texts_per_example: int, longest: int) -> Text:
    texts = value if isinstance(value, list) else [value]
    is_pair = isinstance(value, list)
    if is_pair != (texts_per_example == 2) or (is_pair and len(texts) != 2):
        wanted = "a string" if texts_per_example == 1 else "a list of two strings"
        raise Refusal(400, "texts[%d]: the model reads %s" % (number, wanted))
    for text in texts:
        if not isinstance(text, str):
            raise Refusal(400, "texts[%d]: %s is no string" % (number, _shown(text)))
        if len(text) > longest:
            raise Refusal(
                413, "texts[%d]: has %d characters; send at most %d" % (number, len(text), longest)
            )
    return value if texts_per_example == 1 else (texts[0], texts[1])


def answer_texts(predictions: Iterable[Any]) -> dict:
    """Return the answer about texts, from `answers.Prediction`."""
    return {"predictions": [_prediction(prediction) for prediction in predictions]}


def _prediction(prediction: Any) -> dict:
    if not prediction.probabilities:  # A regression.
        return {"score": prediction.label}
    answer = {"label": prediction.label}
    if prediction.confidence is not None:
        answer["confidence"] = prediction.confidence
    answer["top_k"] = [{"label": label, "probability": p} for label, p in prediction.top_k]
    answer["probabilities"] = prediction.probabilities
    return answer


# JSON


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body.

    Raises:
        Refusal: 400.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(400, "the body is not UTF-8, at byte %d" % error.start) from error
    try:
        value = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise Refusal(400, "the body is too deeply nested") from error
    except ValueError as error:
        # Some messages have the text itself, of any length.
        raise Refusal(400, "the body is not JSON: %s" % str(error)[:200]) from error
    if not isinstance(value, dict):
        raise Refusal(400, "the body is not a JSON object")
    return value


def to_json(value: Any) -> bytes:
    """Return a value as JSON on one line; NaN and infinity are as in TensorFlow Serving."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise Refusal(400, "%s: is there twice" % _shown(name))
        result[name] = value
    return result


def _refuse_constant(name: str) -> None:
    raise Refusal(400, "%s: no input is a floating point number" % name)


def _shown(value: Any) -> str:
    """Return the beginning of a value, for a message of one line."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number of %d bits" % value.bit_length()
    text = json.dumps(value) if isinstance(value, str) else str(value)
    return text[:80] + ("..." if len(text) > 80 else "")
