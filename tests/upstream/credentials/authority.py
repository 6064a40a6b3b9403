"""Whoever gives credentials, on a real socket: each request is kept, and answered as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(self.body.decode()).items()}


Answer = Callable[[Asked], tuple[int, bytes]]


class Authority:
    """`answer` gives status and body; `asked` is what came."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.held: asyncio.Event | None = None
        self._server: asyncio.Server | None = None
        self._more = asyncio.Event()

    async def __aenter__(self) -> Authority:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()

    async def until_asked(self, times: int) -> None:
        while len(self.asked) < times:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), 60)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = (await reader.readline()).decode().split(" ")
            headers: dict[str, str] = {}
            while (raw := (await reader.readline()).decode().strip()) != "":
                name, _, value = raw.partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            asked = Asked(line[0], line[1], headers, body)
            self.asked.append(asked)
            self._more.set()
            if self.held is not None:
                await self.held.wait()
            status, answer = self.answer(asked)
            head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(answer)}\r\nmetadata-flavor: Google\r\n"
            kind = (
                "application/json" if answer[:1] in (b"{", b"[") else "text/xml" if answer[:1] == b"<" else "text/plain"
            )
            writer.write(f"{head}content-type: {kind}\r\nconnection: close\r\n\r\n".encode() + answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, IndexError):
            pass
        finally:
            writer.close()


async def had(credential: Any) -> bytes:
    """The lines of a credential once its first fetch has ended."""
    await credential.start()
    await credential.refresh()
    try:
        lines: bytes = credential.lines(b"POST", b"host", b"/path", b"{}")
        return lines
    finally:
        await credential.close()
