"""What is made at run time (callers, their keys, teams, boosts), in the `{pool}` slot: every change is one script, and
all gateways hear of it.

A key is random, given out once, and kept as its SHA-256 digest only. Who may call, `core.spending.keyring` decides; the
copy that a gateway goes by is `store.pool.shared_keys`'.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec

from gateway.core.spending.keyring import BOOSTS, CALLERS, RECORDS, TEAMS, CallerRecord, KeyRecord, Record, Stored
from gateway.store.client.connection import Arg, StoreDown
from gateway.store.client.redis_py import open_redis, run
from gateway.store.pool.pool_store import CHANNEL, SCHEMA, NewerSchema, channel_at
from gateway.store.scripts import KEYS

KEY_PREFIX = "sk-"
ID_PREFIX = "key_"
_HINT = 4  # characters of a key that are shown for ever
_AT_ONCE = 500  # records that one script is offered
_PLACES = ("{pool}:callers", "{pool}:keys", "{pool}:keys:version", "{pool}:schema", "{pool}:teams", "{pool}:boosts")
_PLACE_OF = {CALLERS: 1, TEAMS: 5, BOOSTS: 6}
_LETTERS = string.ascii_letters + string.digits
_encode = msgspec.json.Encoder().encode
_record: dict[str, Callable[[bytes], Record]] = {
    kind: msgspec.json.Decoder(record).decode for kind, record in RECORDS.items()
}
_key = msgspec.json.Decoder(KeyRecord).decode
T = TypeVar("T")


class UnknownKey(Exception):
    """There is no key of this id."""


class KeyEnded(Exception):
    """The key was revoked or has expired."""


class OtherKey(Exception):
    """The key is in another state than was expected; nothing was done."""


class TooManyKeys(Exception):
    """The caller has as many keys as it may; or, with `label`, one of that label, whose id is `key`."""

    def __init__(self, key: str = "") -> None:
        super().__init__("the caller has enough keys")
        self.key = key


class RecordExists(Exception):
    """Another record of this id is there than was expected; nothing was changed."""

    def __init__(self, record: Any) -> None:
        super().__init__("the record exists")
        self.record = record


class UnknownRecord(Exception):
    """There is no record of this id that was made at run time."""


class NewKey(msgspec.Struct, frozen=True):
    """A key that nobody has yet: `secret` is `sk-` and 48 characters and goes to its user alone, once."""

    id: str
    secret: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.secret.encode()).hexdigest()

    @property
    def hint(self) -> str:
        return self.secret[-_HINT:]

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r})"


def new_key() -> NewKey:
    return NewKey(ID_PREFIX + _letters(12), KEY_PREFIX + _letters(48))


def _letters(number: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(number))


class KeyStore:
    """The callers and keys in the store at `url`. All methods raise StoreDown, and NewerSchema where a newer version
    owns the store; what was asked may then have been done all the same. Lengths of time are in milliseconds."""

    def __init__(self, url: str) -> None:
        self._redis = open_redis(url)
        self._changes = channel_at(url, CHANNEL)

    async def read(self, known: str = "") -> Stored | None:
        """All of it; None if the version is still the one that is `known`. What this version cannot read is left
        out."""
        outcome, *more = await self._run("read", known)
        if outcome == b"same":
            return None
        version, callers, keys, teams, boosts = more
        records = {CALLERS: callers, TEAMS: teams, BOOSTS: boosts}
        read: dict[str, Any] = {kind: _records(flat, _record[kind]) for kind, flat in records.items()}
        return Stored(version.decode(), keys=_records(keys, _key), **read)

    async def create(
        self,
        new: NewKey,
        caller: str,
        record: CallerRecord | None,
        lifetime: int = 0,
        known: bool = False,
        label: str = "",
        most: int = 0,
    ) -> None:
        """Make a key that lives `lifetime` (0 for ever), and its caller with this `record`; None for a caller that a
        file defines. Raises RecordExists where there is a record of the caller, unless it is `known`: read and found to
        be what is wanted. That of a deleted one is followed by the record with the next revision. Raises TooManyKeys
        where the caller has `most` keys (0: any number may count), or one of this label."""
        key = KeyRecord(caller, new.digest, new.hint, of_file=record is None, label=label)
        text = b"" if record is None else _encode(record)
        reply = await self._run("create", new.id, _encode(key), lifetime, caller, text, int(known), most)
        _judge_record(CALLERS, reply)

    async def put(self, kind: str, name: str, record: Record) -> None:
        """Write a record, whose revision is that of the present one and 1, or 1 where there is none. Raises
        UnknownRecord, and RecordExists where the present one is another than that."""
        reply = await self._run("put", _PLACE_OF[kind], name, _encode(record), record.revision - 1)
        if reply[0] == b"unknown":
            raise UnknownRecord
        _judge_record(kind, reply)

    async def rotate(
        self,
        key: str,
        new: NewKey,
        overlap: int,
        lifetime: int | None = None,
        was: KeyRecord | None = None,
        most: int = 0,
    ) -> None:
        """Make another key of the same caller; the present one ends after `overlap`, if not before. `lifetime` None is
        that of the present one. Raises UnknownKey, KeyEnded, OtherKey where the key is not as it `was`, and TooManyKeys
        where it has a successor that counts, or the caller more than `most` keys (0: any number may count)."""
        lives: Arg = "" if lifetime is None else lifetime
        reply = await self._run("rotate", key, new.id, new.digest, new.hint, overlap, lives, _state(was), most)
        _judge_record(CALLERS, reply)

    async def revoke(self, key: str, was: KeyRecord | None = None) -> None:
        """End a key now, whether or not it has ended before. Raises UnknownKey, and OtherKey where it is not as it
        `was`."""
        reply = await self._run("revoke", key, _state(was))
        _judge(reply[0])

    async def finish(self, caller: str, record: CallerRecord | None = None, was: int = 0) -> int:
        """End all keys of a caller now; how many those were. With a `record` the caller is deleted, which this one says
        and whose revision is that of the present one and 1. Raises UnknownRecord, and RecordExists where the present
        one is another than that, or without a `record` of another revision than it `was` (0: any will do)."""
        text, revision = (b"", was) if record is None else (_encode(record), record.revision - 1)
        outcome, *more = reply = await self._run("finish", caller, text, revision)
        if outcome == b"unknown":
            raise UnknownRecord
        _judge_record(CALLERS, reply)
        return int(more[0])

    async def offer(self, lost: Stored) -> None:
        """Give the store back what it has lost."""
        records = [
            (_PLACE_OF[kind], name, _encode(record)) for kind in RECORDS for name, record in lost.records(kind).items()
        ]
        keys = [(name, _encode(key)) for name, key in lost.keys.items()]
        for first in range(0, len(records), _AT_ONCE):
            part = records[first : first + _AT_ONCE]
            await self._run("offer", len(part), *(word for each in part for word in each))
        for first in range(0, len(keys), _AT_ONCE):
            await self._run("offer", 0, *(word for each in keys[first : first + _AT_ONCE] for word in each))

    async def forget(self, ids: list[str]) -> None:
        """Show these keys no more; for those that ended long ago."""
        for first in range(0, len(ids), _AT_ONCE):
            await self._run("forget", *ids[first : first + _AT_ONCE])

    async def close(self) -> None:
        await self._redis.aclose()

    async def _run(self, *words: Arg) -> list[Any]:
        """The script's reply, after the schema's version."""
        nonce = secrets.token_hex(4)
        args = (len(_PLACES), *_PLACES, 0, SCHEMA, self._changes, nonce, *words)
        schema, *reply = cast(list[Any], await run(self._redis, KEYS, args))
        if schema > SCHEMA:
            raise NewerSchema(f"the store belongs to schema {schema}; this version writes schema {SCHEMA}")
        return reply


def _state(key: KeyRecord | None) -> str:
    """As keys.lua has it, of a key that is known; "" for none."""
    return "" if key is None else f"{key.revoked_at}.{key.expires_at}.{key.replaced_by}"


def _judge(outcome: bytes) -> None:
    if outcome == b"unknown":
        raise UnknownKey
    if outcome == b"ended":
        raise KeyEnded
    if outcome == b"other":
        raise OtherKey
    if outcome == b"full":
        raise TooManyKeys
    if outcome != b"done":  # another key has this random id
        raise StoreDown(f"the store said {outcome.decode()}")


def _judge_record(kind: str, reply: list[Any]) -> None:
    if reply[0] == b"known":
        try:
            raise RecordExists(_record[kind](reply[1]))
        except msgspec.DecodeError:
            raise StoreDown("the store holds a record of this id that this version cannot read") from None
    if reply[0] == b"named":
        raise TooManyKeys(reply[1].decode())
    _judge(reply[0])


def _records(flat: list[bytes], decode: Callable[[bytes], T]) -> dict[str, T]:
    found = {}
    for name, text in zip(flat[::2], flat[1::2], strict=True):
        try:
            found[name.decode()] = decode(text)
        except ValueError:  # nothing that a gateway wrote, or a newer version's; a DecodeError is one
            continue
    return found
