"""What a client's connection tells of itself to those who write to it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.listen.connection import Connection
from gateway.listen.cycle import Cycle

pytestmark = pytest.mark.anyio


class Transport:
    """Notes what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing


@pytest.fixture
async def connection() -> Connection:
    state = SimpleNamespace(connections=set(), tasks=set(), total_requests=0)
    listener = SimpleNamespace(write=5.0, idle=5.0, draining=False)
    connection = Connection(cast(Any, listener), cast(Any, state), asyncio.get_running_loop())
    connection.transport = cast(Any, Transport())
    return connection


DELTA = b'event: content_block_delta\ndata: {"delta":{"text":"so"}}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(DELTA), DELTA)


@pytest.fixture
async def cycle(connection) -> Cycle:
    """A stream whose head is out."""
    cycle = Cycle(connection, "POST", (b"/", b""), "1.1", [], True)
    connection.cycle = connection.serving = cycle
    cycle.more_body = False
    await cycle.start(200, [])
    assert cycle.short_way() is None
    await cycle.write(b": so\n\n", more=True)
    return cycle


async def test_a_streams_short_way_is_full_while_its_client_takes_nothing(connection, cycle):
    way = cycle.short_way()
    assert way.take(CHUNK)
    connection.pause_writing()
    assert not way.take(CHUNK)
    connection.resume_writing()
    assert way.take(CHUNK)
    connection.transport.closing = True
    assert not way.take(CHUNK)
    connection.pause_writing()
    assert cycle.short_way().full


async def test_there_is_none_before_the_head_is_out_nor_after_the_end(connection, cycle):
    await cycle.write(b": end\n\n", more=False)
    assert connection.transport.written[-1].endswith(b"0\r\n\r\n")
    assert cycle.short_way() is None
