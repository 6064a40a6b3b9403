"""The path table: what the data listener serves, as data. Forwarding one more endpoint is adding one row."""

from __future__ import annotations

import re

import msgspec


class Endpoint(msgspec.Struct, frozen=True):
    """`name` is its label in metrics and logs; `peeks` whether the body is a Messages body that routing reads;
    `metered` whether answers carry usage; `method` the one that is allowed."""

    name: str
    method: str
    peeks: bool = False
    metered: bool = False


ENDPOINTS = {
    b"/v1/messages": Endpoint("messages", "POST", peeks=True, metered=True),
    b"/v1/messages/count_tokens": Endpoint("count_tokens", "POST", peeks=True),
    b"/v1/models": Endpoint("models", "GET"),
}
_MODEL = (re.compile(rb"/v1/models/[A-Za-z0-9._:@-]+\Z"), Endpoint("models", "GET"))


def find(raw_path: bytes) -> Endpoint | None:
    """The endpoint of a path as it came, percent signs and all; None for what is not forwarded."""
    endpoint = ENDPOINTS.get(raw_path)
    if endpoint is None and _MODEL[0].match(raw_path):
        return _MODEL[1]
    return endpoint
