"""What a client's connection tells of itself to those who write to it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.listen.connection import Connection

pytestmark = pytest.mark.anyio


class Transport:
    """Notes what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return False


@pytest.fixture
async def connection() -> Connection:
    state = SimpleNamespace(connections=set(), tasks=set(), total_requests=0)
    connection = Connection(cast(Any, state), asyncio.get_running_loop())
    connection.bounds = cast(Any, SimpleNamespace(write=5.0, idle=5.0))
    connection.transport = cast(Any, Transport())
    return connection


DELTA = b'event: content_block_delta\ndata: {"delta":{"text":"so"}}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(DELTA), DELTA)


async def test_a_streams_short_way_is_full_while_its_client_takes_nothing(connection):
    way = connection.short_way()
    assert way.take(CHUNK)
    connection.pause_writing()
    assert not way.take(CHUNK)
    assert connection.short_way().full
    connection.resume_writing()
    assert connection.short_way().take(CHUNK)


async def test_it_leads_nowhere_once_the_answer_is_out_whatever_the_client_does(connection):
    way = connection.short_way()
    connection.answered()
    assert not way.take(CHUNK)
    connection.pause_writing()
    connection.resume_writing()
    assert not way.take(CHUNK)
    assert cast(Transport, connection.transport).written == []
