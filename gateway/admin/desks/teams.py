"""The teams as operators see and change them: JSON of the admin API. Those of the file are shown alone.

What teams use they use together; it counts nothing and limits nobody: the store and its scripts do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway import log
from gateway.admin.desks.callers import Callers
from gateway.admin.desks.records import ANY, Match, RunTime, changed, given_of, merged, plain, time_text, write
from gateway.config import checks as check
from gateway.config.rules import Rule, Text
from gateway.config.schema import Config, Team, caller_warnings
from gateway.config.sections import simple, struct_fields
from gateway.core.spending.keyring import TEAMS, TeamRecord
from gateway.errors import ApiError
from gateway.store.pool.keyring import team_of

_MOST_WARNINGS = 20
_STRUCTS = ("limits", "key_policy")
# What bodies may say.
CHANGE: dict[str, Rule] = {field.name: field.rule for field in struct_fields(Team) if field.name != "id"}
CREATE: dict[str, Rule] = {"id": Text(check.identifier), **CHANGE}


class Teams:
    """The teams of the configuration that `config()` gives, and those in `table`, of which `callers` are members.
    `applied` returns when this gateway's workers know what the table says; `now()` gives Unix seconds."""

    def __init__(
        self,
        table: RunTime,
        callers: Callers,
        config: Callable[[], Config],
        applied: Callable[[], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._table = table
        self._callers = callers
        self._config = config
        self._applied = applied
        self._now = now

    # What there is.

    def _in_file(self) -> dict[str, Team]:
        return {team.id: team for team in self._config().teams}

    def all(self) -> list[dict[str, Any]]:
        """All teams by id."""
        members: dict[str, list[str]] = {}
        for name in sorted(self._callers.names()):
            members.setdefault(self._team(name) or "", []).append(name)
        return [{**self.shown(team), "members": members.get(team, [])} for team in sorted(self._callers.teams())]

    def one(self, name: str) -> dict[str, Any]:
        """The team of this id. Raises ApiError 404."""
        if name not in self._callers.teams():
            raise _unknown(name)
        return {**self.shown(name), "members": self._members(name)}

    def find(self, name: str) -> dict[str, Any] | None:
        """The team of this id, without its members, if this gateway knows one."""
        return self.shown(name) if name in self._callers.teams() else None

    def shown(self, name: str) -> dict[str, Any]:
        """A team that there is."""
        configured, record = self._in_file().get(name), self._table.stored.present_teams.get(name)
        if configured is None and record is None:
            raise _unknown(name)
        team = configured if configured is not None else team_of(name, record or TeamRecord())
        made = record if configured is None and record is not None else TeamRecord()
        return {
            "id": name,
            "source": "store" if configured is None else "file",
            "shadows_stored": configured is not None and record is not None,
            "name": team.name,
            "models": list(team.models),
            "limits": simple(plain(team.limits)),
            "key_policy": simple(plain_policy(team)),
            "metadata": dict(team.metadata),
            "created_at": time_text(made.created_at),
        }

    def _team(self, caller: str) -> str | None:
        in_file = self._callers.in_file().get(caller)
        return in_file.team if in_file is not None else self._table.stored.callers[caller].team

    def _members(self, name: str) -> list[str]:
        return [each for each in sorted(self._callers.names()) if self._team(each) == name]

    # What changes.

    async def create(self, body: bytes) -> dict[str, Any]:
        """Make a team. Raises ApiError: 400 for a body that makes no sense, 409 for a team that is there, 503 while the
        store is away."""
        given = given_of(body, CREATE)
        name: str | None = given.pop("id", None)
        if name is None:
            raise ApiError(400, "Give the id: it stays for ever")
        self._not_in_file(name)
        fields = {field: plain(value) if field in _STRUCTS else value for field, value in given.items()}

        def begin(present: TeamRecord | None) -> TeamRecord:
            if present is not None and not present.deleted_at:
                raise ApiError(409, f"{name} is there already; change it instead")
            return TeamRecord(created_at=int(self._now() * 1000), **_without_any(fields))

        await write(self._table, TEAMS, name, begin)
        await self._applied()
        log.info("team created", team=name)
        return {**self.one(name), "warnings": self._warnings(name)}

    async def change(self, name: str, body: bytes, match: Match = ANY) -> dict[str, Any]:
        """Give a team that was made at run time another name, other models or notes, which take the place of what was
        there, or other limits or another policy, of which what is not named stays and what is null goes; null for any
        of them is what a team has of which nothing was said. Raises ApiError: 400 for a body that makes no sense, 404
        for an unknown team, 409 for one that the file defines, 412 where it is not as it was known, 503 while the store
        is away."""
        wanted, parts = changed(body, CHANGE, _STRUCTS, TeamRecord())
        if not wanted and not parts:
            raise ApiError(400, f"Nothing to change; give one of {', '.join(CHANGE)}")
        self._not_in_file(name)
        match.check(self.shown(name))

        def change(present: TeamRecord | None) -> TeamRecord | None:
            if present is None or present.deleted_at:
                raise _unknown(name)
            fields = {part: merged(getattr(present, part), parts[part]) for part in parts}
            after = msgspec.structs.replace(present, **wanted, **_without_any(fields))
            return None if after == present else after

        before = self._table.stored.teams[name]
        after = await write(self._table, TEAMS, name, change, match)
        await self._applied()
        if after is not before:
            log.info("team changed", team=name, fields=sorted({*wanted, *parts}))
        return {**self.one(name), "warnings": self._warnings(name)}

    async def delete(self, name: str, match: Match = ANY) -> dict[str, Any]:
        """Delete a team that was made at run time, and its callers that were: their keys end at once, what they have
        used stays in the ledger. Raises ApiError as `change`; 409 too while callers of the file are in it."""
        self._not_in_file(name)
        match.check(self.shown(name))
        kept = [caller.id for caller in self._config().keys if caller.team == name]
        if kept:
            raise ApiError(409, f"{kept[0]} of the configuration file is in the team {name}; take it out of it there")
        now = int(self._now() * 1000)

        def end(present: TeamRecord | None) -> TeamRecord:
            if present is None or present.deleted_at:
                raise _unknown(name)
            return TeamRecord(created_at=present.created_at, deleted_at=now)

        await write(self._table, TEAMS, name, end, match)  # from now on the keys of its callers open nothing
        in_file = self._callers.in_file()
        gone = [
            each for each, record in self._table.stored.present.items() if record.team == name and each not in in_file
        ]
        ended, warnings = 0, []
        for caller in gone:
            deleted = await self._callers.delete(caller)
            ended += deleted["revoked"]
            warnings += deleted["warnings"]
        await self._applied()
        log.info("team deleted", team=name, callers=len(gone), keys=ended)
        return {
            "id": name, "deleted_at": time_text(now), "callers": sorted(gone), "revoked": ended, "warnings": warnings,
        }  # fmt: skip

    def _not_in_file(self, name: str) -> None:
        for number, team in enumerate(self._config().teams):
            if team.id == name:
                raise ApiError(
                    409,
                    f"{name} is defined in the configuration file, at teams[{number}]; change it or take it out there",
                )

    def _warnings(self, name: str) -> list[str]:
        config = self._config()
        found = caller_warnings(config, (), f"team {name}", None, self.shown(name)["models"])
        for each in self._members(name):
            found += [*self._callers.beyond(each), *self._callers.exceeding(each)]
        return found[:_MOST_WARNINGS]


def plain_policy(team: Team) -> dict[str, Any]:
    """A team's key policy without what is none."""
    policy: dict[str, Any] = _without_any({"key_policy": plain(team.key_policy)})["key_policy"]
    return policy


def _without_any(fields: dict[str, Any]) -> dict[str, Any]:
    """Of a policy, that any model may be given is nothing worth keeping."""
    policy = fields.get("key_policy")
    if policy is not None and policy.get("models") == ["*"]:
        return {**fields, "key_policy": {name: value for name, value in policy.items() if name != "models"}}
    return fields


def _unknown(name: str) -> ApiError:
    return ApiError(404, f"There is no team of the id {name}; `gateway teams list` shows them")
