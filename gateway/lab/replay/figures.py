"""What a run is worth: the definitions of every figure that `gateway replay` prints.

Pure functions of runs. Cost is in tokens of plain input: read ones cost 0.1, written ones 1.25 (caches of 5 minutes).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any

import msgspec

from gateway.lab.replay.engine import Run, Served
from gateway.lab.replay.events import Event
from gateway.lab.replay.policy import Request

READ_COST = 0.1
WRITE_COST = 1.25
FRESH_COST = 1.0
WINDOW = 60.0  # seconds


class Totals(msgspec.Struct):
    """Input tokens of some requests."""

    read: int = 0
    written: int = 0
    fresh: int = 0

    @classmethod
    def of(cls, served: Iterable[Served]) -> Totals:
        totals = cls()
        for each in served:
            totals.read += each.read
            totals.written += each.written
            totals.fresh += each.fresh
        return totals

    @property
    def new(self) -> int:
        """Tokens not read from a cache."""
        return self.written + self.fresh

    @property
    def hit_rate(self) -> float:
        """H: the part of the input that was read from caches."""
        return self.read / (self.read + self.new) if self.read + self.new else 0.0

    @property
    def cost(self) -> float:
        return READ_COST * self.read + WRITE_COST * self.written + FRESH_COST * self.fresh

    def ratios(self, oracle: Totals) -> tuple[float, float]:
        """(R, C) over the same requests. R is 1 where neither reads anything."""
        ratio = self.hit_rate / oracle.hit_rate if oracle.read else 1.0
        return ratio, self.cost / oracle.cost


def percentile(values: Iterable[float], part: float) -> float:
    """The smallest value that at least `part` (0 to 1) of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(part * len(ordered)) - 1)] if ordered else 0.0


def duration(requests: Sequence[Request]) -> float:
    """Seconds from the first to the last arrival, but at least a minute."""
    return max(60.0, max(request.at for request in requests) - min(request.at for request in requests))


class Balance:
    """New tokens by workspace beside its fair share of them, which is each request's split by the weights of that
    moment: what a workspace could not have, as it was not yet or no longer there, is not held against the others.

    With a fixed pool, a workspace's ratio is its tokens divided by weight ÷ the mean of that.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, float] = {}
        self.fair: dict[str, float] = {}
        self._requests = 0
        self._present: dict[str, int] = {}  # workspace: at how many of the requests it was there

    def add(self, served: Served, shares: dict[str, float]) -> None:
        self.tokens[served.workspace] = self.tokens.get(served.workspace, 0.0) + served.new
        self._requests += 1
        for workspace, share in shares.items():
            self._present[workspace] = self._present.get(workspace, 0) + 1
            self.fair[workspace] = self.fair.get(workspace, 0.0) + share * served.new

    def peak(self, least: float, whole: bool) -> float | None:
        """The highest ratio of tokens to fair share, of workspaces whose fair share is at least `least` tokens (below
        that a single request decides) and, with `whole`, that were there at every request. None if no workspace is."""
        return max(
            (
                self.tokens.get(name, 0.0) / fair
                for name, fair in self.fair.items()
                if fair >= least and fair > 0 and (not whole or self._present[name] == self._requests)
            ),
            default=None,
        )


def balances(run: Run, window: float | None = None) -> dict[int, Balance]:
    """The balance of each window of so many seconds, by its number (None: of the whole run, as number 0). A request
    belongs where its account admitted it."""
    found: dict[int, Balance] = {}
    starts = [start for start, _ in run.shares]
    for served in run.served:
        shares = run.shares[bisect_right(starts, served.sent) - 1][1]
        number = 0 if window is None else int(served.sent // window)
        found.setdefault(number, Balance()).add(served, shares)
    return found


class Yardstick(msgspec.Struct):
    """The oracle's run, and what follows from it for everybody."""

    requests: Sequence[Request]
    run: Run
    totals: Totals
    large: float  # the p95 of a request's new tokens: what one request may unbalance

    @classmethod
    def of(cls, requests: Sequence[Request], run: Run) -> Yardstick:
        return cls(requests, run, Totals.of(run.served), percentile((each.new for each in run.served), 0.95))

    @property
    def new_per_minute(self) -> float:
        return self.totals.new * 60 / duration(self.requests)

    def figures(self) -> dict[str, Any]:
        """Those of the oracle."""
        totals = self.totals
        return {
            "H": totals.hit_rate,
            "requests": len(self.requests),
            "input_tokens": totals.read + totals.new,
            "cache_read_tokens": totals.read,
            "cache_written_tokens": totals.written,
            "uncached_tokens": totals.fresh,
            "cost_tokens": totals.cost,
            "fresh_tokens_per_minute": self.new_per_minute,
            "fresh_tokens_p95": self.large,
        }


def window_peaks(run: Run, yard: Yardstick) -> list[tuple[float, float]]:
    """(start in seconds, peak-to-mean) of each window of 60 s that has one: where the fair share of a workspace that
    was there for all of it is at least the p95 of the oracle's new tokens a request."""
    found = ((number * WINDOW, each.peak(yard.large, whole=True)) for number, each in balances(run, WINDOW).items())
    return sorted((start, peak) for start, peak in found if peak is not None)


def figures(run: Run, yard: Yardstick) -> dict[str, Any]:
    """All figures of a policy's run. Seconds, tokens and counts; ratios against the oracle."""
    totals = Totals.of(run.served)
    ratio, cost = totals.ratios(yard.totals)
    windows = [peak for _, peak in window_peaks(run, yard)]
    waits = [each.sent - each.arrived for each in run.served]
    switched, warm = switches(run, yard.requests)
    return {
        "R": ratio,
        "C": cost,
        "H": totals.hit_rate,
        "peak_to_mean": balances(run)[0].peak(yard.large if len(run.shares) > 1 else 0.0, whole=False) or 1.0,
        "window_peak_to_mean": percentile(windows, 0.95) if windows else None,
        "rate_limited": sum(each.limited for each in run.served),
        "overloaded": sum(each.overloaded for each in run.served),
        "refused": sum(each.refused for each in run.served),
        "moves": dict(sorted(run.moves.items())),
        "switches": switched,
        "warm_switches": warm,
        "wait_p50_s": percentile(waits, 0.50),
        "wait_p99_s": percentile(waits, 0.99),
        "wait_max_s": max(waits),
        "requests": len(run.served),
        "cache_read_tokens": totals.read,
        "cache_written_tokens": totals.written,
        "uncached_tokens": totals.fresh,
    }


def switches(run: Run, requests: Sequence[Request]) -> tuple[int, int]:
    """How often a conversation was served by another workspace than the time before, and how often of these the cache
    it left behind was still warm, by `run.ttl`."""
    last: dict[bytes, Served] = {}
    switched = warm = 0
    for served, request in sorted(zip(run.served, requests, strict=True), key=lambda pair: pair[0].sent):
        before = last.get(request.conversation)
        if before is not None and before.workspace != served.workspace:
            switched += 1
            warm += served.sent < before.started + run.ttl
        last[request.conversation] = served
    return switched, warm


class After(msgspec.Struct, frozen=True):
    """R and C of the requests that were due from an event on until a cache TTL later; `requests` is their number. For
    `store_down` until a TTL after the store was back."""

    at: float
    event: str
    account: str | None
    requests: int
    R: float
    C: float


def after_events(run: Run, yard: Yardstick, events: Sequence[Event]) -> list[After]:
    """What each event cost; those that were followed by no request are left out."""
    due = [request.at for request in yard.requests]
    found = []
    for event in events:
        back = (each.at for each in events if each.event == "store_up" and each.at >= event.at)
        end = (next(back, event.at) if event.event == "store_down" else event.at) + run.ttl
        window = slice(bisect_left(due, event.at), bisect_left(due, end))
        served = run.served[window]
        if served:
            ratios = Totals.of(served).ratios(Totals.of(yard.run.served[window]))
            found.append(After(event.at, event.event, event.account, len(served), *ratios))
    return found
