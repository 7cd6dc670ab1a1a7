"""A real browser opens the page, and the network is watched: nothing is asked for."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading

import made_up
import pytest

from bert_classifier.data.examples import InputExample
from bert_classifier.report import page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
EVIL = "<script>document.title='run'</script><img src='/asked'><style>@import '/asked'</style>"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium"),
]


class Site:
    """A server of one page, which notes what it is asked for."""

    def __init__(self, text):
        self.asked = asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *arguments):
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = "http://127.0.0.1:%d/report.html" % self._server.server_port

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def browse(text, folder, *arguments):
    """Opens the page; returns its document as the browser has it, and all requests."""
    site = Site(text)
    log = folder / "net.json"
    process = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--user-data-dir=%s" % (folder / "profile"),
            "--log-net-log=%s" % log,
            "--virtual-time-budget=2000",
            *arguments,
            "--dump-dom",
            site.address,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=300,
    )
    site.close()
    assert process.returncode == 0
    events = json.loads(log.read_text())["events"]
    urls = {event.get("params", {}).get("url") for event in events} - {None}
    return process.stdout.decode(), site, urls


@pytest.mark.parametrize("arguments", [[], ["--force-dark-mode"]], ids=["light", "dark"])
def test_each_panel_is_there_and_no_request_leaves_the_page(tmp_path, arguments):
    labels = ["good" + EVIL, "bad"]
    evaluated = made_up.classified(60, labels, texts=[EVIL] * 60)
    suspects = page.Suspects(1, 1, [(InputExample("t-1", EVIL, EVIL, "bad"), EVIL, 1.0)])
    text = page.render(made_up.run(name=EVIL), evaluated, suspects)
    document, site, urls = browse(text, tmp_path, *arguments)
    panels = ["headline", "curves", "confusion", "classes", "calibration", "confidence", "length"]
    panels += ["mistakes", "confused-pairs", "label-noise", "data", "settings", "files", "commands"]
    for panel in panels:
        assert '<section id="%s">' % panel in document, panel
    assert document.count("<svg") == 5
    assert "<title>run</title>" not in document
    # A browser asks for an icon of each site by itself.
    assert set(site.asked) <= {"/report.html", "/favicon.ico"}
    own = site.address.rsplit("/", 1)[0]
    of_page = {url for url in urls if url.startswith("http") and "google" not in url}
    assert {url for url in of_page if not url.startswith(own)} == set()
