"""The callers as operators see and change them: JSON of the admin API. Those of the file are shown alone.

It recognises nobody: `core.spending.keyring` does. Their keys are `admin.desks.keys`'.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from gateway import log
from gateway.admin.desks.records import (
    ANY,
    Match,
    RunTime,
    changed,
    done,
    given_of,
    merged,
    plain,
    stale,
    time_text,
    write,
)
from gateway.config import checks as check
from gateway.config.rules import Choice, Rule, Text
from gateway.config.schema import Caller, Config, KeyPolicy, Team, caller_warnings, catalogue_of, undefined_team
from gateway.config.sections import simple, struct_fields
from gateway.core.spending.keyring import ACTIVE, CALLERS, PERSON, SERVICE, SUSPENDED, CallerRecord, KeyRecord
from gateway.core.spending.quota import BUDGETS
from gateway.errors import ApiError
from gateway.store.pool.keyring import teams_of
from gateway.store.pool.keys import RecordExists

DEFINING = ("team", "models", "limits", "metadata")  # what the file too says of a caller
DAY_MS = 86_400_000
_TRIES = 3
_NOTE = Text(check.note, empty=True)
_rules: dict[str, Rule] = {field.name: field.rule for field in struct_fields(Caller)}
# What bodies may say.
CHANGE: dict[str, Rule] = {
    **{name: _rules[name] for name in DEFINING},
    "kind": Choice((PERSON, SERVICE)),
    "label": _NOTE,
    "email": _NOTE,
    "status": Choice((ACTIVE, SUSPENDED)),
}
CREATE: dict[str, Rule] = {"id": Text(check.person), **CHANGE}

Carry = Callable[[str, CallerRecord], Awaitable[None]]


async def _nothing(name: str, record: CallerRecord) -> None: ...


class Callers:
    """The callers of the configuration that `config()` gives, and those in `table`. `applied` returns when this
    gateway's workers know what the table says; `carry` has what a caller has spent in former teams counted in its
    present one; `now()` gives Unix seconds."""

    def __init__(
        self,
        table: RunTime,
        config: Callable[[], Config],
        applied: Callable[[], Awaitable[None]],
        now: Callable[[], float],
        carry: Carry = _nothing,
    ) -> None:
        self._table = table
        self._config = config
        self._applied = applied
        self._now = now
        self._carry = carry
        self._listed: tuple[Caller, ...] = ()  # the file's callers, of which `_by_id` was made
        self._by_id: dict[str, Caller] = {}

    # What there is.

    def in_file(self) -> Mapping[str, Caller]:
        """Those that the file defines."""
        callers = self._config().keys
        if callers is not self._listed:
            self._listed, self._by_id = callers, {caller.id: caller for caller in callers}
        return self._by_id

    def teams(self) -> dict[str, Team]:
        """All teams there are."""
        return teams_of(self._config().teams, self._table.stored)

    def policy(self, team: str | None) -> KeyPolicy:
        """What callers and keys of the team may be."""
        found = self.teams().get(team or "")
        return KeyPolicy() if found is None else found.key_policy

    def names(self) -> set[str]:
        """The ids of all callers."""
        return self.in_file().keys() | self._table.stored.present.keys()

    def all(self) -> list[dict[str, Any]]:
        """All callers by id."""
        return [self.shown(name) for name in sorted(self.names())]

    def one(self, name: str) -> dict[str, Any]:
        """The caller of this id. Raises ApiError 404."""
        if name not in self.in_file():
            self.record(name)
        return self.shown(name)

    def find(self, name: str) -> dict[str, Any] | None:
        """The caller of this id, if this gateway knows one."""
        return self.shown(name) if name in self.names() else None

    def shown(self, name: str) -> dict[str, Any]:
        """A caller; of an id that is nobody's, what is known of it."""
        configured, record = self.in_file().get(name), self._table.stored.callers.get(name)
        found = configured or record or CallerRecord(models=())
        made = record if configured is None and record is not None else CallerRecord()
        return {
            "caller": name,
            "id": name,
            "source": "file" if configured is not None else "store" if record is not None else None,
            "shadows_stored": configured is not None and name in self._table.stored.present,
            "team": found.team,
            "kind": made.kind,
            "label": made.label,
            "email": made.email,
            "status": made.status,
            "models": list(found.models),
            "limits": simple(plain(found.limits)),
            "metadata": dict(found.metadata),
            "created_at": time_text(made.created_at),
        }

    def record(self, name: str) -> CallerRecord:
        """Of a caller made at run time. Raises ApiError 404."""
        record = self._table.stored.present.get(name)
        if record is None:
            raise ApiError(404, f"There is no caller of the id {name}; `gateway callers list` shows them")
        return record

    def warnings(self, shown: Mapping[str, Any]) -> list[str]:
        """What of a caller is hardly meant, for people."""
        return caller_warnings(self._config(), self.teams(), shown["caller"], shown["team"], shown["models"])

    def going_on(self, name: str) -> list[str]:
        """What to tell people of the caller's keys made at run time that the file names too: whatever ends or stops
        those, the file's go on."""
        listed = {digest: caller.id for caller in self._config().keys for digest in caller.digests}
        return [
            f"{key} is among the keys of {listed[record.digest]} in the configuration file, and counts there until it "
            "is taken out"
            for key, record in self._counting(name)
            if record.digest in listed
        ]

    def beyond(self, name: str) -> list[str]:
        """What to tell people of keys that the caller has, and that its team's policy would not allow by now."""
        policy = self.policy(self.shown(name)["team"])
        keys, most = self._counting(name), policy.max_lifetime_days
        endless = [] if most is None else [key for key, each in keys if each.end - each.created_at > most * DAY_MS]
        found = []
        if endless:
            listed = ", ".join(endless[:5]) + (", ..." if len(endless) > 5 else "")
            found.append(f"{name}: made for longer than the team's key_policy allows ({most:g} days): {listed}")
        if policy.max_keys is not None and len(keys) > policy.max_keys:
            found.append(f"{name}: has {len(keys)} keys, and the team's key_policy allows {policy.max_keys}")
        return found

    def exceeding(self, name: str) -> list[str]:
        """What to tell people of a caller with more models or money than its team's policy would give it by now."""
        record = self._table.stored.present.get(name)
        if record is None or name in self.in_file():
            return []
        fields = {"models": record.models, "limits": record.limits}
        try:
            within = self._within(record.team, fields) == fields
        except ApiError:
            within = False
        return [] if within else [f"{name}: may use more models or money than the team's key_policy allows"]

    def _within(self, team: str | None, fields: Mapping[str, Any]) -> dict[str, Any]:
        """As the team's policy has them. Raises ApiError 400."""
        return _within(self.policy(team), fields, self._config())

    def _counting(self, name: str) -> list[tuple[str, KeyRecord]]:
        """The keys of a caller that were made at run time and have not ended, the oldest first."""
        now = self._now() * 1000
        keys = [(key, record) for key, record in self._table.stored.keys.items() if record.caller == name]
        return sorted((each for each in keys if now < each[1].end), key=lambda each: (each[1].created_at, each[0]))

    def again(self, name: str) -> list[str]:
        """What to tell people who make a caller of this id, if there was one."""
        record = self._table.stored.callers.get(name)
        was = record is not None and record.deleted_at
        return [f"{name} was a caller before: what that made and has used is this one's"] if was else []

    # What changes.

    def new(self, name: str, given: Mapping[str, Any], present: CallerRecord | None) -> CallerRecord:
        """The record of a new caller, which follows that of a deleted one. Raises ApiError 400."""
        fields = dict(given)
        fields["limits"] = plain(fields["limits"]) if "limits" in fields else {}
        self._check_team(name, fields.get("team"))
        fields = self._within(fields.get("team"), fields)
        now = int(self._now() * 1000)
        former = {} if present is None else _former(present, fields.get("team"), present.deleted_at)
        follows = 0 if present is None else present.revision
        again = 0 if present is None else present.again + 1  # its conversations are none of the one before
        return CallerRecord(created_at=now, former=former, again=again, revision=follows + 1, **fields)

    async def create(self, body: bytes) -> dict[str, Any]:
        """Make a caller, as yet without a key. Raises ApiError: 400 for a body that makes no sense, that names a team
        which it must not or more than the team's policy allows; 409 for a caller that is there, 503 while the store is
        away."""
        given = given_of(body, CREATE)
        name: str | None = given.pop("id", None)
        if name is None:
            raise ApiError(400, "Give the id: it stays while keys rotate, and may be an e-mail address")
        self.not_in_file(name)
        again = self.again(name)

        def begin(present: CallerRecord | None) -> CallerRecord:
            if present is not None and not present.deleted_at:
                raise ApiError(409, f"{name} is there already; change it instead")
            return self.new(name, given, present)

        record = await write(self._table, CALLERS, name, begin)
        if record is not None and record.former:
            await done(self._carry(name, record))
        await self._applied()
        log.info("caller created", caller=name)
        shown = self.shown(name)
        return {**shown, "warnings": [*self.warnings(shown), *again]}

    async def change(self, name: str, body: bytes, match: Match = ANY) -> dict[str, Any]:
        """Give a caller that was made at run time another team, other models, notes or another status, which take the
        place of what was there, or other limits, of which those that are not named stay and those that are null go;
        null for any of them is what a caller has of which nothing was said. Raises ApiError: 400 for a body that makes
        no sense, 404 for an unknown caller, 409 for one that the file defines, 412 where it is not as it was known, 503
        while the store is away."""
        wanted, parts = changed(body, CHANGE, ("limits",), CallerRecord())
        if not wanted and not parts:
            raise ApiError(400, f"Nothing to change; give one of {', '.join(CHANGE)}")
        self.not_in_file(name)
        self.record(name)
        match.check(self.shown(name))

        def change(present: CallerRecord | None) -> CallerRecord | None:
            if present is None or present.deleted_at:
                raise ApiError(404, "There is no such caller any more")
            limits = wanted.get("limits", present.limits)
            fields = {**wanted, "limits": merged(limits, parts.get("limits", {}))}
            team = fields.get("team", present.team)
            if team != present.team:
                self._check_team(name, team)
                fields["former"] = _former(present, team, int(self._now() * 1000))
            policy = self._within(team, {"models": present.models, **fields})
            after = msgspec.structs.replace(present, **policy)
            return None if after == present else after

        before = self._table.stored.callers[name]
        moving = change(before)
        if moving is not None and moving.former != before.former:
            await done(self._carry(name, moving))  # what it has spent is there before it spends more
        after = await write(self._table, CALLERS, name, change, match)
        if after is not None and after.former != before.former:
            await done(self._carry(name, after))
        await self._applied()
        if after is not before:
            log.info("caller changed", caller=name, fields=sorted({*wanted, *parts.get("limits", {})}))
        shown = self.shown(name)
        going_on = self.going_on(name) if shown["status"] == SUSPENDED else []
        return {**shown, "warnings": [*self.warnings(shown), *self.beyond(name), *going_on]}

    async def delete(self, name: str, match: Match = ANY) -> dict[str, Any]:
        """Delete a caller that was made at run time: its keys end at once, what it has used stays in the ledger. Raises
        ApiError as `change`. `revoked` are how many keys nobody can use any more, `warnings` tell of the others."""
        self.not_in_file(name)
        record = self.record(name)
        match.check(self.shown(name))
        going_on = self.going_on(name)
        for _ in range(_TRIES):
            now = int(self._now() * 1000)
            gone = CallerRecord(
                team=record.team,
                former=record.former,
                again=record.again,
                created_at=record.created_at,
                revision=record.revision + 1,
                deleted_at=now,
            )
            try:
                ended = await done(self._table.finish(name, gone))
            except RecordExists as exists:  # somebody was quicker
                if match.named:
                    raise stale("Another was quicker") from None
                record = exists.record
                if record.deleted_at:
                    raise ApiError(404, "There is no such caller any more") from None
                continue
            await self._applied()
            log.info("caller deleted", caller=name, keys=ended)
            return {
                "caller": name, "team": record.team, "deleted_at": time_text(now),
                "revoked": max(0, ended - len(going_on)), "warnings": going_on,
            }  # fmt: skip
        raise ApiError(503, f"{name} changes faster than it can be agreed on")

    def not_in_file(self, name: str) -> None:
        """Raise ApiError 409 for a caller that the file defines, and say where."""
        for number, caller in enumerate(self._config().keys):
            if caller.id == name:
                raise ApiError(
                    409,
                    f"{name} is defined in the configuration file, at keys[{number}]; change it or take it out there",
                )

    def _check_team(self, name: str, team: str | None) -> None:
        teams = self.teams()
        problem = undefined_team(team, teams)
        if problem and self._config().teams_strict:
            raise ApiError(400, f"{name}: {problem}")
        if problem and team in self._table.stored.teams:  # its keys would open nothing
            raise ApiError(409, f"{name}: the team {team} was deleted; make it again first")


def _former(record: CallerRecord, team: str | None, now: int) -> dict[str, int]:
    """The former teams of a caller that leaves its own, those alone that still matter, for `team`."""
    former = {name: record.former[name] for name in record.carried(now)}
    return {name: left for name, left in {**former, record.team or "": now}.items() if name != (team or "")}


def _within(policy: KeyPolicy, fields: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The models and limits of a caller as a team's policy has them where nothing else is said. Raises ApiError 400 for
    what is beyond it."""
    found = dict(fields)
    if policy.models != ("*",):
        wanted: Collection[str] = found.get("models", ("*",))
        names = catalogue_of(config).names  # each of a model's names means all of them

        def allowed(model: str) -> bool:
            return any(fnmatchcase(name, pattern) for name in names(model) for pattern in policy.models)

        if tuple(wanted) == ("*",):
            found["models"] = policy.models
        elif beyond := [each for each in wanted if not allowed(each)]:
            raise ApiError(400, f"The team's key_policy allows {', '.join(policy.models)}, and not {beyond[0]}")
    bounds = {period: most for period in BUDGETS if (most := getattr(policy.max_budget_usd, period)) is not None}
    if bounds:
        budget = dict(found.get("limits", {}).get("budget_usd", {}))
        for period, most in bounds.items():
            if budget.setdefault(period, most) > most:
                raise ApiError(400, f"The team's key_policy allows a budget of at most ${most:,g} a {period}")
        found["limits"] = {**found.get("limits", {}), "budget_usd": budget}
    return found
