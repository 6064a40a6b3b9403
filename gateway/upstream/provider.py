"""The provider seam: how a client's call becomes a request to an account's provider, and its answer Messages again.

A provider is one module with a `Provider`, and one row in `PROVIDERS`. It may rewrite method, path, header lines and
body, and translate another stream framing into server-sent events; it does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.upstream.transport import Upload


class Call(msgspec.Struct):
    """What a client asked, cleaned: `path` begins with a slash and may hold a query; `lines` are finished header lines
    without credential, host, length and hop-by-hop ones; `version` says whether one of them is anthropic-version;
    `bearer` that the endpoint wants the credential as a bearer token."""

    method: bytes
    path: bytes
    lines: list[bytes]
    body: bytes | Upload
    model: str = ""
    stream: bool = False
    version: bool = True
    bearer: bool = False


class Outgoing(msgspec.Struct):
    """What goes to the upstream; `headers` are finished lines in one piece."""

    method: bytes
    path: bytes
    headers: bytes
    body: bytes | Upload


Translate = Callable[[bytes], bytes]


class Provider(Protocol):
    """One kind of upstream, for one account's credential."""

    def prepare(self, call: Call) -> Outgoing:
        """The request as this provider wants it."""
        ...

    def framing(self, headers: list[tuple[bytes, bytes]]) -> Translate | None:
        """For the head of a streamed answer: what turns its bytes into server-sent events; None if they already are."""
        ...
