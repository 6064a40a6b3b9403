"""What workers have counted, added up where it keeps nobody waiting. How it adds up is tested with the metrics."""

from __future__ import annotations

import threading

import msgspec
import pytest

from gateway.telemetry import counters as module
from gateway.telemetry.counters import Family, Values, families_of
from gateway.telemetry.totals import Totals


def snapshot(count: float, *teams: str) -> bytes:
    children: list[tuple[Values, list[float]]] = [((team,), [count]) for team in teams]
    return msgspec.msgpack.encode(
        [
            Family("gateway_requests", "counter", "", ("team",), children),
            Family("gateway_requests_in_flight", "gauge", "", ("endpoint",), [(("messages",), [count])]),
        ]
    )


def counts(totals: Totals) -> dict[str, dict[tuple[str, ...], float]]:
    return {
        family.name: {values: numbers[0] for values, numbers in family.children} for family in totals.families()
    }  # fmt: skip


@pytest.fixture
def read(monkeypatch) -> list[Family]:
    """What is read of snapshots, family by family."""
    families: list[Family] = []
    decode = module._decode

    def reading(data: bytes) -> Family:
        families.append(decode(data))
        return families[-1]

    monkeypatch.setattr(module, "_decode", reading)
    return families


def test_nothing_is_read_before_somebody_looks_and_then_in_pieces(read):
    totals = Totals()
    for _ in range(10):
        totals.replace(1, snapshot(2, "red", "blue"))
    assert not read
    assert counts(totals)["gateway_requests"] == {("red",): 2, ("blue",): 2}
    assert [family.name for family in read] == ["gateway_requests", "gateway_requests_in_flight"]


def test_a_snapshot_is_what_its_families_are():
    assert [family.name for family in families_of(snapshot(1, "red"))] == [
        "gateway_requests", "gateway_requests_in_flight",
    ]  # fmt: skip


def test_workers_may_end_and_tell_while_somebody_looks():
    """In whatever threads: no sum ever falls, and none is too high."""
    totals, over, seen = Totals(), threading.Event(), list[float]()
    workers, lives = 4, 60

    def live(worker: int) -> None:
        for _ in range(lives):
            totals.replace(worker, snapshot(1, "red"))
            totals.replace(worker, snapshot(2, "red"))
            totals.end(worker)

    def look() -> None:
        while not over.is_set():
            seen.append(counts(totals).get("gateway_requests", {}).get(("red",), 0.0))

    threads = [threading.Thread(target=live, args=(number,)) for number in range(workers)]
    looking = threading.Thread(target=look)
    for thread in (looking, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    looking.join()
    assert seen == sorted(seen)
    assert counts(totals)["gateway_requests"] == {("red",): 2 * workers * lives}
    assert counts(totals)["gateway_requests_in_flight"] == {}


def test_the_last_numbers_of_an_ended_worker_count_until_those_kept_do(monkeypatch):
    """While they are added up, which takes its time, a look sees them once: neither twice nor not at all."""
    totals = Totals()
    totals.replace(1, snapshot(3, "red"))
    seen = []
    encode = module._encode

    def encoding(families: list[Family]) -> bytes:
        seen.append(counts(totals)["gateway_requests"])
        return encode(families)

    monkeypatch.setattr(module, "_encode", encoding)
    totals.end(1)
    assert [*seen, counts(totals)["gateway_requests"]] == [{("red",): 3}, {("red",): 3}]
