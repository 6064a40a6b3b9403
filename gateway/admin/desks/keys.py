"""The callers and their keys as operators see and change them: JSON of the admin API.

It stores nothing and recognises nobody: the store does the one, `core.spending.keyring` the other. A key is in the
answer that makes it and nowhere else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from gateway import log
from gateway.admin.desks.body import read
from gateway.config import checks as check
from gateway.config.checks import shortened
from gateway.config.rules import Number, Rule, Text, moment_text
from gateway.config.schema import Caller, Config, caller_warnings, undefined_team
from gateway.config.sections import simple, struct_fields
from gateway.core.spending.keyring import ACTIVE, EXPIRED, CallerRecord, KeyRecord, Stored
from gateway.errors import ApiError
from gateway.store.client.client import StoreDown
from gateway.store.pool.keys import CallerExists, KeyEnded, NewKey, UnknownCaller, UnknownKey

OVERLAP = 86_400.0  # seconds for which a rotated key counts beside its successor
MOST_SECONDS = 10 * 366 * 86_400.0
UNOWNED = "unowned"  # the state of a key that counts for nobody, as no file defines its caller any more
_DEFINING = ("team", "models", "limits", "metadata")
_CHANGING = ("models", "limits", "metadata")  # not the team: what was spent is its
_TRIES = 3  # at making a key of a caller that others make at the same time

T = TypeVar("T")
_rules: dict[str, Rule] = {field.name: field.rule for field in struct_fields(Caller)}
# What bodies may say.
CREATE: dict[str, Rule] = {
    "caller": Text(check.person),
    **{name: _rules[name] for name in _DEFINING},
    "expires_in": Number(above=0, most=MOST_SECONDS),
}
CHANGE: dict[str, Rule] = {name: _rules[name] for name in _CHANGING}
ROTATE: dict[str, Rule] = {
    "overlap": Number(least=0, most=MOST_SECONDS),
    "expires_in": Number(above=0, most=MOST_SECONDS),
}


class Table(Protocol):
    """This gateway's copy of what was made at run time, and how to change it for all; as store.pool.shared_keys."""

    stored: Stored

    async def create(
        self, caller: str, record: CallerRecord | None, lifetime: int = 0, known: bool = False
    ) -> NewKey: ...
    async def change(self, caller: str, record: CallerRecord) -> None: ...
    async def rotate(self, key: str, overlap: int, lifetime: int | None = None) -> NewKey: ...
    async def revoke(self, key: str) -> None: ...
    async def finish(self, caller: str, record: CallerRecord | None = None) -> int: ...


class Keys:
    """The callers of the configuration that `config()` gives, and those in `table`. `applied` returns when this
    gateway's workers know what the table says; `now()` gives Unix seconds."""

    def __init__(
        self,
        table: Table,
        config: Callable[[], Config],
        applied: Callable[[], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._table = table
        self._config = config
        self._applied = applied
        self._now = now
        self._listed: tuple[Caller, ...] = ()  # the file's callers, of which `_by_id` was made
        self._by_id: dict[str, Caller] = {}

    # What there is.

    def all(self) -> list[dict[str, Any]]:
        """All callers by id, each with its keys, the oldest first; those of the file first."""
        stored = self._table.stored
        made: defaultdict[str, list[str]] = defaultdict(list)  # one look at all keys, however many callers there are
        for id_, key in stored.keys.items():
            made[key.caller].append(id_)
        deleted = stored.callers.keys() - stored.present.keys()
        names = self._in_file().keys() | ((stored.callers.keys() | made.keys()) - deleted)
        return [{**self._caller(name), "keys": self._keys(name, made.get(name, []))} for name in sorted(names)]

    def find(self, key: str) -> dict[str, Any] | None:
        """The key of this id, if this gateway knows one."""
        return self._key(key) if key in self._table.stored.keys else None

    def _caller(self, name: str) -> dict[str, Any]:
        configured, record = self._in_file().get(name), self._table.stored.callers.get(name)
        found = configured or record or CallerRecord(models=())
        return {
            "caller": name,
            "source": "file" if configured is not None else "store" if record is not None else None,
            "team": found.team,
            "models": list(found.models),
            "limits": simple(sparse(msgspec.to_builtins(found.limits))),
            "metadata": dict(found.metadata),
        }

    def _shown_with_keys(self, name: str) -> dict[str, Any]:
        made = [id_ for id_, key in self._table.stored.keys.items() if key.caller == name]
        return {**self._caller(name), "keys": self._keys(name, made)}

    def _keys(self, name: str, made: Iterable[str]) -> list[dict[str, Any]]:
        """The caller's keys; `made` are the ids of those that were made at run time."""
        configured, stored = self._in_file().get(name), self._table.stored.keys
        found = [] if configured is None else [self._file_key(configured, digest) for digest in configured.digests]
        return [*found, *(self._key(id_) for id_ in sorted(made, key=lambda id_: (stored[id_].created_at, id_)))]

    def _file_key(self, caller: Caller, digest: str) -> dict[str, Any]:
        over = caller.expires is not None and caller.expires <= self._now()
        return {
            "id": None, "source": "file", "state": EXPIRED if over else ACTIVE, "hint": None, **_digest(digest),
            "created_at": None, "expires_at": None if caller.expires is None else moment_text(caller.expires),
            "revoked_at": None, "replaced_by": None,
        }  # fmt: skip

    def _key(self, id_: str) -> dict[str, Any]:
        key = self._table.stored.keys[id_]
        return {
            "id": id_, "source": "store", "state": self._state(key), "hint": key.hint, **_digest(key.digest),
            "created_at": _time(key.created_at), "expires_at": _time(key.expires_at),
            "revoked_at": _time(key.revoked_at), "replaced_by": key.replaced_by or None,
        }  # fmt: skip

    def _state(self, key: KeyRecord) -> str:
        state = key.state(self._now() * 1000)
        owned = key.caller in self._in_file() or (not key.of_file and key.caller in self._table.stored.callers)
        return UNOWNED if state == ACTIVE and not owned else state

    def _in_file(self) -> dict[str, Caller]:
        callers = self._config().keys
        if callers is not self._listed:
            self._listed, self._by_id = callers, {caller.id: caller for caller in callers}
        return self._by_id

    # What changes.

    async def create(self, body: bytes) -> dict[str, Any]:
        """Make a key, and its caller if there is none of that id; the key is shown in this answer only, with `warnings`
        in words for people.

        Raises ApiError: 400 for a body that makes no sense or names a team that it must not, 409 for a caller that is
        defined otherwise, 503 while the store is away."""
        given = _read(body, CREATE)
        name: str | None = given.get("caller")
        if name is None:
            raise ApiError(400, "Give the caller: an id that stays while its keys rotate")
        lifetime = _lifetime(given) or 0
        if name in self._in_file():
            named = [field for field in _DEFINING if field in given]
            if named:
                raise ApiError(409, f"{name} is defined in the configuration file; change its {named[0]} there")
            new = await self._do(self._table.create(name, None, lifetime))
        else:
            new = await self._create(name, given, lifetime)
        log.info("key created", key=new.id, caller=name)
        shown = await self._shown(new.id)
        return {"key": new.secret, **shown, "warnings": self._warnings(shown)}

    def _warnings(self, shown: Mapping[str, Any]) -> list[str]:
        return caller_warnings(self._config(), shown["caller"], shown["team"], shown["models"])

    async def _create(self, name: str, given: Mapping[str, Any], lifetime: int) -> NewKey:
        """For a caller that no file defines, perhaps a new one."""
        problem = undefined_team(given.get("team"), [each.id for each in self._config().teams])
        if problem and self._config().teams_strict:
            raise ApiError(400, f"{name}: {problem}")
        wanted = {field: given[field] for field in _DEFINING if field in given}
        if "limits" in wanted:
            wanted["limits"] = sparse(msgspec.to_builtins(wanted["limits"]))
        record = self._table.stored.callers.get(name)
        for _ in range(_TRIES):
            known = record is not None and not record.deleted_at
            if record is not None and known:
                other = [field for field in wanted if getattr(record, field) != wanted[field]]
                if other:
                    raise ApiError(
                        409,
                        f"{name} is there already, with another value of {other[0]}, and all keys of a caller share "
                        "it; leave it out, name another caller, or define this one in the configuration file",
                    )
            if record is None or not known:
                follows = 0 if record is None else record.revision
                record = CallerRecord(created_at=int(self._now() * 1000), revision=follows + 1, **wanted)
            try:
                return await self._do(self._table.create(name, record, lifetime, known))
            except CallerExists as exists:  # somebody was quicker
                record = exists.record
        raise ApiError(503, f"{name} changes faster than it can be agreed on")

    def caller(self, name: str) -> dict[str, Any] | None:
        """The caller of this id with its keys, if this gateway knows one."""
        known = name in self._in_file() or name in self._table.stored.present
        return self._shown_with_keys(name) if known else None

    async def change(self, name: str, body: bytes) -> dict[str, Any]:
        """Give a caller that was made at run time other models or notes, which take the place of all that was there,
        or other limits, of which those that are not named stay and those that are null go. Raises ApiError: 400 for a
        body that makes no sense, 404 for an unknown caller, 409 for one that the file defines, 503 while the store is
        away."""
        wanted = _read(body, CHANGE)
        if not wanted:
            raise ApiError(400, f"Nothing to change; give one of {', '.join(CHANGE)}")
        if name in self._in_file():
            raise ApiError(409, f"{name} is defined in the configuration file; change it there")
        limits = _named(msgspec.to_builtins(wanted.pop("limits", {})), msgspec.json.decode(body).get("limits") or {})
        record = self._record(name)
        for _ in range(_TRIES):
            new = msgspec.structs.replace(
                record, limits=_merged(record.limits, limits), revision=record.revision + 1, **wanted
            )
            try:
                await self._do(self._table.change(name, new))
            except CallerExists as exists:  # somebody was quicker
                record = exists.record
                continue
            await self._applied()
            log.info("caller changed", caller=name, fields=sorted({*wanted, *limits}))
            shown = self._shown_with_keys(name)
            return {**shown, "warnings": self._warnings(shown)}
        raise ApiError(503, f"{name} changes faster than it can be agreed on")

    def _record(self, name: str) -> CallerRecord:
        """Of a caller made at run time. Raises ApiError 404."""
        record = self._table.stored.present.get(name)
        if record is None:
            raise ApiError(404, f"There is no caller of the id {name}; `gateway keys list` shows them")
        return record

    async def delete(self, name: str) -> dict[str, Any]:
        """Delete a caller that was made at run time: its keys end at once, what it has used stays in the ledger. Raises
        ApiError: 404 for an unknown caller, 409 for one that the file defines, 503 while the store is away."""
        if name in self._in_file():
            raise ApiError(409, f"{name} is defined in the configuration file; take it out there")
        record = self._record(name)
        for _ in range(_TRIES):
            now = int(self._now() * 1000)
            gone = CallerRecord(
                team=record.team, created_at=record.created_at, revision=record.revision + 1, deleted_at=now
            )
            try:
                ended = await self._do(self._table.finish(name, gone))
            except CallerExists as exists:  # somebody was quicker
                record = exists.record
                continue
            await self._applied()
            log.info("caller deleted", caller=name, keys=ended)
            return {"caller": name, "team": record.team, "deleted_at": _time(now), "revoked": ended}
        raise ApiError(503, f"{name} changes faster than it can be agreed on")

    async def revoke_all(self, name: str) -> dict[str, Any]:
        """End all keys of a caller that were made at run time, everywhere and for good; the caller stays. Raises
        ApiError: 404 for an unknown caller, 503 while the store is away."""
        if name not in self._in_file() and not any(key.caller == name for key in self._table.stored.keys.values()):
            self._record(name)
        ended = await self._do(self._table.finish(name))
        await self._applied()
        log.info("keys revoked", caller=name, keys=ended)
        left = self._in_file()[name].digests if name in self._in_file() else ()
        words = "its keys in the configuration file still count; take them out there"
        return {**self._shown_with_keys(name), "revoked": ended, "warnings": [f"{name}: {words}"] if left else []}

    async def rotate(self, key: str, body: bytes) -> dict[str, Any]:
        """Make a successor, shown in this answer only; the key itself ends after an overlap. Raises ApiError: 400 and
        503 as `create`, 404 for an unknown key, 409 for one that has ended."""
        given = _read(body or b"{}", ROTATE)
        overlap = _ms(given.get("overlap", OVERLAP))
        lifetime = _lifetime(given)
        if key in self._table.stored.keys:
            self._not_in_file(key)
        new = await self._do(self._table.rotate(key, overlap, lifetime), key)
        log.info("key rotated", key=key, successor=new.id, overlap_seconds=overlap / 1000)
        return {"key": new.secret, **await self._shown(new.id), "replaces": self._key(key)}

    async def revoke(self, key: str) -> dict[str, Any]:
        """End a key, everywhere and for good; one that has ended stays so. Raises ApiError: 404 for an unknown key, 409
        for one that the file names too, 503 while the store is away."""
        if key in self._table.stored.keys:
            self._not_in_file(key)
        await self._do(self._table.revoke(key), key)
        log.info("key revoked", key=key)
        return await self._shown(key)

    def _not_in_file(self, key: str) -> None:
        digest = self._table.stored.keys[key].digest
        for caller in self._config().keys:
            if digest in caller.digests:
                raise ApiError(
                    409, f"{key} is among the keys of {caller.id} in the configuration file; remove it there"
                )

    async def _do(self, work: Awaitable[T], key: str = "") -> T:
        try:
            return await work
        except UnknownCaller:
            raise ApiError(404, "There is no such caller any more") from None
        except UnknownKey:
            raise ApiError(404, f"There is no key of the id {key}; `gateway keys list` shows them") from None
        except KeyEnded:
            raise ApiError(409, f"{key} has ended; make a new key with `gateway keys create`") from None
        except StoreDown as error:
            raise ApiError(503, f"The store is away, and what was asked may or may not be done: {error}") from None

    async def _shown(self, key: str) -> dict[str, Any]:
        """The key and its caller, once this gateway goes by it."""
        await self._applied()
        return {**self._caller(self._table.stored.keys[key].caller), **self._key(key)}


def _read(body: bytes, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """What a body gives: null is not given. Raises ApiError 400."""
    return {name: value for name, value in read(body, rules).items() if value is not None}


def _named(limits: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of `limits`, as they were read, those that were `given`; null is None."""
    return {
        name: _named(limits[name], value) if isinstance(value, dict) else limits[name] if value is not None else None
        for name, value in given.items()
    }


def _merged(limits: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Limits with these changes."""
    merged = dict(limits)
    for name, value in changes.items():
        merged[name] = _merged(merged.get(name) or {}, value) if isinstance(value, dict) else value
    return sparse(merged)


def sparse(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Limits without those that are none."""
    found = {
        name: sparse(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for name, value in limits.items()
    }
    return {name: value for name, value in found.items() if value not in (None, {}, [], "")}


def _digest(digest: str) -> dict[str, str]:
    return {"digest": shortened((digest,))[0]}


def _lifetime(given: Mapping[str, Any]) -> int | None:
    """Milliseconds; no lifetime is so short that it means none."""
    return max(1, _ms(given["expires_in"])) if "expires_in" in given else None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _time(milliseconds: int) -> str | None:
    return moment_text(milliseconds / 1000) if milliseconds else None
