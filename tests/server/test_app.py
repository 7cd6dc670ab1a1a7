"""The routes, in a real server; the answers are compared with TensorFlow and `Predictor`."""

from __future__ import annotations

import base64
import concurrent.futures
import http.client
import json
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from conftest import WORDS
from served import WAITING_PROGRAM, wait_for, write_export

from bert_classifier.export import bundle
from bert_classifier.server import app
from bert_classifier.server.models import Version
from bert_classifier.serving.predictor import Predictor

TEXTS = ["the film was good .", "bad", "", "the phone was really not nice", " ".join(WORDS)]
PREDICT = "/v1/models/film:predict"


@pytest.fixture(scope="module")
def expected(served_export):
    with Predictor(served_export) as predictor:
        yield predictor.predict(TEXTS)


@pytest.fixture(scope="module")
def outputs(served_export):
    """What TensorFlow itself answers to the tokens of some rows."""
    random = np.random.RandomState(0)
    feeds = {
        "input_ids": random.randint(5, 20, [4, 9]).astype(np.int32),
        "input_mask": np.ones([4, 9], np.int32),
        "segment_ids": random.randint(0, 2, [4, 9]).astype(np.int32),
    }
    with tf.Graph().as_default(), tf.Session() as session:
        loaded = tf.saved_model.load(session, ["serve"], served_export)
        signature = loaded.signature_def["serving_default"]
        inputs = {signature.inputs[name].name: value for name, value in feeds.items()}
        names = {name: info.name for name, info in signature.outputs.items()}
        return feeds, session.run(names, inputs)


def rows(feeds):
    return [
        {name: value[row].tolist() for name, value in feeds.items()}
        for row in range(len(feeds["input_ids"]))
    ]


def test_texts(server, expected):
    status, answer = server.request("POST", "/v1/texts", {"texts": TEXTS, "top_k": 2})
    assert status == 200
    for found, prediction in zip(answer["predictions"], expected):
        assert found["label"] == prediction.label
        assert found["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-5)
        assert found["confidence"] == max(found["probabilities"].values())
        assert [best["label"] for best in found["top_k"]] == [
            label for label, _ in prediction.top_k[:2]
        ]
    assert len({round(p.confidence, 3) for p in expected}) > 3


def test_row_format(server, outputs):
    """POST :predict with instances, as in the page's "Specifying input tensors in row format"."""
    feeds, of_tensorflow = outputs
    status, answer = server.request("POST", PREDICT, {"instances": rows(feeds)})
    assert status == 200 and list(answer) == ["predictions"]
    for name, value in of_tensorflow.items():
        found = [row[name] for row in answer["predictions"]]
        np.testing.assert_allclose(found, value, atol=1e-5)


@pytest.mark.parametrize("path", [PREDICT, "/v1/models/film/versions/%d:predict"])
def test_column_format(server, served_export, outputs, path):
    """The same in column format; the version is optional."""
    feeds, of_tensorflow = outputs
    value = {"inputs": {name: column.tolist() for name, column in feeds.items()}}
    path = path.replace("%d", os.path.basename(served_export))
    status, answer = server.request("POST", path, value)
    assert status == 200 and list(answer) == ["outputs"]
    for name, found in answer["outputs"].items():
        np.testing.assert_allclose(found, of_tensorflow[name], atol=1e-5)


def test_serialized_examples(server, outputs):
    """A signature that reads tf.Example takes them as b64."""
    feeds, of_tensorflow = outputs
    instances = []
    for row in rows(feeds):
        features = {
            name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
            for name, values in row.items()
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        instances.append({"b64": base64.b64encode(example.SerializeToString()).decode()})
    value = {"signature_name": "examples:serving_default", "instances": instances}
    status, answer = server.request("POST", PREDICT, value)
    assert status == 200, answer
    found = [row["probabilities"] for row in answer["predictions"]]
    np.testing.assert_allclose(found, of_tensorflow["probabilities"], atol=1e-5)


def test_a_client_that_is_gone_leaves_the_queue_with_its_examples(start, served_export):
    """While each core computes something else."""
    server = start(served_export, "--largest_batch=1", program=WAITING_PROGRAM)

    def ask(path, value):
        client = http.client.HTTPConnection(server.host, server.port, timeout=60)
        client.request("POST", path, json.dumps(value))
        return client

    def has(line):
        return line in server.raw_request("GET", "/metrics")[2].decode().splitlines()

    number = len(os.sched_getaffinity(0))
    waiting = ask("/v1/texts", {"texts": ["wait 2"] * number})
    wait_for(lambda: has("bert_batch_size_sum %d.0" % number))
    instances = [{"b64": ""}] * 10
    gone = ask(
        "/v1/models/default:predict",
        {"signature_name": "examples:serving_default", "instances": instances},
    )
    wait_for(lambda: has("bert_queue_length 10.0"))
    gone.close()
    wait_for(lambda: has('bert_requests_total{route="models",status="499"} 1.0'))
    assert waiting.getresponse().status == 200
    waiting.close()


def test_the_sample_request_of_the_export(server, served_export):
    with open(os.path.join(served_export, bundle.ASSETS, bundle.SAMPLE_REQUEST), "rb") as stream:
        status, answer = server.request("POST", PREDICT, stream.read())
    assert status == 200 and len(answer["predictions"]) == 1


def test_curl_sends_json_as_a_form(server):
    """curl -d '{"instances": ...}' -X POST, as on the page: its content type is that of a form."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, _ = server.request("POST", "/v1/texts", {"texts": ["good"]}, headers)
    assert status == 200


def test_status(server, served_export):
    """If omitted status for all versions is returned in the response."""
    number = os.path.basename(served_export)
    paths = ["/v1/models/film", "/v1/models/film/versions/" + number]
    for path in paths:
        status, answer = server.request("GET", path)
        (version,) = answer["model_version_status"]
        assert (status, version["version"], version["state"]) == (200, number, "AVAILABLE")
    assert server.request("GET", paths[1] + "7")[0] == 404


def test_metadata_has_the_signatures_of_the_saved_model(server, served_export):
    status, answer = server.request("GET", "/v1/models/film/metadata")
    assert status == 200
    assert_signatures_are_those_of(served_export, answer)


@pytest.mark.parametrize("problem_type", ["multi_label", "regression"])
def test_metadata_of_other_problem_types(tmp_path, tiny_bert, problem_type):
    export = write_export(tmp_path, tiny_bert, problem_type=problem_type)
    with Predictor(export) as predictor:
        assert_signatures_are_those_of(export, app._metadata("film", Version(1, predictor)))


def assert_signatures_are_those_of(export, answer):
    with tf.Graph().as_default(), tf.Session() as session:
        signatures = tf.saved_model.load(session, ["serve"], export).signature_def
    found = answer["metadata"]["signature_def"]["signature_def"]
    assert set(found) == set(signatures)
    for name, signature in signatures.items():
        for side in ("inputs", "outputs"):
            expected = {
                key: (
                    info.name,
                    tf.DType(info.dtype).name,
                    [dim.size for dim in info.tensor_shape.dim],
                )
                for key, info in getattr(signature, side).items()
            }
            assert expected == {
                key: (
                    tensor["name"],
                    {"DT_INT32": "int32", "DT_FLOAT": "float32", "DT_STRING": "string"}[
                        tensor["dtype"]
                    ],
                    [int(dim["size"]) for dim in tensor["tensor_shape"]["dim"]],
                )
                for key, tensor in found[name][side].items()
            }


@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_other_methods_are_refused_as_in_tensorflow_serving(server, verb):
    """Our signatures are for :predict."""
    status, answer = server.request("POST", "/v1/models/film:" + verb, {"examples": [{}]})
    assert status == 400 and "tensorflow/serving/" + verb in answer["error"]


def test_many_clients_get_their_own_answers(server, expected):
    """Batches across requests, of texts and of tokens, mix up nothing."""

    def ask(number):
        order = [(number + i) % len(TEXTS) for i in range(1 + number % 3)]
        status, answer = server.request("POST", "/v1/texts", {"texts": [TEXTS[i] for i in order]})
        assert status == 200, answer
        for index, found in zip(order, answer["predictions"]):
            wanted = expected[index].probabilities
            assert found["probabilities"] == pytest.approx(wanted, abs=1e-5)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(100)))


def test_a_full_queue_answers_429(server):
    """40 texts each, and 200 may wait."""

    def ask(number):
        texts = [" ".join(WORDS)] * 40
        return server.raw_request("POST", "/v1/texts", {"texts": texts})

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(200)))
    statuses = {status for status, _, _ in answers}
    assert statuses == {200, 429}
    busy = next(answer for answer in answers if answer[0] == 429)
    assert busy[1]["Retry-After"] == "1" and "busy" in json.loads(busy[2].decode())["error"]
    assert server.request("POST", "/v1/texts", {"texts": ["good"]})[0] == 200


def test_metrics(server):
    def values():
        status, headers, body = server.raw_request("GET", "/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain")
        lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    before = values()
    for _ in range(3):
        server.request("POST", "/v1/texts", {"texts": ["good", "bad"]})
    server.request("POST", "/v1/texts", b"{")
    after = values()

    def grown(name):
        return after.get(name, 0) - before.get(name, 0)

    assert grown('bert_requests_total{route="texts",status="200"}') == 3
    assert grown('bert_requests_total{route="texts",status="400"}') == 1
    assert grown('bert_request_seconds_count{route="texts"}') == 4
    assert grown("bert_batch_size_sum") == 6
    assert after["bert_queue_length"] == 0
    assert after["bert_version"] > 0
    assert after["process_resident_memory_bytes"] > 1e6


def test_the_page_takes_nothing_from_elsewhere(server):
    status, headers, body = server.raw_request("GET", "/", headers={"Authorization": ""})
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert b"http://" not in body and b"https://" not in body and b"<em>film</em>" in body


class TestAccess:
    @pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
    def test_what_is_open(self, server, path):
        assert server.raw_request("GET", path, headers={"Authorization": ""})[0] == 200

    @pytest.mark.parametrize(
        "method, path",
        [
            ("POST", "/v1/texts"),
            ("POST", PREDICT),
            ("GET", "/v1/models/film"),
            ("GET", "/v1/models/other"),
            ("GET", "/metrics"),
        ],
    )
    @pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic s3cret", "s3cret"])
    def test_what_wants_the_token(self, server, method, path, header):
        status, headers, _ = server.raw_request(
            method, path, {"texts": ["good"]}, {"Authorization": header}
        )
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")

    def test_pages_of_other_origins(self, server):
        """Only the one that was named may read answers."""
        for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.c", None)):
            _, headers, _ = server.raw_request("GET", "/readyz", headers={"Origin": origin})
            assert headers["Access-Control-Allow-Origin"] == allowed
        preflight = {
            "Origin": "https://a.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
            "Authorization": "",
        }
        assert server.raw_request("OPTIONS", "/v1/texts", headers=preflight)[0] == 200
        preflight["Origin"] = "https://b.c"
        assert server.raw_request("OPTIONS", "/v1/texts", headers=preflight)[0] == 400
