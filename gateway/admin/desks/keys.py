"""The callers' keys as operators see and change them: JSON of the admin API.

It stores nothing and recognises nobody: the store does the one, `core.spending.keyring` the other. A key is in the
answer that makes it and nowhere else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from gateway import log
from gateway.admin.desks.callers import DAY_MS, DEFINING, Callers
from gateway.admin.desks.records import ANY, Match, RunTime, done, given_of, plain, stale, time_text
from gateway.config import checks as check
from gateway.config.checks import shortened
from gateway.config.rules import Number, Rule, Text, moment_text
from gateway.config.schema import Caller, KeyPolicy
from gateway.config.sections import struct_fields
from gateway.core.spending.keyring import ACTIVE, EXPIRED, CallerRecord, KeyRecord
from gateway.errors import ApiError
from gateway.store.pool.keys import NewKey, RecordExists, TooManyKeys

OVERLAP = 86_400.0  # seconds for which a rotated key counts beside its successor
MOST_SECONDS = 10 * 366 * 86_400.0
UNOWNED = "unowned"  # the state of a key that counts for nobody, as no file defines its caller any more
_TRIES = 3  # at making a key of a caller that others make at the same time

_rules: dict[str, Rule] = {field.name: field.rule for field in struct_fields(Caller)}
# What bodies may say.
OF_CALLER: dict[str, Rule] = {
    "expires_in": Number(above=0, most=MOST_SECONDS),
    "label": Text(check.note),
}
CREATE: dict[str, Rule] = {
    "caller": Text(check.person),
    **{name: _rules[name] for name in DEFINING},
    **OF_CALLER,
}
ROTATE: dict[str, Rule] = {
    "overlap": Number(least=0, most=MOST_SECONDS),
    "expires_in": Number(above=0, most=MOST_SECONDS),
}


class Keys:
    """The keys of `callers` that are in the file and in `table`. `applied` returns when this gateway's workers know
    what the table says; `now()` gives Unix seconds."""

    def __init__(
        self,
        table: RunTime,
        callers: Callers,
        applied: Callable[[], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._table = table
        self._callers = callers
        self._applied = applied
        self._now = now

    # What there is.

    def all(self) -> list[dict[str, Any]]:
        """All callers by id, each with its keys, the oldest first; those of the file first."""
        stored = self._table.stored
        made: defaultdict[str, list[str]] = defaultdict(list)  # one look at all keys, however many callers there are
        for id_, key in stored.keys.items():
            made[key.caller].append(id_)
        deleted = stored.callers.keys() - stored.present.keys()
        names = self._callers.in_file().keys() | ((stored.callers.keys() | made.keys()) - deleted)
        return [{**self._callers.shown(name), "keys": self._keys(name, made.get(name, []))} for name in sorted(names)]

    def of(self, name: str) -> list[dict[str, Any]]:
        """The keys of a caller. Raises ApiError 404."""
        self._callers.one(name)
        keys: list[dict[str, Any]] = self.with_keys(name)["keys"]
        return keys

    def find(self, key: str) -> dict[str, Any] | None:
        """The key of this id, if this gateway knows one."""
        return self._key(key) if key in self._table.stored.keys else None

    def one(self, key: str) -> dict[str, Any]:
        """The key of this id and its caller. Raises ApiError 404."""
        if key not in self._table.stored.keys:
            raise ApiError(404, f"There is no key of the id {key}; `gateway keys list` shows them")
        return {**self._callers.shown(self._table.stored.keys[key].caller), **self._key(key)}

    def with_keys(self, name: str) -> dict[str, Any]:
        """The caller and its keys."""
        made = [id_ for id_, key in self._table.stored.keys.items() if key.caller == name]
        return {**self._callers.shown(name), "keys": self._keys(name, made)}

    def _keys(self, name: str, made: Iterable[str]) -> list[dict[str, Any]]:
        """The caller's keys; `made` are the ids of those that were made at run time."""
        configured, stored = self._callers.in_file().get(name), self._table.stored.keys
        found = [] if configured is None else [self._file_key(configured, digest) for digest in configured.digests]
        return [*found, *(self._key(id_) for id_ in sorted(made, key=lambda id_: (stored[id_].created_at, id_)))]

    def _file_key(self, caller: Caller, digest: str) -> dict[str, Any]:
        over = caller.expires is not None and caller.expires <= self._now()
        return {
            "id": None, "source": "file", "state": EXPIRED if over else ACTIVE, "label": "", "hint": None,
            **_digest(digest), "created_at": None,
            "expires_at": None if caller.expires is None else moment_text(caller.expires),
            "revoked_at": None, "replaced_by": None,
        }  # fmt: skip

    def _key(self, id_: str) -> dict[str, Any]:
        key = self._table.stored.keys[id_]
        return {
            "id": id_, "source": "store", "state": self._state(key), "label": key.label, "hint": key.hint,
            **_digest(key.digest), "created_at": time_text(key.created_at), "expires_at": time_text(key.expires_at),
            "revoked_at": time_text(key.revoked_at), "replaced_by": key.replaced_by or None,
        }  # fmt: skip

    def _state(self, key: KeyRecord) -> str:
        state = key.state(self._now() * 1000)
        owned = key.caller in self._callers.in_file() or (not key.of_file and key.caller in self._table.stored.callers)
        return UNOWNED if state == ACTIVE and not owned else state

    # What changes.

    async def create(self, body: bytes) -> dict[str, Any]:
        """Make a key, and its caller if there is none of that id; the key is shown in this answer only, with `warnings`
        in words for people.

        Raises ApiError: 400 for a body that makes no sense, names a team that it must not or more than the team's
        policy allows, 409 for a caller that is defined otherwise or has enough keys, 503 while the store is away."""
        given = given_of(body, CREATE)
        name: str | None = given.get("caller")
        if name is None:
            raise ApiError(400, "Give the caller: an id that stays while its keys rotate")
        return await self._make(name, given, True)

    async def create_of(self, name: str, body: bytes) -> dict[str, Any]:
        """Make a key of a caller that is there; as `create`. Raises ApiError 404 where it is not."""
        given = given_of(body or b"{}", OF_CALLER)
        self._callers.one(name)
        return await self._make(name, given, False)

    async def _make(self, name: str, given: Mapping[str, Any], anew: bool) -> dict[str, Any]:
        label: str = given.get("label", "")
        again = self._callers.again(name)
        try:
            if name in self._callers.in_file():
                named = [field for field in DEFINING if field in given]
                if named:
                    raise ApiError(409, f"{name} is defined in the configuration file; change its {named[0]} there")
                policy = self._callers.policy(self._callers.in_file()[name].team)
                most = policy.max_keys or 0
                new = await done(self._table.create(name, None, _life(given, policy), label=label, most=most))
            else:
                new = await self._create(name, given, anew)
        except TooManyKeys as full:
            if full.key:
                raise ApiError(409, f"{name} has a key labelled {label} already: {full.key}") from None
            raise ApiError(409, f"{name} has as many keys as its team's key_policy allows; revoke one first") from None
        log.info("key created", key=new.id, caller=name)
        shown = await self._shown(new.id)
        return {"key": new.secret, **shown, "warnings": [*self._callers.warnings(shown), *again]}

    async def _create(self, name: str, given: Mapping[str, Any], anew: bool) -> NewKey:
        """For a caller that no file defines, perhaps a new one."""
        wanted = {field: given[field] for field in DEFINING if field in given}
        record = self._table.stored.callers.get(name)
        for _ in range(_TRIES):
            known = record is not None and not record.deleted_at
            if record is None or not known:
                if not anew:
                    raise ApiError(404, "There is no such caller any more")
                record = self._callers.new(name, wanted, record)
            else:
                _same(name, record, wanted)
            policy = self._callers.policy(record.team)
            life, most = _life(given, policy), policy.max_keys or 0
            try:
                return await done(self._table.create(name, record, life, known, given.get("label", ""), most))
            except RecordExists as exists:  # somebody was quicker
                record = exists.record
        raise ApiError(503, f"{name} changes faster than it can be agreed on")

    async def revoke_all(self, name: str, match: Match = ANY) -> dict[str, Any]:
        """End all keys of a caller that were made at run time, everywhere and for good; the caller stays. Raises
        ApiError: 404 for an unknown caller, 412 for one that is not as it was known, 503 while the store is away."""
        in_file = self._callers.in_file()
        if name not in in_file and not any(key.caller == name for key in self._table.stored.keys.values()):
            self._callers.record(name)
        going_on = self._callers.going_on(name)
        match.check(self._callers.shown(name))
        record = self._table.stored.present.get(name)
        was = record.revision if match.named and record is not None and name not in in_file else 0
        try:
            ended = await done(self._table.finish(name, was=was))
        except RecordExists:
            raise stale("Another was quicker") from None
        await self._applied()
        log.info("keys revoked", caller=name, keys=ended)
        left = in_file[name].digests if name in in_file else ()
        words = "its keys in the configuration file still count; take them out there"
        warnings = [*([f"{name}: {words}"] if left else []), *going_on]
        return {**self.with_keys(name), "revoked": max(0, ended - len(going_on)), "warnings": warnings}

    async def rotate(self, key: str, body: bytes, match: Match = ANY) -> dict[str, Any]:
        """Make a successor, shown in this answer only; the key itself ends after an overlap. Raises ApiError: 400 and
        503 as `create`, 404 for an unknown key, 409 for one that has ended or has a successor, or whose
        caller has more keys than its team's policy allows, 412 for one that is not as it was known."""
        given = given_of(body or b"{}", ROTATE)
        overlap, lifetime, most = _ms(given.get("overlap", OVERLAP)), _lifetime(given), 0
        was, known = self._matched(key, match), self._table.stored.keys.get(key)
        if known is not None:
            self._not_in_file(key)
            policy = self._callers.policy(self._callers.shown(known.caller)["team"])
            longest, most = _life(given, policy), policy.max_keys or 0
            if lifetime is None and longest:  # as long as its own, if the team allows that now
                lifetime = min(known.lifetime or longest, longest)
        try:
            new = await done(self._table.rotate(key, overlap, lifetime, was, most), key)
        except TooManyKeys as full:
            if full.key:
                raise ApiError(409, f"{key} has a successor: {full.key}; rotate that one, or revoke it first") from None
            raise ApiError(
                409, "The caller has more keys than its team's key_policy allows; revoke one first"
            ) from None
        log.info("key rotated", key=key, successor=new.id, overlap_seconds=overlap / 1000)
        return {"key": new.secret, **await self._shown(new.id), "replaces": self._key(key)}

    async def revoke(self, key: str, match: Match = ANY) -> dict[str, Any]:
        """End a key, everywhere and for good; one that has ended stays so. Raises ApiError: 404 for an unknown key, 409
        for one that the file names too, 412 for one that is not as it was known, 503 while the store is away."""
        was = self._matched(key, match)
        if key in self._table.stored.keys:
            self._not_in_file(key)
        await done(self._table.revoke(key, was), key)
        log.info("key revoked", key=key)
        return await self._shown(key)

    def _matched(self, key: str, match: Match) -> KeyRecord | None:
        """The key as it must be found; None where nobody asked for that. Raises ApiError 412."""
        if not match.named or key not in self._table.stored.keys:
            return None
        was = self._table.stored.keys[key]
        match.check(self._key(key))
        return was

    def _not_in_file(self, key: str) -> None:
        digest = self._table.stored.keys[key].digest
        for caller in self._callers.in_file().values():
            if digest in caller.digests:
                raise ApiError(
                    409, f"{key} is among the keys of {caller.id} in the configuration file; remove it there"
                )

    async def _shown(self, key: str) -> dict[str, Any]:
        """The key and its caller, once this gateway goes by it."""
        await self._applied()
        return self.one(key)


def _same(name: str, record: CallerRecord, wanted: Mapping[str, Any]) -> None:
    """Raise ApiError 409 where a caller that is there is not what is wanted."""
    for field, value in wanted.items():
        if getattr(record, field) != (plain(value) if field == "limits" else value):
            raise ApiError(
                409,
                f"{name} is there already, with another value of {field}, and all keys of a caller share it; leave it "
                "out, name another caller, or define this one in the configuration file",
            )


def _digest(digest: str) -> dict[str, str]:
    return {"digest": shortened((digest,))[0]}


def _life(given: Mapping[str, Any], policy: KeyPolicy) -> int:
    """How long a key lives (ms, 0 for ever). Raises ApiError 400 where that is longer than the policy allows."""
    most = 0 if policy.max_lifetime_days is None else round(policy.max_lifetime_days * DAY_MS)
    lifetime = _lifetime(given)
    if lifetime is None:
        return most
    if most and lifetime > most:
        raise ApiError(400, f"The team's key_policy allows {policy.max_lifetime_days:g} days at most")
    return lifetime


def _lifetime(given: Mapping[str, Any]) -> int | None:
    """Milliseconds; no lifetime is so short that it means none."""
    return max(1, _ms(given["expires_in"])) if "expires_in" in given else None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
