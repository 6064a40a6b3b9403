"""Counters, histograms and gauges of one thread: plain numbers on the data path, families when somebody looks.

The metrics library's own are safe between threads and processes, at ten times the cost of an addition; a worker has one
thread. What a family says of itself travels between processes; `telemetry.totals` makes Prometheus' words of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec

Values = tuple[str, ...]


class Family(msgspec.Struct, array_like=True):
    """One metric family as plain data. `name` is without `_total`, `kind` counter, histogram or gauge. `children` are
    label values and numbers: one of a counter or gauge; of a histogram those of each bucket (`bounds`, and one above
    them), then the sum."""

    name: str
    kind: str
    help: str
    labels: Values
    children: list[tuple[Values, list[float]]]
    bounds: tuple[float, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_split = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode = msgspec.msgpack.Decoder(Family).decode


def snapshot_of(families: Iterable[Family]) -> bytes:
    """What a process has counted, for `Totals.replace`."""
    return _encode(list(families))


def families_of(snapshot: bytes) -> Iterator[Family]:
    """What a snapshot says. Family by family: reading it whole would keep all other threads waiting."""
    return map(_decode, _split(snapshot))


def added(parts: Iterable[Iterable[Family]]) -> list[Family]:
    """Families of several processes as one: numbers of the same labels are added up."""
    sums: dict[str, tuple[Family, dict[Values, list[float]]]] = {}
    for part in parts:
        for family in part:
            _, children = sums.setdefault(family.name, (family, {}))
            for values, numbers in family.children:
                before = children.get(values)
                children[values] = numbers if before is None else [a + b for a, b in zip(before, numbers, strict=True)]
    return [
        Family(family.name, family.kind, family.help, family.labels, list(children.items()), family.bounds)
        for family, children in sums.values()
    ]


class Count:
    """One counter; whoever is in a hurry adds to its `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Counters:
    """A family of counters; `name` without `_total`. Children with `known` labels are there from the start. They are
    counted in units of which `per` are one."""

    def __init__(self, name: str, help: str, labels: Values, known: Iterable[Values] = (), per: float = 1.0) -> None:
        self.name = name
        self.label_names = labels
        self.per = per
        self.children: dict[Values, Count] = {values: Count() for values in known}
        self._help = help

    def labels(self, *values: str) -> Count:
        """The counter with these label values."""
        child = self.children.get(values)
        if child is None:
            child = self.children[values] = Count()
        return child

    def family(self) -> Family:
        per = self.per
        children = [(values, [child.value / per]) for values, child in self.children.items()]
        return Family(self.name, "counter", self._help, self.label_names, children)


class Summed:
    """A family of counters by some of its labels, summed over the others."""

    def __init__(self, of: Counters, *labels: str) -> None:
        self._of = of
        self._labels = labels
        self._places = [of.label_names.index(label) for label in labels]
        self._groups: dict[Values, list[Count]] = {}
        self._grouped = 0  # children so far: they come and do not go

    def family(self) -> Family:
        children = self._of.children
        for values, child in islice(children.items(), self._grouped, None):
            self._groups.setdefault(tuple([values[place] for place in self._places]), []).append(child)
        self._grouped = len(children)
        per = self._of.per
        sums = [(values, [sum([child.value for child in group]) / per]) for values, group in self._groups.items()]
        return Family(self._of.name, "counter", "", self._labels, sums)


class Distribution:
    """One histogram: `bounds` are inclusive upper ones, ascending."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Histograms:
    """A family of histograms with the same buckets. Children with `known` labels are there from the start."""

    def __init__(
        self, name: str, help: str, labels: Values, buckets: Sequence[float], known: Iterable[Values] = ()
    ) -> None:
        self._family = (name, "histogram", help, labels)
        self._bounds = tuple(map(float, buckets))
        self._children: dict[Values, Distribution] = {values: Distribution(self._bounds) for values in known}

    def labels(self, *values: str) -> Distribution:
        """The histogram with these label values."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Distribution(self._bounds)
        return child

    def family(self) -> Family:
        children: list[tuple[Values, list[float]]] = [
            (values, [*child.counts, child.sum]) for values, child in self._children.items()
        ]
        return Family(*self._family, children, self._bounds)


class Gauges:
    """A family of gauges of one label, whose values are asked for when somebody looks. Those that were there once are
    0 when nobody names them any more."""

    def __init__(self, name: str, help: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._family = (name, "gauge", help, (label,))
        self._read = read
        self._known: dict[str, float] = {}

    def family(self) -> Family:
        self._known = dict.fromkeys(self._known, 0.0) | dict(self._read())
        return Family(*self._family, [((value,), [number]) for value, number in self._known.items()])
