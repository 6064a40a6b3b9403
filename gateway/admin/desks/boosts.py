"""Boosts: more money for a team or a caller for a while, by whom and why. JSON of the admin API.

They raise the budgets of those whom a file defines too. It counts nothing: `store.pool.keyring` says which count.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway import log
from gateway.admin.desks.callers import Callers
from gateway.admin.desks.records import ANY, Match, RunTime, given_of, time_text, write
from gateway.config import checks as check
from gateway.config.rules import Moment, Number, Rule, Text
from gateway.config.sections import simple
from gateway.core.spending.keyring import BOOSTS, CALLERS, TEAMS, BoostRecord
from gateway.errors import ApiError

ID_PREFIX = "boost_"
MOST_SECONDS = 400 * 86_400.0
# What a body may say.
CREATE: dict[str, Rule] = {
    "id": Text(check.identifier),
    "team": Text(check.identifier),
    "caller": Text(check.person),
    "usd": Number(above=0, most=1_000_000_000),
    "until": Moment(),
    "seconds": Number(above=0, most=MOST_SECONDS),
    "reason": Text(check.note),
}


class Boosts:
    """Those in `table`, for `callers` and their teams; `applied` and `now` as for Callers."""

    def __init__(
        self, table: RunTime, callers: Callers, applied: Callable[[], Awaitable[None]], now: Callable[[], float]
    ) -> None:
        self._table = table
        self._callers = callers
        self._applied = applied
        self._now = now

    def all(self) -> list[dict[str, Any]]:
        """All that were not ended by anybody, the latest first."""
        present = [(name, boost) for name, boost in self._table.stored.boosts.items() if not boost.deleted_at]
        return [self.shown(name) for name, boost in sorted(present, key=lambda each: (-each[1].created_at, each[0]))]

    def one(self, name: str) -> dict[str, Any]:
        """The boost of this id. Raises ApiError 404."""
        boost = self._table.stored.boosts.get(name)
        if boost is None or boost.deleted_at:
            raise _unknown(name)
        return self.shown(name)

    def find(self, name: str) -> dict[str, Any] | None:
        """The boost of this id, if this gateway knows one."""
        return self.shown(name) if name in self._table.stored.boosts else None

    def shown(self, name: str) -> dict[str, Any]:
        """A boost that there is or was."""
        boost = self._table.stored.boosts[name]
        return {
            "id": name,
            "team": boost.whose if boost.kind == TEAMS else None,
            "caller": boost.whose if boost.kind == CALLERS else None,
            "usd": simple(boost.usd),
            "until": time_text(boost.until),
            "reason": boost.reason,
            "by": boost.by,
            "active": boost.counts(self._now() * 1000),
            "created_at": time_text(boost.created_at),
        }

    async def create(self, body: bytes, by: str) -> dict[str, Any]:
        """Give one. Raises ApiError: 400 for a body that makes no sense, 404 for an unknown team or caller, 409 for an
        id that is there or was, 503 while the store is away."""
        given = given_of(body, CREATE)
        name = given.get("id") or ID_PREFIX + secrets.token_hex(6)
        whose = [(kind, given[field]) for kind, field in ((TEAMS, "team"), (CALLERS, "caller")) if field in given]
        if len(whose) != 1:
            raise ApiError(400, "Give either the team or the caller")
        if "usd" not in given or not given.get("reason"):
            raise ApiError(400, "Give usd, how much more each budget is, and the reason")
        ((kind, id_),) = whose
        if id_ not in (self._callers.teams() if kind == TEAMS else self._callers.names()):
            raise ApiError(404, f"There is no {kind[:-1]} of the id {id_}")
        now = self._now()
        if ("until" in given) == ("seconds" in given):
            raise ApiError(400, "Give either until, a time, or seconds")
        until = given["until"] if "until" in given else now + given["seconds"]
        if not now < until <= now + MOST_SECONDS:
            raise ApiError(400, "until must be in the future, and within 400 days")
        record = BoostRecord(
            kind=kind, whose=id_, usd=given["usd"], until=int(until * 1000), reason=given["reason"], by=by,
            created_at=int(now * 1000),
        )  # fmt: skip

        def begin(present: BoostRecord | None) -> BoostRecord:
            if present is not None:
                raise ApiError(409, f"{name} is there already, or was")
            return record

        await write(self._table, BOOSTS, name, begin)
        await self._applied()
        log.info("boost given", boost=name, kind=kind, whose=id_, usd=given["usd"])
        return self.one(name)

    async def delete(self, name: str, match: Match = ANY) -> dict[str, Any]:
        """End one now. Raises ApiError: 404 for an unknown one, 412 where it is not as it was known, 503 while the
        store is away."""
        match.check(self.one(name))

        def end(present: BoostRecord | None) -> BoostRecord:
            if present is None or present.deleted_at:
                raise _unknown(name)
            return msgspec.structs.replace(present, deleted_at=int(self._now() * 1000))

        await write(self._table, BOOSTS, name, end, match)
        await self._applied()
        log.info("boost ended", boost=name)
        return self.shown(name)


def _unknown(name: str) -> ApiError:
    return ApiError(404, f"There is no boost of the id {name}; `gateway teams boosts` shows them")
