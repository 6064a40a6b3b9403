"""An upload on its way through httpx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx

from gateway.upstream.pieces import Pieces
from gateway.upstream.transport import Unanswered, Upload


class Feed(httpx.AsyncByteStream):
    """The content of a request. It moves the deadline: none while the client is waited for, else `idle` for a piece.
    It is given out once: a second time it would be empty."""

    def __init__(self, upload: Upload, idle: float) -> None:
        self.deadline = asyncio.timeout(None)  # of the line it goes out on
        self.problem: BaseException | None = None  # what reading the upload raised
        self.begun = False
        self._pieces = Pieces(upload)
        self._idle = idle

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self.begun:
            raise Unanswered("the upload was about to be sent again")
        self.begun = True
        return self

    async def __anext__(self) -> bytes:
        self.deadline.reschedule(None)
        try:
            piece = await anext(self._pieces, b"")
        except BaseException as problem:
            self.problem = problem
            raise
        self.deadline.reschedule(asyncio.get_running_loop().time() + self._idle)
        if not piece:
            raise StopAsyncIteration
        return piece
