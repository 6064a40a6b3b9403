"""What the workers' counters say over time: rates, percentiles and shares of the last seconds and minutes.

It reads families by name and goes without those that are not there. It knows no clock: times are seconds of one.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from itertools import accumulate
from math import inf
from typing import TypeVar

import msgspec

from gateway.telemetry.counters import Family

RATE = 10.0  # seconds over which rates are taken
LATENCY = 60.0  # of percentiles
SHARE = 300.0  # of the cache hit rate, and of what accounts lack
_WORTH_SAYING = 0.01  # of all requests that ask for what some account lacks
_MOST_NEEDS = 5
_KINDS = {
    "input": "input",
    "cache_read": "cache_read",
    "cache_write_5m": "cache_write",
    "cache_write_1h": "cache_write",
    "output": "output",
}
_LEFT = "499"  # the code of clients that went before there was an answer
_OWN_FAULT = ("client",)  # causes of broken streams that are nobody's error
_T = TypeVar("_T")

Counts = Mapping[_T, float]
Failures = Counts[tuple[str, str]]


class Sample(msgspec.Struct, frozen=True):
    """All that is looked at, at one time: sums over workers, models and teams. Histograms count by upper bound, and all
    that is below it. `errors` are the gateway's or an upstream's, `refused` what clients were told is their own matter:
    a 4xx. `exchanges` are those with accounts, by account and code."""

    at: float
    requests: float = 0.0
    errors: float = 0.0
    in_flight: float = 0.0
    tokens: Counts[str] = {}
    ttft: Counts[float] = {}
    overhead: Counts[float] = {}
    exchanges: Failures = {}
    degraded: Counts[str] = {}
    refused: float = 0.0
    lacking: Counts[str] = {}


def sample_of(families: Iterable[Family], at: float) -> Sample:
    """What the families say at that time."""
    found = {family.name: family for family in families}
    requests = _by(found.get("gateway_requests"), "code")
    broken = _by(found.get("gateway_stream_interruptions"), "cause")
    tokens: dict[str, float] = defaultdict(float)
    for kind, count in _by(found.get("gateway_tokens"), "type").items():
        if kind in _KINDS:
            tokens[_KINDS[kind]] += count
    errors = sum(count for code, count in requests.items() if code.startswith("5"))
    exchanges: dict[tuple[str, str], float] = defaultdict(float)
    upstream = found.get("gateway_upstream_requests")
    if upstream is not None:
        account, code = upstream.labels.index("account"), upstream.labels.index("code")
        for values, numbers in upstream.children:
            exchanges[values[account], values[code]] += numbers[0]
    return Sample(
        at,
        sum(requests.values()),
        errors + sum(count for cause, count in broken.items() if cause not in _OWN_FAULT),
        sum(_by(found.get("gateway_requests_in_flight"), "endpoint").values()),
        tokens,
        _buckets(found.get("gateway_time_to_first_token_seconds")),
        _buckets(found.get("gateway_overhead_seconds"), "total"),
        exchanges,
        _by(found.get("gateway_degraded"), "mode"),
        sum(count for code, count in requests.items() if code.startswith("4") and code != _LEFT),
        _by(found.get("gateway_lacking_requests"), "need"),
    )


def _by(family: Family | None, label: str) -> Counts[str]:
    """The sums by one label, "" where the family has no such."""
    sums: dict[str, float] = defaultdict(float)
    if family is not None:
        place = family.labels.index(label) if label in family.labels else None
        for values, numbers in family.children:
            sums["" if place is None else values[place]] += numbers[0]
    return sums


def _buckets(family: Family | None, only: str = "") -> Counts[float]:
    """What was observed, by upper bound, with all that is below it; only where a label has the value `only`, if any."""
    if family is None:
        return {}
    rows = [numbers[:-1] for values, numbers in family.children if not only or only in values]
    return dict(zip((*family.bounds, inf), accumulate(map(sum, zip(*rows, strict=True))), strict=False)) if rows else {}


class Numbers(msgspec.Struct, frozen=True):
    """Rates are a second's; percentiles in seconds, None where there was nothing to measure. `lacking` are the needs
    that some account lacks, with the share of requests that have them, the largest first."""

    requests: float
    errors: float
    in_flight: int
    tokens: Mapping[str, float]
    ttft_p50: float | None
    ttft_p95: float | None
    overhead_p50: float | None
    overhead_p99: float | None
    cache_hit_rate: float | None
    refused: float = 0.0
    lacking: Mapping[str, float] = {}


class Rates:
    """The samples of the last minutes; `begin` is when everything was at nought."""

    def __init__(self, begin: float) -> None:
        self._samples: deque[Sample] = deque([Sample(begin)])

    @property
    def latest(self) -> Sample:
        return self._samples[-1]

    def add(self, sample: Sample) -> None:
        """The next; what is older than anybody asks for goes."""
        self._samples.append(sample)
        while len(self._samples) > 2 and self._samples[1].at <= sample.at - SHARE:
            self._samples.popleft()

    def risen(self, sample: Sample) -> set[tuple[str, str]]:
        """The (account, code) with more exchanges in `sample` than in the latest so far."""
        before = self.latest.exchanges
        return {place for place, count in sample.exchanges.items() if count > before.get(place, 0.0)}

    def numbers(self) -> Numbers:
        """As of the latest sample. A count that has fallen, as none should, counts as unchanged."""
        now = self.latest
        lately, minute, minutes = self._before(RATE), self._before(LATENCY), self._before(SHARE)
        seconds = max(now.at - lately.at, 1e-3)
        tokens = _more(now.tokens, lately.tokens)
        used = _more(now.tokens, minutes.tokens)
        whole = sum(used.get(kind, 0.0) for kind in ("input", "cache_read", "cache_write"))
        ttft, overhead = _more(now.ttft, minute.ttft), _more(now.overhead, minute.overhead)
        return Numbers(
            max(0.0, now.requests - lately.requests) / seconds,
            max(0.0, now.errors - lately.errors) / seconds,
            int(now.in_flight),
            {kind: tokens.get(kind, 0.0) / seconds for kind in _KINDS.values()},
            quantile(0.5, ttft),
            quantile(0.95, ttft),
            quantile(0.5, overhead),
            quantile(0.99, overhead),
            used.get("cache_read", 0.0) / whole if whole else None,
            max(0.0, now.refused - lately.refused) / seconds,
            self._lacking(minutes),
        )

    def _lacking(self, before: Sample) -> dict[str, float]:
        """What is lacking to more than a few requests since then."""
        now = self.latest
        requests = max(1.0, now.requests - before.requests)
        shares = {need: count / requests for need, count in _more(now.lacking, before.lacking).items()}
        largest = sorted((need for need in shares if shares[need] > _WORTH_SAYING), key=lambda need: -shares[need])
        return {need: min(1.0, shares[need]) for need in largest[:_MOST_NEEDS]}

    def _before(self, seconds: float) -> Sample:
        """The latest sample that is at least so old, or the oldest."""
        edge = self.latest.at - seconds + 0.5  # samples come when they can
        found = self._samples[0]
        for sample in self._samples:
            if sample.at > edge:
                break
            found = sample
        return found


def _more(now: Counts[_T], before: Counts[_T]) -> dict[_T, float]:
    return {name: max(0.0, value - before.get(name, 0.0)) for name, value in now.items()}


def quantile(part: float, buckets: Counts[float]) -> float | None:
    """The value below which this part of what was observed lies, straight within a bucket, as Prometheus reckons it;
    the last finite bound for what lies beyond. Within the first bucket it is but a guess. None where nothing was
    observed."""
    bounds = sorted(buckets)
    if not bounds or bounds[-1] != inf or buckets[inf] <= 0.0:
        return None
    rank = part * buckets[inf]
    low = below = 0.0
    for bound in bounds[:-1]:
        count = buckets[bound]
        if count >= rank and count > below:
            return low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, max(below, count)
    return low
