"""What callers and teams have left of their limits: JSON of the admin API, and the budgets of teams as a metric.

It counts nothing: the store does. While that is away, the limits are shown without what is left of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from gateway.admin.desks.cached import Cached
from gateway.config.rules import moment_text
from gateway.config.schema import Caller, CallerLimits, Team
from gateway.core.spending.keyring import CALLERS, TEAMS
from gateway.core.spending.quota import BUDGETS, period_end
from gateway.store.ledger.ledger import tenant_of
from gateway.store.ledger.levels import SubjectBuckets, Used

EVERY = 2.0  # seconds between two looks
_NANO = 1_000_000_000
# What it is called, where the store keeps it, and the limit that it has. Counting tokens has a bucket of its own.
_BUCKETS = (
    ("requests_per_minute", "requests", "requests_per_minute"),
    ("token_counts_per_minute", "counts", "requests_per_minute"),
    ("input_tokens_per_minute", "input", "input_tokens_per_minute"),
    ("output_tokens_per_minute", "output", "output_tokens_per_minute"),
)


class Reader(Protocol):
    """The store, as in store.ledger.levels. Raises StoreDown."""

    async def read(self, asked: Mapping[str, Sequence[SubjectBuckets]]) -> dict[str, Used]: ...


class Subject(msgspec.Struct, frozen=True):
    """A caller or a team that has limits; `boost` is how many US dollars each of its budgets is raised by."""

    kind: str
    id: str
    team: str | None
    limits: CallerLimits
    boost: float = 0.0

    @property
    def name(self) -> str:
        """As core.spending.quota.Plan names it."""
        return f"t:{self.id}" if self.kind == "team" else f"c:{self.id}"

    @property
    def buckets(self) -> list[tuple[str, str, int]]:
        """(what it is called, field, limit a minute)."""
        named = [(name, field, getattr(self.limits, limit)) for name, field, limit in _BUCKETS]
        return [(name, field, limit) for name, field, limit in named if limit is not None]


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
                left = max(0, _left(found, window, limit, self._now()))
                yield team, window, left / limit if limit else 0.0

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
            tenant = tenant_of("" if subject.kind == "team" else subject.id, subject.team or "")
            buckets = tuple((field, limit) for _, field, limit in subject.buckets)
            asked.setdefault(tenant, []).append(SubjectBuckets(subject.name, buckets))
        return await self._reader.read(asked)

    def _shown(self, subject: Subject, used: Used | None) -> dict[str, Any]:
        if used is not None and len(used.levels) != len(subject.buckets):
            used = None  # its limits have just become others
        return {
            "kind": subject.kind,
            "id": subject.id,
            "team": subject.team,
            "limits": [*_of_buckets(subject, used), *_of_slots(subject, used), *_of_money(subject, used, self._now())],
        }

    def close(self) -> None:
        self._used.close()


_NONE = CallerLimits()


def _row(limit: str, of: float, remaining: float | None, resets: float | None) -> dict[str, Any]:
    return {"limit": limit, "of": of, "remaining": remaining, "resets_at": resets and moment_text(resets)}


def _of_buckets(subject: Subject, used: Used | None) -> Iterator[dict[str, Any]]:
    """Full again at `resets_at`. That of counting tokens is shown once it is used."""
    for place, (name, field, limit) in enumerate(subject.buckets):
        level = used.levels[place] if used is not None else None
        if level is None or used is None:
            if field != "counts":
                yield _row(name, limit, None, None)
        elif level < limit:
            yield _row(name, limit, max(0, level), -(-(used.at + (limit - level) * 60_000 // limit) // 1000))
        elif field != "counts":
            yield _row(name, limit, limit, None)


def _of_slots(subject: Subject, used: Used | None) -> Iterator[dict[str, Any]]:
    most = subject.limits.concurrency
    if most is not None:
        yield _row("concurrency", most, None if used is None else max(0, most - used.leases), None)


def _of_money(subject: Subject, used: Used | None, now: float) -> Iterator[dict[str, Any]]:
    """In dollars; what runs counts as reserved."""
    for window in BUDGETS:
        dollars = getattr(subject.limits.budget_usd, window)
        if dollars is not None:
            dollars += subject.boost
            left = None if used is None else max(0.0, _left(used, window, round(dollars * _NANO), now) / _NANO)
            yield _row(f"budget_usd_{window}", dollars, left, None if left is None else _end(window, now))


def _left(used: Used, window: str, limit: int, now: float) -> int:
    """Nano-dollars; all of it where another period has begun since the look."""
    return limit - used.reserved - (used.spent(window) if _end(window, used.at / 1000) >= now else 0)


def _end(window: str, at: float) -> float:
    """When the UTC day, week or month of `at` ends, in Unix seconds."""
    return period_end(window, int(at * 1000)) / 1000
