"""A client behind an ASGI server or middleware: the journey's way in and out where it does not hold the connection.

The server cancels the task that serves a request when its client has gone.
"""

from __future__ import annotations

import asyncio
from typing import cast

from gateway.listen.client import HeaderList, Receive, Scope, Send


class AsgiClient:
    """One request and its answer; a `client.Client`."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path = cast(bytes, scope.get("raw_path") or scope["path"].encode())
        self.query: bytes = scope.get("query_string", b"")
        self.headers: HeaderList = scope["headers"]
        self.version: str = scope.get("http_version", "1.1")
        self._receive = receive
        self._send = send

    async def read(self) -> tuple[bytes, bool]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        return message.get("body", b""), message.get("more_body", False)

    async def start(self, status: int, headers: HeaderList) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        await self.start(status, headers)
        await self.write(body, False)

    def pass_chunk(self, chunk: bytes) -> bool:
        """Framing is the server's business."""
        return False
