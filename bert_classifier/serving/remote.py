"""A model in a TensorFlow Serving elsewhere, through its REST API. Needs no TensorFlow.

The API is that of https://www.tensorflow.org/tfx/serving/api_rest: tensors go in columns, as
`inputs`, and come in columns, as `outputs`.
"""

from __future__ import annotations

import functools
import http.client
import json
import re
import string
import urllib.parse
from typing import Any, Callable, Mapping

import numpy as np

from bert_classifier import problem_types
from bert_classifier.errors import BadInput
from bert_classifier.export.bundle import INPUTS, SERVING_DEFAULT, Model, Settings

# The dtypes of the outputs, which JSON does not tell.
_DTYPES = {"probabilities": np.float32, "predictions": np.float32, "top_3": np.int32}

_LONGEST_TIMEOUT = 2000000  # A socket counts milliseconds, fewer than 2 ** 31.


class ServerFailed(BadInput):
    """A server gives no answer, or a wrong one. The message is one line."""


class RemoteModel(Model):
    """A model of a TensorFlow Serving.

    Each call has a connection of its own, so that threads may share the model, and a server that
    was started anew is found again.

    Args:
        address: of the model, as `http://host:8501/v1/models/NAME`; for one of its versions with
            `/versions/N` behind it.
        timeout: seconds to wait for a connection, and for each part of an answer.
        settings: of the export, which say what the model answers.

    Raises:
        BadInput: the address or the time is none.
    """

    def __init__(self, address: str, timeout: float, settings: Settings):
        if not 0 < timeout <= _LONGEST_TIMEOUT:
            raise BadInput(
                "timeout=%s: give a number of seconds above 0, up to %d"
                % (timeout, _LONGEST_TIMEOUT)
            )
        self._address = address.rstrip("/")
        connection, self._path = _parse(address)
        self._connection = functools.partial(connection, timeout=timeout)
        problem = problem_types.get(settings.problem_type)
        self._output = problem.output
        self._row = (len(settings.labels),) if problem.has_classes else ()

    def run(
        self, inputs: Mapping[str, Any], signature: str = SERVING_DEFAULT
    ) -> dict[str, np.ndarray]:
        """Return the outputs; see `Model`.

        Raises:
            ServerFailed: there is no answer, or a wrong one.
        """
        columns = {name: np.asarray(inputs[name]).tolist() for name in INPUTS}
        answer = self._ask({"signature_name": signature, "inputs": columns})
        outputs = answer.get("outputs")
        # TensorFlow Serving gives a single output, that of a regression, without its name.
        if not isinstance(outputs, dict):
            outputs = {"predictions": outputs}
        try:
            arrays = {
                name: np.array(value, _DTYPES[name])
                for name, value in outputs.items()
                if name in _DTYPES
            }
        except (ValueError, TypeError, OverflowError) as error:
            raise self._failed("answers with no numbers") from error
        if not self._is_answer(arrays, len(columns[INPUTS[0]])):
            raise self._failed("does not answer like the model of this export")
        return arrays

    def _is_answer(self, arrays: Mapping[str, np.ndarray], num_rows: int) -> bool:
        """Tell whether arrays are those of the model: another one may be at the address."""
        found = arrays.get(self._output)
        return (
            found is not None
            and found.shape == (num_rows, *self._row)
            and bool(np.isfinite(found).all())  # The null of JSON becomes NaN.
            and all(array.shape[:1] == (num_rows,) for array in arrays.values())
        )

    def close(self) -> None:
        """Do nothing: no connection is kept."""

    def _ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        body = json.dumps(request).encode("utf-8")
        connection = self._connection()
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", self._path + ":predict", body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._failed("gives no answer (%s)" % (error or type(error).__name__)) from error
        finally:
            connection.close()
        try:
            answer = json.loads(content.decode("utf-8"))
        except (ValueError, RecursionError):
            answer = None
        if response.status != 200 or not isinstance(answer, dict):
            reason = answer.get("error") if isinstance(answer, dict) else None
            told = " ".join(str(reason or "no JSON").split())
            raise self._failed("answers with status %d (%.200s)" % (response.status, told))
        return answer

    def _failed(self, what: str) -> ServerFailed:
        return ServerFailed(
            "server=%s: %s; check the address and the server" % (self._address, what)
        )


def _parse(address: str) -> tuple[Callable[..., http.client.HTTPConnection], str]:
    """Return what makes a connection, and the path."""
    if re.match("([^/]*//)?[^/]*@", address):
        # The password must not get into logs.
        raise BadInput("server: its address has a user, and none is sent; leave out `user:...@`")
    kinds: dict[str, type[http.client.HTTPConnection]] = {
        "http": http.client.HTTPConnection,
        "https": http.client.HTTPSConnection,
    }
    try:
        parts = urllib.parse.urlsplit(address)
        kind = kinds[parts.scheme]
        # Without a port, `http.client` would take the last part of an IPv6 address for one.
        port = kind.default_port if parts.port is None else parts.port
        host = (parts.hostname or "").encode("idna").decode("ascii")
        connection = functools.partial(kind, host, port)
        connection()  # Checks the characters of the host; it does not connect.
        # ASCII stays as it is: it may be quoted already.
        path = urllib.parse.quote(parts.path.rstrip("/"), safe=string.punctuation)
    except (ValueError, LookupError, http.client.InvalidURL):
        host = path = ""
    if not (host and path and address.isprintable()) or parts.query or parts.fragment:
        raise BadInput(
            "server=%s: is no address of a model; give one as http://localhost:8501/v1/models/NAME"
            % (address if address.isprintable() else repr(address))
        )
    return connection, path
