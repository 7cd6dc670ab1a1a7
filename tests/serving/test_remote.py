"""A model in a TensorFlow Serving elsewhere: a process that answers as its REST API documents."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from program import ROOT, parsed

import run_classifier_gpu
from bert_classifier import Predictor, predict
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle, writer
from bert_classifier.serving import remote
from bert_classifier.serving.remote import RemoteModel, ServerFailed

# The form of requests and answers is that of
# https://www.tensorflow.org/tfx/serving/api_rest#predict_api: columns in, columns out, a single
# output without its name, errors as {"error": ...}. The model is computed by TensorFlow.
OUTPUTS = {
    "two_columns": {"probabilities": [[0.5, 0.5]] * 2},
    "nine_columns": {"probabilities": [[0.1] * 9] * 2},
    "flat": {"probabilities": [0.5, 0.5]},
    "deeper": {"probabilities": [[[0.2, 0.3, 0.5]]] * 2},
    "null": {"probabilities": [[0.5, 0.5, None]] * 2},
    "infinite": {"probabilities": [[0.5, 0.5, float("inf")]] * 2},
    "nothing": {"probabilities": None},
    "only_predictions": {"predictions": [1, 1]},
    "unnamed": [0.5, 0.5],
    "unnamed_matrix": [[0.5, 0.5, 0.5]] * 2,
    "no_outputs": {},
}
SERVER = """
import http.server, json, sys, time
import numpy as np
from bert_classifier.export import bundle

model = bundle.open_bundle(sys.argv[1]).model
OUTPUTS = json.loads(sys.argv[2])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])).decode())
        kind = self.path.split("/")[3].partition(":")[0]
        status, answer = 200, None
        if self.path != "/v1/models/%s:predict" % kind:
            status, answer = 404, {"error": "Malformed request: POST " + self.path}
        elif kind == "mine":
            columns = {k: np.array(v, np.int32) for k, v in request["inputs"].items()}
            outputs = model.run(columns, request["signature_name"])
            answer = {"outputs": {k: v.tolist() for k, v in outputs.items()}}
        elif kind == "number":
            answer = {"outputs": [0.5] * len(request["inputs"]["input_ids"])}
        elif kind == "unknown":
            status, answer = 404, {"error": "Servable not found for request: Latest(unknown)"}
        elif kind == "short":
            answer = {"outputs": {"probabilities": [[0.5, 0.5]]}}
        elif kind in OUTPUTS:
            answer = {"outputs": OUTPUTS[kind]}
        elif kind == "words":
            answer = {"outputs": {"probabilities": [["high", "low"]]}}
        elif kind == "list":
            answer = [1]
        elif kind == "slow":
            time.sleep(60)
        elif kind == "closed":
            self.close_connection = True
            return
        body = b"<html>\\nno JSON" if kind == "html" else json.dumps(answer).encode()
        if kind == "deep":
            body = b"[" * 100000
        self.send_response(502 if kind == "html" else status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def export(small_run, tmp_path_factory):
    folder = small_run.copy(tmp_path_factory.mktemp("remote") / "run")
    arguments = ["--do_export", "--do_frozen", "--output_dir=" + folder]
    run_classifier_gpu.run_classifier(parsed(*small_run.arguments, *arguments))
    return writer.list_exports(os.path.join(folder, "export", "saved_model"))[-1]


@pytest.fixture(scope="module")
def server(export):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, export, json.dumps(OUTPUTS)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield "http://127.0.0.1:%d/v1/models/" % int(process.stdout.readline())
    process.kill()
    process.wait()


TEXTS = ["good", "the film was bad .", "good " * 40, ""]


def test_the_answers_are_those_of_the_export(export, server):
    with Predictor(export) as local, Predictor(export, server=server + "mine") as remote:
        expected, found = local.predict(TEXTS * 9), remote.predict(TEXTS * 9)
        assert remote.evaluation == local.evaluation
    assert [answer.label for answer in found] == [answer.label for answer in expected]
    for one, other in zip(expected, found):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_a_frozen_graph_has_what_the_tokens_need(export, server):
    frozen = os.path.join(export, "..", "..", "..", "frozen_model.pb")
    with Predictor(frozen, server=server + "mine/") as remote, Predictor(export) as local:
        assert remote.predict(["good"])[0].label == local.predict(["good"])[0].label


def test_the_model_need_not_be_there(export, server, tmp_path):
    assets = tmp_path / "export" / "assets.extra"
    assets.mkdir(parents=True)
    (tmp_path / "export" / "saved_model.pb").write_bytes(b"")
    for name in os.listdir(os.path.join(export, "assets.extra")):
        with open(os.path.join(export, "assets.extra", name), "rb") as stream:
            (assets / name).write_bytes(stream.read())
    with Predictor(str(tmp_path / "export"), server=server + "mine") as remote:
        assert remote.predict(["good"])[0].label


def test_the_command_asks_a_server(export, server, capsys):
    assert predict.main([export, "good", "--server=" + server + "mine"]) == 0
    asked = capsys.readouterr().out
    assert predict.main([export, "good"]) == 0
    assert asked == capsys.readouterr().out
    assert predict.main([export, "good", "--server=" + server + "unknown"]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "Servable not found" in err


def inputs(num_rows=2):
    return {
        name: np.ones([num_rows, 3], np.int32)
        for name in ("input_ids", "input_mask", "segment_ids")
    }


def settings(labels, problem_type="classification"):
    return bundle.Settings(labels, problem_type, 16, True, "head", 0, 1)


CLASSES = settings(["a", "b", "c"])
REGRESSION = settings(["score"], "regression")


def test_a_single_output_has_no_name(server):
    """That of a regression; documented as: the value itself, where there is one named tensor."""
    found = RemoteModel(server + "number", 5, REGRESSION).run(inputs())["predictions"]
    np.testing.assert_array_equal(found, np.array([0.5, 0.5], np.float32))


@pytest.mark.parametrize("name", OUTPUTS)
def test_another_model_is_told(server, name):
    """One that answers in the form of this one would give wrong labels, or a traceback."""
    with pytest.raises(ServerFailed, match="does not answer like the model of this export"):
        RemoteModel(server + name, 5, CLASSES).run(inputs())


@pytest.mark.parametrize("name", ["two_columns", "unnamed_matrix", "null", "no_outputs"])
def test_a_classification_is_no_regression(server, name):
    with pytest.raises(ServerFailed, match="does not answer like the model of this export"):
        RemoteModel(server + name, 5, REGRESSION).run(inputs())


@pytest.mark.parametrize(
    "name, timeout, message",
    [
        ("unknown", 5, "answers with status 404 (Servable not found for request: Latest(unknown))"),
        ("html", 5, "answers with status 502 (no JSON)"),
        ("list", 5, "answers with status 200 (no JSON)"),
        ("deep", 5, "answers with status 200 (no JSON)"),
        ("short", 5, "does not answer like the model of this export"),
        ("words", 5, "answers with no numbers"),
        ("closed", 5, "gives no answer ("),
        ("slow", 0.2, "gives no answer (timed out)"),
        ("mine/versions", 5, "answers with status 404 (Malformed request: POST /v1/models/mine/"),
    ],
)
def test_a_server_that_fails_is_told_in_one_line(server, name, timeout, message):
    with pytest.raises(ServerFailed) as caught:
        RemoteModel(server + name, timeout, CLASSES).run(inputs())
    told = str(caught.value)
    assert told.startswith("server=%s: %s" % (server + name, message))
    assert "\n" not in told and told.endswith("; check the address and the server")


@pytest.mark.parametrize("timeout", [1e-300, remote._LONGEST_TIMEOUT])
def test_a_server_that_is_not_there_is_told(timeout):
    with socket.socket() as taken:  # Bound, and not listening.
        taken.bind(("127.0.0.1", 0))
        address = "http://127.0.0.1:%d/v1/models/m" % taken.getsockname()[1]
        with pytest.raises(ServerFailed, match="gives no answer "):
            RemoteModel(address, timeout, CLASSES).run(inputs())


@pytest.mark.parametrize(
    "address",
    ["", "localhost:8501/v1/models/m", "ftp://host/v1/models/m", "http://", "http:///v1/models/m",
     "http://host", "http://host/", "http://host:many/m", "http://host/v1/models/m?x=1",
     "http://[::1/v1/models/m", "http://host:99999/m", "http://a..b/m", "http://a b/m",
     "http://%s/m" % ("x" * 64), "http://host\0/m", "http://host/m\n", "http://host/\udcff"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_at_once(export, address):
    with pytest.raises(BadInput, match="is no address of a model; give one as http://") as caught:
        Predictor(export, server=address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://me:s3cret@host/m", "me:s3cret@host/m", "http://me@h/m"]
)
def test_a_user_in_an_address_is_refused_and_a_password_not_told(export, address):
    with pytest.raises(BadInput, match="server: its address has a user") as caught:
        Predictor(export, server=address)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "address, host, port, path",
    [
        ("http://host/v1/models/película/", "host", 80, "/v1/models/pel%C3%ADcula"),
        ("http://host/v1/models/a%20b @;c:1", "host", 80, "/v1/models/a%20b%20@;c:1"),
        ("https://münchen.de/m", "xn--mnchen-3ya.de", 443, "/m"),
        ("http://[::1]/m", "::1", 80, "/m"),
        ("http://[::1]:85/m", "::1", 85, "/m"),
    ],
)
def test_an_address_may_have_other_letters(address, host, port, path):
    connection, found = remote._parse(address)
    assert (connection().host, connection().port, found) == (host, port, path)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e10])
def test_a_time_that_is_none_is_refused(export, timeout):
    with pytest.raises(BadInput, match="give a number of seconds above 0"):
        Predictor(export, server="http://host/v1/models/m", timeout=timeout)


def test_the_server_answers_as_documented_to_others_too(server, export):
    """The sample request of the export is in rows, and this server reads columns only."""
    with open(os.path.join(export, "assets.extra", "sample_request.json")) as stream:
        (instance,) = json.load(stream)["instances"]
    body = {"signature_name": "serving_default", "inputs": {k: [v] for k, v in instance.items()}}
    request = urllib.request.Request(server + "mine:predict", json.dumps(body).encode())
    answer = json.loads(urllib.request.urlopen(request).read().decode())
    assert sum(answer["outputs"]["probabilities"][0]) == pytest.approx(1.0, abs=1e-5)
