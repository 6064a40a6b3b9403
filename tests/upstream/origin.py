"""A scripted origin on real sockets, and what the transport tests share.

A `Server` runs one script per connection, in a thread of its own: a function of the `Peer`, which receives exact bytes,
sends exact bytes, and ends the connection as it likes. Nothing here knows the code under test.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import trustme

PATIENCE = 15.0  # seconds until a test that waits for something gives up

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class Gone(Exception):
    """The client has closed the connection."""


class Received(NamedTuple):
    """One request: its first line, its header lines and its body, as they came."""

    line: bytes
    headers: list[bytes]
    body: bytes


class Peer:
    """One connection as the origin sees it."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.received = b""
        self.sent = 0
        self.gone = False  # the client has closed
        self._taken = 0

    def _fill(self) -> bool:
        try:
            data = self.sock.recv(1 << 16)
        except (ConnectionError, ssl.SSLError):
            data = b""
        self.received += data
        return bool(data)

    def wait_for(self, size: int) -> None:
        """Until so many bytes have come since the connection was made."""
        while len(self.received) < size:
            if not self._fill():
                raise Gone

    def request(self) -> Received:
        """The next whole request. Raises Gone where the client closes instead."""
        while b"\r\n\r\n" not in self.received[self._taken :]:
            if not self._fill():
                raise Gone
        start = self._taken
        end = self.received.index(b"\r\n\r\n", start)
        line, *headers = self.received[start:end].split(b"\r\n")
        self._taken = end + 4
        for header in headers:
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                self._taken += int(value)
            elif name.lower() == b"transfer-encoding":
                assert value.strip() == b"chunked"
                return self._note(Received(line, headers, self._chunks()))
        if self._taken - len(self.received) > 1 << 17:  # a large body: no quadratic joining
            parts = [self.received]
            missing = self._taken - len(self.received)
            while missing:
                part = self.sock.recv(min(missing, 1 << 20))
                if not part:
                    raise Gone
                parts.append(part)
                missing -= len(part)
            self.received = b"".join(parts)
        self.wait_for(self._taken)
        return self._note(Received(line, headers, self.received[end + 4 : self._taken]))

    def _note(self, request: Received) -> Received:
        self.server.note(lambda: self.server.requests.append(request))
        return request

    def _chunks(self) -> bytes:
        """The body of a chunked request, whose chunks have neither extensions nor trailers."""
        chunks = []
        while True:
            while (end := self.received.find(b"\r\n", self._taken)) < 0:
                if not self._fill():
                    raise Gone
            size = int(self.received[self._taken : end], 16)
            self.wait_for(end + 2 + size + 2)
            chunks.append(self.received[end + 2 : end + 2 + size])
            self._taken = end + 2 + size + 2
            assert self.received[self._taken - 2 : self._taken] == b"\r\n"
            if not size:
                return b"".join(chunks)

    def send(self, *slices: bytes) -> None:
        """Send; several slices one by one, each after the client's loop has had time to read the one before."""
        for number, data in enumerate(slices):
            if number:
                self.server.settle()
            try:
                self.sock.sendall(data)
            except (ConnectionError, ssl.SSLError):
                raise Gone from None
            self.sent += len(data)

    def flood(self, block: bytes, total: int) -> None:
        """Send so many bytes, noting each block that the client's side has taken."""
        while self.sent < total:
            try:
                size = self.sock.send(block[: total - self.sent])
            except (ConnectionError, ssl.SSLError):
                raise Gone from None
            self.server.note(lambda size=size: setattr(self, "sent", self.sent + size))  # type: ignore[misc]

    def wait_gone(self) -> None:
        """Until the client closes the connection."""
        while self._fill():
            pass
        raise Gone

    def reset(self) -> None:
        """End the connection by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """End the connection by FIN, over TLS after a proper farewell."""
        if isinstance(self.sock, ssl.SSLSocket):
            with suppress(OSError, ValueError):
                self.sock.settimeout(0.0)
                self.sock.unwrap()
        self.sock.close()


Script = Callable[[Peer], None]


class Server:
    """A listening socket, its connections in order, and all requests they carried."""

    def __init__(
        self,
        script: Script,
        *,
        tls: ssl.SSLContext | None = None,
        send_buffer: int | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self.script = script
        self.tls = tls
        self.peers: list[Peer] = []
        self.requests: list[Received] = []
        self.names: list[str | None] = []  # as asked for by SNI
        self.failed: list[BaseException] = []
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._accepted: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        if send_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.port: int = self._listener.getsockname()[1]
        if tls is not None:
            tls.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self.tls else f"http://127.0.0.1:{self.port}"

    def note(self, change: Callable[[], object]) -> None:
        """Make a change that `until` sees."""
        with self._changed:
            change()
            self._changed.notify_all()

    async def until(self, condition: Callable[[], object]) -> None:
        """Until the condition holds of what the origin has seen."""

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: bool(condition()), PATIENCE)

        assert await asyncio.to_thread(wait), "the origin has not seen what was expected"

    async def still(self) -> None:
        """Until the origin has neither sent nor received anything for a while."""

        def state() -> list[tuple[int, int]]:
            return [(peer.sent, len(peer.received)) for peer in self.peers]

        before = None
        while before != state():
            before = state()
            await asyncio.sleep(0.1)

    def settle(self) -> None:
        """Until the client's loop has gone round a few times, and so has read what lay in its socket."""

        async def turns() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        if not self._loop.is_closed():
            with suppress(TimeoutError, RuntimeError):
                asyncio.run_coroutine_threadsafe(turns(), self._loop).result(PATIENCE)

    async def stop(self) -> None:
        """Close everything, and re-raise what a script raised."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in [*self._accepted, *(peer.sock for peer in self.peers)]:
            with suppress(OSError):  # a TLS socket's own way takes its state away while its thread reads
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, PATIENCE)
            assert not thread.is_alive()
        if self.failed:
            raise self.failed[0]

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._accepted.append(sock)
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = Peer(self, sock)
        try:
            if self.tls is not None:
                try:
                    peer.sock = self.tls.wrap_socket(sock, server_side=True)
                except OSError:  # the client did not like the certificate, or what it got instead of one
                    raise Gone from None
            self.note(lambda: self.peers.append(peer))
            self.script(peer)
        except Gone:
            self.note(lambda: setattr(peer, "gone", True))
        except BaseException as error:
            if peer.sock.fileno() >= 0:
                self.failed.append(error)
        finally:
            peer.close()
            sock.close()


def answer(*slices: bytes) -> Script:
    """Answer every request on the connection by the same bytes."""

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(*slices)

    return script


def answer_once(*slices: bytes) -> Script:
    """Answer one request, then close."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(*slices)

    return script


def answers(*scripts: Script) -> Script:
    """The n-th connection gets the n-th script, later ones the last."""
    turn: Iterator[Script] = iter(scripts)
    lock = threading.Lock()

    def script(peer: Peer) -> None:
        with lock:
            chosen = next(turn, scripts[-1])
        chosen(peer)

    return script


def identity(authority: trustme.CA, *names: str, **options) -> ssl.SSLContext:
    """A server's TLS context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context
