"""The long way of request heads, and of everything else that is not plain: httptools, and the bounds around it.

It tells a connection of requests and their bodies. What becomes of them it does not know.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

import httptools

from gateway.errors import ApiError
from gateway.listen.cycle import Cycle

if TYPE_CHECKING:
    from gateway.listen.connection import Connection

_SHORT = 256  # bytes of a request target that is remembered
_SPARE = 1024  # bytes beyond the bound of a head that may wait in the parser


class _TooLarge(Exception):
    """The request head is beyond its bound."""


@lru_cache(maxsize=256)
def _split(url: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target. Raises HttpParserInvalidURLError."""
    path, _, query = url.partition(b"?")
    if not path.startswith(b"/") or b"#" in url:
        raise httptools.HttpParserInvalidURLError("origin-form expected")
    return path, query


class Parser:
    """Of one connection. `within` a request it must be given everything that comes."""

    __slots__ = ("_connection", "_expects_continue", "_headers", "_parser", "_unparsed", "_url", "_wide", "within")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.within = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._unparsed = 0
        self._wide = False

    def feed(self, data: bytes) -> None:
        """What the client has sent."""
        connection = self._connection
        bound = connection.listener.head_bytes
        self._wide = len(data) > bound  # only then can one segment hold too large a head whole
        self._unparsed += len(data)  # until a callback takes it back: the parser holds unfinished fields by itself
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._ignore_upgrade(data[offer.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _TooLarge):
                connection.refuse(ApiError(431, f"The request head is larger than {bound} bytes."))
            elif isinstance(error.__context__, httptools.HttpParserError):
                connection.refuse(ApiError(400, "Invalid request target."))
            else:
                raise
        except httptools.HttpParserError:
            connection.misunderstood()
        else:
            if self._unparsed > bound + _SPARE:
                connection.refuse(ApiError(431, f"The request head is larger than {bound} bytes."))

    def _ignore_upgrade(self, rest: bytes) -> None:
        """An offer to speak another protocol (h2c, mostly) may be ignored. The parser takes what follows the head for
        that protocol, so another one reads the body, by the same framing; after it the connection closes."""
        cycle = cast(Cycle, self._connection.cycle)
        cycle.keep_alive = False
        framing = (b"content-length", b"transfer-encoding")
        lines = [b"%b: %b\r\n" % header for header in cycle.headers if header[0] in framing]
        self._parser = httptools.HttpRequestParser(_BodyOf(self._connection))
        self.feed(b"POST / HTTP/1.1\r\n%b\r\n%b" % (b"".join(lines), rest))

    # httptools' callbacks.

    def on_message_begin(self) -> None:
        self.within = True
        self._url = b""
        self._expects_continue = False
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        connection, url, parser = self._connection, self._url, self._parser
        if self._wide:
            size = sum(len(name) + len(value) + 4 for name, value in self._headers)
            if size > connection.listener.head_bytes:
                raise _TooLarge
        target = _split(url) if len(url) <= _SHORT else _split.__wrapped__(url)
        version = parser.get_http_version()
        headers, self._headers = self._headers, []  # trailers end there, not among the headers
        self._unparsed = 0
        keep_alive = version != "1.0" and parser.should_keep_alive()
        expects = self._expects_continue and version == "1.1"
        method = parser.get_method().decode("ascii")
        connection.asked(Cycle(connection, method, target, version, headers, keep_alive, expects))

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        self._connection.on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        if self._parser.should_upgrade():
            return  # its body is still to come: see _ignore_upgrade
        self.within = False
        self._connection.on_message_complete()


class _BodyOf:
    """Callbacks for a parser that reads only the body of a connection's request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def on_body(self, body: bytes) -> None:
        if not self._connection.deaf:
            self._connection.on_body(body)

    def on_message_complete(self) -> None:
        if not self._connection.deaf:
            self._connection.deaf = True  # to whatever follows
            self._connection.on_message_complete()
