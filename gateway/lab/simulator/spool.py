"""Bytes of any size at a bounded cost of memory: short ones are held, long ones go to a temporary file."""

import tempfile
from collections.abc import Iterator
from hashlib import sha256
from typing import IO

__all__ = ["Spool"]

IN_MEMORY = 1 << 20
PIECE = 64 * 1024


class Spool:
    """Written once, then read as often as one likes, also by several readers in turns.

    The file has no name and goes with the last reference, so a download outlives the deletion of what it shows.
    """

    __slots__ = ("_file", "_hash", "_memory", "size")

    def __init__(self, data: bytes = b"") -> None:
        self.size = 0
        self._hash = sha256()
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self.write(data)

    def __repr__(self) -> str:
        return f"<Spool {self.size} bytes {'in memory' if self._file is None else 'in a file'}>"

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def digest(self) -> str:
        """SHA-256 of everything written so far, hexadecimal."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Appends; `OSError` where the disk is full."""
        self.size += len(data)
        self._hash.update(data)
        if self._file is None and self.size > IN_MEMORY:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the spool
            self._file.write(self._memory)
            self._memory.clear()
        if self._file is None:
            self._memory += data
        else:
            self._file.write(data)

    def pieces(self) -> Iterator[bytes]:
        """The content from the beginning, at most 64 KiB at a time."""
        for at in range(0, self.size, PIECE):
            if self._file is None:
                yield bytes(self._memory[at : at + PIECE])
            else:
                # Another reader may have moved the file's position.
                self._file.seek(at)
                yield self._file.read(PIECE)

    def whole(self) -> bytes:
        """All of it; for content that is known to be short."""
        return b"".join(self.pieces())
