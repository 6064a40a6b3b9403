"""What this gateway's processes tell those of other gateways in passing, through the store.

A broadcast is lost where the store is away or slow; it never waits for room and never fails anything. Its bytes
are opaque.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from gateway.store.client.client import StoreDown

MOST = 1000  # pieces that wait; the oldest go first
_PATIENCE = 1.0  # seconds for one piece, or it is dropped with all that wait


class Broadcaster:
    """`process` names this gateway; `publish` brings one message to all gateways and may raise StoreDown."""

    def __init__(self, process: str, publish: Callable[[bytes], Awaitable[None]]) -> None:
        self._prefix = process.encode() + b"\0"
        self._publish = publish
        self._waiting: deque[bytes] = deque(maxlen=MOST)
        self._filled = asyncio.Event()

    def put(self, data: bytes) -> None:
        """Have it told to the other gateways."""
        self._waiting.append(self._prefix + data)
        self._filled.set()

    def read(self, message: bytes) -> bytes | None:
        """The broadcast in a message of the store's; None if it is our own."""
        return None if message.startswith(self._prefix) else message.partition(b"\0")[2]

    async def run(self) -> None:
        """Publish what was put, until cancelled."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._waiting:
                try:
                    async with asyncio.timeout(_PATIENCE):
                        await self._publish(self._waiting.popleft())
                except (StoreDown, TimeoutError):
                    self._waiting.clear()  # what comes late tells nothing
