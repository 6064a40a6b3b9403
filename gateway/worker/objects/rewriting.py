"""The few places of answers about objects that the gateway reads or puts right. Everything else stays as it came."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec

_RESULTS_URL = re.compile(rb'("results_url"\s*:\s*)("(?:[^"\\]|\\.)*")')
_encode = msgspec.json.encode
_string = msgspec.json.Decoder(str).decode


class _Created(msgspec.Struct):
    id: str = ""
    session_id: str | None = None  # of a run: what it has begun


_created = msgspec.json.Decoder(_Created).decode


def created_ids(body: bytes) -> list[str]:
    """The ids of what an answer to a create says was made."""
    try:
        made = _created(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return [each for each in (made.id, made.session_id) if each]


def results_to(body: bytes, base_url: bytes) -> bytes:
    """An answer about batches whose addresses of results lead to `base_url`: SDKs go there with the client's key."""

    def here(match: re.Match[bytes]) -> bytes:
        try:
            path = urlsplit(_string(match[2])).path
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            path = ""
        start = path.find("/v1/")
        return match[1] + _encode(base_url.decode("latin-1") + path[max(0, start) :])

    return _RESULTS_URL.sub(here, body) if b'"results_url"' in body else body
