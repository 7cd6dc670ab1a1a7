"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from typing import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "bert_requests", "Answers", ["route", "status"], registry=self._registry
        )
        self._latency = Histogram(
            "bert_request_seconds",
            "Time from the headers of a request to its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "bert_batch_size", "Texts in a batch", buckets=_SIZES, registry=self._registry
        )
        self._versions = Counter(
            "bert_versions", "Versions loaded or refused", ["result"], registry=self._registry
        )

    def watch(self, queue_length: Callable[[], int], version: Callable[[], int]) -> None:
        """Ask these functions whenever the metrics are read."""
        queue = Gauge("bert_queue_length", "Texts that wait", registry=self._registry)
        queue.set_function(queue_length)
        current = Gauge("bert_version", "The version that answers", registry=self._registry)
        current.set_function(version)

    def count_request(self, route: str, status: int, seconds: float | None = None) -> None:
        """Count an answer; a request that was refused before it was complete has no time."""
        self._requests.labels(route, str(status)).inc()
        if seconds is not None:
            self._latency.labels(route).observe(seconds)

    def observe_batch(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)

    def count_version(self, result: str) -> None:
        """Count an attempt to load a version: `loaded` or `refused`."""
        self._versions.labels(result).inc()

    def text(self) -> bytes:
        """Return all in Prometheus' format."""
        return generate_latest(self._registry)
