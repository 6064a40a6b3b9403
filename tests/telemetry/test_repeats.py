"""Counting what repeats."""

from __future__ import annotations

import pytest

from gateway.telemetry import repeats
from gateway.telemetry.repeats import Repeats


class Counted:
    def __init__(self) -> None:
        self.now = 100.0
        self.over: list[tuple[str, int]] = []
        self.repeats = Repeats[str](60, lambda thing, times: self.over.append((thing, times)), lambda: self.now)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_each_thing_is_counted_from_when_it_came(counted: Counted):
    assert [counted.repeats.add(thing) for thing in "aabab"] == [1, 2, 1, 3, 2]
    assert (counted.repeats.total, counted.repeats.left("a"), counted.repeats.left("none")) == (5, 60, 0)
    counted.now += 59
    assert counted.repeats.add("a") == 4
    counted.now += 1
    assert (counted.repeats.add("a"), counted.repeats.total) == (1, 1)


def test_how_many_came_after_the_first_is_told_once_if_any_did(counted: Counted):
    for thing in "aaabcc":
        counted.repeats.add(thing)
        counted.now += 1
    counted.now += 54
    counted.repeats.look()
    assert counted.over == [("a", 2)]  # of c it is not yet time
    counted.now += 60
    counted.repeats.look()
    assert counted.over == [("a", 2), ("c", 1)] and counted.repeats.total == 0


def test_only_so_many_things_are_remembered(counted: Counted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(repeats, "MOST", 3)
    for thing in "aabcd":
        counted.repeats.add(thing)
    assert counted.over == [("a", 1)] and counted.repeats.total == 3
    assert counted.repeats.add("a") == 1
