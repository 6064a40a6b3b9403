"""Reads `multipart/form-data` as it arrives, each part into a spool. Knows no sockets and no meaning of the parts."""

import re
from urllib.parse import unquote_to_bytes

from gateway.lab.simulator.spool import Spool

__all__ = ["Multipart", "Part", "boundary"]

MAX_HEAD = 16 * 1024
MAX_PARTS = 1_000

_PARAMETER = re.compile(r';\s*([\w*-]+)=(?:"((?:[^"\\]|\\.)*)"|([^;]*))')


def boundary(content_type: str) -> bytes | None:
    """The boundary that a content type names, None if it is not that of a form."""
    kind, _, _ = content_type.partition(";")
    value = _parameters(content_type).get("boundary")
    return value.encode("latin-1", "replace") if kind.strip().lower() == "multipart/form-data" and value else None


class Part:
    """One field; `filename` is None for a plain value, `mime` is empty where none was sent."""

    __slots__ = ("content", "filename", "mime", "name")

    def __init__(self, name: str, filename: str | None, mime: str) -> None:
        self.name = name
        self.filename = filename
        self.mime = mime
        self.content = Spool()

    def __repr__(self) -> str:
        return f"<Part {self.name} {self.filename} {self.content.size} bytes>"

    @property
    def text(self) -> str:
        """A plain value."""
        return self.content.whole().decode("utf-8", "replace")


class Multipart:
    """`feed` it the body in pieces of any size, then `close` it and take the `parts`."""

    def __init__(self, boundary: bytes) -> None:
        self.parts: list[Part] = []
        self._delimiter = b"\r\n--" + boundary
        # The first delimiter may open the body: with this it looks like all others.
        self._buffer = bytearray(b"\r\n")
        # A plain function: a bound method would tie the parts into a cycle and keep their files until it is found.
        self._step = Multipart._content
        self._part: Part | None = None
        self._ended = False

    def feed(self, data: bytes) -> None:
        """`ValueError` for what is not a form."""
        if self._ended:
            return
        self._buffer += data
        while self._step(self):
            pass

    def close(self) -> None:
        """The body is over; `ValueError` if the form is not."""
        if not self._ended:
            raise ValueError("the form ends before its last boundary")

    # Steps: each takes what it can from the buffer and says whether another may follow at once.

    def _content(self) -> bool:
        at = self._buffer.find(self._delimiter)
        # A delimiter may have begun in the last bytes.
        upto = at if at >= 0 else len(self._buffer) - len(self._delimiter) + 1
        if upto > 0:
            if self._part is not None:
                self._part.content.write(bytes(self._buffer[:upto]))
            del self._buffer[:upto]
        if at < 0:
            return False
        del self._buffer[: len(self._delimiter)]
        self._step = Multipart._after_delimiter
        return True

    def _after_delimiter(self) -> bool:
        if len(self._buffer) < 2:
            return False
        mark = bytes(self._buffer[:2])
        if mark == b"--":
            self._ended = True
            self._buffer.clear()
            return False
        if mark != b"\r\n":
            raise ValueError("a boundary is followed by neither a line end nor its end mark")
        self._step = Multipart._head
        return True

    def _head(self) -> bool:
        # The line end that follows the delimiter is still there, so that a part without headers is found, too.
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD:
            if len(self._buffer) > MAX_HEAD:
                raise ValueError("the headers of a part are too long")
            return False
        self._part = _part(self._buffer[:end].decode("utf-8", "replace"))
        self.parts.append(self._part)
        if len(self.parts) > MAX_PARTS:
            raise ValueError(f"more than {MAX_PARTS} parts")
        del self._buffer[: end + 4]
        self._step = Multipart._content
        return True


def _part(head: str) -> Part:
    headers = {}
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    disposition = headers.get("content-disposition", "")
    values = _parameters(disposition)
    if not disposition.lower().startswith("form-data") or "name" not in values:
        raise ValueError("a part has no name")
    filename = values.get("filename")
    if "filename*" in values:
        filename = unquote_to_bytes(values["filename*"].rpartition("'")[2]).decode("utf-8", "replace")
    return Part(values["name"], filename, headers.get("content-type", ""))


def _parameters(header: str) -> dict[str, str]:
    found = {}
    for name, quoted, plain in _PARAMETER.findall(header):
        found[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted else plain.strip()
    return found
