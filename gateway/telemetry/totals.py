"""One picture of all workers: what their snapshots add up to, with what those had counted that have ended.

It knows no processes: workers are numbers. Snapshots stay as they came until somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from threading import Lock

import msgspec
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.telemetry.counters import Family, added

_encode = msgspec.msgpack.Encoder().encode
_split = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode = msgspec.msgpack.Decoder(Family).decode


def snapshot_of(families: Iterable[Family]) -> bytes:
    """What a process has counted, for `Totals.replace`."""
    return _encode(list(families))


def families_of(snapshot: bytes) -> Iterator[Family]:
    """What a snapshot says. Family by family: reading it whole would keep all other threads waiting."""
    return map(_decode, _split(snapshot))


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
        return (family.metric() for family in self.families())


def _kept(family: Family) -> Family:
    if family.kind == "gauge":
        family.children = []
    return family
