"""A request body that passes through without being held: read from the client as the upstream takes it.

What looks at it on the way sees every byte before the upstream does, and may end it. It does not know accounts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from gateway.core.wire.batch_models import BatchModels
from gateway.core.wire.decoding import Decoder
from gateway.core.wire.scan import Scanner
from gateway.errors import ApiError

_SLICE = 4096  # bytes of a compressed body, or of a batch, that are looked at in one go

Look = Callable[[bytes, bool], Awaitable[None]]


class Upload:
    """The body of one request, an `upstream.transport.Upload`; `size` is its content-length, None if it has none.

    `read` and `gather` raise ApiError(413) beyond `limit` bytes, CancelledError when the client has gone, and what
    `look` raises, which is shown each piece as it arrives, and whether it is the last. `hold` is told how many bytes
    more (or less) are kept here. `read` raises ApiError(408) after `patience` seconds of the client's silence: while it
    reads, the request has a slot of its account.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[tuple[bytes, bool]]],
        size: int | None,
        limit: int,
        patience: float,
        hold: Callable[[int], None],
        look: Look | None = None,
    ) -> None:
        self.size = size
        self.begun = False
        self.received = 0
        self._receive = receive
        self._limit = limit
        self._patience = patience
        self._hold = hold
        self._look = look
        self._held: deque[bytes] = deque()
        self._more = True

    async def gather(self, most: int) -> bytes | None:
        """Read and keep up to `most` bytes; returns the body if that is all of it."""
        while self._more and self.received < most:
            piece = await self._next()
            if piece:
                self._hold(len(piece))
                self._held.append(piece)
        return None if self._more else b"".join(self._held)

    async def read(self) -> bytes:
        """The next piece, b"" at the end."""
        self.begun = True
        if self._held:
            self._hold(-len(self._held[0]))
            return self._held.popleft()
        try:
            async with asyncio.timeout(self._patience):
                while self._more:
                    piece = await self._next()
                    if piece:
                        return piece
        except TimeoutError:
            raise ApiError(408, "The request's body took too long to arrive.") from None
        return b""

    async def _next(self) -> bytes:
        piece, self._more = await self._receive()
        self.received += len(piece)
        if self.received > self._limit:
            raise too_large(self._limit)
        if self._look is not None:
            await self._look(piece, not self._more)
        return piece


def too_large(limit: int) -> ApiError:
    """What a client is told whose body is larger than `limit` bytes."""
    return ApiError(413, f"Request body is larger than {limit / 1024 / 1024:g} MB.")


class Inspection:
    """Looks through a JSON body as it passes, compressed or not; `judge(models, ids)` is told of those that are new,
    and may raise. Of a `batch`, models are those that it asks for; of another body, whatever is called so."""

    def __init__(
        self,
        encoding: bytes,
        limit: int,
        judge: Callable[[set[str], set[str]], Awaitable[None]],
        batch: bool = False,
    ) -> None:
        self._decoder = None if encoding in (b"", b"identity") else Decoder(encoding, limit)
        self._scanner = Scanner(models=not batch)
        self._batch = BatchModels() if batch else None
        self._judge = judge
        self._models: set[str] = set()
        self._ids: set[str] = set()

    async def look(self, piece: bytes, last: bool) -> None:
        """See one piece."""
        decoder = self._decoder
        if decoder is None:
            await self._read(piece)
        else:
            for start in range(0, len(piece), _SLICE):
                await self._read(decoder.feed(piece[start : start + _SLICE]))
                if start:
                    await asyncio.sleep(0)
            if last:
                decoder.finish()
        models = self._scanner.models if self._batch is None else self._batch.found
        ids = self._scanner.ids
        if len(models) > len(self._models) or len(ids) > len(self._ids):
            models, ids = models - self._models, ids - self._ids
            self._models |= models
            self._ids |= ids
            await self._judge(models, ids)

    async def _read(self, text: bytes) -> None:
        self._scanner.feed(text)
        if self._batch is None:
            return
        for start in range(0, len(text), _SLICE):  # of odd bodies a byte may take as long as a hundred of others
            self._batch.feed(text[start : start + _SLICE])
            if start:
                await asyncio.sleep(0)
