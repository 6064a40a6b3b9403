"""The transport interface: one HTTP exchange with one origin, and errors named by what the caller may do next.

Two implementations: `http1` (the data path) and `httpx_transport` (accounts that need an outbound proxy or HTTP/2).
Neither knows accounts, credentials or retries.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import msgspec


class TransportError(Exception):
    """Anything that went wrong between the gateway and an upstream."""


class NotSent(TransportError):
    """Not one byte of the request was written: it may be sent again, anywhere."""


class Unable(NotSent):
    """This machine lacks the means: descriptors, memory, ports, a route. It says nothing of the upstream."""


_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.ENETUNREACH})
_NUMBER = re.compile(r"\[Errno (\d+)\]")


def not_connected(error: Exception) -> NotSent:
    """What a connection that could not be had says to the caller: whether it was for want of this machine's means. Of
    several attempts a loop tells in words alone."""
    numbers = {error.errno} if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else set()
    numbers |= {int(number) for number in _NUMBER.findall(str(error))}
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and not isinstance(cause, socket.gaierror):
        numbers.add(cause.errno)
    own = bool(numbers & _OWN) and (numbers - {None}) <= _OWN
    if not own and _exhausted():  # then names are not found either
        own = True
    return (Unable if own else NotSent)(f"cannot connect: {error}")


def _exhausted() -> bool:
    """Whether this process can open nothing more."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in _OWN
    return False


class Withdrawn(asyncio.CancelledError):
    """The caller has given up before one byte of the request was written."""


class Unanswered(TransportError):
    """The request was written, at least in part, and no response head came: the upstream may have acted on it."""


class FirstByteTimeout(Unanswered):
    """No response head within `Timeouts.first_byte`."""


class Interrupted(TransportError):
    """The response head came, its body broke off before the end."""


class IdleTimeout(Interrupted):
    """No body byte for `Timeouts.idle` seconds."""


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. `connect` covers name lookup, TCP and TLS; `first_byte` runs from the last written byte to the head;
    `idle` is the longest silence inside a body, and the longest time an upstream may take nothing of an upload;
    `keep_alive` is how long an unused connection may be used again."""

    connect: float = 5.0
    first_byte: float = 580.0
    idle: float = 240.0
    keep_alive: float = 30.0


class Origin(msgspec.Struct, frozen=True):
    """Where an account lives: `scheme://host:port` with a path prefix, its trust anchors and its way out."""

    host: str
    port: int
    secure: bool
    prefix: bytes = b""
    ca_file: str | None = None
    proxy: str | None = None
    http2: bool = False

    @classmethod
    def parse(
        cls, base_url: str, *, ca_file: str | None = None, proxy: str | None = None, http2: bool = False
    ) -> Origin:
        """From an absolute http(s) URL. The path of the URL goes before every request path."""
        url = urlsplit(base_url)
        secure = url.scheme == "https"
        port = url.port or (443 if secure else 80)
        prefix = url.path.rstrip("/").encode("ascii")
        return cls(url.hostname or "", port, secure, prefix, ca_file, proxy, http2)

    @property
    def authority(self) -> bytes:
        """The value of the `host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}").encode("idna")

    def context(self) -> ssl.SSLContext | None:
        """A verifying TLS context that offers HTTP/1.1 alone, or None for plain HTTP."""
        if not self.secure:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        context.set_alpn_protocols(["http/1.1"])
        return context


class Upload(Protocol):
    """A request body that is not held in memory: the transport asks for it piece by piece, as the upstream takes it."""

    @property
    def size(self) -> int | None:
        """Its length in bytes, sent as content-length; None if that is not known: it is sent chunked then."""
        ...

    @property
    def begun(self) -> bool:
        """Whether anything of it has been read: it cannot be sent a second time then."""
        ...

    async def read(self) -> bytes:
        """The next piece, of any length but never empty before the end; b"" at the end.

        It may raise what its owner likes, which ends the exchange. A read still pending when the exchange is over
        (early answer, lost connection) is cancelled; it is never called again then.
        """
        ...


class Response(Protocol):
    """A response whose head has arrived. Header names are lower-case; body bytes come as the upstream sent them."""

    status: int
    headers: list[tuple[bytes, bytes]]

    @property
    def complete(self) -> bool:
        """Whether the last body byte has arrived (it may still wait to be read)."""
        ...

    async def read(self, direct: Callable[[bytes], bool] | None = None) -> bytes:
        """All body bytes at hand, at least one, or b"" at the end. Raises Interrupted.

        While it waits, each segment that begins where a chunk of an HTTP/1.1 answer does is offered to `direct` as it
        came: if it is whole chunks, that may take it (True). What it does not take is read as ever. A transport may
        have none to offer."""
        ...

    def interrupt(self, reason: str) -> None:
        """Make the pending or next `read` raise Interrupted(reason), and close the exchange."""
        ...

    def close(self) -> None:
        """Give the exchange back: its connection is kept if the body was complete, else closed. Idempotent."""
        ...


class Waiter(Protocol):
    """Who waits for news of an exchange, as a future does."""

    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...


class Began(Response, Protocol):
    """An exchange that has begun, whose head may not have come. `phase` is `head`, `body` or `done`; any other means
    that it has failed."""

    phase: str

    @property
    def held(self) -> bytes:
        """Body bytes that nobody has read yet."""
        ...

    @property
    def full(self) -> bool:
        """Whether no more of the body comes until some is read."""
        ...

    def tell(self, waiter: Waiter | None) -> None:
        """Have this one told, at once and as often as it is not done: of the head, of each piece of the body, of the
        end, of a failure."""
        ...

    async def answered(self) -> None:
        """Wait for the final head, as `Transport.send` does."""
        ...


class Transport(Protocol):
    """A pool of connections to one origin."""

    async def send(
        self, method: bytes, path: bytes, headers: bytes, body: bytes | Upload, *, first_byte: float | None = None
    ) -> Response:
        """Send one request and wait for the head of its final response.

        `path` starts with a slash and may hold a query; `headers` are finished lines (`name: value\\r\\n`) without
        host, content-length and hop-by-hop ones; `first_byte` seconds shorten the configured wait. Raises NotSent or
        Unanswered. Cancelling closes the connection, and raises Withdrawn if nothing had been written (where the
        transport can tell).

        An upload is first read when the connection stands, so that NotSent leaves it untouched. A piece is asked for
        when the one before has been taken; some 128 KiB wait here at most, beside the piece last read. A response
        that comes before the end is returned without reading on, and its connection is not used again. An upstream
        that takes nothing for `Timeouts.idle`, and an upload that ends short of its size or goes beyond it, is
        Unanswered. What `read` raises goes up unchanged. All of these close the connection.
        """
        ...

    @property
    def ready(self) -> bool:
        """Whether `begin` may find a connection."""
        ...

    def begin(self, method: bytes, path: bytes, headers: bytes, body: bytes, first_byte: float) -> Began | None:
        """The same without waiting, of a body in memory: over a connection that is there, else None, and nothing was
        written. Raises NotSent."""
        ...

    async def aclose(self) -> None:
        """Close idle connections now and busy ones as they end."""
        ...
