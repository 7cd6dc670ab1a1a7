"""The client of examples/, in a process of its own and against servers that are busy or end."""

from __future__ import annotations

import concurrent.futures
import http.server
import importlib.util
import os
import signal
import subprocess
import sys
import threading

import pytest
from program import ROOT
from served import TOKEN

from bert_classifier.serving.predictor import Predictor

PATH = os.path.join(ROOT, "examples", "client.py")


@pytest.fixture
def client(monkeypatch):
    """The module, with so many turns that a slow machine is no error."""
    spec = importlib.util.spec_from_file_location("client", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_TURNS", 100)
    return module


def run(*arguments):
    return subprocess.run([sys.executable, PATH, *arguments], capture_output=True, text=True)


def address(server):
    return "http://%s:%d" % (server.host, server.port)


def test_the_command_prints_a_line_for_each_text(server, served_export):
    texts = ["the film was good .", "the phone was really not nice", "café"]
    with Predictor(served_export) as predictor:
        expected = predictor.predict(texts)
    ended = run("--url", address(server), "--token", TOKEN, *texts)
    assert (ended.returncode, ended.stderr) == (0, "")
    for line, text, prediction in zip(ended.stdout.splitlines(), texts, expected):
        label, confidence, shown = line.split("\t")
        assert (label, shown) == (prediction.label, text)
        assert float(confidence) == pytest.approx(prediction.confidence, abs=1e-4)


def test_what_the_server_refuses_is_told_in_one_line(server):
    refused = {
        "401: send the header Authorization": ["--token=wrong", "good"],
        "400: texts[0]: the model reads a string": ["--token", TOKEN, "--pairs", "good", "bad"],
    }
    for message, arguments in refused.items():
        ended = run("--url", address(server), *arguments)
        (line,) = ended.stderr.splitlines()
        assert ended.returncode == 2 and line.startswith(address(server)) and message in line
    assert "give an even number of texts" in run("--pairs", "good").stderr


@pytest.mark.parametrize(
    "url",
    ["localhost:18699", "localhost", "", "http://", "http://localhost:x", "http://localhost:99999",
     "http://[::1", "http://a..b", "http://a b", "http://%s" % ("x" * 64), "ftp://localhost",
     "http://me:secret@localhost", "http://localhost/?x=1", "http://localhost/\udcff"],
)  # fmt: skip
def test_a_url_that_is_none_is_told_in_one_line(url):
    """`localhost:18699` has the scheme `localhost`, and was taken for localhost:80."""
    ended = run("--url=" + url, "good")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "is no URL of a server; give one as http://localhost:8501" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("token", ["a\nb", "a\n", "é"])
def test_a_token_that_is_none_is_told_in_one_line(token):
    ended = run("--token=" + token, "good")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "the token is not one line of ASCII" in ended.stderr


def test_a_url_may_have_other_letters(client):
    asking = client.Client("http://[::1]/película/")
    assert (asking._connection.host, asking._connection.port) == ("::1", 80)
    assert asking._path == "/pel%C3%ADcula/v1/texts"


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"x": 1}', b"[" * 100000])
def test_another_server_is_told(client, monkeypatch, content):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.handle_request)
        thread.start()
        with pytest.raises(client.ServerError, match="^200: b'"):
            client.Client("http://127.0.0.1:%d" % other.server_port).classify(["good"])
        thread.join()


def test_a_text_may_have_any_bytes(server, served_export):
    ended = run("--url", address(server), "--token", TOKEN, "good \udcff")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("\tgood \\udcff\n")


def test_a_server_that_is_killed_and_started_again_loses_no_request(client, start, onnx_export):
    server = start(onnx_export)
    asking = client.Client(address(server))
    before = asking.classify(["good"])
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        again = pool.submit(asking.classify, ["good"])
        start(onnx_export, "--port", str(server.port))
        assert again.result(120) == before
    asking.close()


def test_a_busy_server_is_asked_again(client, start, onnx_export):
    """Two texts may wait, and wait for half a second: most clients are answered 429 at first."""
    server = start(onnx_export, "--queue_size=2", "--most_texts=2", "--longest_wait_ms=500")
    clients = [client.Client(address(server)) for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: one.classify(["good", "bad"]), clients))
    assert [len(answer) for answer in answers] == [2] * 4
    assert b'route="texts",status="429"' in server.raw_request("GET", "/metrics")[2]


def test_no_server(client, monkeypatch):
    monkeypatch.setattr(client, "_TURNS", 2)
    with pytest.raises(client.ServerError, match="refused"):
        client.Client("http://127.0.0.1:1").classify(["good"])
