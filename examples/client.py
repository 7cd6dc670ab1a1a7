"""Ask a server of `python -m bert_classifier.serve`: a client to copy, of the standard library.

python examples/client.py "The kettle arrived with a cracked lid."
python examples/client.py --url=http://localhost:8501 --token=... TEXT [TEXT ...]
python examples/client.py --pairs TEXT TEXT_B [TEXT TEXT_B ...]
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from typing import Any, Sequence, Tuple, Union
from urllib.parse import quote, urlsplit

Text = Union[str, Tuple[str, str]]

# A server that is busy says 429; one that is about to end, or is started again, 503 or nothing.
_TURNS = 6


class ServerError(Exception):
    """The server has refused, or cannot be reached; or the URL or the token is none."""


class Client:
    """A connection to a server, which is kept from one request to the next.

    Args:
        url: of the server, for example http://localhost:8501.
        token: what it wants, if anything.
        timeout: in seconds, for each request.

    Raises:
        ServerError: the URL or the token is none.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 60.0):
        self._connection, self._path = _parse(url, timeout)
        self._headers = {"Content-Type": "application/json"}
        if token:
            if not (token.isascii() and token.isprintable()):
                raise ServerError("the token is not one line of ASCII; give that of the server")
            self._headers["Authorization"] = "Bearer " + token

    def classify(self, texts: Sequence[Text], top_k: int = 3) -> list[Any]:
        """Return the answers to texts, in their order: `label`, `confidence`, `top_k` and so on.

        Raises:
            ServerError: there is none; the message says why.
        """
        body = json.dumps({"texts": texts, "top_k": top_k})
        reason = ""
        for turn in range(_TURNS):
            if turn:
                time.sleep(min(4.0, 0.25 * 2**turn))
            try:
                self._connection.request("POST", self._path, body, self._headers)
                response = self._connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                # To ask again is safe: an answer changes nothing on the server.
                self._connection.close()
                reason = str(error) or type(error).__name__
                continue
            answers = _part_of(content, "predictions")
            if response.status == 200 and answers is not None:
                return answers
            # A proxy, or another server, may have answered.
            told = _part_of(content, "error") or repr(content[:100])
            reason = "%d: %s" % (response.status, told)
            if response.status not in (429, 503):
                break
        raise ServerError(reason)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def _parse(url: str, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    """Return a connection, which is not yet open, and the path of the texts."""
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    try:
        parts = urlsplit(url)
        kind = kinds[parts.scheme]
        if not parts.hostname or "@" in parts.netloc or parts.query:
            raise ValueError(url)
        parts.hostname.encode("idna")
        port = parts.port or kind.default_port
        path = quote(parts.path.rstrip("/"), safe="/%:") + "/v1/texts"
        return kind(parts.hostname, port, timeout=timeout), path
    except (ValueError, LookupError, http.client.InvalidURL):
        raise ServerError("is no URL of a server; give one as http://localhost:8501") from None


def _part_of(content: bytes, name: str) -> Any:
    """Return a part of an answer in JSON, None if it has no such part."""
    try:
        return json.loads(content.decode("utf-8"))[name]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def main() -> int:
    """Print a line for each text; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    parser.add_argument("--url", default="http://localhost:8501")
    parser.add_argument("--token")
    parser.add_argument("--pairs", action="store_true", help="each two texts are a pair")
    options = parser.parse_args()
    texts: list[Text] = list(options.texts)
    if options.pairs:
        if len(texts) % 2:
            parser.error("give an even number of texts")
        texts = list(zip(options.texts[::2], options.texts[1::2]))
    try:
        client = Client(options.url, options.token)
        answers = client.classify(texts)
        client.close()
    except ServerError as error:
        print("%s: %s" % (options.url, error), file=sys.stderr)
        return 2
    sys.stdout.reconfigure(errors="backslashreplace")  # A text may have bytes that are no UTF-8.
    for text, answer in zip(texts, answers):
        shown = text if isinstance(text, str) else " | ".join(text)
        if "score" in answer:
            print("%.6f\t%s" % (answer["score"], shown))
        else:
            print("%s\t%.4f\t%s" % (answer["label"], answer.get("confidence", 1.0), shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
