"""Counters and histograms of one thread: plain numbers on the data path, Prometheus families when somebody looks.

The library's own are safe between threads and processes, at ten times the cost of an addition; a worker has one thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry


class Count:
    """One counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Counters(Collector):
    """A family of counters; `name` without `_total`."""

    def __init__(self, name: str, help: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._family = (name, help, tuple(labels))
        self._children: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: object) -> Count:
        """The counter with these label values."""
        return self._children.setdefault(tuple(map(str, values)), Count())

    def collect(self) -> Iterator[Metric]:
        name, text, labels = self._family
        family = CounterMetricFamily(name, text, labels=labels)
        for values, child in self._children.items():
            family.add_metric(values, child.value)
        yield family


class Distribution:
    """One histogram: `bounds` are inclusive upper ones, ascending."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Histograms(Collector):
    """A family of histograms with the same buckets."""

    def __init__(
        self, name: str, help: str, labels: Sequence[str], buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._family = (name, help, tuple(labels))
        self._bounds = tuple(map(float, buckets))
        self._names = [*map(str, self._bounds), "+Inf"]
        self._children: dict[tuple[str, ...], Distribution] = {}
        registry.register(self)

    def labels(self, *values: object) -> Distribution:
        """The histogram with these label values."""
        place = tuple(map(str, values))
        child = self._children.get(place)
        if child is None:
            child = self._children[place] = Distribution(self._bounds)
        return child

    def collect(self) -> Iterator[Metric]:
        name, text, labels = self._family
        family = HistogramMetricFamily(name, text, labels=labels)
        for values, child in self._children.items():
            buckets = [
                (bound, float(count)) for bound, count in zip(self._names, accumulate(child.counts), strict=True)
            ]
            family.add_metric(values, buckets, child.sum)
        yield family
