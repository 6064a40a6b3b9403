"""Rate limits: continuous token buckets for each (organization, limit class).

Pure: `now` (seconds) is an argument. Requests and input are taken at admission, output as it was produced, so the
output bucket may go below zero and then refuses until it has refilled.
"""

import math

import msgspec

from gateway.lab.simulator.world import Limits

__all__ = ["Bucket", "Gate", "RateLimits", "Refusal"]


class Bucket:
    """Holds at most `limit`, refills `limit` a minute without steps."""

    __slots__ = ("at", "level", "limit")

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self.level = float(limit)
        self.at = now

    def refill(self, now: float) -> float:
        """The level at `now`."""
        if now > self.at:
            self.level = min(float(self.limit), self.level + (now - self.at) * self.limit / 60)
            self.at = now
        return self.level

    def wait(self, need: float, now: float) -> float:
        """Seconds until `need` (or, if that is more than it can hold, a full bucket) is there; 0 if it is now."""
        missing = min(need, self.limit) - self.refill(now)
        return max(0.0, missing * 60 / self.limit)


class Refusal(msgspec.Struct, frozen=True):
    """`retry_after` in whole seconds; `what` names the limit and its size."""

    what: str
    retry_after: int


class Gate:
    """The buckets of one organization and limit class."""

    __slots__ = ("input", "output", "requests")

    def __init__(self, limits: Limits, now: float) -> None:
        self.requests = None if limits.requests is None else Bucket(limits.requests, now)
        self.input = None if limits.input_tokens is None else Bucket(limits.input_tokens, now)
        self.output = None if limits.output_tokens is None else Bucket(limits.output_tokens, now)

    def admit(self, fresh: int, now: float) -> Refusal | None:
        """Takes one request and `fresh` input tokens (cache writes included), or says why not and takes nothing."""
        for bucket, need, what in (
            (self.requests, 1, "requests"),
            (self.input, fresh, "input tokens"),
            (self.output, 1, "output tokens"),
        ):
            if bucket is not None and (bucket.refill(now) < need):
                wait = bucket.wait(need, now)
                return Refusal(f"{bucket.limit:,} {what} per minute", max(1, math.ceil(wait)))
        if self.requests is not None:
            self.requests.level -= 1
        if self.input is not None:
            self.input.level -= fresh
        return None

    def produced(self, tokens: int, now: float) -> None:
        """Takes `tokens` of output."""
        if self.output is not None:
            self.output.refill(now)
            self.output.level -= tokens

    def headers(self, now: float) -> list[tuple[str, int, int, float]]:
        """(name, limit, remaining, seconds until full) of each limit in force; `tokens` repeats the tightest one."""
        rows = []
        for name, bucket in (
            ("requests", self.requests),
            ("input-tokens", self.input),
            ("output-tokens", self.output),
        ):
            if bucket is not None:
                level = max(0.0, bucket.refill(now))
                remaining = int(level) if name == "requests" else round(level / 1000) * 1000
                rows.append((name, bucket.limit, remaining, bucket.wait(bucket.limit, now)))
        tokens = [row for row in rows if row[0] != "requests"]
        if tokens:
            tightest = min(tokens, key=lambda row: row[2] / row[1])
            rows.append(("tokens", *tightest[1:]))
        return rows


class RateLimits:
    """The gates that were asked for so far; an organization without limits has none."""

    def __init__(self, default: Limits, by_organization: dict[str, Limits]) -> None:
        self.default = default
        self.by_organization = by_organization
        self._gates: dict[tuple[str, str], Gate | None] = {}

    def gate(self, organization: str, limit_class: str, now: float) -> Gate | None:
        """The gate of that organization and class, None where nothing is limited."""
        key = (organization, limit_class)
        try:
            return self._gates[key]
        except KeyError:
            limits = self.by_organization.get(organization, self.default)
            gate = None if limits == Limits() else Gate(limits, now)
            self._gates[key] = gate
            return gate

    def clear(self) -> None:
        """Every bucket is full again."""
        self._gates.clear()
