"""A journal on disk: small records that several processes append, and that survive the death of any of them.

Each process writes a segment of its own, which it holds locked, so nobody waits for another. A record is one write,
kept by the kernel when the process is killed; a loss of power may take the last few. What the records mean, and which
of them are still worth keeping, their owner knows.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from struct import Struct
from typing import BinaryIO
from zlib import crc32

SEGMENT = 16 * 1024 * 1024  # bytes after which a process begins another segment; no record is longer
_OPEN, _CLOSED = ".open", ".log"  # a segment that is not locked counts as closed, whatever its name
_NEW = ".new"  # what nobody looks at yet
_LOCK = "lock"  # shared by those who list the segments, exclusive for who removes some
_HEAD = Struct(">4sII")  # kind, bytes of payload, their CRC-32
_MARK = b"\xffgw"  # begins every kind; the first byte is in no UTF-8 text
_RECORD = _MARK + b"r"
_MERGED = _MARK + b"m"  # opens a compacted segment: the names of those that it stands for
_STALE = 3600.0  # seconds after which a file that nobody looked at has been left behind


class Journal:
    """One process's (and one thread's) hand in the journal in `folder`, which is made when there is something to keep.

    Close it every hour or so: what it has written can then be compacted. The next record opens it again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder
        self._file: int | None = None
        self._size = 0

    def append(self, record: bytes) -> None:
        """Keep `record`. Raises OSError where it could not be written (a full disk); later ones may well be."""
        self.extend((record,))

    def extend(self, records: Sequence[bytes]) -> None:
        """Keep them all, in one write. Raises OSError; none is kept then."""
        parts: list[bytes] = []
        for payload in records:
            size = len(payload)
            if not 0 < size <= SEGMENT:
                raise ValueError(f"a record of {size} bytes")
            parts += (_HEAD.pack(_RECORD, size, crc32(payload)), payload)
        frames = b"".join(parts)
        if self._file is None:
            self._file = self._begin()
        rest = memoryview(frames)
        try:
            while rest:  # once, but on a disk that fills up
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(frames)
        if self._size >= SEGMENT:
            self.close()

    def _begin(self) -> int:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = self._folder / f"{_name(time.time_ns())}{_OPEN}"
        self._size = 0
        new = self._path.with_suffix(_NEW)
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # before it is seen: an unlocked segment is a dead process's
            new.rename(self._path)
        except OSError:
            os.close(file)
            raise
        return file

    def close(self) -> None:
        """Give the segment away."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with contextlib.suppress(OSError):
            self._path.rename(self._path.with_suffix(_CLOSED))
        os.close(file)


def read(folder: Path) -> Iterator[bytes]:
    """Every record, those of older segments first; what is appended meanwhile may be missing. Raises OSError."""
    if not folder.is_dir():
        return
    with ExitStack() as files:
        with _locked(folder, fcntl.LOCK_SH):
            segments, _ = _open(folder, files)
        for file in segments.values():
            yield from _records(file)


def compact(folder: Path, fold: Callable[[Iterable[bytes]], Iterable[bytes]]) -> None:
    """Replace all segments that nobody writes any more by one, which holds what `fold` makes of their records. Waits
    for another who does the same. Raises OSError, and what `fold` does: nothing is lost then.

    It can be interrupted anywhere: either the old segments count, or the new one."""
    if not folder.is_dir():
        return
    with ExitStack() as files:
        files.enter_context(_locked(folder, fcntl.LOCK_EX))
        segments, replaced = _open(folder, files, closed=True)
        _remove(folder, replaced)
        _tidy(folder)
        if not segments:
            return
        oldest = next(iter(segments))
        merged = folder / f"{_name(int(oldest.partition('-')[0]))}{_CLOSED}"
        new = merged.with_suffix(_NEW)
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                out.write(_frame(_MERGED, "\n".join(segments).encode()))
                for record in fold(record for file in segments.values() for record in _records(file)):
                    out.write(_frame(_RECORD, record))
                out.flush()
                os.fsync(out.fileno())  # its predecessors have been on the disk for long
            new.rename(merged)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        _sync(folder)
        _remove(folder, segments)


def _open(folder: Path, files: ExitStack, *, closed: bool = False) -> tuple[dict[str, BinaryIO], set[str]]:
    """The segments by name, the oldest first; with `closed` only those that nobody writes. And the names of those that
    another stands for, whose files may still be there."""
    found: dict[str, BinaryIO] = {}
    replaced: set[str] = set()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (_OPEN, _CLOSED)):
        try:
            file = files.enter_context(_segment(path))
        except FileNotFoundError:  # closed by its process just now, and nothing more than renamed
            file = files.enter_context(_segment(path.with_suffix(_CLOSED)))
        if closed and path.suffix == _OPEN and not _abandoned(file):
            continue
        found[path.stem] = file
        for kind, payload in _frames(file):
            if kind == _MERGED:
                replaced.update(payload.decode().split("\n"))
            break
    return {name: file for name, file in found.items() if name not in replaced}, replaced


def _segment(path: Path) -> BinaryIO:
    return open(path, "rb")


def _abandoned(file: BinaryIO) -> bool:
    """Whether no process holds the segment; this one then does, until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _records(file: BinaryIO) -> Iterator[bytes]:
    return (payload for kind, payload in _frames(file) if kind == _RECORD)


def _frames(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """(kind, payload) of all that is whole; what is torn is skipped."""
    at = file.seek(0)
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        kind, length, checksum = _HEAD.unpack(head)
        if kind in (_RECORD, _MERGED) and 0 < length <= SEGMENT:
            payload = file.read(length)
            if len(payload) == length and crc32(payload) == checksum:
                yield kind, payload
                at += _HEAD.size + length
                continue
        file.seek(at + 1)
        distance = file.read().find(_MARK)
        if distance < 0:
            return
        at = file.seek(at + 1 + distance)


def _frame(kind: bytes, payload: bytes) -> bytes:
    if not 0 < len(payload) <= SEGMENT:
        raise ValueError(f"a record of {len(payload)} bytes")
    return _HEAD.pack(kind, len(payload), crc32(payload)) + payload


def _name(at: int) -> str:
    """A new segment's name, which is never used again; names sort by `at` (Unix ns)."""
    return f"{at:020d}-{token_hex(8)}"


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        for suffix in (_OPEN, _CLOSED):
            folder.joinpath(name + suffix).unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    """Remove what processes that died at the wrong moment never showed."""
    for path in folder.glob(f"*{_NEW}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE:
                path.unlink()


def _sync(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
