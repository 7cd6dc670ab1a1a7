"""The command: versions that come and go, signals, and what it refuses to start with."""

from __future__ import annotations

import collections
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
from program import ROOT
from served import LABELS, add_version, wait_for

from bert_classifier import serve
from bert_classifier.errors import BadInput
from bert_classifier.server import models


class Clients:
    """Threads that ask without end, each on a connection that it keeps."""

    def __init__(self, server, number):
        self.answers = collections.Counter()
        self.errors = []
        self._server = server
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def _ask(self):
        connection = None
        while not self._is_over.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(
                        "127.0.0.1", self._server.port, timeout=60
                    )
                    connection.connect()
            except OSError:
                return  # The server has ended, and nothing has been asked.
            try:
                connection.request("POST", "/v1/texts", json.dumps({"texts": ["good", "bad"]}))
                response = connection.getresponse()
                answer = json.loads(response.read().decode())
                assert response.status == 200 and len(answer["predictions"]) == 2, answer
                label = answer["predictions"][0]["label"]
                with self._lock:
                    self.answers[label.split("-")[-1]] += 1
                if response.headers["Connection"] == "close":
                    connection = None
            except Exception as error:
                return self._tell(error)

    def _tell(self, error):
        with self._lock:
            self.errors.append(error)

    def stop(self):
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def answering(server):
    return int(server.request("GET", "/readyz")[1]["version"])


def reload_under_load(server, export, folder, numbers):
    """Adds versions, one after the other, while clients ask; returns the clients."""
    clients = Clients(server, 8)
    for number in numbers:
        add_version(export, folder, number)
        wait_for(lambda number=number: answering(server) == number)
        wait_for(lambda number=number: clients.answers[str(number)] > 5)
    clients.stop()
    return clients


def damage(path):
    variables = os.path.join(path, "variables", "variables.data-00000-of-00001")
    with open(variables, "r+b") as stream:
        stream.seek(1000)
        stream.write(b"\0\1\2\3" * 10)


def test_a_server_from_its_first_version_to_its_end(tmp_path, served_export, start):
    """New versions, a damaged one, a kill, a restart and an end, with clients all the time."""
    folder = tmp_path / "versions"
    folder.mkdir()
    add_version(served_export, folder, 1)
    server = start(folder)

    # Two newer ones under load.
    clients = reload_under_load(server, served_export, folder, [2, 3])
    assert clients.errors == [] and {"2", "3"} <= set(clients.answers)

    # A damaged one is refused once, and what was there answers.
    path = add_version(served_export, folder, 4)
    damage(path)
    wait_for(lambda: "Not loaded" in server.log())
    clients = Clients(server, 4)
    wait_for(lambda: clients.answers["3"] > 50)
    clients.stop()
    assert clients.errors == [] and set(clients.answers) == {"3"}
    assert server.log().count("Not loaded") == 1 and path in server.log()
    status, answer = server.request("GET", "/v1/models/default")
    assert [version["version"] for version in answer["model_version_status"]] == ["3"]

    # It is killed; what starts again finds the damaged one, says so, and answers with the other.
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    server = start(folder, "--port", str(server.port))
    assert answering(server) == 3 and server.log().count("Not loaded") == 1

    # It is mended.
    shutil.rmtree(path)
    add_version(served_export, folder, 4)
    wait_for(lambda: answering(server) == 4)

    # The newest is taken away: the one before answers again.
    shutil.rmtree(path)
    wait_for(lambda: answering(server) == 3)

    # It ends under load: whatever has been asked is answered.
    clients = Clients(server, 16)
    wait_for(lambda: sum(clients.answers.values()) > 50)
    assert server.end(signal.SIGTERM) == 0
    clients.stop()
    assert clients.errors == []
    assert "Traceback" not in server.log()


@pytest.mark.slow
def test_ten_reloads_under_load(tmp_path, served_export, start):
    folder = tmp_path / "versions"
    folder.mkdir()
    add_version(served_export, folder, 1)
    server = start(folder)
    reload_under_load(server, served_export, folder, [2, 3])
    before = server.memory()
    clients = reload_under_load(server, served_export, folder, range(4, 14))
    assert clients.errors == []
    # The versions before are freed.
    assert server.memory() - before < 100 << 20
    assert server.end() == 0


def test_one_export_and_a_frozen_graph_have_the_version_of_their_name(tmp_path, served_export):
    assert models._number(served_export + "/") == int(os.path.basename(served_export))
    assert models._number("a/frozen_model.pb") == 1
    assert models._candidates(served_export) == (None, [served_export])
    folder = os.path.dirname(served_export)
    assert models._candidates(folder) == (folder, [served_export])


def test_the_path_of_a_model_is_that_of_its_version(tmp_path, monkeypatch):
    for number in (3, 7):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "model.onnx").write_text("")
    path = str(tmp_path / "3")
    assert models._candidates(os.path.join(path, "model.onnx")) == (None, [path])
    monkeypatch.chdir(path)
    for relative in (".", "model.onnx"):
        assert models._number(models._candidates(relative)[1][0]) == 3


def test_a_version_that_is_completed_while_it_is_refused_is_tried_again(
    tmp_path, served_export, monkeypatch
):
    add_version(served_export, tmp_path, 1)
    of_folder = models.Models(str(tmp_path), models.Options(), lambda result: None)
    path = add_version(served_export, tmp_path, 2)
    damage(path)
    load = of_folder._load

    def load_slowly(path):
        try:
            return load(path)
        finally:
            shutil.rmtree(path)
            add_version(served_export, tmp_path, 2)

    monkeypatch.setattr(of_folder, "_load", load_slowly)
    assert of_folder._try(path) is None
    of_folder._wanted()
    assert of_folder._wanted() == path


def test_a_damaged_export_is_told_in_one_line(tmp_path, served_export):
    path = add_version(served_export, tmp_path, 1)
    damage(path)
    for what in (path, str(tmp_path)):
        ended = run(what, "--port=0")
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith("bert_classifier.serve: %s: " % path)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bert_classifier.serve", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing/here"], "nothing/here: no such file or folder"),
        (["x", "--port=70000"], "--port=70000: give a number"),
        (["x", "--host=999.1.1.1"], "--host=999.1.1.1: "),
        (["x", "--host=192.0.2.1"], "--host=192.0.2.1 --port=8501: "),
        (["x", "--name=a/b"], "--name=a/b: "),
        (["x", "--api_token_file=nothing"], "nothing"),
        (["x", "--api_token_file=/dev/null"], "--api_token_file=/dev/null: "),
        (["x", "--cors_origin=example.com"], "--cors_origin=example.com: "),
        (["x", "--cors_origin=https://example.com/"], "--cors_origin=https://example.com/: "),
        (["x", "--largest_batch=0"], "--largest_batch=0: "),
        (["x", "--sender_timeout=nan"], "--sender_timeout=nan: "),
        (["x", "--poll_seconds=0"], "--poll_seconds=0.0: "),
        (["x", "--temperature=0"], "--temperature=0.0: give a number above 0"),
        (["x", "--temperature=inf"], "--temperature=inf: "),
        (["x", "--min_confidence=1.5"], "--min_confidence=1.5: give a number from 0 to 1"),
        (["x", "--min_confidence=nan"], "--min_confidence=nan: "),
    ],
)
def test_what_cannot_start(arguments, message, capsys):
    # The address comes first: a port that is in use would be told instead of the rest.
    free_port = [] if "--host=192.0.2.1" in arguments else ["--port=0"]
    assert serve.main([arguments[0], *free_port, *arguments[1:]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bert_classifier.serve: ") and message in line


def test_a_port_that_is_taken_is_told_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        ended = run("x", "--port", str(taken.getsockname()[1]))
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "Address already in use; give another" in line


def test_the_address_is_that_of_this_machine_alone():
    listener = serve._listen(serve._argument_parser().parse_args(["x"]).host, 0)
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_token_is_one_word(tmp_path):
    path = tmp_path / "token"
    path.write_text("  word\n")
    assert serve._read_token(str(path)) == b"word"
    for content in ("", "\n", "two words", "\xe9"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(BadInput, match="--api_token_file="):
            serve._read_token(str(path))


def test_labels_of_versions_differ(tmp_path, served_export):
    """What the tests above rely on."""
    path = add_version(served_export, tmp_path, 7)
    with open(os.path.join(path, "assets.extra", "labels.txt")) as stream:
        assert stream.read().split() == ["%s-7" % label for label in LABELS]
