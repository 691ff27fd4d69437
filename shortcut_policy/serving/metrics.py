"""What a server tells a monitoring system, in the format of Prometheus."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

#: Upper ends of the classes of a duration, in seconds.
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """Counts and durations of one server, in a registry of its own.

    Attributes:
        clients: Connected now.
        requests: By ``outcome``: answered, refused (the request was wrong), failed (the server was),
            abandoned (the client was gone).
        turned_away: Connections that were not accepted, by ``reason``: key, full.
    """

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.clients = Gauge("shortcut_clients", "Connected clients", registry=self._registry)
        self.requests = Counter(
            "shortcut_requests", "Requests by their outcome", ["outcome"], registry=self._registry
        )
        self.turned_away = Counter(
            "shortcut_turned_away", "Connections not accepted", ["reason"], registry=self._registry
        )
        self._inference = Histogram(
            "shortcut_inference_seconds", "Time of a batch", registry=self._registry, buckets=SECONDS
        )
        self._queue = Histogram(
            "shortcut_queue_seconds", "Time a request waited", registry=self._registry, buckets=SECONDS
        )
        self._rows = Histogram(
            "shortcut_batch_requests", "Requests in a batch", registry=self._registry, buckets=ROWS
        )

    def observe(self, rows: int, seconds: float, waited: Sequence[float]) -> None:
        """Count a batch: requests in it, seconds it took, seconds that each had waited."""
        self._rows.observe(rows)
        self._inference.observe(seconds)
        for each in waited:
            self._queue.observe(each)

    def text(self) -> str:
        """All of it, as ``/metrics`` answers."""
        return generate_latest(self._registry).decode()
