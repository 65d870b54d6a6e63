"""What a server tells Prometheus. No series is named after a task: there may be a million."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from normtune.serving.catalogue import Catalogue

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("normtune_requests", "Requests answered.", ("route", "status"), registry=own)
        self.seconds = Histogram(
            "normtune_request_seconds",
            "Seconds from a request to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=own,
        )
        self.full = Counter("normtune_queue_full", "Requests refused for want of room.", registry=own)
        self.batch_rows = Histogram("normtune_batch_rows", "Rows of a batch.", buckets=_ROWS, registry=own)
        self.batch_seconds = Histogram("normtune_batch_seconds", "Seconds of a batch.", buckets=_SECONDS, registry=own)

    def watch(self, catalogue: Catalogue, waiting: Callable[[], int]) -> None:
        """Read the state of the tasks and of the queue whenever the metrics are read."""
        self.registry.register(_State(catalogue, waiting))


class _State(Collector):
    def __init__(self, catalogue: Catalogue, waiting: Callable[[], int]) -> None:
        self._catalogue, self._waiting = catalogue, waiting

    def collect(self) -> Iterable[Metric]:
        """The state as it is now."""
        cache, bank = self._catalogue.cache, self._catalogue.bank
        yield GaugeMetricFamily("normtune_queue_rows", "Rows that wait for a batch or are in one.", self._waiting())
        yield GaugeMetricFamily("normtune_tasks_loaded", "Tasks in memory.", len(bank))
        yield GaugeMetricFamily("normtune_cache_bytes", "Bytes of the tasks loaded from the folder.", cache.bytes)
        yield CounterMetricFamily("normtune_cache_hits", "Tasks that were in memory when asked for.", cache.hits)
        yield CounterMetricFamily("normtune_cache_misses", "Tasks that were not.", cache.misses)
        yield CounterMetricFamily("normtune_cache_evictions", "Tasks that gave way to others.", cache.evictions)
        yield CounterMetricFamily(
            "normtune_deltas_refused", "Deltas in the folder that were refused.", self._catalogue.refused
        )
