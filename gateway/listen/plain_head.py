"""The short way of most request heads: those that are so plain that every parser reads them alike.

A head is plain if it lies whole in one segment, each of its lines is `name: value` in visible ASCII with one blank
behind the colon, it tells its length once, and nothing in it changes how it is framed. Everything else is the parser's.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_REQUEST = re.compile(rb"POST (/[A-Za-z0-9/._~-]*)(?:\?([A-Za-z0-9/._~=&%-]*))? HTTP/1\.1")
_LINE = re.compile(rb"([A-Za-z0-9-]+): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")
_LENGTH = re.compile(rb"[0-9]{1,10}")
# What says how a request is framed, or what becomes of its connection.
_OTHERWISE = frozenset(
    b"transfer-encoding connection expect upgrade proxy-connection http2-settings trailer te".split()
)
# What clients say alike in all their requests, and is nobody's secret: such lines are remembered.
_ALIKE = re.compile(
    rb"(?:host|accept(?:-encoding|-language)?|user-agent|content-type|anthropic-(?:version|beta)|x-app"
    rb"|x-stainless-(?!retry-count|timeout)[a-z-]+)\Z"
)
_MAX_KNOWN = 4096
_LONGEST = 256  # bytes of a line that is remembered

Header = tuple[bytes, bytes]

_known: dict[bytes, Header] = {
    b"Connection: keep-alive": (b"connection", b"keep-alive"),
    b"connection: keep-alive": (b"connection", b"keep-alive"),
}
_targets: dict[bytes, Header] = {}  # path and query, by request line


class PlainHead(NamedTuple):
    """`target` is path and query; `size` bytes of head, `length` of body."""

    target: Header
    headers: list[Header]
    length: int
    size: int


def read_plain(segment: bytes, most: int) -> PlainHead | None:
    """The head with which a segment begins, if it is plain and has at most `most` bytes, and no other request follows;
    else None."""
    end = segment.find(b"\r\n\r\n")
    if end < 0 or end > most:
        return None
    request, *lines = segment[:end].split(b"\r\n")
    target = _targets.get(request) or _target(request)
    if target is None:
        return None
    headers: list[Header] = []
    length = -1
    for line in lines:
        header = _known.get(line)
        if header is None:
            match = _LINE.fullmatch(line)
            if match is None:
                return None
            name, value = match[1].lower(), match[2]
            if name in _OTHERWISE:
                return None
            header = name, value
            if name == b"content-length":
                if length >= 0 or not _LENGTH.fullmatch(value):
                    return None
                length = int(value)
            elif len(line) <= _LONGEST and _ALIKE.match(name):
                _remember(line, header)
        headers.append(header)
    size = end + 4
    return PlainHead(target, headers, length, size) if 0 <= len(segment) - size <= length else None


def _target(request: bytes) -> Header | None:
    match = _REQUEST.fullmatch(request)
    if match is None:
        return None
    target = match[1], match[2] or b""
    if len(request) <= _LONGEST:
        if len(_targets) >= _LONGEST:
            _targets.clear()
        _targets[request] = target
    return target


def _remember(line: bytes, header: Header) -> None:
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[line] = header
