"""The page at `/`, which is one file without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import string

from starlette.responses import Response

from bert_classifier.server.limits import Limits

_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.html")


def response(name: str, texts_per_example: int, limits: Limits) -> Response:
    """Return the page for a model."""
    content = string.Template(_PAGE).substitute(
        name=html.escape(name, quote=True),
        pairs="true" if texts_per_example == 2 else "false",
        most_texts=min(limits.most_texts, 256),
        largest_body=limits.largest_body,
    )
    return Response(content, media_type="text/html", headers=_HEADERS)


def _read() -> str:
    with open(_PATH, encoding="utf-8") as stream:
        return stream.read()


def _digests(element: str) -> str:
    """Return the digests of the script or style in the page, as a policy names them."""
    parts = re.findall("<%s>(.*?)</%s>" % (element, element), _PAGE, flags=re.DOTALL)
    digests = [hashlib.sha256(part.encode("utf-8")).digest() for part in parts]
    return " ".join("'sha256-%s'" % base64.b64encode(d).decode("ascii") for d in digests)


_PAGE = _read()
_HEADERS = {
    # A text that somebody pastes must never run, nor be sent elsewhere.
    "content-security-policy": (
        "default-src 'none'; script-src %s; style-src %s; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        % (_digests("script"), _digests("style"))
    ),
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
