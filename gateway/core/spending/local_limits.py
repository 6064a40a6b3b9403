"""Callers' limits without the store: each divided by the processes there were.

Buckets and slots of this process alone, in memory; money is not counted here. It does not know requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.spending.quota import BUCKET, LEASES, SUMS, Row

Place = tuple[str, str]  # subject, field


class LocalLimits:
    """`take` and `give` are of requests that the store was not asked for. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._levels: dict[Place, tuple[float, float]] = {}  # what a bucket held, and when
        self._slots: dict[Place, int] = {}

    def clear(self) -> None:
        """The store counts again."""
        self._levels.clear()

    def take(self, rows: Sequence[Row], processes: int, now: float) -> tuple[Row, float] | None:
        """Take what all rows ask, or nothing: the row that refuses then, and seconds until it may not."""
        for row in rows:
            limit = max(1.0, row.limit / processes)
            if row.kind.form == BUCKET:
                level = self._level(row, limit, now)
                if level < row.kind.need or level <= 0.0:
                    return row, max(0.0, row.kind.need - level) * 60.0 / limit
            elif row.kind.form == LEASES and self._slots.get((row.subject, row.kind.field), 0) >= limit:
                return row, 1.0
        for row in rows:
            place = row.subject, row.kind.field
            if row.kind.form == BUCKET:
                level = self._level(row, max(1.0, row.limit / processes), now)
                self._levels[place] = (level - row.kind.take, now)
            elif row.kind.form == LEASES:
                self._slots[place] = self._slots.get(place, 0) + 1
        return None

    def give(self, rows: Sequence[Row], sums: Sequence[int]) -> None:
        """A request that took has ended; `sums` (as core.spending.quota's SUMS) is what it has used."""
        for row in rows:
            place = row.subject, row.kind.field
            if row.kind.form == BUCKET and row.kind.debits and place in self._levels:
                level, at = self._levels[place]
                self._levels[place] = (level - sum(sums[SUMS.index(name)] for name in row.kind.debits), at)
            elif row.kind.form == LEASES and self._slots.get(place, 0) > 0:
                self._slots[place] -= 1
                if not self._slots[place]:
                    del self._slots[place]

    def _level(self, row: Row, limit: float, now: float) -> float:
        level, at = self._levels.get((row.subject, row.kind.field), (limit, now))
        return min(limit, level + (now - at) * limit / 60.0)
