"""What is particular to httpx: proxies and HTTP/2; what it shares with every transport is in the contract."""

from __future__ import annotations

import asyncio
import base64
import gc
import select
import socket
import ssl
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from gateway.upstream import httpx_transport
from gateway.upstream.httpx_transport import HttpxTransport
from gateway.upstream.transport import FirstByteTimeout, NotSent, Origin, Timeouts, Unanswered
from tests.upstream.offer import BLOCK, ENDLESS, Offer
from tests.upstream.origin import OK, PATIENCE, Gone, Peer, Script, Server, answer, answers, identity

Connect = Callable[..., HttpxTransport]


@pytest.fixture
async def connect(serve: Callable[..., Server]) -> AsyncIterator[Connect]:
    transports: list[HttpxTransport] = []

    def start(url: str, *, ca_file: str | None = None, proxy: str | None = None, http2: bool = False, **timeouts):
        origin = Origin.parse(url, ca_file=ca_file, proxy=proxy, http2=http2)
        transports.append(HttpxTransport(origin, Timeouts(**timeouts)))
        return transports[-1]

    yield start
    for transport in transports:
        await asyncio.wait_for(transport.aclose(), PATIENCE)
        assert repr(transport).endswith("idle=0 busy=0>")


async def exchange(transport: HttpxTransport, path: bytes = b"/v1/messages") -> bytes:
    response = await transport.send(b"POST", path, b"x-api-key: k\r\n", b"{}")
    parts = []
    while part := await response.read():
        parts.append(part)
    response.close()
    return b"".join(parts)


# Proxies.


def relay(peer: Peer, port: int) -> None:
    """Carry bytes between the client and a local port until either side ends."""
    with socket.create_connection(("127.0.0.1", port)) as beyond:
        sides = {peer.sock: beyond, beyond: peer.sock}
        while True:
            for side in select.select(list(sides), [], [], PATIENCE)[0]:
                data = side.recv(1 << 16)
                if not data:
                    raise Gone
                sides[side].sendall(data)


def tunnel(peer: Peer) -> None:
    request = peer.request()
    peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    relay(peer, int(request.line.split()[1].rpartition(b":")[2]))


def socks(peer: Peer) -> None:
    peer.wait_for(3)
    peer.send(b"\x05\x00")
    peer.wait_for(3 + 5)
    length = peer.received[7]
    peer.wait_for(3 + 5 + length + 2)
    peer.send(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
    relay(peer, int.from_bytes(peer.received[8 + length : 10 + length]))


async def test_a_tunnel_through_a_proxy_carries_exactly_what_was_asked(connect, serve, authority, ca_file):
    server = serve(answer(OK), tls=identity(authority, "localhost"))
    proxy = serve(tunnel)
    transport = connect(server.url + "/base", ca_file=ca_file, proxy=f"http://user:word@127.0.0.1:{proxy.port}")
    for _ in range(2):
        assert await exchange(transport, b"/a/../b?c=%2f") == b"hello"
    assert [request.line for request in proxy.requests] == [b"CONNECT localhost:%d HTTP/1.1" % server.port]
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"user:word") in proxy.requests[0].headers
    assert len(server.peers) == 1
    assert server.requests[1].line == b"POST /base/a/../b?c=%2f HTTP/1.1"
    assert server.requests[1].headers == [b"host: localhost:%d" % server.port, b"x-api-key: k", b"content-length: 2"]


async def test_a_proxy_may_be_reached_by_tls(connect, serve, authority, ca_file):
    server = serve(answer(OK))
    proxy = serve(answer(OK), tls=identity(authority, "localhost"))
    assert await exchange(connect(server.url, ca_file=ca_file, proxy=f"https://localhost:{proxy.port}")) == b"hello"
    assert proxy.requests[0].line == b"POST %b/v1/messages HTTP/1.1" % server.url.encode()
    assert server.peers == []


async def test_a_plain_request_goes_to_the_proxy_in_absolute_form(connect, serve):
    proxy = serve(answer(OK))
    transport = connect("http://upstream.test/base", proxy=f"http://127.0.0.1:{proxy.port}")
    assert await exchange(transport, b"/a/../b?c=%2f") == b"hello"
    assert proxy.requests[0].line == b"POST http://upstream.test/base/a/../b?c=%2f HTTP/1.1"
    assert b"host: upstream.test" in proxy.requests[0].headers


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_a_socks_proxy_carries_tls(scheme, connect, serve, authority, ca_file):
    server = serve(answer(OK), tls=identity(authority, "localhost"))
    proxy = serve(socks)
    transport = connect(server.url, ca_file=ca_file, proxy=f"{scheme}://127.0.0.1:{proxy.port}")
    for _ in range(2):
        assert await exchange(transport) == b"hello"
    assert len(server.peers) == len(proxy.peers) == 1


def refuse(status: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
        peer.wait_gone()

    return script


def say(size: int, data: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.wait_for(size)
        peer.send(data)
        peer.wait_gone()

    return script


def hang_up(peer: Peer) -> None:
    peer.wait_for(1)
    peer.close()


FAULTS: dict[str, tuple[str, Script]] = {
    "asks for a password": ("http", refuse(b"407 Proxy Authentication Required")),
    "cannot reach the upstream": ("http", refuse(b"502 Bad Gateway")),
    "hangs up": ("http", hang_up),
    "is mute": ("http", Peer.wait_gone),
    "answers junk": ("http", say(1, b"SSH-2.0\r\n\r\n")),
    "opens a tunnel to something without tls": ("http", say(1, b"HTTP/1.1 200 OK\r\n\r\nhello, hello, hello")),
    "opens a tunnel to silence": ("http", say(1, b"HTTP/1.1 200 OK\r\n\r\n")),
    "socks hangs up": ("socks5", hang_up),
    "socks is mute": ("socks5", Peer.wait_gone),
    "socks answers junk": ("socks5", say(1, b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    "socks refuses": ("socks5", say(1, b"\x05\xff")),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_proxy_that_makes_no_way_means_not_sent_and_leaves_nothing_open(fault, connect, serve, ca_file):
    scheme, script = FAULTS[fault]
    proxy = serve(script)
    transport = connect("https://localhost:9", ca_file=ca_file, proxy=f"{scheme}://127.0.0.1:{proxy.port}", connect=0.2)
    with pytest.raises(NotSent):
        await exchange(transport)
    if script is not hang_up:
        await proxy.until(lambda: proxy.peers[0].gone)


async def test_a_proxy_that_refuses_the_connection_means_not_sent(connect):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NotSent):
        await exchange(connect("https://localhost:9", proxy=f"http://127.0.0.1:{port}"))


async def test_a_request_cut_off_behind_a_tunnel_is_unanswered(connect, serve, authority, ca_file):
    server = serve(lambda peer: peer.request() and None, tls=identity(authority, "localhost"))
    proxy = serve(tunnel)
    with pytest.raises(Unanswered):
        await exchange(connect(server.url, ca_file=ca_file, proxy=f"http://127.0.0.1:{proxy.port}"))
    assert len(server.requests) == 1


async def test_the_environment_sets_no_proxy(connect, serve, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await exchange(connect(serve(answer(OK)).url)) == b"hello"


# HTTP/2.


class Second:
    """The server's side of HTTP/2: answers every request whose path does not end in `half`, and that one by half. It
    takes no more of a body than fits into the window it began with, where the path ends in `full`. With a `reset` code
    it answers nothing."""

    def __init__(self, reset: int | None = None) -> None:
        self.reset = reset
        self.requests: list[list[tuple[bytes, bytes]]] = []
        self.bodies: dict[int, bytes] = {}

    def __call__(self, peer: Peer) -> None:
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        state.initiate_connection()
        paths: dict[int, bytes] = {}
        while True:
            try:
                peer.sock.sendall(state.data_to_send())
                data = peer.sock.recv(1 << 16)
            except OSError:  # also while it is being told something
                raise Gone from None
            if not data:
                raise Gone
            for event in state.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    assert event.headers is not None
                    headers: list[tuple[bytes, bytes]] = [(bytes(name), bytes(value)) for name, value in event.headers]
                    paths[event.stream_id] = dict(headers)[b":path"]
                    peer.server.note(lambda headers=headers: self.requests.append(headers))  # type: ignore[misc]
                elif isinstance(event, h2.events.DataReceived):
                    assert event.flow_controlled_length is not None
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + (event.data or b"")
                    if not paths[event.stream_id].endswith(b"full"):
                        state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    assert event.stream_id is not None
                    if self.reset is not None:
                        state.reset_stream(event.stream_id, self.reset)
                        continue
                    state.send_headers(event.stream_id, [(":status", "200"), ("x-a", "1"), ("set-cookie", "a=1")])
                    state.send_data(event.stream_id, b"hello", end_stream=not paths[event.stream_id].endswith(b"half"))


def second_tls(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def test_http2_carries_the_same_exchange_and_keeps_its_connection(connect, serve, authority, ca_file):
    script = Second()
    server = serve(script, tls=second_tls(identity(authority, "localhost")))
    transport = connect(server.url, ca_file=ca_file, http2=True)
    for _ in range(3):
        assert await exchange(transport, b"/v1/../x?y") == b"hello"
    assert len(server.peers) == 1
    assert script.requests[0] == [
        (b":method", b"POST"),
        (b":authority", b"localhost:%d" % server.port),
        (b":scheme", b"https"),
        (b":path", b"/v1/../x?y"),
        (b"x-api-key", b"k"),
        (b"content-length", b"2"),
    ]


@pytest.mark.parametrize(("code", "problem"), [(7, NotSent), (2, Unanswered)])
async def test_an_http2_stream_that_was_refused_was_not_sent(code, problem, connect, serve, authority, ca_file):
    server = serve(Second(reset=code), tls=second_tls(identity(authority, "localhost")))
    transport = connect(server.url, ca_file=ca_file, http2=True)
    with pytest.raises(problem):
        await transport.send(b"POST", b"/v1/messages", b"", b"{}")


async def test_an_http2_upload_that_was_refused_is_unanswered(connect, serve, authority, ca_file):
    server = serve(Second(reset=7), tls=second_tls(identity(authority, "localhost")))
    transport = connect(server.url, ca_file=ca_file, http2=True)
    with pytest.raises(Unanswered):
        await transport.send(b"POST", b"/v1/files", b"", Offer(BLOCK))


async def test_giving_up_an_http2_exchange_ends_it_at_the_upstream_and_no_other(connect, serve, authority, ca_file):
    server = serve(Second(), tls=second_tls(identity(authority, "localhost")))
    transport = connect(server.url, ca_file=ca_file, http2=True)
    first = await transport.send(b"POST", b"/half", b"", b"{}")
    second = await transport.send(b"POST", b"/half", b"", b"{}")
    assert await first.read() == await second.read() == b"hello"
    first.close()
    await server.until(lambda: [peer.gone for peer in server.peers] == [True, False])
    second.close()
    assert await exchange(transport) == b"hello"


async def test_an_upstream_without_http2_is_spoken_to_in_http1(connect, serve, authority, ca_file):
    server = serve(answer(OK), tls=identity(authority, "localhost"))
    assert await exchange(connect(server.url, ca_file=ca_file, http2=True)) == b"hello"


@pytest.mark.parametrize("sized", [True, False])
async def test_http2_carries_uploads(sized, connect, serve, authority, ca_file):
    script = Second()
    server = serve(script, tls=second_tls(identity(authority, "localhost")))
    transport = connect(server.url, ca_file=ca_file, http2=True)
    body = bytes(range(256)) * 2_000
    for _ in range(2):
        offer = Offer(body[:7], body[7:300_000], body[300_000:], size=len(body) if sized else None)
        response = await transport.send(b"POST", b"/", b"", offer)
        assert await response.read() == b"hello"
        assert await response.read() == b""
        response.close()
    assert len(server.peers) == 1
    assert list(script.bodies.values()) == [body, body]
    assert ((b"content-length", b"%d" % len(body)) in script.requests[0]) == sized


async def test_an_upstream_that_opens_no_window_leaves_an_http2_upload_unanswered(connect, serve, authority, ca_file):
    server = serve(Second(), tls=second_tls(identity(authority, "localhost")))
    transport = connect(server.url, ca_file=ca_file, http2=True, idle=0.2)
    offer = Offer(BLOCK, count=ENDLESS)
    with pytest.raises(Unanswered) as caught:
        await transport.send(b"POST", b"/full", b"", offer)
    assert not isinstance(caught.value, FirstByteTimeout)
    assert offer.given <= 8 * len(BLOCK)
    await server.until(lambda: server.peers[0].gone)


# Uploads: httpx does not listen before it has written everything.

REFUSAL = b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge"


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("end", ["hold", "close", "reset"])
async def test_a_refusal_by_an_upstream_that_takes_no_more_leaves_an_upload_unanswered(
    end, sized, connect, serve, tls, ca_file
):
    over = threading.Event()

    def script(peer: Peer) -> None:
        peer.wait_for(200_000)
        peer.send(REFUSAL)
        if end == "hold":
            over.wait(PATIENCE)
            peer.wait_gone()
        (peer.close if end == "close" else peer.reset)()

    server = serve(answers(script, answer(OK)), tls=tls)
    transport = connect(server.url, ca_file=ca_file, idle=0.3)
    offer = Offer(BLOCK, count=ENDLESS, size=ENDLESS * len(BLOCK) if sized else None)
    with pytest.raises(Unanswered):
        await transport.send(b"POST", b"/", b"", offer)
    over.set()
    assert offer.given < 64 << 20
    assert await exchange(transport) == b"hello"
    assert len(server.peers) == 2


async def test_an_upload_goes_through_a_tunnel(connect, serve, authority, ca_file):
    server = serve(answer(OK), tls=identity(authority, "localhost"))
    proxy = serve(tunnel)
    transport = connect(server.url, ca_file=ca_file, proxy=f"http://127.0.0.1:{proxy.port}")
    for _ in range(2):
        response = await transport.send(b"POST", b"/", b"", Offer(BLOCK, count=50))
        assert await response.read() == b"hello"
        assert await response.read() == b""
        response.close()
    assert [request.body for request in server.requests] == [BLOCK * 50] * 2
    assert len(proxy.peers) == 1


async def test_a_proxy_that_makes_no_way_leaves_an_upload_unread(connect, serve, ca_file):
    proxy = serve(refuse(b"502 Bad Gateway"))
    transport = connect("https://localhost:9", ca_file=ca_file, proxy=f"http://127.0.0.1:{proxy.port}")
    offer = Offer(BLOCK)
    with pytest.raises(NotSent):
        await transport.send(b"POST", b"/", b"", offer)
    assert not offer.begun


async def test_an_idle_connection_keeps_no_upload(connect, serve):
    transport = connect(serve(answer(OK)).url)
    offer = Offer(b"hello")
    gone = weakref.ref(offer)
    response = await transport.send(b"POST", b"/", b"", offer)
    while await response.read():
        pass
    response.close()
    del response, offer
    gc.collect()
    assert len(transport.idle) == 1
    assert gone() is None


# What httpx does not tell.


def test_a_connection_whose_insides_are_unknown_is_not_trusted():
    response: Any = SimpleNamespace(
        extensions={"http_version": b"HTTP/1.1", "network_stream": object()}, stream=object()
    )
    assert httpx_transport.surplus(response)


async def test_unused_time_is_bounded_without_a_further_request(connect, serve):
    server = serve(answer(OK))
    transport = connect(server.url, keep_alive=0.05)
    await asyncio.gather(exchange(transport), exchange(transport))
    await server.until(lambda: [peer.gone for peer in server.peers] == [True, True])
    assert transport.idle == []
