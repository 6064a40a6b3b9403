"""The overview and its events, over a gateway that says what the test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, cast

import pytest

from gateway.admin.dashboard import live as module
from gateway.admin.dashboard.live import Live
from gateway.admin.desks.cost_to_date import CostToDate
from gateway.admin.desks.levels import Levels
from gateway.records import Finished
from gateway.store.client.connection import StoreDown
from gateway.telemetry.counters import Family


class Gateway:
    """What Live asks of its gateway."""

    def __init__(self) -> None:
        self.requests = Family("gateway_upstream_requests", "counter", "", ("account", "code"), [])
        self.exchanges: list[tuple[str, str]] = []
        self.away: dict[str, int] = {}
        self.shown: list[dict[str, Any]] = [{"id": "a"}]
        self.standing = {"available": 1}
        self.asked = 0  # how often all accounts were

    def families(self) -> list[Family]:
        return [self.requests]

    def workers(self) -> tuple[int, int]:
        return 1, 2

    def modes(self) -> Mapping[str, int]:
        return self.away

    def states(self) -> Mapping[str, int]:
        return self.standing

    def accounts(self) -> list[dict[str, Any]]:
        self.asked += 1
        return self.shown

    def exchanged(self, account: str, code: str) -> None:
        self.exchanges.append((account, code))


class Away:
    """A store that does not answer."""

    async def look(self) -> dict[str, float]:
        raise StoreDown("away")


def live_of(gateway: Gateway) -> Live:
    return Live(gateway, cast(CostToDate, Away()), Levels(cast(Any, None), list, list, lambda: 0.0))


def record(name: str) -> Finished:
    return Finished(name, 0.0, "messages")


class Reader:
    """Reads one stream event by event."""

    def __init__(self, stream) -> None:
        self.stream = stream
        self.events: list[dict[str, str]] = []

    async def next(self, name: str) -> dict[str, Any]:
        """The next event of that name; what comes before it is dropped."""
        async with asyncio.timeout(10):
            while True:
                while self.events:
                    found = self.events.pop(0)
                    if found.get("event") == name:
                        return {**found, "data": json.loads(found["data"])}
                for block in (await anext(self.stream)).decode().split("\n\n")[:-1]:
                    self.events.append(dict(line.split(": ", 1) for line in block.split("\n")))


@pytest.fixture
async def running(monkeypatch):
    """Lets a Live run, quickly, until the end of the test."""
    monkeypatch.setattr(module, "_TICK", 0.005)
    tasks = []

    def run(live: Live) -> Live:
        tasks.append(asyncio.create_task(live.run()))
        return live

    yield run
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_overview_is_whole_though_nothing_happened_and_the_store_is_away():
    gateway = Gateway()
    gateway.away = {"store": 1, "workers": 0}
    overview = await live_of(gateway).overview()
    assert overview["spent"] == {
        "today_usd": None, "saved_today_usd": None, "month_usd": None, "saved_month_usd": None,
    }  # fmt: skip
    assert overview["workers"] == {"alive": 1, "configured": 2}
    assert overview["ttft_seconds"] == {"p50": None, "p95": None}
    assert overview["cache_hit_rate"] is None
    assert overview["degraded"] == ["store"]
    assert overview["lacking"] == {}
    assert overview["history"] == []
    json.dumps(overview)


async def test_the_history_has_a_point_for_some_looks_and_ends_somewhere(monkeypatch):
    live = live_of(Gateway())
    clock = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    for _ in range(1000):
        clock[0] += 2.5
        live.looked()
    history = (await live.overview())["history"]
    assert len(history) == 180
    assert set(history[0]) == {
        "at", "requests_per_second", "errors_per_second", "refused_per_second", "ttft_p50", "ttft_p95", "input",
        "cache_read", "cache_write", "output", "cache_hit_rate",
    }  # fmt: skip
    assert "history" not in await live.overview(history=False)


async def test_each_exchange_that_is_new_is_told_once():
    gateway = Gateway()
    live = live_of(gateway)
    gateway.requests.children.append((("a", "529"), [1.0]))
    live.looked()
    live.looked()
    assert gateway.exchanges == [("a", "529")]


async def test_events_begin_with_how_things_are_and_go_on_with_what_changes(running):
    gateway = Gateway()
    live = running(live_of(gateway))
    live.finished([record("before")])
    reader = Reader(await live.events())
    assert "history" not in (await reader.next("overview"))["data"]
    assert (await reader.next("accounts"))["data"] == {"data": [{"id": "a"}]}
    live.finished([record("one"), record("two")])
    live.looked()
    told = await reader.next("requests")
    assert [row["request_id"] for row in told["data"]["data"]] == ["two", "one"]
    gateway.shown = [{"id": "b"}]
    live.looked()
    assert (await reader.next("accounts"))["data"] == {"data": [{"id": "b"}]}
    live.close()
    with pytest.raises(StopAsyncIteration):
        while True:
            await reader.next("nothing")


async def test_accounts_are_looked_at_when_one_stands_otherwise_and_else_with_the_numbers():
    gateway = Gateway()
    live = live_of(gateway)
    reader = Reader(await live.events())
    assert (await reader.next("accounts"))["data"] == {"data": [{"id": "a"}]}
    live.looked()
    await live._tell()
    asked = gateway.asked
    gateway.shown = [{"id": "b"}]  # a number of it, say
    for _ in range(10):
        await live._tell()
    assert gateway.asked == asked
    gateway.standing = {"out": 1}
    await live._tell()
    live.looked()
    await live._tell()
    assert gateway.asked == asked + 2
    while (await reader.next("accounts"))["data"] != {"data": [{"id": "b"}]}:
        continue
    live.close()


async def test_a_browser_that_comes_back_gets_the_requests_it_missed(running):
    live = running(live_of(Gateway()))
    reader = Reader(await live.events())
    live.finished([record("seen")])
    live.looked()
    last = (await reader.next("requests"))["id"]
    await reader.stream.aclose()
    live.finished([record("missed")])
    live.looked()
    again = Reader(await live.events(last))
    assert [row["request_id"] for row in (await again.next("requests"))["data"]["data"]] == ["missed"]
    for strange in ("", "x", f"{last}9999999999999999999999", "other-0", "-", last.replace("-", "-x")):
        stream = await live.events(strange)
        first = (await anext(stream)).decode()
        assert "event: requests" not in first
        await stream.aclose()
    live.close()


async def test_one_failure_does_not_end_the_telling(running, monkeypatch):
    gateway = Gateway()
    live = live_of(gateway)
    reader = Reader(await live.events())
    await reader.next("accounts")
    failing = [True]

    def accounts() -> list[dict[str, Any]]:
        if failing[0]:
            failing[0] = False
            raise RuntimeError("a bug")
        return [{"id": "c"}]

    monkeypatch.setattr(gateway, "accounts", accounts)
    running(live)
    assert (await reader.next("accounts"))["data"] == {"data": [{"id": "c"}]}
    live.close()
