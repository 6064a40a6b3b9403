"""An upload for tests, which notes what is done to it."""

from __future__ import annotations

import asyncio
import itertools

BLOCK = bytes(1 << 16)
ENDLESS = 1 << 14  # blocks: a gigabyte


class Offer:
    """An upload of these pieces, and at their end `then`: raised, or for None a wait without end."""

    def __init__(
        self, *pieces: bytes, size: int | None = None, then: BaseException | bytes | None = b"", count: int = 1
    ) -> None:
        self.size = size
        self.begun = False
        self.given = 0  # bytes
        self.waiting = asyncio.Event()  # the end has been asked for
        self.cancelled = False
        self._pieces = itertools.chain.from_iterable(itertools.repeat(pieces, count))
        self._then = then

    async def read(self) -> bytes:
        self.begun = True
        if piece := next(self._pieces, b""):
            self.given += len(piece)
            return piece
        self.waiting.set()
        if isinstance(self._then, BaseException):
            raise self._then
        try:
            await (asyncio.sleep(0) if self._then == b"" else asyncio.Event().wait())
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return b""
