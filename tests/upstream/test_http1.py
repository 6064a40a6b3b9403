"""What is particular to the pool on httptools; what it shares with every transport is in the contract."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.wire.short_way import delta_chunks
from gateway.upstream import http1
from gateway.upstream.connection import HIGH_WATER, Connection
from gateway.upstream.http1 import Pool
from gateway.upstream.transport import FirstByteTimeout, IdleTimeout, NotSent, Origin, Timeouts, Unable, Unanswered
from tests.upstream.offer import BLOCK, ENDLESS, Offer
from tests.upstream.origin import OK, PATIENCE, Gone, Peer, Server, answer, answers, identity

CHUNKED = (
    b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nX-A: 1\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nx-sum: 1\r\n\r\n"
)


class Wire:
    """An asyncio transport that goes nowhere."""

    def __init__(self) -> None:
        self.written = b""
        self.reading = True
        self.closing = False

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool(Origin.parse("http://upstream.test"), Timeouts(idle=60.0, first_byte=60.0))
    yield pool
    pool.busy.clear()
    await pool.aclose()


def connected(pool: Pool) -> tuple[Connection, Wire]:
    connection, wire = Connection(pool), Wire()
    connection.connection_made(cast(asyncio.Transport, wire))
    return connection, wire


async def begin(connection: Connection) -> asyncio.Task[None]:
    connection.begin(b"GET", b"GET / HTTP/1.1\r\n\r\n", b"", 60.0)
    task = asyncio.ensure_future(connection.answered())
    await asyncio.sleep(0)
    return task


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(marks=st.sets(st.integers(1, len(CHUNKED) - 1)))
async def test_no_partition_changes_a_response(marks, pool):
    connection, wire = connected(pool)
    for _ in (1, 2):
        task = await begin(connection)
        for start, end in itertools.pairwise([0, *sorted(marks), len(CHUNKED)]):
            connection.data_received(CHUNKED[start:end])
        await task
        assert (connection.status, connection.complete) == (200, True)
        assert connection.headers == [(b"x-a", b"1"), (b"transfer-encoding", b"chunked")]
        assert await connection.read() == b"hello"
        assert await connection.read() == b""
        connection.close()
        assert (pool.idle, pool.busy, wire.closing) == ([connection], set(), False)
        pool.idle.clear()


async def test_unread_bytes_stop_at_the_high_water_mark_and_one_segment(pool):
    connection, wire = connected(pool)
    task = await begin(connection)
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n")
    await task
    segment = bytes(1 << 16)
    fed = 0
    while wire.reading:
        connection.data_received(segment)
        fed += len(segment)
    assert HIGH_WATER < fed <= HIGH_WATER + len(segment)
    assert await connection.read() == bytes(fed)
    assert wire.reading


async def test_the_wait_for_a_slow_reader_is_no_silence_of_the_upstream(pool):
    connection, _wire = connected(pool)
    task = await begin(connection)
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n" + bytes(HIGH_WATER + 1))
    await task
    connection.expire()
    assert connection.phase == "body"
    connection.deadline = 0.0
    await connection.read()
    assert connection.deadline > pool.loop.time() + 30.0
    connection.expire()
    with pytest.raises(IdleTimeout):
        await connection.read()


async def test_a_response_that_waits_unread_at_its_end_is_not_kept_while_reading_is_paused(pool):
    connection, wire = connected(pool)
    task = await begin(connection)
    size = HIGH_WATER + 1
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
    await task
    assert connection.complete and not wire.reading
    connection.close()
    assert wire.closing and pool.idle == []


async def test_a_connection_that_broke_before_its_first_use_is_not_sent(serve, monkeypatch):
    server: Server = serve(answer(OK))
    made: Callable[[Connection, asyncio.BaseTransport], None] = Connection.connection_made

    def made_and_ended(self: Connection, transport: asyncio.BaseTransport) -> None:
        made(self, transport)
        self.eof_received()

    pool = Pool(Origin.parse(server.url), Timeouts())
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "connection_made", made_and_ended)
        with pytest.raises(NotSent):
            await pool.send(b"GET", b"/", b"", b"")
    await server.until(lambda: server.peers and server.peers[0].gone)
    assert server.requests == []
    response = await pool.send(b"GET", b"/", b"", b"")
    response.close()
    await pool.aclose()


async def test_a_connection_made_while_the_pool_closes_is_not_used(serve, authority, ca_file):
    closed = threading.Event()

    greeted = threading.Event()
    context = identity(authority, "localhost")

    def late_handshake(peer: Peer) -> None:
        peer.server.note(greeted.set)
        closed.wait(PATIENCE)
        try:
            peer.sock = context.wrap_socket(peer.sock, server_side=True)
        except OSError:
            raise Gone from None
        answer(OK)(peer)

    server: Server = serve(late_handshake)
    pool = Pool(Origin.parse(f"https://localhost:{server.port}", ca_file=ca_file), Timeouts())
    sending = asyncio.ensure_future(pool.send(b"GET", b"/", b"", b""))
    await server.until(greeted.is_set)
    await pool.aclose()
    closed.set()
    with pytest.raises(Unable):  # nothing that the upstream did
        await sending
    await server.until(lambda: server.peers[0].gone)
    assert server.requests == [] and not pool.busy


async def test_deadlines_are_seen_by_the_ticker(serve, monkeypatch):
    monkeypatch.setattr(http1, "TICK", 0.01)
    server: Server = serve(lambda peer: peer.wait_gone())
    pool = Pool(Origin.parse(server.url), Timeouts(first_byte=0.01))
    with pytest.raises(FirstByteTimeout):
        await pool.send(b"GET", b"/", b"", b"")
    assert repr(pool) == f"<Pool 127.0.0.1:{server.port} idle=0 busy=0>"
    await pool.aclose()


async def test_deadlines_are_seen_again_after_the_last_idle_connection_has_gone(serve, monkeypatch):
    monkeypatch.setattr(http1, "TICK", 0.01)
    server: Server = serve(answers(answer(OK), lambda peer: peer.wait_gone()))
    pool = Pool(Origin.parse(server.url), Timeouts(first_byte=0.2, keep_alive=0.05))
    response = await pool.send(b"GET", b"/", b"", b"")
    assert await response.read()
    response.close()
    await server.until(lambda: server.peers[0].gone)
    with pytest.raises(FirstByteTimeout):
        await asyncio.wait_for(pool.send(b"GET", b"/", b"", b""), PATIENCE)
    await pool.aclose()


# Uploads: what comes back while one goes out.

REFUSAL = b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge"

Connect = Callable[..., Pool]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    pools: list[Pool] = []

    def start(server: Server, ca_file: str, **timeouts: float) -> Pool:
        pools.append(Pool(Origin.parse(server.url, ca_file=ca_file), Timeouts(**timeouts)))
        return pools[-1]

    yield start
    for pool in pools:
        await asyncio.wait_for(pool.aclose(), PATIENCE)


def large(sized: bool) -> Offer:
    return Offer(BLOCK, count=ENDLESS, size=ENDLESS * len(BLOCK) if sized else None)


async def refused(pool: Pool, offer: Offer) -> None:
    """The offer is refused, and the next request goes out on another connection."""
    response = await asyncio.wait_for(pool.send(b"POST", b"/", b"", offer), PATIENCE)
    given = offer.given
    assert response.status == 413
    assert await response.read() == b"large"
    assert await response.read() == b""
    assert given == offer.given < 64 << 20
    response.close()
    assert not pool.idle and not pool.busy
    response = await pool.send(b"GET", b"/", b"", b"")
    assert await response.read() == b"hello"
    response.close()


@pytest.mark.parametrize("sized", [True, False])
async def test_a_refusal_ends_an_upload_though_the_upstream_takes_no_more(sized, connect, serve, tls, ca_file):
    def script(peer: Peer) -> None:
        peer.wait_for(200_000)
        peer.send(REFUSAL)
        peer.server.note(said.set)
        over.wait(PATIENCE)
        peer.wait_gone()

    said, over = threading.Event(), threading.Event()
    server = serve(answers(script, answer(OK)), tls=tls)
    await refused(connect(server, ca_file), large(sized))
    over.set()
    await server.until(lambda: server.peers[0].gone)
    assert len(server.peers) == 2


@pytest.mark.parametrize("end", [Peer.wait_gone, Peer.close, Peer.reset])
async def test_a_refusal_ends_an_upload_whose_client_is_waited_for(end, connect, serve, tls, ca_file):
    def script(peer: Peer) -> None:
        peer.wait_for(1)
        peer.server.settle()
        peer.send(REFUSAL)
        end(peer)

    server = serve(answers(script, answer(OK)), tls=tls)
    offer = Offer(b"hello", size=10, then=None)
    await refused(connect(server, ca_file), offer)
    assert offer.waiting.is_set() and offer.cancelled
    assert len(server.peers) == 2


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
async def test_a_refusal_counts_though_the_connection_breaks_after_it(end, sized, connect, serve, tls, ca_file):
    def script(peer: Peer) -> None:
        peer.wait_for(200_000)
        peer.send(REFUSAL)
        peer.server.settle()
        end(peer)

    server = serve(answers(script, answer(OK)), tls=tls)
    await refused(connect(server, ca_file), large(sized))
    assert len(server.peers) == 2


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
async def test_a_refusal_that_came_with_a_reset_is_read_before_more_is_written(end, connect, serve, tls, ca_file):
    standing, done = threading.Event(), threading.Event()

    class Blocking(Offer):
        async def read(self) -> bytes:
            if self.given == 2000:  # the loop stands still while the upstream speaks
                standing.set()
                assert done.wait(PATIENCE)
            return await super().read()

    def script(peer: Peer) -> None:
        standing.wait(PATIENCE)
        peer.send(REFUSAL)
        end(peer)
        done.set()

    server = serve(answers(script, answer(OK)), tls=tls)
    await refused(connect(server, ca_file), Blocking(bytes(1000), count=ENDLESS))
    assert len(server.peers) == 2


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
async def test_a_lost_connection_ends_an_upload_whose_client_is_waited_for(end, connect, serve, tls, ca_file):
    def script(peer: Peer) -> None:
        peer.wait_for(1)
        peer.server.settle()
        end(peer)

    offer = Offer(b"hello", size=10, then=None)
    with pytest.raises(Unanswered):
        await connect(serve(script, tls=tls), ca_file).send(b"POST", b"/", b"", offer)
    assert offer.cancelled


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("block", [BLOCK, bytes(32 << 20)])
async def test_little_of_an_upload_waits_for_the_socket(block, sized, connect, serve, tls, ca_file):
    over = threading.Event()

    def script(peer: Peer) -> None:
        peer.wait_for(1)
        over.wait(PATIENCE)
        peer.wait_gone()

    server = serve(script, tls=tls)
    pool = connect(server, ca_file)
    offer = Offer(block, count=ENDLESS, size=ENDLESS * len(block) if sized else None)
    sending = asyncio.ensure_future(pool.send(b"POST", b"/", b"", offer))
    given = 0
    while not given or given != offer.given:
        given = offer.given
        await asyncio.sleep(0.1)
    (connection,) = pool.busy
    transport: Any = connection._transport
    waiting = transport.get_write_buffer_size()
    if hasattr(transport, "_ssl_protocol"):  # the ciphertext; uvloop does not show it
        waiting += transport._ssl_protocol._transport.get_write_buffer_size()
    assert 0 < waiting <= 130 << 10
    sending.cancel()
    await asyncio.wait([sending])
    over.set()


async def test_trailers_are_not_kept_however_many_come(pool):
    connection, _ = connected(pool)
    task = await begin(connection)
    connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n")
    await task
    for number in range(1000):
        connection.data_received(b"x-%d: %b\r\n" % (number, b"a" * 100))
    assert connection._lines == [] and len(connection.headers) == 1
    connection.data_received(b"\r\n")
    assert await connection.read() == b"hi" and connection.complete
    connection.close()


async def test_a_connection_that_was_closed_unnoticed_is_not_used_again(serve):
    """Its end is in the socket, and the loop was too busy to read it."""
    close, closed = threading.Event(), threading.Event()

    def once(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        if len(peer.server.peers) == 1:
            assert close.wait(PATIENCE)
            peer.sock.close()
            closed.set()
        else:
            peer.request()

    server = serve(once)
    pool = Pool(Origin.parse(server.url), Timeouts())
    try:
        for number in range(2):
            response = await pool.send(b"POST", b"/v1/messages", b"", b"{}")
            assert await response.read() == b"hello"
            response.close()
            assert len(pool.idle) == 1
            if not number:
                close.set()
                assert closed.wait(PATIENCE)  # nothing else runs in this loop meanwhile
        assert len(server.requests) == len(server.peers) == 2
    finally:
        await pool.aclose()


DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"%b"}}\n\n'
TEXTS = st.sampled_from([b"", b"so", b"a" * 300, b"\\n\\n", b"1\r\n", b"\r", b"\n\n", b"0\r\n\r\n", b"event: x\n"])
OTHERS = st.sampled_from([b"event: ping\ndata: {}\n\n", b"event: message_delta\ndata: {}\n\n", b"a", b"\r\n", b": x\n"])
PIECES = st.one_of(TEXTS.map(lambda text: DELTA % text), OTHERS)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunks=st.lists(st.lists(PIECES, min_size=1, max_size=3).map(b"".join), min_size=1, max_size=8),
    cuts=st.sets(st.integers(0, 3000), max_size=8),
    whole=st.booleans(),
    size=st.sampled_from([b"%x", b"%X", b"000%x", b"%x;a=b"]),
    takes=st.booleans(),
)
async def test_chunks_that_are_taken_and_what_is_read_are_the_body(chunks, cuts, whole, size, takes, pool):
    framed = [size % len(chunk) + b"\r\n" + chunk + b"\r\n" for chunk in chunks] + [b"0\r\n\r\n"]
    text = b"".join(framed)
    marks = sorted(cut for cut in cuts if 0 < cut < len(text))
    segments = framed if whole else [text[a:b] for a, b in itertools.pairwise([0, *marks, len(text)])]
    connection, _ = connected(pool)
    task = await begin(connection)
    connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    await task
    body, taken = [], []

    def take(chunk: bytes) -> bool:
        if takes and delta_chunks(chunk):
            body.append(chunk.partition(b"\r\n")[2][:-2])
            taken.append(chunk)
            return True
        return False

    async def read() -> None:
        while data := await connection.read(take):
            body.append(data)

    reading = asyncio.ensure_future(read())
    for segment in segments:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection.data_received(segment)
    await reading
    assert b"".join(body) == b"".join(chunks)
    assert connection.complete
    if whole and takes and size == b"%x":  # the first follows no chunk
        assert taken == [chunk for chunk in framed[1:] if delta_chunks(chunk)]
    connection.close()
    pool.idle.clear()
    pool.busy.clear()
