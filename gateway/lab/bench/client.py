"""Connections of the load generator: bare sockets, and no more parsing than tells where an answer ends.

A connection that closes, an answer other than 200 and SILENCE seconds without any answer raise LoadError.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

SILENCE = 10.0  # seconds without any answer while one is due
_READ = 65_536


class LoadError(Exception):
    """The load cannot be made or is not answered as it should be."""


class Client:
    """One keep-alive connection. `due` is when its present request was due."""

    __slots__ = ("due", "events", "held", "left", "rounds", "sock", "tail")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), SILENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.due = 0.0
        self.left = -1  # body bytes to come, -1 while the head is not complete
        self.held = b""  # of an incomplete head
        self.events = 0  # seen of the present stream
        self.rounds = 0
        self.tail = b""

    def ask(self, request: bytes, due: float) -> None:
        self.due = due
        if self.sock.send(request) != len(request):
            raise LoadError("a request did not fit into a socket's buffer")

    def answered(self) -> bool:
        """Read; whether the answer, which has a content-length, is complete."""
        data = self._read()
        if self.left < 0:
            if self.held:
                data = self.held + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.held = data
                return False
            self.held = b""
            _check(data)
            head = data[:end].lower()
            at = head.find(b"\r\ncontent-length:")
            if at < 0:
                raise LoadError(f"an answer without content-length: {head[:300]!r}")
            stop = head.find(b"\r\n", at + 17)
            length = int(head[at + 17 :] if stop < 0 else head[at + 17 : stop])
            self.left = length - (len(data) - end - 4)
        else:
            self.left -= len(data)
        if self.left > 0:
            return False
        self.left = -1
        return True

    def streamed(self) -> bool:
        """Read; whether the stream, which is chunked, is complete."""
        data = self._read()
        tail = self.tail
        if not tail:
            _check(data)
        elif len(data) < 8:  # a boundary may lie across two reads
            self.events -= tail.count(b"\n\n")
            data = tail + data
        elif tail[-1] == 10 and data[0] == 10:
            self.events += 1
        self.events += data.count(b"\n\n")
        self.tail = data[-8:]
        if data.endswith(b"0\r\n\r\n"):
            self.tail = b""
            return True
        return False

    def _read(self) -> bytes:
        data = self.sock.recv(_READ)
        if not data:
            raise LoadError("a connection was closed before its answer was complete")
        return data


def _check(data: bytes) -> None:
    if not data.startswith(b"HTTP/1.1 200"):
        raise LoadError(f"an answer other than 200: {data[:400].decode('latin-1')}")


@contextmanager
def connected(port: int, count: int) -> Iterator[tuple[select.epoll, dict[int, Client]]]:
    clients: dict[int, Client] = {}
    epoll = select.epoll()
    try:
        for _ in range(count):
            client = Client(port)
            clients[client.sock.fileno()] = client
            epoll.register(client.sock.fileno(), select.EPOLLIN)
        yield epoll, clients
    finally:
        for client in clients.values():
            client.sock.close()
        epoll.close()


def waited(epoll: select.epoll, clients: dict[int, Client]) -> list[Client]:
    """The clients that have something to read, at least one."""
    ready = epoll.poll(SILENCE)
    if not ready:
        raise LoadError(f"no answer within {SILENCE:.0f} s")
    return [clients[fd] for fd, _ in ready]


def waited_until(epoll: select.epoll, clients: dict[int, Client], moment: float) -> list[Client]:
    """The clients that have something to read, none at `moment`. select() waits by the microsecond, epoll does not."""
    pause = moment - monotonic()
    if pause > 0:
        select.select([epoll.fileno()], [], [], pause)
    return [clients[fd] for fd, _ in epoll.poll(0)]
