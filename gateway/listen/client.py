"""Whoever asked, as a request's journey sees it: what was sent, and what can be sent back.

Two of them: `cycle.Cycle`, on a connection of the data listener, and `asgi.AsgiClient`, behind any ASGI server. The
task that serves a request is cancelled when its client has gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from gateway.core.wire.short_way import ShortWay
from gateway.listen.plain_head import PlainHead

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]


class Client(Protocol):
    """One request and its answer. Header names are in lower case; `target` are path and query as they came; `version`
    is HTTP's, "1.1" for instance; `scope` is what ASGI says of the request. `plain` is its head where that was read at
    a glance."""

    method: str
    plain: PlainHead | None
    target: tuple[bytes, bytes]
    headers: HeaderList
    version: str

    @property
    def scope(self) -> Scope: ...

    @property
    def gone(self) -> bool:
        """Whether nobody waits for anything any more."""
        ...

    async def read(self) -> tuple[bytes, bool]:
        """The next piece of the body, and whether more follows. Raises CancelledError where the client has gone."""
        ...

    async def start(self, status: int, headers: HeaderList) -> None:
        """Send the head of the answer; it may leave with what is written first."""
        ...

    async def write(self, body: bytes, more: bool) -> None:
        """Send a piece of the answer's body; waits until the client takes more. `more` is False with the last."""
        ...

    async def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Send a whole answer; its length is told beside these headers."""
        ...

    def cancel(self) -> None:
        """End the task that serves it."""
        ...

    def short_way(self) -> ShortWay | None:
        """By which whole chunks of this answer may leave as they are, until its last is written; None where they must
        go by `write`. It is asked for when the head is out."""
        ...
