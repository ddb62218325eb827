"""What a server counts, in Prometheus' format. Names and numbers alone: nothing of a picture."""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.responses import Response

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's: where the counts of several workers meet
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PICTURES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counts of a server; `failures` has the kinds of `RequestError`."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("gfl_requests", "Requests answered", ["path", "status"], registry=registry)
        self.failures = Counter("gfl_failures", "Requests not served, by kind", ["kind"], registry=registry)
        self.seconds = Histogram(
            "gfl_request_seconds",
            "From the head of a request to the end of its answer",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "gfl_batch_pictures", "Pictures of a run of the model", buckets=PICTURES, registry=registry
        )
        self.run_seconds = Histogram("gfl_run_seconds", "A run of the model", buckets=SECONDS, registry=registry)
        self.queue = Gauge(
            "gfl_queue_pictures",
            "Pictures inside: being received, waiting or computed",
            registry=registry,
            multiprocess_mode="livesum",
        )

    def page(self) -> Response:
        """All of it, of all workers where there are several."""
        folder = os.environ.get(FOLDER_VARIABLE)
        text = generate_latest(self._registry) if folder is None else of_all_workers(folder)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    def ran(self, pictures: int, seconds: float) -> None:
        """Count a run of the model."""
        self.batches.observe(pictures)
        self.run_seconds.observe(seconds)


def of_all_workers(folder: str) -> bytes:
    """The counts of several workers together, also of those that have ended; folder: where they meet."""
    registry = CollectorRegistry()
    collect: Callable[[CollectorRegistry, str], object] = MultiProcessCollector
    collect(registry, folder)
    text: bytes = generate_latest(registry)
    return text
