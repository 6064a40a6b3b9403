"""What a caller may know of itself: who it is, what is left of its limits, what it has spent. Nothing of any other.

Answered by the gateway from the ledger; it asks no account and costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from time import time
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from gateway.config.schema import Caller, CallerLimits, Team
from gateway.core.spending.keyring import CALLERS, TEAMS, CallerRecord
from gateway.core.spending.quota import SUMS, labels
from gateway.errors import ApiError
from gateway.store.client.client import StoreClient, StoreDown
from gateway.store.ledger.ledger import tenant_of
from gateway.store.ledger.left import Subject
from gateway.store.ledger.levels import looked_of, spend_of, to_look, to_spend

DAYS, MOST_DAYS = 30, 92
_FOR = 2.0  # seconds that an answer is given again: asking costs the store something
_MOST_KEPT = 2000
_AT_ONCE = 8  # days
_DAY_MS = 86_400_000
_NOTHING = CallerLimits()
_encode = msgspec.json.Encoder().encode


class OwnView:
    """Over the `store`, which `flush(tenant)` tells of what has ended; `know` tells of teams, boosts and records."""

    def __init__(self, store: StoreClient, flush: Callable[[str], None]) -> None:
        self._store = store
        self._flush = flush
        self._teams: Mapping[str, Team] = {}
        self._boosts: Mapping[tuple[str, str], float] = {}
        self._records: Mapping[str, CallerRecord] = {}
        self._kept: dict[tuple[str, str, int], tuple[float, bytes]] = {}

    def know(
        self,
        teams: Mapping[str, Team],
        boosts: Mapping[tuple[str, str], float],
        records: Mapping[str, CallerRecord],
    ) -> None:
        """These there are."""
        self._teams, self._boosts, self._records = teams, boosts, records
        self._kept.clear()

    async def answer(self, caller: Caller, usage: bool, query: bytes) -> bytes:
        """The answer to `/v1/me`, or with `usage` to `/v1/me/usage`, as JSON. Raises ApiError: 400 for a query that
        makes no sense, 529 for the usage while the store is away."""
        days = _days(query) if usage else 0
        place = caller.id, caller.tenant, days
        kept = self._kept.get(place)
        if kept is not None and time() < kept[0]:
            return kept[1]
        self._flush(caller.tenant)
        body = _encode(await self._usage(caller, days) if usage else await self._me(caller))
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[place] = time() + _FOR, body
        return body

    async def _me(self, caller: Caller) -> dict[str, Any]:
        record, team = self._records.get(caller.id), self._teams.get(caller.team or "")
        return {
            "type": "me",
            "id": caller.id,
            "kind": None if record is None else record.kind,
            "label": "" if record is None else record.label,
            "team": caller.team,
            "team_name": "" if team is None else team.name,
            "models": list(caller.models),
            "team_models": ["*"] if team is None else list(team.models),
            "limits": await self._limits(caller, team),
        }

    async def _limits(self, caller: Caller, team: Team | None) -> list[dict[str, Any]]:
        boost = self._boosts.get((CALLERS, caller.id), 0.0)
        subjects = [Subject("caller", caller.id, caller.team, caller.limits, boost)]
        if team is not None:
            boost = self._boosts.get((TEAMS, team.id), 0.0)
            subjects.append(Subject("team", team.id, team.id, team.limits, boost))
        subjects = [each for each in subjects if each.limits != _NOTHING]
        asked = [each.asked for each in subjects]
        try:
            used = looked_of(asked, await self._store.call(*to_look(caller.tenant, asked))) if asked else {}
        except StoreDown:
            used = {}
        return [{"scope": each.kind, **row} for each in subjects for row in each.left(used.get(each.name), time())]

    async def _usage(self, caller: Caller, days: int) -> dict[str, Any]:
        now = int(time() * 1000)
        record = self._records.get(caller.id)
        former = [] if record is None else record.carried(now)
        tenants = [caller.tenant, *(tenant_of(caller.id, team) for team in former)]
        found: list[dict[str, Any]] = []
        for first in range(0, days, _AT_ONCE):
            part = [labels(now - each * _DAY_MS).day for each in range(first, min(first + _AT_ONCE, days))]
            try:
                rows = await asyncio.gather(*(self._spent(caller, tenants, day) for day in part))
            except StoreDown:
                words = "Your usage cannot be looked up now, as the gateway's store is away. Please try again later."
                raise ApiError(529, words, retry_after=1, cause="store_away") from None
            for day, models in zip(part, rows, strict=True):
                found += [_row(day, model, sums) for model, sums in sorted(models.items())]
        return {"type": "usage", "id": caller.id, "days": days, "data": found, "cost_usd": _sum(found)}

    async def _spent(self, caller: Caller, tenants: Iterable[str], day: str) -> dict[str, tuple[int, ...]]:
        models: dict[str, tuple[int, ...]] = {}
        for tenant in tenants:
            for model, sums in spend_of(await self._store.call(*to_spend(tenant, caller.id, day))).items():
                before = models.get(model, (0,) * len(SUMS))
                models[model] = tuple(map(sum, zip(before, sums, strict=True)))
        return models


def _row(day: str, model: str, sums: tuple[int, ...]) -> dict[str, Any]:
    of = dict(zip(SUMS, sums, strict=True))
    return {
        "day": f"{day[:4]}-{day[4:6]}-{day[6:]}",
        "model": model,
        "requests": of["requests"],
        "input_tokens": of["input"],
        "cache_read_input_tokens": of["cache_read"],
        "cache_creation_input_tokens": of["write_5m"] + of["write_1h"],
        "output_tokens": of["output"],
        "cost_usd": of["cost_nano"] / 1e9,
        "savings_usd": of["savings_nano"] / 1e9,
    }


def _sum(rows: list[dict[str, Any]]) -> float:
    total: float = sum(row["cost_usd"] for row in rows)
    return round(total, 9)


def _days(query: bytes) -> int:
    try:
        asked = dict(parse_qsl(query.decode("latin-1"), max_num_fields=10, keep_blank_values=True))
    except ValueError:
        asked = {"": ""}
    text = asked.pop("days", str(DAYS))
    if asked or not text.isascii() or not text.isdigit() or len(text) > 3 or not 1 <= int(text) <= MOST_DAYS:
        raise ApiError(400, f"The query may say days, from 1 to {MOST_DAYS}, and nothing else.")
    return int(text)
