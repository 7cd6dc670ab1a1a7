"""Rare but right requests, and what happens to a server from outside; it serves an ONNX model."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import time

import pytest
from served import LABELS, PROGRAM, WAITING_PROGRAM, Server, wait_for, write_export

from bert_classifier.server import contract
from bert_classifier.server.limits import Limits
from bert_classifier.server.models import Version
from bert_classifier.serving.predictor import Predictor

TEXTS = "/v1/texts"


@contextlib.contextmanager
def inherited(number, handler):
    """Starts processes that ignore a signal, or do not, whatever this one was started with."""
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


def request_bytes(value, path=TEXTS, head=""):
    body = json.dumps(value).encode()
    lines = "POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (path, head, len(body))
    return lines.encode() + body


def read_answer(connection):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.headers, response.read()


def test_an_onnx_model_answers_as_its_saved_model(start, onnx_export, served_export):
    texts = ["the film was good .", "bad", "", "the phone was really not nice"]
    with Predictor(served_export) as predictor:
        expected = [p.probabilities for p in predictor.predict(texts)]
    with inherited(signal.SIGINT, signal.SIG_DFL):
        server = start(onnx_export, "--name=película")
    status, answer = server.request("POST", TEXTS, {"texts": texts})
    assert status == 200
    for found, wanted in zip(answer["predictions"], expected):
        assert found["probabilities"] == pytest.approx(wanted, abs=1e-5)

    # The name is in the path as UTF-8; a % before ? makes it a part of the path, not of the query.
    assert server.request("GET", "/v1/models/pel%C3%ADcula/metadata?x=1")[0] == 200
    assert server.request("GET", "/v1/models/pel%C3%ADcula%3Fx")[0] == 404

    # A line for each of what follows: what HTTP allows, and clients of people do.
    with server.connect() as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        response = http.client.HTTPResponse(connection, method="HEAD")
        response.begin()
        assert response.status == 200 and int(response.headers["Content-Length"]) > 1000
        connection.sendall(b"OPTIONS /v1/texts HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, _ = read_answer(connection)
        assert (status, headers["Allow"]) == (405, "POST")
        chunks = b'9\r\n{"texts":\r\n9;x=y\r\n["good"]}\r\n0\r\n\r\n'
        head = b"POST /v1/texts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        for part in (head, chunks[:7], chunks[7:]):
            connection.sendall(part)
        assert read_answer(connection)[0] == 200
        data = request_bytes({"texts": ["good"]}, head="Expect: 100-continue\r\n")
        connection.sendall(data[: data.index(b"{")])
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(data[data.index(b"{") :])
        assert read_answer(connection)[0] == 200
        # A client of HTTP/1.0 gets an answer, and the end of the connection.
        connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert read_answer(connection)[0] == 200
        assert connection.recv(1) == b""

    # A client that goes away takes what it has asked with it.
    for _ in range(20):
        with server.connect() as connection:
            connection.sendall(request_bytes({"texts": ["the film was good ."] * 1000}))
    wait_for(lambda: b'status="499"' in server.raw_request("GET", "/metrics")[2])
    wait_for(lambda: b"bert_queue_length 0.0" in server.raw_request("GET", "/metrics")[2])
    assert server.end(signal.SIGINT) == 0


@pytest.mark.parametrize(
    "text",
    [
        "   ",
        "\u3000\u00a0\t\r\n",
        "\0\x1b\x7f",
        "\ud800",
        "\U0001f600 caf\u00e9 \u4e2d\u6587 \u0645\u0631\u062d\u0628\u0627",
        "\u0301" * 300,
        "good " * 199,
        "x" * 1000,
    ],
)
def test_texts_that_people_send(server, text):
    status, answer = server.request("POST", TEXTS, {"texts": ["good", text]})
    assert status == 200
    assert sum(answer["predictions"][1]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    # In the company of another one it has the answer that it has alone.
    alone = server.request("POST", TEXTS, {"texts": [text]})[1]["predictions"][0]
    wanted = alone["probabilities"]
    assert answer["predictions"][1]["probabilities"] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("top_k, expected", [(0, 0), (1, 1), (3, 3), (1_000_000, len(LABELS))])
def test_top_k(server, top_k, expected):
    status, answer = server.request("POST", TEXTS, {"texts": ["good"], "top_k": top_k})
    (prediction,) = answer["predictions"]
    assert status == 200 and len(prediction["top_k"]) == expected
    best = sorted(prediction["probabilities"].values(), reverse=True)
    assert [entry["probability"] for entry in prediction["top_k"]] == best[:expected]


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem_type, texts_per_example, keys",
    [
        ("regression", 1, {"score"}),
        ("multi_label", 1, {"label", "top_k", "probabilities"}),
        ("classification", 2, {"label", "confidence", "top_k", "probabilities"}),
    ],
)
def test_other_problem_types(tmp_path, tiny_bert, problem_type, texts_per_example, keys):
    export = write_export(tmp_path, tiny_bert, texts_per_example, problem_type)
    texts = ["good", "bad"] if texts_per_example == 1 else [["good", "bad"], ["bad", ""]]
    body = json.dumps({"texts": texts}).encode()
    with Predictor(export) as predictor:
        parsed, top_k = contract.parse_texts(body, texts_per_example, Limits())
        answers = Version(1, predictor).answer_texts([(text, top_k) for text in parsed])
        found = json.loads(contract.to_json(contract.answer_texts(answers)).decode())
        expected = predictor.predict(list(map(tuple, texts)) if texts_per_example == 2 else texts)
    for answer, prediction in zip(found["predictions"], expected):
        assert set(answer) == keys
        if problem_type == "regression":
            assert answer["score"] == pytest.approx(prediction.label)
        else:
            assert answer["probabilities"] == pytest.approx(prediction.probabilities)
            assert json.dumps(answer["label"]) == json.dumps(prediction.label)


def test_a_client_that_does_not_read_is_cut_off(start, onnx_export):
    """Its answers fill the buffers of the system, and then those of the server."""
    server = start(onnx_export, "--answer_timeout=1", "--sender_timeout=1")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((server.host, server.port))
        connection.settimeout(5)
        # The page has more than 10 kB.
        with contextlib.suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5000)
        # A close would wait until all is read.
        wait_for(lambda: is_reset(connection))
    assert server.request("POST", TEXTS, {"texts": ["good"]})[0] == 200
    assert server.end() == 0


def is_reset(connection):
    """Tells whether the other side has reset a connection: TCP_CLOSE in Linux's tcp_info."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
    return struct.unpack("B", info[:1])[0] == 7


def test_ipv6_and_a_hang_up(start, onnx_export):
    if not has_ipv6():
        pytest.skip("there is no IPv6")
    with inherited(signal.SIGHUP, signal.SIG_DFL):
        server = start(onnx_export, "--host=::1")
    assert server.host == "::1"
    assert server.request("POST", TEXTS, {"texts": ["good"]})[0] == 200
    assert server.end(signal.SIGHUP) == 0  # As when its terminal is closed.


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_nohup_keeps_it(start, onnx_export):
    with inherited(signal.SIGHUP, signal.SIG_IGN):
        server = start(onnx_export)
    server.process.send_signal(signal.SIGHUP)
    time.sleep(1.5)
    assert server.request("POST", TEXTS, {"texts": ["good"]})[0] == 200
    assert server.end() == 0


def test_a_second_signal_ends_it_at_once(start, onnx_export):
    """Though the model computes."""
    server = start(onnx_export, program=WAITING_PROGRAM)
    with server.connect() as connection:
        connection.sendall(request_bytes({"texts": ["wait 300"]}))
        wait_for(lambda: b"bert_batch_size_sum 1.0" in server.raw_request("GET", "/metrics")[2])
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "and ends" in server.log())
        assert server.end(signal.SIGTERM) == 1
        assert connection.recv(100) == b""
    assert server.log().count("\n") == 4  # The version, the address, and a line for each signal.


def test_it_does_not_wait_for_a_batch_that_nobody_waits_for(start, onnx_export):
    server = start(onnx_export, "--answer_timeout=1", program=WAITING_PROGRAM)
    assert server.request("POST", TEXTS, {"texts": ["wait 300"]})[0] == 504
    assert server.end(signal.SIGTERM) == 0


def test_who_connects_early_waits_for_the_model(tmp_path, onnx_export):
    """The port is taken before the model is loaded: a second server ends at once, in one line."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first = Server(tmp_path, onnx_export, "--port", str(port))
    wait_for(lambda: can_connect(port))
    second = Server(tmp_path, onnx_export, "--port", str(port))
    assert second.process.wait(60) == 2
    (line,) = second.log().splitlines()
    assert "Address already in use; give another" in line
    first.wait_until_ready()
    assert first.request("POST", TEXTS, {"texts": ["good"]})[0] == 200
    assert first.end() == 0


def can_connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def with_open_files(which, number):
    return ("sh", "-c", 'ulimit -%sn %d; exec "$@"' % (which, number), "sh", *PROGRAM)


def test_too_many_connections(start, onnx_export):
    """The server raises the limit of the system that it is started with."""
    server = start(onnx_export, "--most_connections=100", program=with_open_files("S", 64))
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(100)]
        connections[0].sendall(request_bytes({"texts": ["good"]}))
        assert read_answer(connections[0])[0] == 200
        refused = stack.enter_context(server.connect())
        assert read_answer(refused)[0] == 503
        for _ in range(600):
            stack.enter_context(server.connect())
        connections[0].sendall(request_bytes({"texts": ["good"]}))
        assert read_answer(connections[0])[0] == 200
    wait_for(lambda: is_alive(server))
    assert server.end() == 0
    assert server.log().count("\n") == 3


def is_alive(server):
    try:
        return server.raw_request("GET", "/healthz")[0] == 200
    except OSError:
        return False


def test_more_connections_than_the_system_allows(tmp_path):
    server = Server(tmp_path, "x", program=with_open_files("", 1024))
    assert server.process.wait(60) == 2
    (line,) = server.log().splitlines()
    assert "--most_connections=1000: needs 2400 open files, and the system allows 1024" in line


def test_a_folder_that_vanishes(tmp_path, onnx_export, start):
    """What is loaded goes on; what comes back is loaded again."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copytree(onnx_export, str(folder / "7"))
    server = start(folder)
    shutil.rmtree(str(folder))
    time.sleep(0.5)
    assert server.request("POST", TEXTS, {"texts": ["good"]})[0] == 200
    assert server.request("GET", "/readyz")[1]["version"] == "7"
    folder.mkdir()
    shutil.copytree(onnx_export, str(tmp_path / "new"))
    os.rename(str(tmp_path / "new"), str(folder / "8"))
    wait_for(lambda: server.request("GET", "/readyz")[1]["version"] == "8")
    assert server.end() == 0
