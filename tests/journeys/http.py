"""Both ends of HTTP/1.1 as scripts see it: the upstream that answers as a journey says, and the client that asks.

An upstream is one origin for each account, named like it. It answers the requests that reach it in the order in which
they come with the answers it was given, and with a good one when these have run out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import httptools

from tests.journeys.world import Pipe, World

Piece = tuple[float, bytes]  # seconds after the one before, bytes


@dataclass(frozen=True)
class Answer:
    """What an account does with one request. `pieces` are what it sends of the body, each as one segment (and one
    chunk, where the length is not told), `after` seconds before the head.

    `ends` says how: `whole`; `cut` (the connection ends in the middle), `reset` (the same, with an error), `silent`
    (nothing more comes). `instead` of an answer: `refused` (no connection), `unreachable` (none within any time),
    `hung up` (once it has the request), `silent`, `rubbish` (no HTTP).
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    pieces: tuple[Piece, ...] = ()
    after: float = 0.05
    ends: str = "whole"
    instead: str = ""
    chunked: bool = False


@dataclass
class Asked:
    """A request as an account has seen it."""

    account: str
    at: float
    method: str = ""
    path: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False
    abandoned: bool = False  # the gateway hung up before the answer was whole

    def header(self, name: str) -> str | None:
        """The value of a header, None where it is not there or there twice."""
        values = [value for each, value in self.headers if each.lower() == name]
        return values[0] if len(values) == 1 else None


_NO_CONNECTION = ("refused", "unreachable")


class Upstream:
    """All accounts of a journey: what each answers, and what it was asked."""

    def __init__(self, world: World, default: Callable[[Asked], Answer]) -> None:
        self.world = world
        self.default = default
        self.scripts: dict[str, deque[Answer]] = {}
        self.asked: list[Asked] = []  # what reached an account, whole or not
        self._open: list[_Origin] = []  # connections made since the last script
        self.tried: list[str] = []  # the same and refused connections, by account

    def script(self, answers: Mapping[str, Iterable[Answer]]) -> None:
        """What the accounts will answer from now on. One that takes no connection has none any more."""
        self.scripts = {account: deque(each) for account, each in answers.items()}
        for origin in self._open:
            script = self.scripts.get(origin.account)
            if script and script[0].instead in _NO_CONNECTION:
                origin.hang_up()
        self._open.clear()

    def take(self, asked: Asked) -> Answer:
        script = self.scripts.get(asked.account) or self.scripts.get("*")
        return script.popleft() if script else self.default(asked)

    async def accept(self, account: str, pipe: Pipe) -> _Origin:
        """A connection is asked for. Raises OSError where there is none to be had."""
        script = self.scripts.get(account) or self.scripts.get("*")
        if script and script[0].instead in _NO_CONNECTION:
            answer = script.popleft()
            self.tried.append(account)
            if answer.instead == "unreachable":
                await asyncio.sleep(100_000)
            raise ConnectionRefusedError(111, f"{account} refuses connections")
        origin = _Origin(self, account, pipe)
        self._open.append(origin)
        return origin


class _Origin:
    """One connection of the gateway's to an account."""

    def __init__(self, upstream: Upstream, account: str, pipe: Pipe) -> None:
        self._upstream = upstream
        self.account = account
        self._pipe = pipe
        self._parser = httptools.HttpRequestParser(self)
        self._asked: Asked | None = None
        self._gone = False
        self._answering: asyncio.Task[None] | None = None

    def hang_up(self) -> None:
        self._pipe.hang_up()

    # The gateway speaks.

    def heard(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def left(self) -> None:
        self._gone = True
        if self._answering is not None:
            self._answering.cancel()
        if self._asked is not None:
            self._asked.abandoned = True

    def on_message_begin(self) -> None:
        self._asked = Asked(self.account, self._upstream.world.clock.now)
        self._upstream.asked.append(self._asked)
        self._upstream.tried.append(self.account)

    def on_url(self, url: bytes) -> None:
        if self._asked is not None:
            self._asked.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._asked is not None:
            self._asked.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if self._asked is not None:
            self._asked.method = self._parser.get_method().decode("ascii")

    def on_body(self, body: bytes) -> None:
        if self._asked is not None:
            self._asked.body += body

    def on_message_complete(self) -> None:
        asked = self._asked
        if asked is not None:
            asked.whole = True
            self._answering = self._upstream.world.create_task(self._answer(asked, self._upstream.take(asked)))

    # The account speaks.

    async def _answer(self, asked: Asked, answer: Answer) -> None:
        await asyncio.sleep(answer.after)
        if answer.instead == "hung up":
            self._pipe.hang_up()
        elif answer.instead == "rubbish":
            self._pipe.say(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        if answer.instead:
            return
        said = list(answer.headers)
        if answer.chunked:
            said.append(("transfer-encoding", "chunked"))
        else:
            said.append(("content-length", str(sum(len(data) for _, data in answer.pieces))))
        head = f"HTTP/1.1 {answer.status} Whatever\r\n" + "".join(f"{name}: {value}\r\n" for name, value in said)
        out = head.encode("latin-1") + b"\r\n"
        pieces = list(answer.pieces)
        whole = answer.ends == "whole"
        if not whole and not answer.chunked and pieces:
            pieces[-1] = pieces[-1][0], pieces[-1][1][: len(pieces[-1][1]) // 2]
        for wait, data in pieces:
            if wait:
                if out:
                    self._pipe.say(out)
                    out = b""
                await asyncio.sleep(wait)
            out += b"%x\r\n%b\r\n" % (len(data), data) if answer.chunked and data else data
            if wait:
                self._pipe.say(out)
                out = b""
        if answer.chunked and whole:
            out += b"0\r\n\r\n"
        if out:
            self._pipe.say(out)
        if whole:
            self._asked = None  # what ends now ends in good order
        elif answer.ends == "cut":
            self._pipe.hang_up()
        elif answer.ends == "reset":
            self._pipe.hang_up(ConnectionResetError(104, "reset by peer"))


# The client.


class Call:
    """One request of a client on a connection of its own, and what came back. Times are seconds of the world's clock.
    `ended` is how: `whole`, `cut` (the connection ended before the answer did), `gone` (the client went)."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._parser = httptools.HttpResponseParser(self)
        self.done: asyncio.Future[None] = world.create_future()
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.ended = ""
        self.asked_at = self.began_at = self.ended_at = 0.0
        self.arrivals: list[Piece] = []  # of body bytes
        self.pipe: Pipe

    def connect(self, listener: int = 0) -> None:
        self.pipe = self._world.call_in(self, listener)

    def hang_up(self, how: str) -> None:
        """`close`, or `reset`."""
        self._end("gone")
        self.pipe.hang_up(ConnectionResetError(104, "reset by peer") if how == "reset" else None)

    def heard(self, data: bytes) -> None:
        if not self.ended:
            self._parser.feed_data(data)

    def left(self) -> None:
        self._end("cut")

    def _end(self, how: str) -> None:
        if not self.ended:
            self.ended = how
            self.ended_at = self._world.clock.now
            self.done.set_result(None)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status < 200:
            self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self.status = 0
            self.headers = []
        self.began_at = self._world.clock.now

    def on_body(self, body: bytes) -> None:
        self.body += body
        self.arrivals.append((self._world.clock.now, body))

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self._end("whole")

    def header(self, name: str) -> str | None:
        """The value of a header, None where it is not there."""
        values = [value for each, value in self.headers if each == name]
        assert len(values) < 2, f"{name} is there twice"
        return values[0] if values else None


def request(method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes | None) -> bytes:
    """The bytes of a request; `body` None: its length is among the headers, or it has none."""
    lines = [f"{method} {path} HTTP/1.1", "host: gateway.test"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def parts(body: bytes) -> list[tuple[str, bytes]]:
    """Events of a stream: name and data; what is no whole event is one called `?`."""
    found: list[tuple[str, bytes]] = []
    *events, rest = body.split(b"\n\n")
    for event in events:
        fields: dict[str, bytes] = {}
        for line in event.split(b"\n"):
            name, _, value = line.partition(b":")
            fields[name.decode("latin-1")] = value.removeprefix(b" ")
        found.append((fields.get("event", b"").decode("latin-1"), fields.get("data", b"")))
    if rest:
        found.append(("?", rest))
    return found
