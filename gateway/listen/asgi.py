"""A client behind an ASGI server or middleware: the journey's way in and out where it does not hold the connection.

ASGI servers tell whoever asks that a client has gone, and nobody else: while an answer is due, somebody asks.
"""

from __future__ import annotations

import asyncio
from typing import cast

from gateway.listen.client import HeaderList, Receive, Scope, Send
from gateway.listen.plain_head import PlainHead


class AsgiClient:
    """One request and its answer; a `client.Client`. From the end of the request's body on, the task that reads it is
    cancelled when the client has `gone`, until `close`."""

    plain: PlainHead | None = None

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        path = cast(bytes, scope.get("raw_path") or scope["path"].encode())
        self.target: tuple[bytes, bytes] = path, scope.get("query_string", b"")
        self.headers: HeaderList = scope["headers"]
        self.version: str = scope.get("http_version", "1.1")
        self.gone = False
        self._receive = receive
        self._send = send
        self._ended = False  # the whole answer was given to the server
        self._serving = asyncio.current_task()
        self._watching: asyncio.Task[None] | None = None

    async def read(self) -> tuple[bytes, bool]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
            raise asyncio.CancelledError
        more = message.get("more_body", False)
        if not more:
            self._watching = asyncio.create_task(self._watch())
        return message.get("body", b""), more

    async def _watch(self) -> None:
        message, serving = await self._receive(), self._serving
        if message["type"] == "http.disconnect" and not self._ended and serving is not None:
            self.gone = True
            if not serving.cancelling():  # by a server that does it itself
                serving.cancel()

    def close(self) -> None:
        """Nobody waits for what its client does any more."""
        self._ended = True
        if self._watching is not None:
            self._watching.cancel()

    def cancel(self) -> None:
        if self._serving is not None:
            self._serving.cancel()

    async def start(self, status: int, headers: HeaderList) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, more: bool) -> None:
        self._ended = not more
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.write(body, False)

    def short_way(self) -> None:
        """Framing is the server's business."""
