"""What is left of the limits of a caller or a team, as operators and callers themselves read it. It reads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.config.rules import moment_text
from gateway.config.schema import CallerLimits
from gateway.core.spending.quota import BUDGETS, period_end
from gateway.store.ledger.ledger import tenant_of
from gateway.store.ledger.levels import SubjectBuckets, Used

_NANO = 1_000_000_000
# What it is called, where the store keeps it, and the limit that it has. Counting tokens has a bucket of its own.
_BUCKETS = (
    ("requests_per_minute", "requests", "requests_per_minute"),
    ("token_counts_per_minute", "counts", "requests_per_minute"),
    ("input_tokens_per_minute", "input", "input_tokens_per_minute"),
    ("output_tokens_per_minute", "output", "output_tokens_per_minute"),
)


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

    @property
    def tenant(self) -> str:
        """In whose slot the store keeps it."""
        return tenant_of("" if self.kind == "team" else self.id, self.team or "")

    @property
    def asked(self) -> SubjectBuckets:
        """What the store is asked about it."""
        return SubjectBuckets(self.name, tuple((field, limit) for _, field, limit in self.buckets))

    def left(self, used: Used | None, now: float) -> list[dict[str, Any]]:
        """Each of its limits, how much of it is left and when it is whole again; without that where nobody knows what
        is used, or it is of other limits."""
        if used is not None and len(used.levels) != len(self.buckets):
            used = None  # its limits have just become others
        return [*_of_buckets(self, used), *_of_slots(self, used), *_of_money(self, used, now)]


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
            left = None if used is None else max(0.0, left_of(used, window, round(dollars * _NANO), now) / _NANO)
            yield _row(f"budget_usd_{window}", dollars, left, None if left is None else _end(window, now))


def left_of(used: Used, window: str, limit: int, now: float) -> int:
    """Nano-dollars; all of it where another period has begun since the look."""
    return limit - used.reserved - (used.spent(window) if _end(window, used.at / 1000) >= now else 0)


def _end(window: str, at: float) -> float:
    """When the UTC day, week or month of `at` ends, in Unix seconds."""
    return period_end(window, int(at * 1000)) / 1000
