"""What a server counts, in Prometheus' text form."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from llmjax.serve.worker import Worker

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_PATHS = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/models",
    "/tokenize",
    "/metrics",
    "/health",
    "/health/live",
    "/health/ready",
    "/",
)


class Metrics:
    """Counts of one server, in a registry of its own."""

    def __init__(self, worker: Worker):
        """
        Args:
          worker: whose engine is looked at when the metrics are read.
        """
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "llmjax_requests",
            "Requests that ended",
            ["path", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "llmjax_request_seconds",
            "From a request to the end of its answer",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "llmjax_first_token_seconds",
            "From a request to its first token",
            buckets=_SECONDS,
            registry=registry,
        )
        self._gap = Histogram(
            "llmjax_token_gap_seconds",
            "Between a text's tokens",
            buckets=_SECONDS,
            registry=registry,
        )
        registry.register(_OfEngine(worker))

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request ended."""
        path = path if path in _PATHS else "other"
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def token(self, seconds: float, first: bool) -> None:
        """A text got a token, `seconds` after its request or the token before."""
        (self._first if first else self._gap).observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)


class _OfEngine:
    """Reads an engine's counts when it is asked."""

    def __init__(self, worker: Worker):
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        """Of prometheus_client's collectors."""
        gauges = {
            "open_requests": ("Texts that have not ended", self._worker.open),
            "ready": ("Whether requests are taken", int(self._worker.ready)),
        }
        counts: dict[str, int] = {}
        if (engine := self._worker.engine) is not None:
            gauges["writing"] = ("Texts that have a row", engine.writing)
            gauges["waiting"] = ("Texts that wait for a row", engine.waiting)
            gauges["free_pages"] = ("Pages that no text has", engine.free_pages)
            counts = dict(engine.counts)
        for name, (words, value) in gauges.items():
            yield GaugeMetricFamily(f"llmjax_{name}", words, value=value)
        told = {
            "read": "Tokens of prompts that were read",
            "cached": "Tokens of prompts that were known",
            "drawn": "Tokens that were drawn",
            "preempted": "Texts that gave their pages back",
            "steps": "Steps of the engine",
        }
        for name, words in told.items():
            value = counts.get(name, 0)
            yield CounterMetricFamily(f"llmjax_{name}", words, value=value)
