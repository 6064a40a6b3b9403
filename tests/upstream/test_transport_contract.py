"""What every transport promises, over every transport, on both event loops."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.upstream.connection import HIGH_WATER
from gateway.upstream.http1 import Pool
from gateway.upstream.httpx_transport import HttpxTransport
from gateway.upstream.pieces import PIECE
from gateway.upstream.transport import (
    FirstByteTimeout,
    IdleTimeout,
    Interrupted,
    NotSent,
    Origin,
    Response,
    Timeouts,
    Transport,
    Unable,
    Unanswered,
)
from tests.upstream.offer import BLOCK, ENDLESS, Offer
from tests.upstream.origin import OK, PATIENCE, Peer, Received, Script, Server, answer, answer_once, answers, identity

Connect = Callable[..., Transport]
Serve = Callable[..., Server]

pytestmark = pytest.mark.pairwise

TRANSPORTS: dict[str, Callable[[Origin, Timeouts], Transport]] = {"http1": Pool, "httpx": HttpxTransport}


@pytest.fixture(params=TRANSPORTS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def connect(serve: Serve, kind: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    """Opens transports, and closes them before the servers; each must have got every connection back."""
    monkeypatch.setattr("gateway.upstream.http1.TICK", 0.02)
    transports: list[Transport] = []

    def start(to: Server | str, *, ca_file: str | None = None, **timeouts: float) -> Transport:
        url = to if isinstance(to, str) else to.url
        transport = TRANSPORTS[kind](Origin.parse(url, ca_file=ca_file), Timeouts(**timeouts))
        transports.append(transport)
        return transport

    yield start
    for transport in transports:
        await asyncio.wait_for(transport.aclose(), PATIENCE)
        assert repr(transport).endswith("idle=0 busy=0>")


async def send(transport: Transport, path: bytes = b"/v1/messages", *, method: bytes = b"POST", **options) -> Response:
    return await transport.send(method, path, b"x-api-key: k\r\n", b"{}" if method == b"POST" else b"", **options)


async def body_of(response: Response) -> bytes:
    parts = []
    while part := await response.read():
        parts.append(part)
    return b"".join(parts)


async def exchange(
    transport: Transport, path: bytes = b"/v1/messages", *, method: bytes = b"POST"
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    response = await send(transport, path, method=method)
    try:
        return response.status, response.headers, await body_of(response)
    finally:
        response.close()


async def broken_off(response: Response) -> tuple[bytes, Interrupted]:
    """The bytes that came before the body broke off, and how it did."""
    parts = []
    with pytest.raises(Interrupted) as caught:
        while part := await response.read():
            parts.append(part)
    response.close()
    return b"".join(parts), caught.value


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def head(*lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join((b"HTTP/1.1 " + status, *lines, b"", b""))


def keep(connection: Peer) -> None:
    """Answer nothing, and wait for the client to close."""
    connection.wait_gone()


# What is sent and received.

WIRE = {
    "content-length": (head(b"content-length: 5", b"x-a: 1") + b"hello", 200, b"hello"),
    "empty": (head(b"content-length: 0"), 200, b""),
    "chunked": (head(b"transfer-encoding: chunked") + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", 200, b"hello"),
    "chunked with extensions and trailers": (
        head(b"Transfer-Encoding: Chunked", b"trailer: x-sum")
        + b'3;a=1\r\nhel\r\n0002;b="c;d"\r\nlo\r\n0\r\nx-sum: 1\r\nx-more: 2\r\n\r\n',
        200,
        b"hello",
    ),
    "no content": (head(b"x-a: 1", status=b"204 No Content"), 204, b""),
    "not modified": (head(b'etag: "a"', status=b"304 Not Modified"), 304, b""),
    "interim heads": (
        head(b"x-interim: 1", status=b"100 Continue")
        + head(b"link: </a>", b"link: </b>", status=b"103 Early Hints")
        + head(b"content-length: 5")
        + b"hello",
        200,
        b"hello",
    ),
    "error": (head(b"content-length: 5", status=b"529 Overloaded") + b"hello", 529, b"hello"),
    "redirect": (
        head(b"location: /x", b"content-length: 5", status=b"307 Temporary Redirect") + b"hello",
        307,
        b"hello",
    ),
    "no reason": (head(b"content-length: 5", status=b"200 ") + b"hello", 200, b"hello"),
    "an upgrade offered": (
        head(b"connection: upgrade", b"upgrade: h2c", b"content-length: 5") + b"hello",
        200,
        b"hello",
    ),
}
WIRE_UNTIL_CLOSE = {
    "delimited by close": (head(b"x-a: 1") + b"hello", 200, b"hello"),
    "by an old server": (b"HTTP/1.0 200 OK\r\nx-a: 1\r\n\r\nhello", 200, b"hello"),
    "connection: close": (head(b"connection: close", b"content-length: 5") + b"hello", 200, b"hello"),
}


@pytest.mark.parametrize("name", WIRE)
async def test_a_framed_response_arrives_whole_and_its_connection_is_used_again(name, connect, serve, tls, ca_file):
    wire, status, body = WIRE[name]
    server = serve(answer(wire), tls=tls)
    transport = connect(server, ca_file=ca_file)
    for _ in range(3):
        got = await exchange(transport)
        assert (got[0], got[2]) == (status, body)
    assert len(server.peers) == 1


@pytest.mark.parametrize("name", WIRE_UNTIL_CLOSE)
async def test_a_response_that_ends_its_connection_arrives_whole(name, connect, serve, tls, ca_file):
    wire, status, body = WIRE_UNTIL_CLOSE[name]
    server = serve(answer_once(wire), tls=tls)
    transport = connect(server, ca_file=ca_file)
    for _ in range(2):
        got = await exchange(transport)
        assert (got[0], got[2]) == (status, body)
    assert len(server.peers) == 2


async def test_connection_close_is_obeyed_though_the_upstream_keeps_it_open(connect, serve):
    server = serve(answer(WIRE_UNTIL_CLOSE["connection: close"][0]))
    transport = connect(server)
    for _ in range(2):
        assert (await exchange(transport))[2] == b"hello"
    assert len(server.peers) == 2


@pytest.mark.parametrize(
    "wire",
    [
        head(b"content-length: 5"),
        head(b"transfer-encoding: chunked"),
        head(b"content-length: 5", status=b"404 Not Found"),
        head(b"x-a: 1"),
    ],
)
async def test_the_answer_to_head_has_no_body_whatever_it_promises(wire, connect, serve):
    server = serve(answer(wire))
    transport = connect(server)
    for _ in range(2):
        status, _headers, body = await exchange(transport, method=b"HEAD")
        assert status in (200, 404) and body == b""


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("line", [b"content-length: 5", b"transfer-encoding: chunked"])
async def test_no_body_follows_a_204_or_304_whatever_it_promises(status, line, connect, serve):
    server = serve(answer(head(line, status=status)))
    transport = connect(server, idle=PATIENCE)
    for _ in range(2):
        assert (await exchange(transport))[2] == b""


async def test_the_upstream_receives_exactly_what_was_asked(connect, serve):
    server = serve(answer(OK))
    transport = connect(server)
    path = b"/v1/../%2e/%zz//x?beta=true&q=%2F+'\"<>{}|\\^`[]"
    response = await transport.send(
        b"POST", path, b"X-Api-Key: k\r\nuser-agent: a/1\r\nx-a: 1\r\nX-A:  2\r\n", b'{"a":1}'
    )
    response.close()
    await server.until(lambda: server.requests)
    host = b"host: 127.0.0.1:%d\r\n" % server.port
    lines = server.peers[0].received.replace(b"X-A:  2", b"X-A: 2")  # blanks before a value are not part of it
    assert lines == (
        b"POST " + path + b" HTTP/1.1\r\n" + host + b"X-Api-Key: k\r\nuser-agent: a/1\r\nx-a: 1\r\nX-A: 2\r\n"
        b'content-length: 7\r\n\r\n{"a":1}'
    )


@pytest.mark.parametrize(("method", "length"), [(b"GET", b""), (b"POST", b"content-length: 0\r\n")])
async def test_an_empty_body_is_announced_except_by_get(method, length, connect, serve):
    server = serve(answer(OK))
    response = await connect(server).send(method, b"/", b"", b"")
    await body_of(response)
    response.close()
    assert (
        server.peers[0].received == method + b" / HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n" % server.port + length + b"\r\n"
    )


async def test_the_path_of_the_base_url_goes_first(connect, serve):
    server = serve(answer(OK))
    await exchange(connect(server.url + "/a/b%20c/"), b"/v1/messages?x=1")
    assert server.requests[0].line == b"POST /a/b%20c/v1/messages?x=1 HTTP/1.1"


@pytest.mark.parametrize("bad", [b" ", b"\r", b"\n", b"\t", b"\x00", b"\x7f", b"\xc3\xa9", b" HTTP/1.1\r\nx: y"])
async def test_unsafe_bytes_in_the_path_are_not_sent(bad, connect, serve):
    server = serve(answer(OK))
    transport = connect(server)
    with pytest.raises(NotSent):
        await send(transport, b"/a" + bad + b"b")
    assert server.peers == []


async def test_header_names_are_lower_cased_and_repeated_headers_stay_in_order(connect, serve):
    wire = head(b"Set-Cookie: a=1", b"X-Between: x", b"SET-COOKIE: b=2", b"Content-Length: 0")
    _status, headers, _body = await exchange(connect(serve(answer(wire))))
    assert headers == [
        (b"set-cookie", b"a=1"),
        (b"x-between", b"x"),
        (b"set-cookie", b"b=2"),
        (b"content-length", b"0"),
    ]


async def test_odd_but_legal_headers_pass(connect, serve):
    lines = (
        b"!#$%&'*+-.^_`|~0aZ: v",
        b"x-empty:",
        b"x-blank:   ",
        b"x-tight:v",
        b"x-loose: \t v \t",
        b"x-inner: a \t b",
    )
    high = b"x-high: caf\xe9 \xff\x80"
    marks = b'x-marks: a:b;c,d="e" <f> \\g'
    _status, headers, _body = await exchange(connect(serve(answer(head(*lines, high, marks, b"content-length: 0")))))
    assert headers == [
        (b"!#$%&'*+-.^_`|~0az", b"v"),
        (b"x-empty", b""),
        (b"x-blank", b""),
        (b"x-tight", b"v"),
        (b"x-loose", b"v"),
        (b"x-inner", b"a \t b"),
        (b"x-high", b"caf\xe9 \xff\x80"),
        (b"x-marks", b'a:b;c,d="e" <f> \\g'),
        (b"content-length", b"0"),
    ]


async def test_the_body_is_not_decoded(connect, serve):
    wire = (
        head(b"content-encoding: gzip", b"content-type: text/plain; charset=latin-1", b"content-length: 5") + b"hello"
    )
    assert (await exchange(connect(serve(answer(wire)))))[2] == b"hello"


@pytest.mark.parametrize("chunked", [False, True])
async def test_ten_megabytes_pass_both_ways(chunked, connect, serve, tls, ca_file):
    body = bytes(range(251)) * 41_778

    def script(peer: Peer) -> None:
        echo = peer.request().body
        if chunked:
            peer.send(head(b"transfer-encoding: chunked"))
            for start in range(0, len(echo), 99_991):
                part = echo[start : start + 99_991]
                peer.sock.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            peer.send(b"0\r\n\r\n")
        else:
            peer.send(head(b"content-length: %d" % len(echo)) + echo)
        answer(OK)(peer)

    server = serve(script, tls=tls)
    transport = connect(server, ca_file=ca_file)
    response = await transport.send(b"POST", b"/", b"", body)
    assert await body_of(response) == body
    response.close()
    assert (await exchange(transport))[2] == b"hello"
    assert len(server.peers) == 1


async def test_two_hundred_concurrent_exchanges_do_not_mix(connect, serve):
    def echo(peer: Peer) -> None:
        while True:
            request = peer.request()
            said = request.line + b"|" + request.body
            half = len(said) // 2
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (said[:half], said[half:]))
            peer.send(head(b"transfer-encoding: chunked", b"x-line: " + request.line) + chunks, b"0\r\n\r\n")

    server = serve(echo)
    transport = connect(server)

    async def one(number: int) -> None:
        path, body = b"/%d" % number, b"body %d " % number * (number + 1)
        for _ in range(2):
            response = await transport.send(b"POST", path, b"", body)
            line = b"POST " + path + b" HTTP/1.1"
            assert (b"x-line", line) in response.headers
            if number % 7:  # some do not wait for the end
                assert await body_of(response) == line + b"|" + body
            response.close()

    await asyncio.gather(*(one(number) for number in range(200)))


# However it is sliced.

SLICED = ["content-length", "chunked with extensions and trailers", "interim heads", "no content"]


@pytest.mark.parametrize("name", SLICED)
async def test_a_response_cut_anywhere_is_the_same_response(name, connect, serve):
    wire, status, body = WIRE[name]
    cuts: dict[bytes, tuple[bytes, ...]] = {b"/whole": (wire,), b"/bytes": tuple(bytes([byte]) for byte in wire)}
    cuts |= {b"/%d" % at: (wire[:at], wire[at:]) for at in range(1, len(wire))}

    def script(peer: Peer) -> None:
        while True:
            peer.send(*cuts[peer.request().line.split()[1]])

    server = serve(script)
    transport = connect(server)
    expected = await exchange(transport, b"/whole")
    assert (expected[0], expected[2]) == (status, body)
    for path in cuts:
        assert await exchange(transport, path) == expected
    assert len(server.peers) == 1


@pytest.mark.parametrize("name", WIRE_UNTIL_CLOSE)
async def test_a_response_that_ends_its_connection_may_come_byte_by_byte(name, connect, serve):
    wire, status, body = WIRE_UNTIL_CLOSE[name]
    got = await exchange(connect(serve(answer_once(*(bytes([byte]) for byte in wire)))))
    assert (got[0], got[2]) == (status, body)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_no_partition_of_a_response_changes_it(data, connect, serve):
    sizes = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=6), "chunk sizes")
    body = b"".join(bytes([65 + number % 26]) * size for number, size in enumerate(sizes))
    places = itertools.accumulate(sizes, initial=0)
    chunks = (b"%x\r\n%b\r\n" % (size, body[at : at + size]) for size, at in zip(sizes, places, strict=False))
    wire = head(b"x-a: 1", b"transfer-encoding: chunked") + b"".join(chunks) + b"0\r\n\r\n"
    marks = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=12), "cuts"))
    slices = [wire[start:end] for start, end in itertools.pairwise([0, *marks, len(wire)])]
    server = serve(answer(*slices))
    transport = connect(server)
    for _ in range(2):
        assert await exchange(transport) == (200, [(b"x-a", b"1"), (b"transfer-encoding", b"chunked")], body)
    assert len(server.peers) == 1
    await transport.aclose()
    await server.stop()


async def test_a_read_gives_what_is_at_hand(connect, serve):
    said = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head(b"content-length: 10") + b"hello")
        said.wait(PATIENCE)
        peer.send(b"world")
        keep(peer)

    response = await send(connect(serve(script)))
    assert await response.read() == b"hello"
    early = response.complete
    said.set()
    assert await response.read() == b"world"
    assert await response.read() == b"" == await response.read()
    assert (early, response.complete) == (False, True)
    response.close()


# Which connection is used again.


async def test_the_connection_used_last_is_used_first(connect, serve):
    server = serve(answer(OK))
    transport = connect(server)
    first, second = await asyncio.gather(send(transport), send(transport))
    for response in (first, second):
        await body_of(response)
        response.close()
    for _ in range(3):
        await exchange(transport)
    assert sorted(peer.received.count(b"POST") for peer in server.peers) == [1, 4]


async def test_an_idle_connection_expires(connect, serve):
    server = serve(answer(OK))
    transport = connect(server, keep_alive=0.05)
    await exchange(transport)
    await server.until(lambda: server.peers[0].gone)  # nobody has to ask for it
    await exchange(transport)
    assert len(server.peers) == 2


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
async def test_a_connection_closed_by_the_upstream_while_idle_is_not_used_again(end, connect, serve, tls, ca_file):
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        peer.server.settle()
        end(peer)
        closed.set()

    server = serve(script, tls=tls)
    transport = connect(server, ca_file=ca_file)
    for _ in range(5):
        assert (await exchange(transport))[2] == b"hello"
        assert await asyncio.to_thread(closed.wait, PATIENCE)
        closed.clear()
        await turns()
    assert len(server.peers) == len(server.requests) == 5


SURPLUS = (OK.replace(b"hello", b"wrong"), b"HTTP/1.1 200 OK\r\nx-a", b"H", b"junk")


@pytest.mark.parametrize("when", ["at once", "before the first is given back", "while idle"])
async def test_what_nobody_asked_for_is_never_taken_for_an_answer(when, connect, serve, tls, ca_file):
    more, done = threading.Event(), threading.Event()

    def too_much(peer: Peer, surplus: bytes) -> None:
        peer.request()
        if when == "at once":
            peer.send(OK + surplus)
        else:
            peer.send(OK)
            more.wait(PATIENCE)
            peer.send(surplus)
        done.set()
        keep(peer)

    server = serve(answers(*(partial(too_much, surplus=surplus) for surplus in SURPLUS), answer(OK)), tls=tls)
    transport = connect(server, ca_file=ca_file)
    for number in range(len(SURPLUS)):
        more.clear()
        done.clear()
        response = await send(transport)
        assert await body_of(response) == b"hello"
        if when == "while idle":
            response.close()
        more.set()
        assert await asyncio.to_thread(done.wait, PATIENCE)
        await turns()
        response.close()
        assert len(server.peers) == number + 1
    for _ in range(2):
        assert (await exchange(transport))[2] == b"hello"
    assert len(server.peers) == len(SURPLUS) + 1
    await server.until(lambda: sum(peer.gone for peer in server.peers) == len(SURPLUS))


async def test_a_second_answer_in_a_tls_record_of_its_own_is_not_taken_for_the_next(connect, serve, authority, ca_file):
    def too_much(peer: Peer) -> None:
        peer.request()
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # two records, one segment
        peer.send(OK)
        peer.send(OK.replace(b"hello", b"wrong"))
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        keep(peer)

    server = serve(answers(too_much, answer(OK)), tls=identity(authority, "localhost"))
    transport = connect(server, ca_file=ca_file)
    for _ in range(3):
        assert (await exchange(transport))[2] == b"hello"
    assert len(server.peers) == 2


@pytest.mark.parametrize(
    "wire",
    [head(b"content-length: 5") + b"hel", head(b"transfer-encoding: chunked") + b"5\r\nhello\r\n", head() + b"hello"],
)
async def test_nothing_is_used_again_after_an_incomplete_body(wire, connect, serve):
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(wire)
        keep(peer)

    server = serve(script)
    transport = connect(server)
    for count in (1, 2):
        response = await send(transport)
        assert (await response.read()).startswith(b"hel")
        response.close()
        await server.until(lambda count=count: server.peers[count - 1].gone)
    assert len(server.peers) == 2


async def test_a_response_closed_unread_gives_its_connection_up(connect, serve):
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head(b"content-length: 5"))
        keep(peer)

    server = serve(script)
    response = await send(connect(server))
    response.close()
    response.close()
    with pytest.raises(Interrupted):
        await response.read()
    await server.until(lambda: server.peers[0].gone)


# How an exchange fails.

HEADLESS = {
    "without reading": None,
    "after reading the request": (),
    "inside the status line": (b"HTTP/1.",),
    "after the status line": (b"HTTP/1.1 200 OK\r\n",),
    "inside the headers": (b"HTTP/1.1 200 OK\r\ncontent-len",),
    "before the empty line": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n",),
    "after an interim head": (head(status=b"100 Continue"),),
}
BODILESS = {
    "before the body": (head(b"content-length: 5"), b""),
    "inside the body": (head(b"content-length: 5") + b"hel", b"hel"),
    "before the first chunk": (head(b"transfer-encoding: chunked"), b""),
    "inside a chunk's size": (head(b"transfer-encoding: chunked") + b"3\r\nhel\r\n1", b"hel"),
    "inside a chunk": (head(b"transfer-encoding: chunked") + b"5\r\nhel", b"hel"),
    "between chunks": (head(b"transfer-encoding: chunked") + b"3\r\nhel\r\n", b"hel"),
    "inside the last chunk": (head(b"transfer-encoding: chunked") + b"3\r\nhel\r\n0\r\n", b"hel"),
    "inside the trailers": (head(b"transfer-encoding: chunked") + b"3\r\nhel\r\n0\r\nx-sum: 1\r\n", b"hel"),
}
ENDS: dict[str, Script] = {"fin": Peer.close, "rst": Peer.reset}


@pytest.mark.parametrize("stage", HEADLESS)
@pytest.mark.parametrize("pooled", [False, True])
async def test_an_upstream_that_closes_before_its_head_leaves_the_request_unanswered(
    pooled, stage, connect, serve, tls, ca_file
):
    def script(peer: Peer, end: Script) -> None:
        if pooled:
            peer.request()
            peer.send(OK)
        sent = HEADLESS[stage]
        if sent is None and tls is None:
            peer.sock.recv(1, socket.MSG_PEEK)
            peer.server.note(lambda: peer.server.requests.append(Received(b"", [], b"")))
        else:
            peer.request()
            peer.send(*(sent or ()))
            peer.server.settle()
        end(peer)

    server = serve(answers(*(partial(script, end=end) for end in ENDS.values())), tls=tls)
    transport = connect(server, ca_file=ca_file)
    for count in (1, 2):
        if pooled:
            await exchange(transport)
        with pytest.raises(Unanswered) as caught:
            await send(transport)
        assert not isinstance(caught.value, FirstByteTimeout)
        await turns()
        assert len(server.peers) == count
        assert len(server.requests) == count * (1 + pooled)


@pytest.mark.parametrize("stage", BODILESS)
async def test_an_upstream_that_closes_inside_its_body_interrupts_it(stage, connect, serve, tls, ca_file):
    wire, body = BODILESS[stage]

    def script(peer: Peer, end: Script) -> None:
        peer.request()
        peer.send(wire)
        peer.server.settle()
        end(peer)

    server = serve(answers(*(partial(script, end=end) for end in ENDS.values())), tls=tls)
    transport = connect(server, ca_file=ca_file)
    for count in (1, 2):
        got, error = await broken_off(await send(transport))
        assert got == body
        assert not isinstance(error, IdleTimeout)
        assert len(server.peers) == len(server.requests) == count


async def test_a_reset_ends_a_body_that_only_a_close_delimits(connect, serve):
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head() + b"hel")
        peer.server.settle()
        peer.reset()

    assert (await broken_off(await send(connect(serve(script)))))[0] == b"hel"


@pytest.mark.parametrize(
    "junk",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"HTTP/x.y 200\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-a\x00b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b'{"type": "message"}',
        b"\x15\x03\x03\x00\x02\x02\x46",
        head(b"upgrade: websocket", b"connection: upgrade", status=b"101 Switching Protocols"),
    ],
)
async def test_junk_instead_of_a_head_leaves_the_request_unanswered(junk, connect, serve):
    server = serve(answer_once(junk))
    with pytest.raises(Unanswered):
        await send(connect(server))
    assert len(server.requests) == 1


@pytest.mark.parametrize("junk", [b"zz\r\nhello\r\n", b"5\r\nhelloX\r\n", b"-1\r\n", b"fffffffffffffffffffff\r\n"])
async def test_junk_between_chunks_interrupts_the_body(junk, connect, serve):
    server = serve(answer_once(head(b"transfer-encoding: chunked") + b"3\r\nhel\r\n", junk))
    got, _error = await broken_off(await send(connect(server)))
    assert got in (b"hel", b"helhello")


@pytest.mark.parametrize("line", [b"x-a: 1\r\n", b"x-a: " + b"1" * 5_000_000, b"1" * 5_000_000])
async def test_a_huge_head_leaves_the_request_unanswered(line, connect, serve):
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n")
        for _ in range(-(-5_000_000 // len(line))):
            peer.send(line)
        keep(peer)

    server = serve(script)
    with pytest.raises(Unanswered):
        await send(connect(server))
    await server.until(lambda: server.peers[0].gone)


@pytest.mark.parametrize("interim", [b"", head(status=b"103 Early Hints")])
async def test_no_head_in_time_is_a_first_byte_timeout(interim, connect, serve):
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(interim)
        keep(peer)

    server = serve(script)
    with pytest.raises(FirstByteTimeout):
        await send(connect(server, first_byte=0.1))
    with pytest.raises(FirstByteTimeout):
        await send(connect(server), first_byte=0.1)
    await server.until(lambda: [peer.gone for peer in server.peers] == [True, True])
    assert len(server.requests) == 2


async def test_a_server_that_does_not_read_is_a_first_byte_timeout(connect, serve, tls, ca_file):
    blocked = threading.Event()

    def script(peer: Peer) -> None:
        peer.sock.recv(1)
        blocked.wait(PATIENCE)

    server = serve(script, tls=tls)
    with pytest.raises(FirstByteTimeout):
        await connect(server, ca_file=ca_file, first_byte=0.1).send(b"POST", b"/", b"", bytes(12_000_000))
    blocked.set()


async def test_an_answer_may_come_before_the_request_is_read(connect, serve, tls, ca_file):
    def script(peer: Peer) -> None:
        peer.sock.recv(1)
        peer.send(head(b"content-length: 5", status=b"413 Too Large") + b"hello")
        keep(peer)

    server = serve(answers(script, answer(OK)), tls=tls)
    transport = connect(server, ca_file=ca_file)
    sending = asyncio.ensure_future(transport.send(b"POST", b"/", b"", bytes(2_000_000)))
    response = await asyncio.wait_for(sending, PATIENCE)
    assert (response.status, await body_of(response)) == (413, b"hello")
    response.close()


async def test_silence_inside_the_body_is_an_idle_timeout(connect, serve):
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head(b"content-length: 10") + b"hello")
        keep(peer)

    server = serve(script)
    got, error = await broken_off(await send(connect(server, idle=0.1)))
    assert got == b"hello"
    assert isinstance(error, IdleTimeout)
    await server.until(lambda: server.peers[0].gone)


# What was never written.


async def test_a_refused_connection_is_not_sent(connect):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NotSent):
        await send(connect(f"http://127.0.0.1:{port}"))


async def test_a_full_backlog_is_not_sent(connect):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as filler:
        filler.connect(listener.getsockname())
        with pytest.raises(NotSent):
            await send(connect(f"http://127.0.0.1:{listener.getsockname()[1]}", connect=0.1))


async def test_an_upstream_mute_in_the_tls_handshake_is_not_sent(connect, serve):
    server = serve(keep)
    with pytest.raises(NotSent):
        await send(connect(f"https://localhost:{server.port}", connect=0.1))
    await server.until(lambda: server.peers[0].gone)


async def test_a_name_that_cannot_be_found_is_not_sent(connect):
    with pytest.raises(NotSent):
        await send(connect("http://nowhere.invalid:9"))


@pytest.mark.parametrize("fault", ["unknown authority", "wrong name", "expired", "plain text", "closed", "reset"])
async def test_a_tls_failure_is_not_sent(fault, connect, serve, authority, ca_file):
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    context, script = None, answer(OK)
    if fault == "unknown authority":
        context = identity(trustme.CA(), "localhost")
    elif fault == "wrong name":
        context = identity(authority, "elsewhere.test")
    elif fault == "expired":
        context = identity(authority, "localhost", not_after=yesterday)
    elif fault == "plain text":

        def script(peer: Peer) -> None:
            peer.sock.recv(1)
            peer.send(head(status=b"400 Bad Request"))
            keep(peer)
    else:

        def script(peer: Peer) -> None:
            peer.sock.recv(1)
            ENDS["rst" if fault == "reset" else "fin"](peer)

    server = serve(script, tls=context)
    with pytest.raises(NotSent):
        await send(connect(f"https://localhost:{server.port}", ca_file=ca_file))
    assert server.requests == []


async def test_a_system_anchor_is_needed_where_no_file_is_given(connect, serve, authority):
    server = serve(answer(OK), tls=identity(authority, "localhost"))
    with pytest.raises(NotSent):
        await send(connect(server))


async def test_the_name_is_sent_by_sni_and_the_given_authority_accepted(connect, serve, authority, ca_file):
    server = serve(answer(OK), tls=identity(authority, "localhost"))
    assert (await exchange(connect(server, ca_file=ca_file)))[2] == b"hello"
    assert server.names == ["localhost"]


async def test_an_address_is_verified_as_an_address(connect, serve, authority, ca_file):
    server = serve(answer(OK), tls=identity(authority, "127.0.0.1"))
    assert (await exchange(connect(f"https://127.0.0.1:{server.port}", ca_file=ca_file)))[2] == b"hello"


# Back-pressure.


async def test_a_reader_that_does_not_read_stops_the_upstream(connect, serve, tls, ca_file):
    total = 24 << 20
    block = bytes(1 << 16)

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head(b"content-length: %d" % total))
        peer.sent = 0
        peer.flood(block, total)
        keep(peer)

    server = serve(script, tls=tls, send_buffer=1 << 16)
    response = await send(connect(server, ca_file=ca_file, idle=0.4))  # a slow client is no silent upstream
    await server.still()
    assert not response.complete
    assert server.peers[0].sent < 12 << 20  # most of it in the kernel's buffers
    at_hand = await response.read()
    assert len(at_hand) <= HIGH_WATER + (1 << 18)  # one segment beyond the mark
    size = len(at_hand)
    while part := await response.read():
        size += len(part)
    assert size == total
    response.close()


# Giving up.


async def cancel(task: asyncio.Task) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def begin(peer: Peer) -> None:
    """Half an answer; the other half when the second request has been given up."""
    peer.request()
    peer.send(head(b"content-length: 10") + b"hello")
    with peer.server._changed:
        peer.server._changed.wait_for(lambda: len(peer.server.peers) > 1 and peer.server.peers[1].gone, PATIENCE)
    peer.send(b"world")
    answer(OK)(peer)


async def given_up(server: Server, transport: Transport, act: Callable[[asyncio.Task], Awaitable[None]]) -> None:
    """Give up a second exchange beside a first, which must not notice."""
    first = await send(transport)

    async def one() -> None:
        response = await send(transport)
        try:
            await body_of(response)
        finally:
            response.close()

    await act(asyncio.ensure_future(one()))
    await server.until(lambda: server.peers[1].gone)
    assert await body_of(first) == b"helloworld"
    first.close()
    assert (await exchange(transport))[2] == b"hello"
    assert len(server.peers) == 2


async def test_cancelling_while_connecting_closes_that_connection_alone(connect, serve, authority, ca_file):
    context = identity(authority, "localhost")

    def shake_hands(peer: Peer) -> None:
        peer.sock = context.wrap_socket(peer.sock, server_side=True)
        begin(peer)

    def mute(peer: Peer) -> None:
        peer.wait_for(1)
        peer.server.note(greeted.set)
        keep(peer)

    greeted = threading.Event()
    server = serve(answers(shake_hands, mute))
    transport = connect(f"https://localhost:{server.port}", ca_file=ca_file)

    async def act(task: asyncio.Task) -> None:
        await server.until(greeted.is_set)
        await cancel(task)

    await given_up(server, transport, act)


async def test_cancelling_while_waiting_for_the_head_closes_that_connection_alone(connect, serve):
    def silent(peer: Peer) -> None:
        peer.request()
        keep(peer)

    server = serve(answers(begin, silent))

    async def act(task: asyncio.Task) -> None:
        await server.until(lambda: len(server.requests) == 2)
        await cancel(task)

    await given_up(server, connect(server), act)


async def test_cancelling_while_reading_closes_that_connection_alone(connect, serve):
    said = threading.Event()

    def half(peer: Peer) -> None:
        peer.request()
        peer.send(head(b"content-length: 10") + b"hello")
        peer.server.settle()
        said.set()
        keep(peer)

    server = serve(answers(begin, half))

    async def act(task: asyncio.Task) -> None:
        assert await asyncio.to_thread(said.wait, PATIENCE)
        await turns(50)
        await cancel(task)

    await given_up(server, connect(server), act)


async def test_a_cancelled_read_loses_nothing(connect, serve):
    said = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head(b"content-length: 10"))
        said.wait(PATIENCE)
        peer.send(*(b"%d" % digit for digit in range(10)))
        keep(peer)

    server = serve(script)
    response = await send(connect(server))
    reading = asyncio.ensure_future(response.read())
    await turns()
    await cancel(reading)
    said.set()
    got = b""
    while not got.endswith(b"9"):
        reading = asyncio.ensure_future(response.read())
        await turns(1)
        reading.cancel()
        await asyncio.wait([reading])
        got += b"" if reading.cancelled() else reading.result()
    assert got == b"0123456789"
    response.close()


async def test_interrupt_ends_a_pending_read(connect, serve):
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head(b"content-length: 10"))
        keep(peer)

    server = serve(script)
    response = await send(connect(server))
    reading = asyncio.ensure_future(response.read())
    await turns()
    response.interrupt("the gateway is stopping")
    response.interrupt("a second reason")
    with pytest.raises(Interrupted, match="the gateway is stopping"):
        await reading
    with pytest.raises(Interrupted, match="the gateway is stopping"):
        await response.read()
    response.close()
    await server.until(lambda: server.peers[0].gone)


@pytest.mark.parametrize("wire", [head(b"content-length: 10") + b"hello", OK])
async def test_interrupt_ends_the_next_read_whatever_is_at_hand(wire, connect, serve):
    server = serve(answer(wire))
    response = await send(connect(server))
    await turns()
    response.interrupt("enough")
    with pytest.raises(Interrupted, match="enough"):
        await response.read()
    response.close()


async def test_interrupt_after_close_touches_nobody(connect, serve):
    server = serve(answer(OK))
    transport = connect(server)
    response = await send(transport)
    await body_of(response)
    response.close()
    response.interrupt("too late")
    response.close()
    assert (await exchange(transport))[2] == b"hello"
    assert len(server.peers) == 1


async def test_aclose_closes_idle_connections_now_and_busy_ones_as_they_end(connect, serve):
    said = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head(b"content-length: 10") + b"hello")
        said.wait(PATIENCE)
        peer.send(b"world")
        keep(peer)

    server = serve(answers(script, answer(OK)))
    transport = connect(server)
    busy = await send(transport)
    await exchange(transport)
    closing = asyncio.ensure_future(transport.aclose())
    await server.until(lambda: server.peers[1].gone)
    assert not closing.done()
    with pytest.raises(Unable):  # nothing that the upstream did
        await send(transport)
    said.set()
    assert await body_of(busy) == b"helloworld"
    busy.close()
    await asyncio.wait_for(closing, PATIENCE)
    await server.until(lambda: server.peers[0].gone)
    await transport.aclose()
    assert len(server.peers) == 2


# Uploads: bodies that are not held in memory.


async def upload(transport: Transport, offer: Offer, path: bytes = b"/v1/files", **options) -> Response:
    return await transport.send(b"POST", path, b"x-api-key: k\r\n", offer, **options)


ODD = (b"a", bytes(range(256)) * 300, b"hello", bytes(range(255, -1, -1)) * 8_000, b"\r\n0\r\n\r\n", b"z" * 65_537)


@pytest.mark.parametrize("sized", [True, False])
async def test_uploads_arrive_byte_for_byte_and_their_connection_is_used_again(sized, connect, serve, tls, ca_file):
    server = serve(answer(OK), tls=tls)
    transport = connect(server, ca_file=ca_file)
    body = b"".join(ODD)
    for _ in range(3):
        response = await upload(transport, Offer(*ODD, size=len(body) if sized else None))
        assert (response.status, await body_of(response)) == (200, b"hello")
        response.close()
        assert (await exchange(transport))[2] == b"hello"
    assert len(server.peers) == 1
    assert [request.body for request in server.requests] == [body, b"{}"] * 3
    framing = b"content-length: %d" % len(body) if sized else b"transfer-encoding: chunked"
    for request in server.requests[::2]:
        assert request.line == b"POST /v1/files HTTP/1.1"
        assert request.headers == [b"host: " + server.url.encode().partition(b"//")[2], b"x-api-key: k", framing]


@pytest.mark.parametrize(
    ("pieces", "size", "wire"),
    [
        ((b"hel", b"lo"), 5, b"content-length: 5\r\n\r\nhello"),
        ((b"hel", b"lo"), None, b"transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
        ((), 0, b"content-length: 0\r\n\r\n"),
        ((), None, b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ],
)
async def test_an_upload_is_framed_exactly_so(pieces, size, wire, connect, serve):
    server = serve(answer(OK))
    response = await upload(connect(server), Offer(*pieces, size=size))
    assert await body_of(response) == b"hello"
    response.close()
    assert server.peers[0].received.partition(b"x-api-key: k\r\n")[2] == wire


async def test_an_upload_goes_out_while_the_client_still_sends(connect, serve, tls, ca_file):
    seen = threading.Event()

    def script(peer: Peer) -> None:
        while not peer.received.endswith(b"half of it"):
            peer.wait_for(len(peer.received) + 1)
        peer.server.note(seen.set)
        keep(peer)

    server = serve(script, tls=tls)
    sending = asyncio.ensure_future(upload(connect(server, ca_file=ca_file), Offer(b"half of it", size=100, then=None)))
    await server.until(seen.is_set)
    await cancel(sending)


async def test_what_was_not_sent_leaves_the_upload_unread(connect, serve, authority, ca_file):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        unused = taken.getsockname()[1]
    server = serve(answer(OK))
    strange = serve(answer(OK), tls=identity(trustme.CA(), "localhost"))
    mute = serve(keep)
    closed = connect(server)
    await closed.aclose()
    ways: list[tuple[Transport, bytes]] = [
        (connect(f"http://127.0.0.1:{unused}"), b"/"),
        (connect(strange, ca_file=ca_file), b"/"),
        (connect(f"https://localhost:{mute.port}", connect=0.1), b"/"),
        (connect(server), b"/a b"),
        (closed, b"/"),
    ]
    offer = Offer(b"hello", size=5)
    for transport, path in ways:
        with pytest.raises(NotSent):
            await upload(transport, offer, path)
        assert not offer.begun
    response = await upload(connect(server), offer)
    assert await body_of(response) == b"hello"
    response.close()
    assert [request.body for request in server.requests] == [b"hello"]


# What an upstream does while it is sent something.


@pytest.mark.parametrize(("block", "sized"), [(BLOCK, True), (BLOCK, False), (bytes(12 << 20), True)])
async def test_an_upload_is_not_read_faster_than_the_upstream_takes_it(block, sized, connect, serve, tls, ca_file):
    begun, go_on = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.wait_for(1)
        peer.server.note(begun.set)
        go_on.wait(PATIENCE)
        peer.request()
        peer.send(OK)
        keep(peer)

    count = (12 << 20) // len(block)
    server = serve(script, tls=tls, receive_buffer=1 << 16)
    offer = Offer(block, count=count, size=count * len(block) if sized else None)
    sending = asyncio.ensure_future(upload(connect(server, ca_file=ca_file), offer))
    await server.until(begun.is_set)
    given = -1
    while given != offer.given:
        given = offer.given
        await asyncio.sleep(0.2)
    assert not offer.waiting.is_set()  # the end has not been asked for
    assert given <= max(8 << 20, len(block))  # most of it in the kernel's buffers
    go_on.set()
    response = await sending
    assert await body_of(response) == b"hello"
    response.close()
    assert server.requests[0].body == block * count


async def test_an_upload_that_never_has_to_wait_lets_others_run(connect, serve, tls, ca_file):
    ran = 0
    seen: list[int] = []

    async def others() -> None:
        nonlocal ran
        while True:
            await asyncio.sleep(0)
            ran += 1

    class Watched(Offer):
        async def read(self) -> bytes:
            seen.append(ran)
            return await super().read()

    running = asyncio.ensure_future(others())
    offer = Watched(BLOCK, count=3, size=3 * len(BLOCK))  # fits into the kernel's buffers
    response = await upload(connect(serve(answer(OK), tls=tls), ca_file=ca_file), offer)
    assert seen[2] - seen[0] >= 2 * len(BLOCK) // PIECE
    response.close()
    await cancel(running)


async def test_an_upstream_that_takes_nothing_of_an_upload_leaves_it_unanswered(connect, serve, tls, ca_file):
    blocked = threading.Event()

    def script(peer: Peer) -> None:
        peer.wait_for(1)
        blocked.wait(PATIENCE)
        keep(peer)

    server = serve(script, tls=tls)
    offer = Offer(BLOCK, count=ENDLESS, size=ENDLESS * len(BLOCK))
    with pytest.raises(Unanswered) as caught:
        await asyncio.wait_for(upload(connect(server, ca_file=ca_file, idle=0.2), offer), PATIENCE)
    assert not isinstance(caught.value, FirstByteTimeout)
    blocked.set()
    await server.until(lambda: [peer.gone for peer in server.peers] == [True])


async def test_neither_a_slow_client_nor_a_long_upload_runs_into_a_deadline(connect, serve):
    pause = 1.2

    class Slow(Offer):
        async def read(self) -> bytes:
            await asyncio.sleep(pause)
            return await super().read()

    server = serve(answer(OK))
    transport = connect(server, connect=1.0, first_byte=0.5, idle=0.5)
    response = await upload(transport, Slow(b"hel", b"lo", size=5), first_byte=0.5)
    assert await body_of(response) == b"hello"
    response.close()


async def test_an_upstream_that_takes_an_upload_slowly_is_not_given_up(connect, serve):
    def script(peer: Peer) -> None:
        peer.wait_for(1)
        for _ in range(100):
            time.sleep(0.015)
            peer._fill()
        peer.request()
        peer.send(OK)
        keep(peer)

    total = 12 << 20
    server = serve(script, receive_buffer=1 << 16)
    offer = Offer(BLOCK, count=total // len(BLOCK), size=total)
    response = await upload(connect(server, idle=1.0, first_byte=PATIENCE), offer)
    assert await body_of(response) == b"hello"
    response.close()


@pytest.mark.parametrize("sized", [True, False])
async def test_the_wait_for_an_answer_begins_with_the_end_of_the_upload(sized, connect, serve):
    def script(peer: Peer) -> None:
        peer.request()
        keep(peer)

    server = serve(script)
    offer = Offer(b"hello", size=5 if sized else None)
    with pytest.raises(FirstByteTimeout):
        await upload(connect(server, idle=PATIENCE), offer, first_byte=0.1)
    await server.until(lambda: [peer.gone for peer in server.peers] == [True])
    assert [request.body for request in server.requests] == [b"hello"]


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_an_upstream_that_closes_inside_an_upload_leaves_it_unanswered(end, connect, serve, tls, ca_file):
    def script(peer: Peer) -> None:
        peer.wait_for(200_000)
        end(peer)

    server = serve(answers(script, answer(OK)), tls=tls)
    transport = connect(server, ca_file=ca_file)
    offer = Offer(BLOCK, count=ENDLESS, size=ENDLESS * len(BLOCK))
    with pytest.raises(Unanswered) as caught:
        await upload(transport, offer)
    assert not isinstance(caught.value, FirstByteTimeout)
    assert (await exchange(transport))[2] == b"hello"
    assert len(server.peers) == 2


async def test_an_interim_answer_does_not_end_an_upload(connect, serve, tls, ca_file):
    said = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Late(Offer):
        async def read(self) -> bytes:
            piece = await super().read()
            if piece == b"lo":
                await said.wait()
            return piece

    def script(peer: Peer) -> None:
        peer.wait_for(1)
        peer.send(head(status=b"100 Continue") + head(b"link: </a>", status=b"103 Early Hints"))
        peer.server.settle()
        loop.call_soon_threadsafe(said.set)
        peer.request()
        peer.send(OK)
        keep(peer)

    server = serve(script, tls=tls)
    response = await upload(connect(server, ca_file=ca_file), Late(b"hel", b"lo"))
    assert (response.status, await body_of(response)) == (200, b"hello")
    response.close()
    assert server.requests[0].body == b"hello"


REFUSAL = head(b"content-length: 5", status=b"413 Too Large") + b"large"


@pytest.mark.parametrize("sized", [True, False])
async def test_a_refusal_inside_an_upload_is_the_answer_though_the_upstream_reads_on(
    sized, connect, serve, tls, ca_file
):
    def script(peer: Peer) -> None:
        peer.wait_for(200_000)
        peer.send(REFUSAL)
        keep(peer)

    total = 8 << 20
    offer = Offer(BLOCK, count=total // len(BLOCK), size=total if sized else None)
    response = await upload(connect(serve(script, tls=tls), ca_file=ca_file), offer)
    assert (response.status, await body_of(response)) == (413, b"large")
    response.close()


# How an upload fails by itself.


class Refused(Exception):
    """What the owner of an upload raises."""


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("pieces", [(), (b"hello",), (BLOCK,) * 20])
@pytest.mark.parametrize("kind_of", [Refused, asyncio.CancelledError, TimeoutError, OSError, NotSent])
async def test_what_an_upload_raises_goes_up_unchanged_and_closes_the_connection(
    kind_of, pieces, sized, connect, serve, tls, ca_file
):
    server = serve(answers(keep, answer(OK)), tls=tls)
    transport = connect(server, ca_file=ca_file)
    error = kind_of("no more")
    with pytest.raises(kind_of) as caught:
        await upload(transport, Offer(*pieces, size=1 << 30 if sized else None, then=error))
    assert caught.value is error
    await server.until(lambda: [peer.gone for peer in server.peers] == [True])
    assert not server.peers[0].received.endswith(b"0\r\n\r\n")
    assert (await exchange(transport))[2] == b"hello"
    assert len(server.peers) == 2


@pytest.mark.parametrize(
    ("pieces", "size"),
    [
        ((), 1),
        ((b"hell",), 5),
        ((BLOCK, BLOCK), 2 * len(BLOCK) + 1),
        ((b"hello!",), 5),
        ((b"hello", b"!"), 5),
        ((b"hello",), 0),
        ((BLOCK, BLOCK), len(BLOCK)),
        ((BLOCK, BLOCK), 2 * len(BLOCK) - 1),
    ],
)
async def test_an_upload_of_another_size_than_announced_never_is_a_request(pieces, size, connect, serve, tls, ca_file):
    def script(peer: Peer) -> None:
        if size:
            peer.request()
        keep(peer)

    server = serve(answers(script, answer(OK)), tls=tls)
    transport = connect(server, ca_file=ca_file)
    with pytest.raises(Unanswered):
        await upload(transport, Offer(*pieces, size=size))
    await server.until(lambda: [peer.gone for peer in server.peers] == [True])
    assert server.requests == []
    assert (await exchange(transport))[2] == b"hello"
    assert len(server.peers) == 2


@pytest.mark.parametrize(
    "stage", ["the client is waited for", "the upstream is waited for", "the answer is waited for"]
)
async def test_cancelling_inside_an_upload_closes_that_connection_alone(stage, connect, serve, tls, ca_file):
    blocked = threading.Event()

    def script(peer: Peer) -> None:
        peer.wait_for(1)
        if stage == "the upstream is waited for":
            blocked.wait(PATIENCE)
        keep(peer)

    if stage == "the client is waited for":
        offer = Offer(b"hel", size=5, then=None)
    elif stage == "the upstream is waited for":
        offer = Offer(BLOCK, count=ENDLESS)
    else:
        offer = Offer(b"hello", size=5)
    server = serve(answers(begin, script), tls=tls)
    transport = connect(server, ca_file=ca_file)
    first = await send(transport)
    sending = asyncio.ensure_future(upload(transport, offer))
    if stage == "the upstream is waited for":
        await server.until(lambda: len(server.peers) == 2)
        given = 0
        while not given or given != offer.given:
            given = offer.given
            await asyncio.sleep(0.1)
    else:
        await offer.waiting.wait()
        await turns(20)
    await cancel(sending)
    blocked.set()
    await server.until(lambda: [peer.gone for peer in server.peers] == [False, True])
    assert offer.cancelled == (stage == "the client is waited for")
    assert await body_of(first) == b"helloworld"
    first.close()
    assert (await exchange(transport))[2] == b"hello"
    assert len(server.peers) == 2
