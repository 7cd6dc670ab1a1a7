"""The JSON of requests and answers. The sentences are those of TensorFlow Serving's page."""

from __future__ import annotations

import base64
import json
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from google.protobuf import json_format

from bert_classifier.export.bundle import Settings
from bert_classifier.server import contract
from bert_classifier.server.contract import Reads, Refusal
from bert_classifier.server.limits import Limits
from bert_classifier.serving.answers import Prediction

TOKENS = {name: name + ":0" for name in contract.INPUTS}
OUTPUTS = {name: "loss/%s:0" % name for name in ("probabilities", "predictions", "top_3")}
SIGNATURES = {
    "serving_default": (TOKENS, OUTPUTS),
    "label_ids:serving_default": (dict(TOKENS, label_ids="label_ids:0"), OUTPUTS),
    "examples:serving_default": ({"examples": "examples:0"}, OUTPUTS),
}
READS = Reads(SIGNATURES, max_seq_length=8, vocab_size=100, type_vocab_size=2)
LIMITS = Limits(most_texts=5, longest_text=50)

ROW = {"input_ids": [2, 7, 3], "input_mask": [1, 1, 1], "segment_ids": [0, 0, 0]}
OTHER = {"input_ids": [2, 9, 0], "input_mask": [1, 1, 0], "segment_ids": [0, 1, 0]}


def parsed(value):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return contract.parse_predict(body, READS, LIMITS)


def rows_of(query):
    return [row.tolist() for row in query.rows]


class TestRequests:
    def test_row_format(self):
        """For multiple named inputs, each item is expected to be an object containing input
        name/tensor value pair, one for each named input."""
        query = parsed({"instances": [ROW, OTHER]})
        assert rows_of(query) == [list(ROW.values()), list(OTHER.values())]
        assert {row.dtype for row in query.rows} == {np.dtype(np.int32)}
        assert not query.is_columnar

    def test_column_format(self):
        """In the columnar format, inputs are keyed to inputs key in the JSON request."""
        query = parsed({"inputs": {name: [ROW[name], OTHER[name]] for name in ROW}})
        assert rows_of(query) == [list(ROW.values()), list(OTHER.values())]
        assert query.is_columnar

    @pytest.mark.parametrize("name", [None, "", "serving_default"])
    def test_the_default_signature(self, name):
        """(Optional) Serving signature to use. If unspecifed default serving signature is used."""
        given = {} if name is None else {"signature_name": name}
        assert parsed({"instances": [ROW], **given}).signature == "serving_default"

    def test_labels_are_read_and_ignored(self):
        name = "label_ids:serving_default"
        as_rows = parsed({"signature_name": name, "instances": [dict(ROW, label_ids=1)]})
        columns = dict({key: [value] for key, value in ROW.items()}, label_ids=[-5])
        as_columns = parsed({"signature_name": name, "inputs": columns})
        for query in (as_rows, as_columns):
            assert (query.signature, rows_of(query)) == ("serving_default", [list(ROW.values())])

    @pytest.mark.parametrize("form", ["instances", "inputs"])
    @pytest.mark.parametrize("is_named", [True, False])
    def test_one_named_input_and_binary_values(self, form, is_named):
        """When there is only one named input, specify the value of instances key to be the value of
        the input. If you have input feature or tensor values that need to be binary, you must
        Base64 encode the data and encapsulate it in a JSON object having b64 as the key."""
        data = [bytes(range(256)), b""]
        value = [{"b64": base64.b64encode(content).decode()} for content in data]
        if is_named and form == "instances":
            value = [{"examples": item} for item in value]
        elif is_named:
            value = {"examples": value}
        query = parsed({"signature_name": "examples:serving_default", form: value})
        assert (query.signature, query.rows) == ("examples:serving_default", data)

    def test_a_string_is_its_utf_8(self):
        name = "examples:serving_default"
        assert parsed({"signature_name": name, "instances": ["aé"]}).rows == ["aé".encode()]


class TestAnswers:
    ROWS = [
        {"probabilities": np.array([0.25, 0.75], np.float32), "predictions": np.int32(1)},
        {"probabilities": np.array([0.5, 0.5], np.float32), "predictions": np.int32(0)},
    ]

    def test_row_format(self):
        """If the model outputs multiple named tensors, we output a list of objects instead, similar
        to the request in row-format mentioned above."""
        assert contract.answer_predict(self.ROWS, False) == {
            "predictions": [
                {"probabilities": [0.25, 0.75], "predictions": 1},
                {"probabilities": [0.5, 0.5], "predictions": 0},
            ]
        }

    def test_column_format(self):
        """If the model outputs multiple named tensors, we output an object instead. Each key of
        this object corresponds to a named output tensor."""
        assert contract.answer_predict(self.ROWS, True) == {
            "outputs": {"probabilities": [[0.25, 0.75], [0.5, 0.5]], "predictions": [1, 0]}
        }

    def test_one_output(self):
        """If the output of the model contains only one named tensor, we omit the name and
        predictions (outputs) key maps to a list of scalar or list values."""
        rows = [{"predictions": np.float32(value)} for value in (3.5, 4.0, 5.5)]
        assert contract.answer_predict(rows, False) == {"predictions": [3.5, 4.0, 5.5]}
        assert contract.answer_predict(rows, True) == {"outputs": [3.5, 4.0, 5.5]}

    def test_special_tokens(self):
        """The REST API described on this page allows request/response JSON objects to have such
        values: NaN, Infinity, -Infinity."""
        values = [float("nan"), float("inf"), -float("inf")]
        assert contract.to_json(values) == b"[NaN,Infinity,-Infinity]\n"

    def test_status(self):
        """The answer to GET /v1/models/half_plus_three on the page."""
        assert contract.answer_status({123: "AVAILABLE"}) == {
            "model_version_status": [
                {
                    "version": "123",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        }

    def test_metadata_is_a_json_representation_of_the_protobuf(self):
        """If successful, returns a JSON representation of GetModelMetadataResponse protobuf: read
        by protobuf's own parser of JSON, as the SignatureDefs that it has there."""
        settings = Settings(list("abcde"), "classification", 16, True, "head", 0, 1)
        answer = contract.answer_metadata("m", 7, SIGNATURES, settings)
        assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": "7"}
        found = answer["metadata"]["signature_def"]["signature_def"]
        assert set(found) == set(SIGNATURES)
        for name, value in found.items():
            signature = json_format.ParseDict(value, tf.MetaGraphDef.SignatureDefEntry().value)
            assert signature.method_name == "tensorflow/serving/predict"
            assert set(signature.inputs) == set(SIGNATURES[name][0])
        tensor = signature.inputs["examples"]
        assert (tensor.dtype, [d.size for d in tensor.tensor_shape.dim]) == (7, [-1])
        assert [d.size for d in signature.outputs["probabilities"].tensor_shape.dim] == [-1, 5]
        assert signature.outputs["predictions"].dtype == 3


class TestPaths:
    @pytest.mark.parametrize(
        "method, path, expected",
        [
            ("GET", "/v1/models/m", ("m", None, "status")),
            ("GET", "/v1/models/m/versions/12", ("m", 12, "status")),
            ("GET", "/v1/models/m/metadata", ("m", None, "metadata")),
            ("GET", "/v1/models/m/versions/12/metadata", ("m", 12, "metadata")),
            ("POST", "/v1/models/m:predict", ("m", None, "predict")),
            ("POST", "/v1/models/a.b-c/versions/3:predict", ("a.b-c", 3, "predict")),
            ("POST", "/v1/models/m:classify", ("m", None, "classify")),
            ("POST", "/v1/models/m/versions/3:regress", ("m", 3, "regress")),
        ],
    )
    def test_addresses(self, method, path, expected):
        """The lines "URL" of the page."""
        assert contract.parse_path(method, path) == expected

    @pytest.mark.parametrize(
        "method, path",
        [
            ("POST", "/v1/models/m"),
            ("GET", "/v1/models/m:predict"),
            ("DELETE", "/v1/models/m"),
            ("GET", "/v1/models/"),
            ("GET", "/v1/models/m/"),
            ("GET", "/v1/models/m/versions/"),
            ("GET", "/v1/models/m/versions/-1"),
            ("GET", "/v1/models/m/versions/1e3"),
            ("GET", "/v1/models/m/versions/" + "9" * 30),
            ("POST", "/v1/models/m:explain"),
            ("POST", "/v1/models/m:predict/x"),
            ("GET", "/v1/models/m/metadata:predict"),
            ("GET", "/v1/models/m/labels/stable"),
            ("POST", "/v1/models/m/labels/stable:predict"),
            ("GET", "/v1/models/m\n"),
        ],
    )
    def test_other_paths(self, method, path):
        """An incorrect request URL or body returns an HTTP error status."""
        with pytest.raises(Refusal) as refused:
            contract.parse_path(method, path)
        assert refused.value.status == 400
        assert len(str(refused.value).splitlines()) == 1

    def test_a_model_that_is_not_there(self):
        """{ "error": "Servable not found for request: Latest(half)" }, HTTP/1.1 404."""
        refusal = contract.not_found(contract.parse_path("POST", "/v1/models/half:predict"))
        assert refusal.status == 404
        assert str(refusal) == "Servable not found for request: Latest(half)"


class TestTexts:
    def parsed(self, value, texts_per_example=1):
        return contract.parse_texts(json.dumps(value).encode(), texts_per_example, LIMITS)

    def test_texts_and_pairs(self):
        assert self.parsed({"texts": ["a", ""]}) == (["a", ""], 3)
        assert self.parsed({"texts": [["a", "b"]], "top_k": 0}, 2) == ([("a", "b")], 0)
        assert self.parsed({"texts": []}) == ([], 3)
        assert self.parsed({"texts": ["\ud800"]})[0] == ["\ud800"]

    def test_answers(self):
        prediction = Prediction("a", 0.75, {"a": 0.75, "b": 0.25}, (("a", 0.75),))
        expected = {
            "label": "a",
            "confidence": 0.75,
            "top_k": [{"label": "a", "probability": 0.75}],
            "probabilities": {"a": 0.75, "b": 0.25},
        }
        assert contract.answer_texts([prediction]) == {"predictions": [expected]}
        several = Prediction(("a",), None, {"a": 0.75}, ())
        del expected["confidence"]
        (answer,) = contract.answer_texts([several])["predictions"]
        assert answer == {"label": ("a",), "top_k": [], "probabilities": {"a": 0.75}}
        number = Prediction(2.5, None, {}, ())
        assert contract.answer_texts([number]) == {"predictions": [{"score": 2.5}]}


def test_a_doubled_key_among_many_is_found_at_once():
    """Longer than a moment, and no other client is answered meanwhile."""
    names = ['"%d": 0' % number for number in range(25000)]
    body = ("{%s}" % ", ".join([*names, '"a": 0', '"a": 0'])).encode()
    started = time.monotonic()
    with pytest.raises(Refusal, match='"a": is there twice'):
        contract.parse_json(body)
    assert time.monotonic() - started < 2


def test_limits_that_cannot_be_kept():
    Limits().check()
    for wrong in (
        {"largest_batch": 0},
        {"longest_wait_ms": -1.0},
        {"longest_wait_ms": float("nan")},
        {"sender_timeout": 0.0},
        {"answer_timeout": float("inf")},
        {"most_texts": 10, "queue_size": 9},
    ):
        with pytest.raises(ValueError, match="--"):
            Limits(**wrong).check()
