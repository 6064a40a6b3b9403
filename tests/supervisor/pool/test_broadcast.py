"""Broadcasts between gateways: soon or not at all."""

from __future__ import annotations

import asyncio

import pytest

from gateway.store.client.client import StoreDown
from gateway.supervisor.pool.broadcast import MOST, Broadcaster


class Line:
    """Takes what is published; it can be blocked or broken."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[bytes] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False

    async def __call__(self, message: bytes) -> None:
        await self.open.wait()
        if self.broken:
            raise StoreDown("away")
        self.said.put_nowait(message)


@pytest.fixture
async def line():
    return Line()


@pytest.fixture
async def wire(line):
    wire = Broadcaster("me", line)
    running = asyncio.create_task(wire.run())
    yield wire
    running.cancel()


async def test_what_is_put_is_told_in_order_and_read_by_others_alone(wire, line):
    for said in (b"one", b"", b"\0two\0"):
        wire.put(said)
        message = await line.said.get()
        assert Broadcaster("other", line).read(message) == said
        assert wire.read(message) is None
    assert Broadcaster("m", line).read(b"me\0one") == b"one"  # a name that begins another's is no relation


async def test_when_too_much_waits_the_oldest_goes_first(wire, line):
    line.open.clear()
    wire.put(b"at once")
    await asyncio.sleep(0)
    for number in range(MOST + 50):
        wire.put(b"%d" % number)
    line.open.set()
    told = [await line.said.get() for _ in range(MOST + 1)]
    assert told[0] == b"me\0at once"
    assert told[1:] == [b"me\0%d" % number for number in range(50, MOST + 50)]
    assert line.said.empty()


async def test_a_store_that_is_away_costs_the_news_and_nothing_else(wire, line):
    line.broken = True
    for _ in range(10):
        wire.put(b"lost")
    await asyncio.sleep(0.01)
    line.broken = False
    wire.put(b"kept")
    assert await line.said.get() == b"me\0kept"


async def test_a_store_that_does_not_answer_costs_what_waits(wire, line, monkeypatch):
    monkeypatch.setattr("gateway.supervisor.pool.broadcast._PATIENCE", 0.01)
    line.open.clear()
    wire.put(b"stuck")
    wire.put(b"behind it")
    await asyncio.sleep(0.1)
    line.open.set()
    wire.put(b"kept")
    assert await line.said.get() == b"me\0kept"
