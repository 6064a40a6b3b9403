"""The ledger's totals and records as they are read: summed over all tenants, and listed one tenant at a time.

It writes nothing, and does not know prices, configuration, or which callers there are: names are those in the store.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from time import gmtime, strftime
from typing import Any, cast

import msgspec

from gateway.store.client.connection import StoreDown
from gateway.store.client.plain_redis import ResponseError
from gateway.store.client.redis_py import ask, ask_all, open_redis
from gateway.store.ledger.ledger import TENANTS, Entry

HOUR, DAY = 3600, 86_400
HOURS_KEPT, DAYS_KEPT = 35 * DAY, 400 * DAY  # seconds that totals of an hour and of a day are kept
GROUPS = ("key", "team", "model", "account", "day")
MOST_ROWS = 100_000
_FIRST, _MOST = 16, 512  # hashes read in one pipeline: the first time, and ever
_FIELDS_AT_ONCE = 5000  # what a pipeline's replies should hold, by what the one before held
_NINE = b"\x99"  # how MessagePack begins an array of nine

_LOOKED_AT = 2000  # records at once
_RECORD_ID = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)


class TooManyRows(ValueError):
    """The grouping asked for makes more rows than anybody can hold."""


class Span(msgspec.Struct, frozen=True):
    """From `start` until just before `end`: Unix seconds, both at a full hour."""

    start: int
    end: int


class Totals(msgspec.Struct, array_like=True):
    """What was used. `requests` include those `estimated`; `input` is fresh input; money in integer nano-dollars."""

    requests: int = 0
    estimated: int = 0
    input: int = 0
    cache_read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    output: int = 0
    cost_nano: int = 0
    savings_nano: int = 0

    def add(self, more: Totals) -> None:
        self.requests += more.requests
        self.estimated += more.estimated
        self.input += more.input
        self.cache_read += more.cache_read
        self.write_5m += more.write_5m
        self.write_1h += more.write_1h
        self.output += more.output
        self.cost_nano += more.cost_nano
        self.savings_nano += more.savings_nano


Group = tuple[str | None, ...]  # one value for each of the names grouped by; a caller without a team has None for it


class Sums(msgspec.Struct, frozen=True):
    """Totals by group, and how many aggregates could not be read and are missing from them."""

    rows: dict[Group, Totals]
    unreadable: int


_totals = msgspec.msgpack.Decoder(Totals).decode
_numbers = msgspec.msgpack.Decoder(tuple[int | float, ...]).decode
_entry = msgspec.msgpack.Decoder(Entry).decode


def parts(span: Span) -> Iterator[tuple[str, str]]:
    """What of a tenant's keys covers the span, (rest of the key, its UTC day as 2026-11-22): whole days from the daily
    totals, the others from the hourly ones."""
    at = span.start
    while at < span.end:
        day = strftime("%Y-%m-%d", gmtime(at))
        if at % DAY == 0 and at + DAY <= span.end:
            yield strftime(":u:d:%Y%m%d", gmtime(at)), day
            at += DAY
        else:
            yield strftime(":u:h:%Y%m%d%H", gmtime(at)), day
            at += HOUR


def read_totals(packed: bytes) -> Totals:
    """An aggregate's value. Raises ValueError."""
    if packed[:1] == _NINE:
        try:
            return _totals(packed)
        except msgspec.ValidationError:
            pass  # floats among them: a script packs what is beyond 2^63 so
    numbers = _numbers(packed)[:9]  # further ones belong to a newer version
    whole = [int(number) for number in numbers]
    if whole != list(numbers) or len(whole) < 9:
        raise ValueError("not nine whole numbers")
    return Totals(*whole)


class Page(msgspec.Struct, frozen=True):
    """Records of one tenant, the latest settled first: that of a request comes before its estimate, if there was one.
    `next` is where those before them begin, None at the end."""

    records: list[Entry]
    next: str | None
    unreadable: int


class UsageReader:
    """The ledger in the store at `url`. It connects when first used."""

    def __init__(self, url: str) -> None:
        self._redis = open_redis(url)

    async def sum(self, span: Span, groups: tuple[str, ...], only: Mapping[str, frozenset[str]]) -> Sums:
        """What was used in the span, by the names in `groups` (of GROUPS), where `only` says name: allowed values.

        Settlements meanwhile may be in it or not. Raises StoreDown and TooManyRows."""
        rows: dict[Group, Totals] = {}
        unreadable = 0
        tenants = _fitting(await ask(self._redis, "SMEMBERS", TENANTS), only)
        keys = ((f"{{{tenant}}}{rest}", tenant, day) for tenant in tenants for rest, day in parts(span))
        size = _FIRST
        while batch := list(islice(keys, size)):
            seen = 0
            for (_, tenant, day), reply in zip(batch, await self._read([key for key, *_ in batch]), strict=True):
                if reply is None:
                    unreadable += 1
                    continue
                seen += len(reply)
                unreadable += _gather(rows, reply, tenant, day, groups, only)
            size = max(1, min(_MOST, size * 2, _FIELDS_AT_ONCE * len(batch) // max(1, seen)))
        return Sums(rows, unreadable)

    async def _read(self, keys: list[str]) -> list[dict[bytes, bytes] | None]:
        """The hashes at these keys, None for what is none."""
        replies = await ask_all(self._redis, [("HGETALL", key) for key in keys])
        return [_hash(reply) for reply in replies]

    async def records(self, tenant: str, span: Span, key: str, limit: int, before: str) -> Page:
        """At most `limit` records of the tenant's requests in the span (of the caller `key` alone, unless it is ""),
        settled before the record that `before` names ("" for the latest); perhaps none, and more with `next`.

        Raises StoreDown, and ValueError for a `before` that is none."""
        if before and not _RECORD_ID.fullmatch(before):
            raise ValueError("before must be what `next` was")
        least = max(0, span.start - HOUR) * 1000  # a record is settled after its request came; clocks may differ
        command = ("XREVRANGE", f"{{{tenant}}}:s", f"({before}" if before else "+", least, "COUNT", _LOOKED_AT)
        entries = await ask(self._redis, *command)
        found: list[Entry] = []
        unreadable = 0
        for name, fields in entries:
            try:
                entry = _entry(fields[b"r"])
            except (KeyError, msgspec.MsgspecError):
                unreadable += 1
                continue
            if span.start <= entry.at / 1000 < span.end and key in ("", entry.caller):
                found.append(entry)
            if len(found) == limit:
                return Page(found, name.decode(), unreadable)
        return Page(found, entries[-1][0].decode() if len(entries) == _LOOKED_AT else None, unreadable)

    async def close(self) -> None:
        await self._redis.aclose()


def _hash(reply: Any) -> dict[bytes, bytes] | None:
    if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
        return None
    if isinstance(reply, Exception):
        raise StoreDown(str(reply) or type(reply).__name__)
    return cast(dict[bytes, bytes], reply)


def _fitting(tenants: Iterable[bytes], only: Mapping[str, frozenset[str]]) -> list[str]:
    """The tenants that may have something that fits, in order."""
    teams, callers = only.get("team"), only.get("key")
    found = []
    for tenant in sorted(each.decode(errors="replace") for each in tenants):
        kind, _, name = tenant.partition(":")
        if kind == "t":
            fits = teams is None or name in teams
        else:  # of a caller without a team
            fits = teams is None and (callers is None or name in callers)
        if fits:
            found.append(tenant)
    return found


def _gather(
    rows: dict[Group, Totals], fields: Mapping[bytes, bytes], tenant: str, day: str, groups: tuple[str, ...],
    only: Mapping[str, frozenset[str]],
) -> int:  # fmt: skip
    """Add a hash of aggregates to the rows; how many of its fields are unreadable."""
    team = tenant[2:] if tenant.startswith("t:") else None
    asked = [GROUPS.index(name) for name in groups]
    allowed = [(GROUPS.index(name), values) for name, values in only.items()]
    unreadable = 0
    for field, packed in fields.items():
        try:
            key, model, account = field.decode().split("\0")
            totals = read_totals(packed)
        except (ValueError, OverflowError, msgspec.MsgspecError):
            unreadable += 1
            continue
        values = (key, team, model, account, day)  # as GROUPS
        if allowed and any(values[place] not in among for place, among in allowed):
            continue
        group = tuple([values[place] for place in asked])
        row = rows.get(group)
        if row is not None:
            row.add(totals)
        elif len(rows) < MOST_ROWS:
            rows[group] = totals
        else:
            raise TooManyRows(f"more than {MOST_ROWS:,} rows; group by less or choose a shorter time")
    return unreadable
