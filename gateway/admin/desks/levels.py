"""What callers and teams have left of their limits: JSON of the admin API, and the budgets of teams as a metric.

It counts nothing: the store does. While that is away, the limits are shown without what is left of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from gateway.admin.desks.cached import Cached
from gateway.config.schema import Caller, CallerLimits, Team
from gateway.core.spending.keyring import CALLERS, TEAMS
from gateway.core.spending.quota import BUDGETS
from gateway.store.ledger.left import Subject, left_of
from gateway.store.ledger.levels import SubjectBuckets, Used

EVERY = 2.0  # seconds between two looks
_NANO = 1_000_000_000


class Reader(Protocol):
    """The store, as in store.ledger.levels. Raises StoreDown."""

    async def read(self, asked: Mapping[str, Sequence[SubjectBuckets]]) -> dict[str, Used]: ...


class Passed(msgspec.Struct, frozen=True):
    """A budget that is used beyond `share`, the highest of its soft thresholds that is passed: `used` of `usd` dollars
    (0 to 1) in this `window`. `kind` is caller or team."""

    kind: str
    id: str
    window: str
    share: float
    used: float
    usd: float


class Levels:
    """`callers()`, `teams()` and `boosts()` (dollars by kind and id) are all there are now; `now()` gives Unix
    seconds."""

    def __init__(
        self,
        reader: Reader,
        callers: Callable[[], Iterable[Caller]],
        teams: Callable[[], Iterable[Team]],
        now: Callable[[], float],
        boosts: Callable[[], Mapping[tuple[str, str], float]] = dict,
    ) -> None:
        self._boosts = boosts
        self._reader = reader
        self._callers = callers
        self._teams = teams
        self._now = now
        self._used: Cached[dict[str, Used]] = Cached(self._read, EVERY)

    async def all(self) -> list[dict[str, Any]]:
        """All that have limits, teams first."""
        subjects = self._subjects()
        used = (await self._used.get() if subjects else None) or {}
        return [self._shown(subject, used.get(subject.name)) for subject in subjects]

    async def look(self) -> None:
        """Have the metric know what is spent, where there is anything to know."""
        if any(True for _ in self._budgets()):
            await self._used.get()

    def budgets(self) -> Iterator[tuple[str, str, float]]:
        """(team, `day`, `week` or `month`, what is left of its budget: 0 to 1), as of the last look."""
        used = self._used.latest or {}
        for team, window, dollars in self._budgets():
            found = used.get(f"t:{team}")
            if found is not None:
                limit = round(dollars * _NANO)
                left = max(0, left_of(found, window, limit, self._now()))
                yield team, window, left / limit if limit else 0.0

    async def passed(self) -> list[Passed]:
        """The budgets that are used beyond a threshold, as of a look that is not old."""
        if any(True for _ in self._soft()):
            await self._used.get()
        return list(self.thresholds())

    def thresholds(self) -> Iterator[Passed]:
        """The same, as of the last look."""
        used = self._used.latest or {}
        for subject in self._soft():
            found, budget = used.get(subject.name), subject.limits.budget_usd
            for window in BUDGETS if found is not None else ():
                dollars = getattr(budget, window)
                if dollars is None or found is None:
                    continue
                limit = round((dollars + subject.boost) * _NANO)
                share = 1 - left_of(found, window, limit, self._now()) / limit if limit else 1.0
                reached = [each for each in budget.soft if share >= each]
                if reached:
                    yield Passed(subject.kind, subject.id, window, reached[-1], share, dollars + subject.boost)

    def _soft(self) -> Iterator[Subject]:
        """Those who have a threshold."""
        boosts = self._boosts()
        for team in self._teams():
            if team.limits.budget_usd.soft:
                yield Subject("team", team.id, team.id, team.limits, boosts.get((TEAMS, team.id), 0.0))
        for each in self._callers():
            if each.limits.budget_usd.soft:
                yield Subject("caller", each.id, each.team, each.limits, boosts.get((CALLERS, each.id), 0.0))

    def _budgets(self) -> Iterator[tuple[str, str, float]]:
        boosts = self._boosts()
        for team in self._teams():
            for window in BUDGETS:
                dollars = getattr(team.limits.budget_usd, window)
                if dollars is not None:
                    yield team.id, window, dollars + boosts.get((TEAMS, team.id), 0.0)

    def _subjects(self) -> list[Subject]:
        boosts = self._boosts()
        teams = [
            Subject("team", team.id, team.id, team.limits, boosts.get((TEAMS, team.id), 0.0)) for team in self._teams()
        ]
        callers = [
            Subject("caller", each.id, each.team, each.limits, boosts.get((CALLERS, each.id), 0.0))
            for each in self._callers()
        ]
        return [
            subject
            for subject in (*sorted(teams, key=lambda each: each.id), *sorted(callers, key=lambda each: each.id))
            if subject.limits != _NONE
        ]

    async def _read(self) -> dict[str, Used]:
        asked: dict[str, list[SubjectBuckets]] = {}
        for subject in self._subjects():
            asked.setdefault(subject.tenant, []).append(subject.asked)
        return await self._reader.read(asked)

    def _shown(self, subject: Subject, used: Used | None) -> dict[str, Any]:
        return {
            "kind": subject.kind,
            "id": subject.id,
            "team": subject.team,
            "limits": subject.left(used, self._now()),
        }

    def close(self) -> None:
        self._used.close()


_NONE = CallerLimits()
