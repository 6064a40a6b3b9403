"""Connections of the load generator: bare sockets, and no more parsing than tells whether an answer is whole and good.

Good is a 200 that ends as its head says; of a stream also that it has enough events and a `message_stop`.
"""

from __future__ import annotations

import re
import select
import socket

from gateway.lab.bench.jobs import Target

SILENCE = 10.0  # seconds without any answer while one is due
_READ = 65_536
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
_HEAD, _CHUNKS = -1, -2  # instead of the bytes to come
_TAIL = 96  # bytes: holds a whole message_stop event and the last chunk


class BadAnswer(Exception):
    """It says what came instead of a good one."""


class Client:
    """One connection. `events` are those seen of its present answer, `due` is when the request was due, and `last` is
    whether the server closes the connection after it."""

    __slots__ = ("_left", "_seen", "asked", "due", "events", "last", "sock")

    def __init__(self, target: Target) -> None:
        self.asked = False
        self.due = 0.0
        self.events = 0
        self.connect(target)

    def connect(self, target: Target) -> None:
        self.sock = socket.create_connection((target.host, target.port), SILENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)

    def ask(self, request: bytes, due: float) -> None:
        """Send a request; what does not fit into the socket's buffer is waited for."""
        self.asked = True
        self.due = due
        self.events = 0
        self._left = _HEAD
        self._seen = b""  # an incomplete head, later the tail of the chunks
        sent = self.sock.send(request)
        if sent < len(request):
            self.sock.settimeout(SILENCE)
            self.sock.sendall(memoryview(request)[sent:])
            self.sock.setblocking(False)

    def answered(self, events: int) -> bool:
        """Read; whether the answer is whole. BadAnswer, or OSError of the connection, where it is not or will not be a
        good one."""
        data = self.sock.recv(_READ)
        if not data:
            raise BadAnswer("the connection was closed before the answer was whole")
        if self._left == _HEAD:
            data = self._seen + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._seen = data
                return False
            if not data.startswith(b"HTTP/1.1 200"):
                raise BadAnswer(data[:400].decode("latin-1"))
            found = _LENGTH.search(data, 0, end + 2)
            self._left = int(found[1]) if found else _CHUNKS
            self.last = data.find(b"onnection: close\r\n", 0, end + 2) > 0
            self._seen = b""
            data = data[end + 4 :]
        if self._left >= 0:
            self._left -= len(data)
            return self._left <= 0
        return self._chunks(data, events)

    def _chunks(self, data: bytes, events: int) -> bool:
        tail = self._seen
        self.events += data.count(b"\n\n") + (tail[-1:] == b"\n" == data[:1])
        self._seen = tail = data[-_TAIL:] if len(data) >= _TAIL else (tail + data)[-_TAIL:]
        if not tail.endswith(b"\r\n0\r\n\r\n"):
            return False
        if events and (self.events < events or b"message_stop" not in tail):
            raise BadAnswer(f"a stream of {self.events} events, {events} due, that ends in {tail.decode('latin-1')}")
        return True


class Fleet:
    """The connections of one job and what came of it so far. A connection with a bad answer, or one that was
    closed while nothing was due on it, is made anew."""

    def __init__(self, target: Target, events: int = 0) -> None:
        self.busy = self.answers = self.events = self.bad = 0
        self.problem = ""
        self._target = target
        self._due = events
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}

    def close(self) -> None:
        for client in self._clients.values():
            client.sock.close()
        self._epoll.close()

    def add(self) -> Client:
        """One more connection. OSError."""
        return self._watch(Client(self._target))

    def ask(self, client: Client, request: bytes, due: float) -> bool:
        """Send a request; False if that was not possible, which counts as a bad answer."""
        try:
            client.ask(request, due)
        except OSError as error:
            self._fail(client, str(error))
            return False
        self.busy += 1
        return True

    def ready(self, seconds: float) -> list[Client]:
        """The clients that have something to read, none if there are none within that time."""
        return [self._clients[fd] for fd, _ in self._epoll.poll(seconds)]

    def answered(self, client: Client) -> bool:
        """Whether a request is over now, well or badly."""
        if not client.asked:
            self._renew(client)
            return False
        try:
            if not client.answered(self._due):
                return False
            self.answers += 1
            self.events += client.events
            client.asked = False
            if client.last:
                self._renew(client)
        except (BadAnswer, OSError) as error:
            self._fail(client, str(error))
        self.busy -= 1
        return True

    def give_up(self, count: int) -> None:
        """So many answers never came."""
        self.bad += count
        self.problem = self.problem or f"no answer within {SILENCE:.0f} s"

    def leave(self, client: Client) -> None:
        """Read no more from it."""
        self._epoll.unregister(client.sock.fileno())

    def _fail(self, client: Client, problem: str) -> None:
        self.bad += 1
        self.problem = self.problem or problem
        self._renew(client)

    def _renew(self, client: Client) -> None:
        del self._clients[client.sock.fileno()]
        client.sock.close()
        client.asked = False
        client.connect(self._target)
        self._watch(client)

    def _watch(self, client: Client) -> Client:
        self._clients[client.sock.fileno()] = client
        self._epoll.register(client.sock.fileno(), select.EPOLLIN)
        return client
