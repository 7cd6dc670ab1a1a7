"""What clients get wrong: each has its 4xx with one line of JSON, and the server goes on."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import time

import pytest
from served import LENGTH, TOKEN, WAITING_PROGRAM, wait_for

PREDICT = "/v1/models/film:predict"
TEXTS = "/v1/texts"
ROW = {"input_ids": [2, 7, 3], "input_mask": [1, 1, 1], "segment_ids": [0, 0, 0]}


def http_request(path, body=b"", headers=(), method="POST", length=None):
    """Gives the bytes of a request."""
    lines = ["%s %s HTTP/1.1" % (method, path), "Host: x"]
    given = dict({"Authorization": "Bearer " + TOKEN}, **dict(headers))
    if "Transfer-Encoding" not in given and method != "GET":
        given.setdefault("Content-Length", len(body) if length is None else length)
    lines += ["%s: %s" % item for item in given.items() if item[1] is not None]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def predict(value, **others):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return http_request(PREDICT, body, **others)


def texts(value, **others):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return http_request(TEXTS, body, **others)


def instance(**changed):
    return predict({"instances": [dict(ROW, **changed)]})


def ids(*values):
    raw = ", ".join(values)
    return predict(
        b'{"instances": [{"input_ids": [%s], "input_mask": [1], "segment_ids": [0]}]}'
        % raw.encode()
    )


def examples(value):
    return predict({"signature_name": "examples:serving_default", "instances": value})


def labelled(value):
    row = dict(ROW, label_ids=value)
    return predict({"signature_name": "label_ids:serving_default", "instances": [row]})


GOOD_TEXTS = b'{"texts": ["good"]}'
LONG = {name: [1] * (LENGTH + 1) for name in ROW}

CASES = {
    # JSON
    "empty body": (predict(b""), 400),
    "truncated JSON": (predict(b'{"instances": [{"input_ids": [1, 2'), 400),
    "truncated string": (texts(b'{"texts": ["goo'), 400),
    "two values": (texts(GOOD_TEXTS * 2), 400),
    "trailing comma": (texts(b'{"texts": ["good",]}'), 400),
    "single quotes": (texts(b"{'texts': ['good']}"), 400),
    "no object but a list": (predict([ROW]), 400),
    "no object but a string": (texts("good"), 400),
    "null": (predict(None), 400),
    "a form": (texts(b"texts=good"), 400),
    "Latin-1": (texts('{"texts": ["\xe9"]}'.encode("latin-1")), 400),
    "UTF-16": (texts(GOOD_TEXTS.decode().encode("utf-16")), 400),
    "byte order mark": (texts(b"\xef\xbb\xbf" + GOOD_TEXTS), 400),
    "half of a character in UTF-8": (texts(b'{"texts": ["\xed\xa0\x80"]}'), 400),
    "a zero byte": (texts(b'{"texts": ["a\0b"]}'), 400),
    "deep nesting of lists": (predict(b'{"instances": ' + b"[" * 50000), 400),
    "deep nesting of objects": (texts(b'{"texts":' * 6000), 400),
    "deep nesting that is closed": (predict(b"[" * 25000 + b"]" * 25000), 400),
    "duplicate keys": (texts(b'{"texts": ["a"], "texts": ["b"]}'), 400),
    "duplicate inputs": (
        predict(b'{"instances": [{"input_ids": [1], "input_ids": [2], "input_mask": [1]}]}'),
        400,
    ),
    # Numbers
    "NaN": (ids("NaN"), 400),
    "Infinity": (ids("-Infinity"), 400),
    "a number beyond floats": (ids("1e999"), 400),
    "a number of 5000 digits": (ids("9" * 5000), 400),
    "a number of 4000 digits": (ids("9" * 4000), 400),
    "2 to the power of 31": (ids(str(2**31)), 400),
    "2 to the power of 64": (ids(str(2**64)), 400),
    "a float": (ids("1.0"), 400),
    "true": (ids("true"), 400),
    "null among ids": (ids("null"), 400),
    "a string among ids": (ids('"1"'), 400),
    "hexadecimal": (ids("0x1"), 400),
    "leading zero": (ids("01"), 400),
    # Tokens
    "ids out of the vocabulary": (instance(input_ids=[2, 22, 3]), 400),
    "negative ids": (instance(input_ids=[2, -1, 3]), 400),
    "a segment that is none": (instance(segment_ids=[0, 2, 0]), 400),
    "a mask that is none": (instance(input_mask=[1, 2, 1]), 400),
    "rows longer than the model reads": (predict({"instances": [LONG]}), 400),
    "an empty row": (predict({"instances": [{name: [] for name in ROW}]}), 400),
    "ragged inputs": (instance(input_mask=[1, 1]), 400),
    "ragged rows": (predict({"instances": [ROW, {name: [1] for name in ROW}]}), 400),
    "ragged columns": (
        predict({"inputs": dict({k: [v] for k, v in ROW.items()}, input_ids=[[1], [1]])}),
        400,
    ),
    "no list but a number": (instance(input_ids=7), 400),
    "one dimension more": (instance(input_ids=[[2, 7, 3]]), 400),
    "one dimension less": (predict({"inputs": ROW}), 400),
    # Inputs
    "neither instances nor inputs": (predict({"examples": [ROW]}), 400),
    "both instances and inputs": (predict({"instances": [ROW], "inputs": ROW}), 400),
    "no instances": (predict({"instances": []}), 400),
    "instances that are an object": (predict({"instances": ROW}), 400),
    "instances that are lists": (predict({"instances": [[2, 7, 3]]}), 400),
    "no columns": (predict({"inputs": {name: [] for name in ROW}}), 400),
    "inputs that are a list": (predict({"inputs": [ROW]}), 400),
    "an input is missing": (predict({"instances": [{"input_ids": [1], "input_mask": [1]}]}), 400),
    "an unknown input": (instance(tokens=[1]), 400),
    "a label that is not asked for": (instance(label_ids=1), 400),
    "unknown signature": (predict({"signature_name": "x", "instances": [ROW]}), 400),
    "a signature that is a number": (predict({"signature_name": 7, "instances": [ROW]}), 400),
    "a signature that is a list": (predict({"signature_name": [], "instances": [ROW]}), 400),
    "a label that is a string": (labelled("positive"), 400),
    "a label that is a list": (labelled([1]), 400),
    "a label beyond int32": (labelled(2**31), 400),
    "too many rows": (predict({"instances": [ROW] * 41}), 413),
    "no base64": (examples([{"b64": "*"}]), 400),
    "base64 that is cut off": (examples([{"b64": "abc"}]), 400),
    "base64 that is a number": (examples([{"b64": 7}]), 400),
    "no tf.Example": (examples([{"b64": "AAAA"}]), 400),
    "an empty tf.Example": (examples([{"b64": ""}]), 400),
    "an example that is a number": (examples([1]), 400),
    "half of a character": (examples(["\ud800"]), 400),
    # Texts
    "no texts": (texts({}), 400),
    "texts that are a string": (texts({"texts": "good"}), 400),
    "texts that are null": (texts({"texts": None}), 400),
    "a text that is a number": (texts({"texts": ["good", 7]}), 400),
    "a text that is null": (texts({"texts": [None]}), 400),
    "a pair for a model of single texts": (texts({"texts": [["a", "b"]]}), 400),
    "a misspelled key": (texts({"texts": ["good"], "topk": 1}), 400),
    "a negative top_k": (texts({"texts": ["good"], "top_k": -1}), 400),
    "a top_k that is true": (texts({"texts": ["good"], "top_k": True}), 400),
    "a huge top_k": (texts(b'{"texts": ["good"], "top_k": %s}' % (b"9" * 100)), 400),
    "too many texts": (texts({"texts": ["good"] * 41}), 413),
    "a text that is too long": (texts({"texts": ["x" * 1001]}), 413),
    # HTTP
    "a body that is too large": (texts(b" " * 60001), 413),
    "a body that is said to be too large": (texts(b"", length=1 << 40), 413),
    "chunks that are too large": (
        texts(
            b"EA61\r\n" + b" " * 60001 + b"\r\n0\r\n\r\n",
            headers=[("Transfer-Encoding", "chunked")],
        ),
        413,
    ),
    "a length that is no number": (texts(b"{}", length="x"), 400),
    "a negative length": (texts(b"{}", length=-1), 400),
    "two lengths": (
        b"POST /v1/texts HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        400,
    ),
    "a chunk without a size": (
        texts(b"zz\r\n{}\r\n", headers=[("Transfer-Encoding", "chunked")]),
        400,
    ),
    "gzip": (texts(gzip.compress(GOOD_TEXTS), headers=[("Content-Encoding", "gzip")]), 415),
    "a gzip bomb": (
        texts(gzip.compress(b" " * 30_000_000), headers=[("Content-Encoding", "gzip")]),
        415,
    ),
    "gzip that is not said": (texts(gzip.compress(GOOD_TEXTS)), 400),
    "wrong content type": (texts(GOOD_TEXTS, headers=[("Content-Type", "text/xml")]), 415),
    "a file of a form": (
        texts(GOOD_TEXTS, headers=[("Content-Type", "multipart/form-data; boundary=x")]),
        415,
    ),
    "wrong charset": (
        texts(GOOD_TEXTS, headers=[("Content-Type", "application/json; charset=latin-1")]),
        415,
    ),
    "no token": (texts(GOOD_TEXTS, headers=[("Authorization", None)]), 401),
    "wrong token": (texts(GOOD_TEXTS, headers=[("Authorization", "Bearer s3creT")]), 401),
    "a token that is no ASCII": (
        texts(GOOD_TEXTS, headers=[("Authorization", "Bearer \xe9")]),
        401,
    ),
    "wrong method": (http_request(TEXTS, method="GET"), 405),
    "wrong method for a page": (http_request("/", b"x"), 405),
    "wrong method for a model": (http_request(PREDICT, method="GET"), 400),
    "unknown method": (http_request(TEXTS, GOOD_TEXTS, method="BREW"), 400),
    "unknown path": (http_request("/v2/models", method="GET"), 404),
    "a path with ..": (http_request("/v1/models/../../etc/passwd", method="GET"), 400),
    "a path that is no ASCII": (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a slash too many": (http_request("/v1/texts/", GOOD_TEXTS), 404),
    "unknown model": (http_request("/v1/models/half:predict", b"{}"), 404),
    "unknown version": (http_request("/v1/models/film/versions/3:predict", b"{}"), 404),
    "unknown label": (http_request("/v1/models/film/labels/x:predict", b"{}"), 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100, 400),
    "an unknown version of HTTP": (b"GET / HTTP/9.9\r\n\r\n", 400),
    "a space before a colon": (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "a line that is too long": (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n", 431),
    "a line without an end": (b"GET /" + b"a" * 5000, 431),
    "a flood of headers": (
        b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(600)) + b"\r\n",
        431,
    ),
    "a header that is too long": (b"GET / HTTP/1.1\r\nx: " + b"y" * 5000 + b"\r\n\r\n", 431),
    "a header without an end": (b"GET / HTTP/1.1\r\nx: " + b"y" * 3_000_000, 431),
    "a tunnel": (b"CONNECT a:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a tunnel to a path": (http_request(TEXTS, GOOD_TEXTS, method="CONNECT"), 400),
    "a websocket": (
        texts(b"", headers=[("Connection", "Upgrade"), ("Upgrade", "websocket")]),
        400,
    ),
}

# Each takes as long as a client may take.
SLOW = {
    "nothing": b"",
    "half a line": b"POST /v1/te",
    "half of the headers": b"POST /v1/texts HTTP/1.1\r\nHost: x\r\n",
    "no body": texts(b"", length=10),
    "half of a body": texts(b'{"texts":', length=100),
    "half of a chunk": texts(b"10\r\nabc", headers=[("Transfer-Encoding", "chunked")]),
}


def exchange(server, data):
    """Sends bytes; gives the status, the headers and the body of the answer."""
    with server.connect() as connection:
        # A client that sends a flood may find that the server reads no more.
        try:
            connection.sendall(data)
        except OSError:
            pass
        return read_answer(connection)


def read_answer(connection):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.headers, response.read()


def assert_refused(answer, expected):
    status, headers, body = answer
    assert status == expected, body
    assert headers["Content-Type"] == "application/json"
    (line,) = body.decode("ascii").splitlines()
    assert list(json.loads(line)) == ["error"]
    assert 5 < len(line) < 400


def assert_alive(server):
    status, answer = server.request("POST", TEXTS, {"texts": ["good"]})
    assert (status, len(answer["predictions"])) == (200, 1)


def test_there_are_many():
    assert len(CASES) + len(SLOW) > 100


@pytest.mark.parametrize("case", CASES)
def test_is_refused(server, case):
    data, status = CASES[case]
    assert_refused(exchange(server, data), status)
    assert_alive(server)


@pytest.mark.parametrize("case", SLOW)
def test_a_slow_sender_is_refused(server, case):
    assert_refused(exchange(server, SLOW[case]), 408)
    assert_alive(server)


def test_a_sender_of_single_bytes_is_refused(server):
    """What matters is how long the whole takes, not the time between two parts."""
    data = texts(GOOD_TEXTS)
    with server.connect() as connection:
        connection.settimeout(0.05)
        for position in range(len(data)):
            try:
                connection.sendall(data[position : position + 1])
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except socket.timeout:
                continue
        else:
            raise AssertionError("it was answered")
        connection.settimeout(60)
        assert_refused(read_answer(connection), 408)


def test_a_connection_is_used_again_after_an_error(server):
    with server.connect() as connection:
        for data, status in (CASES["NaN"], CASES["no token"], CASES["too many texts"]):
            connection.sendall(data)
            assert_refused(read_answer(connection), status)
        connection.sendall(texts(GOOD_TEXTS))
        assert read_answer(connection)[0] == 200


def test_an_idle_connection_is_no_slow_sender(server):
    """Clients keep connections for the next request."""
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(texts(GOOD_TEXTS))
            assert read_answer(connection)[0] == 200
            time.sleep(2)


def read_statuses(connection, number):
    """Reads answers that follow one another; gives their statuses."""
    stream = connection.makefile("rb")
    statuses = []
    for _ in range(number):
        statuses.append(int(stream.readline().split()[1]))
        length = 0
        for line in iter(stream.readline, b"\r\n"):
            if line.lower().startswith(b"content-length"):
                length = int(line.split(b":")[1])
        stream.read(length)
    return statuses


def test_requests_that_follow_one_another_at_once(server):
    with server.connect() as connection:
        connection.sendall(texts(GOOD_TEXTS) * 3)
        assert read_statuses(connection, 3) == [200] * 3


BAD_CHUNK = texts(b"zz\r\n", headers=[("Transfer-Encoding", "chunked")])


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    "last, status",
    [
        (b"garbage\r\n\r\n", 400),
        (BAD_CHUNK, 400),
        (texts(b"", headers=[("x ", "y")]), 400),
        (texts(b"").replace(b"/v1/texts", b"http://["), 400),
        (b"GET /" + b"a" * 5000, 431),
        (texts(b"", length=100), 408),
        (b"POST /v1/te", 408),
    ],
)
def test_a_refusal_comes_after_the_answers_before_it(server, number, last, status):
    """And what is refused changes nothing of what came before it."""
    with server.connect() as connection:
        connection.sendall(texts(GOOD_TEXTS) * number + last + b"x" * 10)
        assert read_statuses(connection, number + 1) == [200] * number + [status]
        assert connection.recv(1) == b""


def test_the_time_of_a_sender_does_not_count_while_the_server_does_not_read(start, served_export):
    """Nor does it run out for one whose earlier request is still being answered."""
    server = start(served_export, "--sender_timeout=1", program=WAITING_PROGRAM)
    slow = texts({"texts": ["wait 2"]})
    rest = b" " * 3_000_000
    with server.connect() as connection:
        connection.sendall(slow + texts(b"", length=len(GOOD_TEXTS + rest)) + GOOD_TEXTS + rest)
        assert read_statuses(connection, 2) == [200, 200]
    with server.connect() as connection:
        connection.sendall(slow)
        time.sleep(0.2)
        connection.sendall(b"POST /v1/te")
        assert read_statuses(connection, 2) == [200, 408]
    assert server.end() == 0


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_a_wish_for_another_protocol_is_ignored(server, protocol):
    """As curl --http2 has it; the body is not taken for a request."""
    wish = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", protocol)]
    upgrade = texts(GOOD_TEXTS, headers=wish)
    chunked = texts(
        b"13\r\n%s\r\n0\r\n\r\n" % GOOD_TEXTS, headers=[*wish, ("Transfer-Encoding", "chunked")]
    )
    get = http_request("/readyz", headers=wish, method="GET")
    with server.connect() as connection:
        connection.sendall(upgrade + chunked + get + texts(GOOD_TEXTS) + upgrade)
        assert read_statuses(connection, 5) == [200] * 5
        hidden = http_request("/readyz", method="GET")
        for data, status in ((upgrade, 200), (texts(hidden, headers=wish), 400)):
            # The body comes later; in the second case it looks like a request.
            head, _, body = data.partition(b"\r\n\r\n")
            connection.sendall(head + b"\r\n\r\n")
            time.sleep(0.1)
            connection.sendall(body)
            assert read_answer(connection)[0] == status
        connection.sendall(texts(GOOD_TEXTS))
        assert read_answer(connection)[0] == 200


def test_clients_that_go_away_do_no_harm(server):
    for data in (b"", b"POST", texts(GOOD_TEXTS, length=50), texts({"texts": ["good"] * 40})):
        for _ in range(5):
            with server.connect() as connection:
                connection.sendall(data)
    # What they have asked is answered first, and fills the queue.
    wait_for(lambda: server.request("POST", TEXTS, {"texts": ["good"]})[0] == 200)


def test_memory_stays_flat(server):
    """After all of them once, another five times need no more."""

    def send_all():
        for case, (data, status) in CASES.items():
            assert exchange(server, data)[0] == status, case

    send_all()
    before = server.memory()
    for _ in range(5):
        send_all()
    assert server.memory() - before < 8 << 20
    assert_alive(server)
    assert "Traceback" not in server.log()
