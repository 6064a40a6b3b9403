"""What desks share that write what is made at run time: entity tags, bodies, and the one way to change a record.

A record is changed by comparing and setting its revision, on whichever gateway; who names an entity tag is told 412
where another was quicker, who names none has the change made to what the other left. It knows no kind of record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from gateway.admin.desks.body import read
from gateway.config.rules import Rule, moment_text
from gateway.core.spending.keyring import CallerRecord, KeyRecord, Record, Stored
from gateway.errors import ApiError
from gateway.store.client.client import StoreDown
from gateway.store.pool.keys import KeyEnded, NewKey, OtherKey, RecordExists, UnknownKey, UnknownRecord

_TRIES = 3  # at a change that others make at the same time

T = TypeVar("T")
R = TypeVar("R", bound=Record)


class RunTime(Protocol):
    """This gateway's copy of what was made at run time, and how to change it for all; as store.pool.shared_keys."""

    stored: Stored

    async def create(
        self,
        caller: str,
        record: CallerRecord | None,
        lifetime: int = 0,
        known: bool = False,
        label: str = "",
        most: int = 0,
    ) -> NewKey: ...
    async def put(self, kind: str, name: str, record: Record) -> None: ...
    async def rotate(
        self, key: str, overlap: int, lifetime: int | None = None, was: KeyRecord | None = None, most: int = 0
    ) -> NewKey: ...
    async def revoke(self, key: str, was: KeyRecord | None = None) -> None: ...
    async def finish(self, caller: str, record: CallerRecord | None = None, was: int = 0) -> int: ...


class Match:
    """What `If-Match` says: entity tags, one of which what is to be changed must have; "" for any."""

    def __init__(self, given: str = "") -> None:
        self._tags = None if given.strip() in ("", "*") else {each.strip() for each in given.split(",")}

    @property
    def named(self) -> bool:
        """Whether there is anything to compare."""
        return self._tags is not None

    def check(self, shown: Mapping[str, Any]) -> None:
        """Raise ApiError 412 where what is shown has none of them."""
        if self._tags is not None and etag(shown) not in self._tags:
            raise stale("It has changed since")


ANY = Match()


def stale(what: str) -> ApiError:
    """The answer to who would change what is no longer as it was got."""
    return ApiError(412, f"{what}: get it again, and decide anew", kind="conflict_error")


def etag(shown: Mapping[str, Any]) -> str:
    """The entity tag of something as it is shown."""
    text = msgspec.json.encode(dict(shown), order="deterministic")
    return f'"{hashlib.sha256(text).hexdigest()[:20]}"'


async def write(
    table: RunTime, kind: str, name: str, change: Callable[[R | None], R | None], match: Match = ANY
) -> R | None:
    """Have a record changed: `change` is given the present one (None: there is none) and returns what is to follow it,
    but for its revision, or None to leave it as it is; it may raise. Returns the record that is there then. Raises
    ApiError: 412 where another was quicker than who named an entity tag, 503 while the store is away."""
    present: R | None = table.stored.records(kind).get(name)
    for _ in range(_TRIES):
        wanted = change(present)
        if wanted is None:
            return present
        new = msgspec.structs.replace(wanted, revision=1 if present is None else present.revision + 1)
        try:
            await done(table.put(kind, name, new))
        except RecordExists as exists:
            if match.named:
                raise stale("Another was quicker") from None
            present = exists.record
            continue
        return new
    raise ApiError(503, f"{name} changes faster than it can be agreed on")


async def done(work: Awaitable[T], key: str = "") -> T:
    """What `work` at the table returns; its errors as ApiError. `key` is the one that it is about."""
    try:
        return await work
    except UnknownRecord:
        raise ApiError(404, "There is no such thing any more") from None
    except UnknownKey:
        raise ApiError(404, f"There is no key of the id {key}; `gateway keys list` shows them") from None
    except KeyEnded:
        raise ApiError(409, f"{key} has ended; make a new key with `gateway keys create`") from None
    except OtherKey:
        raise stale(f"{key} has changed since") from None
    except StoreDown as error:
        raise ApiError(503, f"The store is away, and what was asked may or may not be done: {error}") from None


def given_of(body: bytes, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """What a body gives: null is not given. Raises ApiError 400."""
    return {name: value for name, value in read(body, rules).items() if value is not None}


def plain(value: Any) -> dict[str, Any]:
    """A struct of the configuration as records keep it: without what is none."""
    return sparse(msgspec.to_builtins(value))


def sparse(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields without those that are none."""
    found = {
        name: sparse(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for name, value in fields.items()
    }
    return {name: value for name, value in found.items() if value not in (None, {}, [], "")}


def named(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of `values`, as they were read, those that were `given`; null is None."""
    return {
        name: named(values[name], value) if isinstance(value, dict) else values[name] if value is not None else None
        for name, value in given.items()
    }


def merged(present: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with these changes."""
    after = dict(present)
    for name, value in changes.items():
        after[name] = merged(after.get(name) or {}, value) if isinstance(value, dict) else value
    return sparse(after)


def changed(
    body: bytes, rules: Mapping[str, Rule], parts: tuple[str, ...], fresh: Record
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a body changes: fields that take the place of all that was there, and of `parts`, which are structs, what of
    each it names, None for what is to go. A field that is null is again as in `fresh`, a record of which nothing was
    said. Raises ApiError 400."""
    wanted = {name: getattr(fresh, name) if value is None else value for name, value in read(body, rules).items()}
    raw = msgspec.json.decode(body)
    of_parts = {
        part: named(msgspec.to_builtins(wanted.pop(part)), raw[part])
        for part in parts
        if part in wanted and raw[part] is not None
    }
    return wanted, of_parts


def time_text(milliseconds: int) -> str | None:
    """A time of a record; None for 0."""
    return moment_text(milliseconds / 1000) if milliseconds else None
