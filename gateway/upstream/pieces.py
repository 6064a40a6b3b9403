"""An upload cut to pieces of bounded size and held against the size it announced; knows no connection."""

from __future__ import annotations

from gateway.upstream.transport import Unanswered, Upload

PIECE = 32 * 1024  # bytes of body at most


class Pieces:
    """Iterates over an upload; each piece goes out as it is, with `framed` as a chunk of HTTP/1.1.

    Of an upload with a size the last piece comes when its end has been seen: one that is longer than it said is never
    whole at the upstream. Raises Unanswered where the size was wrong.
    """

    def __init__(self, upload: Upload, *, framed: bool = False) -> None:
        self._upload = upload
        self._framed = framed
        self._read = b""
        self._at = 0  # of what was read, how much has been given out
        self._given = 0
        self._ended = False

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if self._at == len(self._read):
            self._read = await self._upload.read()
            self._at = 0
        piece = self._read[self._at : self._at + PIECE]
        self._at += len(piece)
        self._given += len(piece)
        size = self._upload.size
        if size is not None:
            await self._measure(size, piece)
        elif not piece:
            self._ended = True
        if self._framed:
            return b"%x\r\n%b\r\n" % (len(piece), piece)  # the empty piece makes the last chunk
        if not piece:
            raise StopAsyncIteration
        return piece

    async def _measure(self, size: int, piece: bytes) -> None:
        if self._given < size:
            if not piece:
                raise Unanswered(f"the upload ended {size - self._given} bytes short of its size")
            return
        self._ended = True
        longer = self._given > size or self._at < len(self._read)
        if longer or (piece and await self._upload.read()):
            raise Unanswered("the upload went on beyond its size")
