"""An HTTP/2 upstream that leaves: what it has taken it serves to the end, what it has not goes out once and no more."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream import httpx_transport
from gateway.upstream.httpx_farewell import Farewell, Unprocessed
from gateway.upstream.httpx_feed import Feed
from gateway.upstream.httpx_transport import HttpxTransport
from gateway.upstream.transport import Interrupted, NotSent, Origin, Timeouts, Unanswered
from tests.upstream.offer import BLOCK, Offer
from tests.upstream.origin import PATIENCE, Gone, Peer, Script, Server, answers, identity

Serve = Callable[..., Server]
ANY = (1 << 31) - 1  # the stream that a first warning names
NO_ERROR, INTERNAL_ERROR, CALM = 0, 2, 11


def goaway(last: int, error: int = NO_ERROR, more: bytes = b"") -> bytes:
    return (8 + len(more)).to_bytes(3) + b"\x07\x00\0\0\0\0" + struct.pack(">II", last, error) + more


class Leaver:
    """An upstream. Its request number `turn` finds it leaving: `before` the head, `inside` the body and `after` the end
    of its answer it says so; it answers if it is to `serve`, and closes."""

    def __init__(
        self, turn: int = 1, *, before: bytes = b"", inside: bytes = b"", after: bytes = b"", serve: bool = True
    ) -> None:
        self.turn = turn
        self.before, self.inside, self.after = before, inside, after
        self.serve = serve
        self.bodies: list[bytes] = []
        self.methods: list[bytes] = []

    def __call__(self, peer: Peer) -> None:
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        state.initiate_connection()
        body = b""
        while True:
            tell(peer, state.data_to_send())
            for event in state.receive_data(hear(peer)):
                if isinstance(event, h2.events.RequestReceived):
                    self.methods.append(dict(event.headers or ())[b":method"])
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                    state.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                elif isinstance(event, h2.events.StreamEnded):
                    done, body = body, b""
                    peer.server.note(lambda done=done: self.bodies.append(done))  # type: ignore[misc]
                    leaving = len(self.bodies) == self.turn
                    self.answer(peer, state, event.stream_id or 0, leaving)
                    if leaving and not self.serve:
                        return

    def answer(self, peer: Peer, state: h2.connection.H2Connection, stream: int, leaving: bool) -> None:
        if leaving and self.before:
            tell(peer, state.data_to_send() + self.before)
            peer.server.settle()
        if leaving and not self.serve:
            return
        state.send_headers(stream, [(":status", "200")])
        state.send_data(stream, b"hel")
        tell(peer, state.data_to_send() + (self.inside if leaving else b""))
        peer.server.settle()
        state.send_data(stream, b"lo", end_stream=True)
        tell(peer, state.data_to_send() + (self.after if leaving else b""))


def tell(peer: Peer, data: bytes) -> None:
    try:
        peer.sock.sendall(data)
    except OSError:
        raise Gone from None


def hear(peer: Peer) -> bytes:
    try:
        data = peer.sock.recv(1 << 16)
    except OSError:
        data = b""
    if not data:
        raise Gone
    return data


Start = Callable[[Script], tuple[HttpxTransport, Server]]


@pytest.fixture
async def start(serve: Serve, authority, ca_file) -> AsyncIterator[Start]:
    transports: list[HttpxTransport] = []

    def connected(script: Script) -> tuple[HttpxTransport, Server]:
        tls = identity(authority, "localhost")
        tls.set_alpn_protocols(["h2"])
        server = serve(script, tls=tls)
        transports.append(HttpxTransport(Origin.parse(server.url, ca_file=ca_file, http2=True), Timeouts()))
        return transports[-1], server

    yield connected
    for transport in transports:
        await asyncio.wait_for(transport.aclose(), PATIENCE)
        assert repr(transport).endswith("idle=0 busy=0>")


async def exchange(transport: HttpxTransport, body: bytes | Offer = b"{}", method: bytes = b"POST") -> bytes:
    response = await transport.send(method, b"/v1/messages", b"", body)
    parts = []
    while part := await response.read():
        parts.append(part)
    response.close()
    return b"".join(parts)


FAREWELLS: dict[str, dict[str, Any]] = {
    "before the head": {"before": goaway(3)},
    "inside the body": {"inside": goaway(3)},
    "with words": {"inside": goaway(3, more=b"keepalive_requests" * 100)},
    "with a warning": {"before": goaway(ANY), "inside": goaway(3)},
    "after the end": {"after": goaway(3)},
    "after the end, naming none": {"inside": goaway(0), "after": goaway(0)},
}


@pytest.mark.parametrize("farewell", FAREWELLS)
async def test_an_answer_that_was_taken_is_whole_and_its_connection_is_not_used_again(farewell, start):
    script = Leaver(2, **FAREWELLS[farewell])
    transport, server = start(script)
    for _ in range(4):
        assert await exchange(transport, b"x" * 100_000) == b"hello"
    assert script.bodies == [b"x" * 100_000] * 4
    assert len(server.peers) == 2


@pytest.mark.parametrize("body", [b"{}", b""])
@pytest.mark.parametrize("error", [NO_ERROR, INTERNAL_ERROR, CALM])
@pytest.mark.parametrize(("turn", "last"), [(1, 0), (2, 0), (2, 1)])
async def test_a_request_that_was_not_taken_is_not_sent_and_goes_out_once(turn, last, error, body, start):
    script = Leaver(turn, before=goaway(last, error), serve=False)
    transport, server = start(script)
    method = b"POST" if body else b"GET"
    for _ in range(turn - 1):
        assert await exchange(transport, body, method) == b"hello"
    with pytest.raises(NotSent):
        await exchange(transport, body, method)
    assert len(script.methods) == turn
    assert len(server.peers) == 1
    assert await exchange(transport, body, method) == b"hello"
    assert len(server.peers) == 2


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("last", [0, 1])
async def test_an_upload_that_was_not_taken_is_unanswered_and_goes_out_once(last, sized, start):
    script = Leaver(2, before=goaway(last), serve=False)
    transport, server = start(script)
    assert await exchange(transport) == b"hello"
    with pytest.raises(Unanswered):
        await exchange(transport, Offer(BLOCK, count=20, size=20 * len(BLOCK) if sized else None))
    assert script.bodies == [b"{}", BLOCK * 20]
    assert len(server.peers) == 1


async def test_an_upstream_that_leaves_for_an_error_leaves_what_it_has_taken_unanswered(start):
    script = Leaver(before=goaway(1, INTERNAL_ERROR), serve=False)
    transport, _ = start(script)
    with pytest.raises(Unanswered):
        await exchange(transport)
    assert script.bodies == [b"{}"]


async def test_an_upstream_that_leaves_for_an_error_inside_its_answer_breaks_it_off(start):
    transport, _ = start(Leaver(inside=goaway(1, INTERNAL_ERROR)))
    with pytest.raises(Interrupted):
        await exchange(transport)


@pytest.mark.parametrize(("method", "kind"), [(b"POST", bytes), (b"GET", bytes), (b"POST", Offer)])
async def test_httpx_is_stopped_before_it_sends_anything_again(method, kind, start, monkeypatch):
    monkeypatch.setattr(httpx_transport, "farewell", lambda network: None)
    script = Leaver(2, before=goaway(1), serve=False)
    transport, server = start(script)
    assert await exchange(transport) == b"hello"
    with pytest.raises(Unanswered):
        await exchange(transport, kind(), method)
    assert len(script.methods) == 2
    assert len(server.peers) == 1


async def test_an_upload_is_given_out_once():
    feed = Feed(Offer(b"hello"), 1.0)
    async with feed.deadline:
        assert [piece async for piece in feed] == [b"hello"]
    with pytest.raises(Unanswered):
        [piece async for piece in feed]


# While nothing is asked.


def session(turns: list[bytes | None], *, settled: bool = True) -> Callable[[Peer], None]:
    """An upstream that says this after each answer on a connection, and closes where that is None."""

    def script(peer: Peer) -> None:
        left = iter(turns)

        def after() -> None:
            if settled:
                peer.server.settle()  # the answer has been read by now, and its connection is idle
            words = next(left, b"")
            if words is None:
                peer.close()
            elif words:
                tell(peer, words)
            peer.server.note(lambda: peer.server.names.append("told"))
            if words is None:
                raise Gone

        Served(after)(peer)

    return script


class Served(Leaver):
    """An upstream that answers, and then does something."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__(0)
        self.then = then

    def answer(self, peer: Peer, state: h2.connection.H2Connection, stream: int, leaving: bool) -> None:
        super().answer(peer, state, stream, leaving)
        self.then()


PING = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)
IDLE = {
    "leaves": (goaway(1), 2),
    "leaves in two steps": (goaway(ANY) + PING, 2),
    "leaves for an error": (goaway(1, CALM), 2),
    "closes": (None, 2),
    "sends a ping": (PING, 1),
}


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("what", IDLE)
async def test_a_connection_that_the_upstream_left_while_idle_is_not_used(what, settled, start):
    words, connections = IDLE[what]
    transport, server = start(answers(session([words], settled=settled), session([])))
    assert await exchange(transport) == b"hello"
    await server.until(lambda: "told" in server.names)
    assert len(transport.idle) == 1
    for _ in range(2):
        assert await exchange(transport) == b"hello"
    assert len(server.peers) == connections


async def test_giving_up_while_an_idle_connection_is_looked_at_closes_it(start, monkeypatch):
    looked = asyncio.Event()

    async def left(self: Farewell) -> bool:
        looked.set()
        await asyncio.Event().wait()
        return False

    transport, server = start(session([]))
    assert await exchange(transport) == b"hello"
    monkeypatch.setattr(Farewell, "left", left)
    request = asyncio.create_task(exchange(transport))
    await looked.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await server.until(lambda: server.peers[0].gone)
    assert not transport.busy


# However the bytes come.


def frame(kind: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, 0)) + stream.to_bytes(4) + payload


def network(data: bytes, cuts: list[int]) -> Any:
    """A network stream that brings these bytes in such pieces, then its end."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    pieces = iter([data[start:end] for start, end in pairwise(edges)])

    async def read(max_bytes: int, timeout: float | None = None) -> bytes:
        return next(pieces, b"")

    return SimpleNamespace(read=read)


ANSWER = [frame(4, 0, b""), frame(1, 3, b"h" * 20), frame(0, 3, b"d" * 300), frame(0, 3, b"")]
OTHERS = st.sampled_from([*ANSWER, frame(7, 1, bytes(8)), frame(7, 0, bytes(5)), frame(6, 0, bytes(8))])
LEAVES = st.sampled_from([goaway(3), goaway(ANY), goaway(5, more=b"bye")])


@given(frames=st.lists(st.one_of(OTHERS, LEAVES), max_size=8), cuts=st.lists(st.integers(1, 900)))
async def test_all_but_the_farewells_passes(frames, cuts):
    whole = [each for each in frames if each not in (goaway(3), goaway(ANY), goaway(5, more=b"bye"))]
    stream = network(b"".join(frames), cuts)
    heard = Farewell(stream)
    heard.expect(3)
    got = b""
    while part := await stream.read(1 << 16):
        got += part
    assert got == b"".join(whole)
    assert heard.leaving == (len(whole) < len(frames))


@given(cuts=st.lists(st.integers(1, 60)))
async def test_what_came_before_is_read_before_the_request_is_given_up(cuts):
    before = frame(4, 0, b"") + frame(6, 0, bytes(8))
    stream = network(before + goaway(1, CALM, b"too many") + frame(6, 0, bytes(8)), cuts)
    Farewell(stream).expect(3)
    got = b""
    with pytest.raises(Unprocessed):
        while True:
            part = await stream.read(1 << 16)
            assert part
            got += part
    assert got.startswith(before)
