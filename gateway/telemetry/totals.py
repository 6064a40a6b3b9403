"""One picture of all workers: what their snapshots add up to, with what those had counted that have ended.

It knows no processes: workers are numbers. Snapshots stay as they came until somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from threading import Lock

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.telemetry.counters import Family, added, families_of, snapshot_of


class Totals(Collector):
    """The sum over all workers, those that have ended included (but for gauges, which end with them). Adding up many
    teams takes long: all but `replace` may run in any thread."""

    def __init__(self) -> None:
        self._live: dict[int, bytes] = {}
        self._ended = snapshot_of([])
        self._ending = Lock()  # one worker at a time is added to those that have ended
        self._moving = Lock()  # held for no longer than it takes to change both, for the loop waits for it

    def replace(self, worker: int, snapshot: bytes) -> None:
        """The latest numbers of a worker."""
        with self._moving:
            self._live[worker] = snapshot

    def end(self, worker: int) -> None:
        """A worker has ended: keep what it had counted."""
        with self._ending:
            last = self._live.get(worker)
            if last is None:
                return
            ended = snapshot_of(added([families_of(self._ended), map(_kept, families_of(last))]))
            with self._moving:
                self._ended = ended
                del self._live[worker]

    def families(self) -> list[Family]:
        """The sums as plain data."""
        with self._moving:
            parts = [self._ended, *self._live.values()]
        return added(map(families_of, parts))

    def collect(self) -> Iterator[Metric]:
        return (metric_of(family) for family in self.families())


def _kept(family: Family) -> Family:
    if family.kind == "gauge":
        family.children = []
    return family


def metric_of(family: Family) -> Metric:
    """A family in Prometheus' words."""
    metric = Metric(family.name, family.help, family.kind)
    edges = [*map(str, family.bounds), "+Inf"]
    for values, numbers in family.children:
        labels = dict(zip(family.labels, values, strict=True))
        if family.kind == "histogram":
            counts = list(accumulate(numbers[:-1]))
            for edge, count in zip(edges, counts, strict=True):
                metric.add_sample(f"{family.name}_bucket", {**labels, "le": edge}, count)
            metric.add_sample(f"{family.name}_count", labels, counts[-1])
            metric.add_sample(f"{family.name}_sum", labels, numbers[-1])
        else:
            metric.add_sample(family.name + ("_total" if family.kind == "counter" else ""), labels, numbers[0])
    return metric
