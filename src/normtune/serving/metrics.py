"""What a server tells Prometheus. No series is named after a task, since there may be a million of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from normtune.serving.tasks import Catalogue

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics(Collector):
    """Counters and histograms of one server, and the present state of its tasks and queue.

    Args:
        catalogue: The tasks.
        waiting: Gives the number of rows in the queue.
    """

    def __init__(self, catalogue: Catalogue, waiting: Callable[[], int]) -> None:
        self._catalogue, self._waiting = catalogue, waiting
        self.registry = own = CollectorRegistry()
        self.requests = Counter("normtune_requests", "Requests answered.", ("route", "status"), registry=own)
        self.seconds = Histogram(
            "normtune_request_seconds", "Seconds from request to answer.", ("route",), buckets=_SECONDS, registry=own
        )
        self.full = Counter("normtune_queue_full", "Requests refused because the server was full.", registry=own)
        self.batch_rows = Histogram("normtune_batch_rows", "Rows of a batch.", buckets=_ROWS, registry=own)
        self.batch_seconds = Histogram("normtune_batch_seconds", "Seconds of a batch.", buckets=_SECONDS, registry=own)
        own.register(self)

    def collect(self) -> Iterable[Metric]:
        """The present state."""
        cache, refused = self._catalogue.cache, self._catalogue.refused
        yield GaugeMetricFamily("normtune_queue_rows", "Rows that wait or are in a batch.", self._waiting())
        yield GaugeMetricFamily("normtune_tasks_loaded", "Tasks in memory.", len(self._catalogue.bank))
        yield GaugeMetricFamily("normtune_cache_bytes", "Memory of the tasks loaded from the folder.", cache.bytes)
        yield CounterMetricFamily("normtune_cache_hits", "Tasks that were in memory when asked for.", cache.hits)
        yield CounterMetricFamily("normtune_cache_misses", "Tasks that were not in memory.", cache.misses)
        yield CounterMetricFamily("normtune_cache_evictions", "Tasks dropped to make room.", cache.evictions)
        yield CounterMetricFamily("normtune_deltas_refused", "Deltas of the folder that were refused.", refused)
