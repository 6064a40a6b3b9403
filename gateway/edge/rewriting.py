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


_created = msgspec.json.Decoder(_Created).decode


def created_id(body: bytes) -> str:
    """The id in the answer to a create, "" if it has none."""
    try:
        return _created(body).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


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
