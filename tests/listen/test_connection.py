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


@pytest.fixture
async def cycle(connection) -> Cycle:
    """A stream whose head is out."""
    cycle = Cycle(connection, "POST", (b"/", b""), "1.1", [], True)
    connection.cycle = connection.serving = cycle
    cycle.more_body = False
    await cycle.start(200, [])
    assert cycle.chunk_writer() is None
    await cycle.write(b": so\n\n", more=True)
    return cycle


async def test_chunks_of_a_stream_are_written_while_its_client_takes_them(connection, cycle):
    write = cycle.chunk_writer()
    assert write(CHUNK)
    connection.pause_writing()
    assert not write(CHUNK)
    connection.resume_writing()
    assert write(CHUNK)
    connection.transport.is_closing = lambda: True
    assert not write(CHUNK)


async def test_no_chunk_is_written_once_the_answer_is_out_whatever_the_client_does(connection, cycle):
    write = cycle.chunk_writer()
    await cycle.write(b": end\n\n", more=False)
    written = list(cast(Any, connection.transport).written)
    assert written[-1].endswith(b"0\r\n\r\n")
    for _ in range(2):
        assert not write(CHUNK)
        connection.pause_writing()
        connection.resume_writing()
    assert cast(Any, connection.transport).written == written
