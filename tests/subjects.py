"""What subjects have left, as the store keeps it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from gateway.core.spending.quota import BUCKET, KINDS

_MONEY = ("reserved", "day", "day_spent", "month", "month_spent")


def numbers(kept: Mapping[bytes, bytes]) -> dict[str, float]:
    """Of a subject's hash: money by name, levels of buckets that are not full by their fields."""
    packed = kept.get(b"n", b"")
    read = struct.unpack(f"<{len(packed) // 8}d", packed)
    found = dict(zip(_MONEY, read, strict=False))
    if len(read) == 15:
        found |= zip(("week", "week_spent"), read[13:], strict=True)
    for kind in KINDS:
        if kind.form == BUCKET and len(read) > kind.place and read[kind.place]:
            found[kind.field] = read[kind.place - 1]
    return found


def read(client: Any, key: str) -> dict[str, float]:
    """Of the subject at `key`; the client may decode what it reads."""
    packed = client.execute_command("HGET", key, "n", NEVER_DECODE=True)
    return numbers({b"n": packed} if packed else {})


def filled_at(kept: Mapping[bytes, bytes], field: str) -> int:
    """When the bucket had that level (ms)."""
    (place,) = (kind.place for kind in KINDS if kind.field == field)
    return int(struct.unpack_from("<d", kept[b"n"], 8 * place)[0])


def packed(**money: int) -> bytes:
    """As the store keeps a subject's money."""
    week = money.get("week", 0), money.get("week_spent", 0)
    return struct.pack("<15d", *(money.get(name, 0) for name in _MONEY), *[0] * 8, *week)
