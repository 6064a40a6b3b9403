"""What supervisor and worker say to each other arrives whole and in order, and a deaf worker costs no memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.core.routing.document import Entry, PoolDocument
from gateway.records import Finished, Usage
from gateway.worker import control
from gateway.worker.control import (
    Broadcast,
    Channel,
    Document,
    Drain,
    Keys,
    Message,
    NotReady,
    Numbers,
    Ready,
    Reload,
    Reseed,
    Returned,
    Scrape,
    Start,
)

DOCUMENT = PoolDocument(3, (Entry("a", "w", "o", 2.0, ("x",), "draining", 50.0, 9.0),))


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    made = []
    for each in socket.socketpair():
        each.setblocking(False)
        made.append(Channel(*await asyncio.open_connection(sock=each)))
    yield made[0], made[1]
    for channel in made:
        channel.close()


async def test_every_message_arrives_as_it_was_sent(ends):
    here, there = ends
    said: list[Message] = [
        Start(b"config", DOCUMENT, 4, "unix:///store", b"keys", "gateway.1"), Keys(b"keys"), Document(DOCUMENT, 4),
        Reload(b"config"), Reseed(),
        Broadcast(b"\x00\xff"), Broadcast(b""), Scrape(1), Scrape(2, True), NotReady(), Drain(1.5), Ready(),
        Returned(5),
        Numbers(b"n", b"n" * 200_000, 2),
        Numbers(b"", b"", 0, {"a": 1}, [Finished("req_1", 1.5, "messages", usage=Usage(1, 2))]),
    ]  # fmt: skip
    for message in said:
        here.send(message)
    assert [await there.receive() for _ in said] == said
    here.close()
    assert await there.receive() is None


async def test_news_for_an_end_that_does_not_read_is_dropped_and_orders_are_not(ends, monkeypatch):
    monkeypatch.setattr(control, "_BACKLOG", 10_000)
    here, there = ends
    for _ in range(2_000):
        here.send(Broadcast(b"n" * 1_000))
    here.send(Drain(1.0))
    received: list[Message | None] = [await there.receive()]
    while not isinstance(received[-1], Drain):
        received.append(await there.receive())
    assert 10 <= len(received) < 1_900
    here.send(Broadcast(b"again"))
    assert await there.receive() == Broadcast(b"again")
