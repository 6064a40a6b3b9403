"""What callers and teams have used of their limits: how the store is asked, and what it replies.

It does not know callers: it is told the subjects and the limits of their buckets.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.core.spending.quota import KINDS, labels, subject_keys
from gateway.store.ledger.ledger import Call
from gateway.store.scripts import CARRY, LEVELS, SPEND

_PLACES = {kind.field: kind.place for kind in KINDS}


class SubjectBuckets(msgspec.Struct, frozen=True):
    """A subject, as core.spending.quota.Plan names it, and its buckets: (field, limit a minute)."""

    subject: str
    buckets: tuple[tuple[str, int], ...]


class Used(msgspec.Struct, frozen=True):
    """Of one subject at `at` (Unix ms): the level of each bucket that was asked for, which may be below 0; nano-dollars
    spent in this UTC day, week and month, under whatever tenant, and reserved by what runs; and how many slots are
    taken."""

    at: int
    levels: tuple[int, ...]
    day_spent: int
    month_spent: int
    reserved: int
    leases: int
    week_spent: int = 0

    def spent(self, period: str) -> int:
        """Nano-dollars of this `day`, `week` or `month`."""
        spent: int = getattr(self, f"{period}_spent")
        return spent


def to_look(tenant: str, subjects: Sequence[SubjectBuckets]) -> Call:
    """Look at what these subjects of one tenant have used; the reply is for `looked_of`."""
    keys = [key for each in subjects for key in subject_keys(tenant, each.subject)]
    return LEVELS, (len(keys), *keys, 0, *[_packed(each.buckets) for each in subjects])


def looked_of(subjects: Sequence[SubjectBuckets], reply: Any) -> dict[str, Used]:
    """What they have used, by subject."""
    return {each.subject: used_of(reply[0], row) for each, row in zip(subjects, reply[1:], strict=True)}


def to_spend(tenant: str, caller: str, day: str) -> Call:
    """Look at what a caller has used under this tenant in a day (as Labels); the reply is for `spend_of`."""
    return SPEND, (1, f"{{{tenant}}}:u:d:{day}", caller)


def spend_of(reply: Sequence[bytes]) -> dict[str, tuple[int, ...]]:
    """The nine sums by model."""
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return {model.decode(): tuple(map(int, msgspec.msgpack.decode(packed))) for model, packed in pairs}


def _packed(buckets: Sequence[tuple[str, int]]) -> bytes:
    """As levels.lua reads them."""
    return msgspec.msgpack.encode([word for field, limit in buckets for word in (_PLACES[field], limit)])


def used_of(at: int, row: Sequence[Any]) -> Used:
    """One subject's part of the reply. What was spent in an earlier period than that of `at` counts no more."""
    *levels, day, day_spent, week, week_spent, month, month_spent, reserved, leases, carried = row
    now, spent = labels(at), Carried(day, day_spent, month, month_spent, week, week_spent)
    parts = [spent] if not carried else [spent, unpack_carried(carried)]
    return Used(
        at,
        tuple(levels),
        sum(int(part.day_spent) for part in parts if part.day >= int(now.day)),
        sum(int(part.month_spent) for part in parts if part.month >= int(now.month)),
        reserved,
        leases,
        sum(int(part.week_spent) for part in parts if part.week >= now.week),
    )


class Carried(NamedTuple):
    """What a subject has spent under one tenant, in the day, the month and the week that are named, in nano-dollars."""

    day: float = 0
    day_spent: float = 0
    month: float = 0
    month_spent: float = 0
    week: float = 0
    week_spent: float = 0


_CARRIED = struct.Struct("<6d")


def unpack_carried(packed: bytes) -> Carried:
    """As numbers.lua has it in field `c`."""
    return Carried(*_CARRIED.unpack(packed)) if len(packed) == _CARRIED.size else Carried()


def to_carry(tenant: str, subject: str, carried: Carried) -> Call:
    """Have it counted under this tenant too, in the place of what was carried to it before."""
    return CARRY, (1, subject_keys(tenant, subject)[0], pack_carried(carried))


def pack_carried(carried: Carried) -> bytes:
    """As numbers.lua has it in field `c`."""
    return _CARRIED.pack(*carried)


def spent_of(reply: Sequence[Any]) -> Carried:
    """What one subject has spent by the reply of levels.lua about it alone, and reserves now."""
    at, (day, day_spent, week, week_spent, month, month_spent, reserved, _, _) = reply
    now = labels(at)
    return Carried(
        int(now.day),
        reserved + (day_spent if day >= int(now.day) else 0),
        int(now.month),
        reserved + (month_spent if month >= int(now.month) else 0),
        now.week,
        reserved + (week_spent if week >= now.week else 0),
    )


def joined(parts: Sequence[Carried], now: int) -> Carried:
    """What was spent in the present periods by all of them together."""
    when = labels(now)
    today, month, week = int(when.day), int(when.month), when.week
    return Carried(
        today,
        sum(part.day_spent for part in parts if part.day >= today),
        month,
        sum(part.month_spent for part in parts if part.month >= month),
        week,
        sum(part.week_spent for part in parts if part.week >= week),
    )
