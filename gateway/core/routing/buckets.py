"""A limit that refills evenly, and what is left of it. Times are seconds of one clock."""

from __future__ import annotations

__all__ = ["Bucket", "DailyBucket"]


class Bucket:
    """What is left of one limit. `level` was true at `at`, reckoned from what an answer said at `seen`; it may fall
    below zero."""

    __slots__ = ("at", "level", "limit", "seen")
    seconds = 60.0  # in which all of the limit comes back

    def __init__(self, limit: float, level: float, at: float) -> None:
        self.limit = limit
        self.level = level
        self.at = self.seen = at

    def __repr__(self) -> str:
        return f"<Bucket {self.level:.0f} of {self.limit:.0f}>"

    def left(self, now: float, beyond: float = 0.0) -> float:
        """What is there at `now`; it may be so much `beyond` the limit, as that is spoken for."""
        level, most = self.level + (now - self.at) * self.limit / self.seconds, self.limit + beyond
        return level if level < most else most

    def reckon(self, now: float, beyond: float) -> None:
        """Something is sent: what has been there until now must not refill beyond the limit with it."""
        self.level, self.at = self.left(now, beyond), now

    def wait(self, need: float, now: float) -> float:
        """Seconds until `need` is there (or the bucket is full, if it cannot hold as much); 0 if it is now."""
        missing = (need if need < self.limit else self.limit) - self.left(now)
        return missing * self.seconds / self.limit if missing > 0 else 0.0

    def take(self, amount: float, now: float) -> None:
        self.level = self.left(now) - amount
        self.at = now


class DailyBucket(Bucket):
    """What is left of a limit of a day."""

    __slots__ = ()
    seconds = 86_400.0
