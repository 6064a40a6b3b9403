"""The accounts as operators see and change them: JSON of the admin API. It neither stores nor agrees: the pool does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from gateway.admin.desks.body import read
from gateway.admin.desks.records import done
from gateway.config.rules import Choice, Moment, Number, Rule, moment_text
from gateway.config.sections import simple
from gateway.core.routing.document import STATES, Announcement, Entry, Overrides, PoolDocument, effective
from gateway.errors import ApiError

DRAIN_SECONDS = 3600.0  # how long a drain lasts that nobody gave a deadline
# What a body may say; null is as in the file, or never.
CHANGE: dict[str, Rule] = {
    "state": Choice(STATES),
    "weight": Number(above=0, most=1e9),
    "drain_until": Moment(),
    "drain_seconds": Number(least=0, most=366 * 86_400.0),
}


class Pool(Protocol):
    """What is agreed, and how to change it."""

    own: Announcement
    document: PoolDocument
    overrides: Overrides

    @property
    def defined(self) -> dict[str, Entry]: ...

    async def override(self, account: str, values: Mapping[str, object]) -> None: ...


class Accounts:
    """The accounts of `pool`. `more(id)` adds fields to what is shown of one; `enabled(id)` is told when an operator
    says that one is in order; `now()` gives Unix seconds."""

    def __init__(
        self,
        pool: Pool,
        more: Callable[[str], Mapping[str, Any]],
        enabled: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._more = more
        self._enabled = enabled
        self._now = now

    def all(self) -> list[dict[str, Any]]:
        """All accounts by id: those of the pool, and those that some gateway holds and not yet all."""
        agreed, defined = {entry.id: entry for entry in self._pool.document.accounts}, self._pool.defined
        held = {each.id for each in self._pool.own.accounts}
        names = sorted(agreed.keys() | defined.keys())
        return [self._shown(name, agreed.get(name), defined.get(name), name in held) for name in names]

    def one(self, name: str) -> dict[str, Any]:
        """The account as it stands. Raises ApiError 404."""
        pool = self._pool
        agreed = next((entry for entry in pool.document.accounts if entry.id == name), None)
        return self._shown(name, agreed, pool.defined.get(name), any(each.id == name for each in pool.own.accounts))

    def _shown(self, name: str, agreed: Entry | None, defined: Entry | None, held: bool) -> dict[str, Any]:
        pool = self._pool
        override = effective(pool.overrides.get(name, {}))
        entry = agreed or defined
        if entry is None:
            raise ApiError(404, f"There is no account of the id {name}")
        if agreed is None:
            entry = msgspec.structs.replace(entry, **override)
        return {
            "id": entry.id,
            "workspace": entry.workspace,
            "organization": entry.organization,
            **_values(entry),
            "configured": None if defined is None else _values(defined),
            "overridden": {
                field: _time(value) if field == "drain_until" else simple(value)
                for field, value in override.items()
                if field != "drain_until" or value
            },
            "models": list(entry.models),
            "in_pool": agreed is not None,
            "held": held,
            "since": _time(entry.since),
            **self._more(name),
        }

    async def change(self, name: str, body: bytes) -> dict[str, Any]:
        """Override what the JSON object in `body` says; the account as it then stands.

        Raises ApiError: 404 for an unknown account, 400 for a body that makes no sense, 503 while the store is away.
        """
        present = self.one(name)
        values = override_of(body, present["state"], (present["configured"] or present)["state"], self._now())
        await done(self._pool.override(name, values))
        if "state" in values and self.one(name)["state"] == "active":
            self._enabled(name)
        return self.one(name)


def override_of(body: bytes, state: str, configured: str, now: float) -> dict[str, object]:
    """What a request to change an account means: new values of its override, None where the file's counts again.

    `state` is the account's, `configured` what the file says, `now` Unix seconds. Raises ApiError 400.
    """
    given = read(body, CHANGE)
    if not given:
        raise ApiError(400, f"Nothing to change; give one of {', '.join(CHANGE)}")
    values: dict[str, object] = {"weight": given["weight"]} if "weight" in given else {}
    wanted = given.get("state", state)
    deadline = "drain_until" in given or "drain_seconds" in given
    if deadline and wanted != "draining":
        raise ApiError(400, "drain_until and drain_seconds need the state draining")
    if wanted == "draining" and (deadline or "state" in given):
        values |= {"state": "draining", "drain_until": _deadline(given, now)}
    elif "state" in given:
        # A file that says draining or disabled is overridden by `active` too.
        own = None if wanted == "active" == configured else wanted
        values |= {"state": own, "drain_until": None}
    return values


def _deadline(given: dict[str, Any], now: float) -> float:
    """Unix seconds; 0 for a drain without an end."""
    if "drain_until" in given and "drain_seconds" in given:
        raise ApiError(400, "Give drain_until or drain_seconds, not both")
    if "drain_until" in given:
        until = given["drain_until"]
        return 0.0 if until is None else max(1.0, until)  # long ago is not "never", which 0 stands for
    seconds = given.get("drain_seconds", DRAIN_SECONDS)
    return 0.0 if seconds is None else round(now + seconds, 3)


def _values(entry: Entry) -> dict[str, Any]:
    return {"weight": simple(entry.weight), "state": entry.state, "drain_until": _time(entry.drain_until)}


def _time(seconds: Any) -> str | None:
    return moment_text(seconds) if seconds else None
