"""Metrics: plain numbers in each worker, which travel as snapshots to where they are added up.

Labels are bounded: models that the catalogue does not know are `other`, teams beyond MAX_TEAMS too, and no label ever
holds a key, user, conversation or request id.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, cast

from gateway.records import ITEMS, Finished
from gateway.telemetry import metric_table as measures
from gateway.telemetry.counters import (
    Count,
    Counters,
    Distribution,
    Gauges,
    Histograms,
    Summed,
    snapshot_of,
)
from gateway.telemetry.metric_table import Measure

OTHER = "other"
MAX_TEAMS = 500
_MAX_CHILDREN = 16_384  # label combinations kept at hand
_MAX_UPDATES = 4096  # of them, those of requests
_MAX_NEEDS = 512  # needs by team that are told apart

Update = Callable[[Finished, float], None]  # a record, and the seconds spent on the store before it was sent


class StoreWatch:
    """Of one operation of the store: `answered` is told the seconds that an answer took, `failed` that none came."""

    __slots__ = ("_errors", "answered")

    def __init__(self, duration: Distribution, errors: Count) -> None:
        self.answered: Callable[[float], None] = duration.observe
        self._errors = errors

    def failed(self) -> None:
        self._errors.value += 1


class Measured:
    """What the rows of a table count into: one family each, in their order."""

    def __init__(self, rows: Iterable[Measure]) -> None:
        self._by_name: dict[str, Counters | Histograms] = {row.name: _family(row) for row in rows}

    @property
    def families(self) -> tuple[Counters | Histograms, ...]:
        return tuple(self._by_name.values())

    def counters(self, row: Measure) -> Counters:
        return cast(Counters, self._by_name[row.name])

    def histograms(self, row: Measure) -> Histograms:
        return cast(Histograms, self._by_name[row.name])

    def count(self, row: Measure, *labels: str) -> Count:
        """The count of a counter for these label values."""
        return self.counters(row).labels(*labels)

    def distribution(self, row: Measure, *labels: str) -> Distribution:
        """The same of a histogram."""
        return self.histograms(row).labels(*labels)


def _family(row: Measure) -> Counters | Histograms:
    if row.buckets:
        return Histograms(row.name, row.help, row.labels, row.buckets, row.known)
    return Counters(row.name, row.help, row.labels, row.known, row.per)


class WorkerMetrics:
    """What one worker counts. `normal(model)` names a model for labels; `in_flight()` says how many requests of each
    endpoint run, `degraded()` which modes hold (1 or 0): both are asked at each snapshot. `metered` are the endpoints
    whose answers are tokens. `lag` is told how many seconds late the event loop was."""

    def __init__(
        self,
        normal: Callable[[str], str],
        in_flight: Callable[[], Mapping[str, float]],
        degraded: Callable[[], Mapping[str, float]],
        metered: Collection[str],
    ) -> None:
        self._normal = normal
        self._metered = metered
        self._models: dict[str, str] = {}
        self._teams: frozenset[str] = frozenset()
        self._updates: dict[tuple[str | int | bool, ...], Update] = {}  # by what requests have in common
        self._usages: dict[tuple[str, str, str], Update] = {}  # by model, account, team
        self._exchanges: dict[tuple[str, str, str, str], Count] = {}
        of = self._of = Measured(measures.ALL)
        self.lag = of.distribution(measures.LAG).observe
        now = (
            Gauges("gateway_degraded", "Worker processes in a mode that is not normal.", "mode", degraded),
            Gauges("gateway_requests_in_flight", "Requests being served now.", "endpoint", in_flight),
        )
        self._families = (*of.families, *now)
        self._looked_at = (  # what admin.dashboard.rates reads
            Summed(of.counters(measures.REQUESTS), "code"), Summed(of.counters(measures.TOKENS), "type"),
            Summed(of.counters(measures.UPSTREAM), "account", "code"), of.counters(measures.INTERRUPTED),
            Summed(of.counters(measures.LACKING), "need"),
            of.histograms(measures.TTFT), of.histograms(measures.OVERHEAD), *now,
        )  # fmt: skip
        self._phases = [of.distribution(measures.OVERHEAD, each) for each in ("admit", "choose", "relay", "total")]

    # Names.

    def model(self, name: str) -> str:
        """The label of a model: its catalogue id, `other`, or "" for none."""
        label = self._models.get(name)
        if label is None:
            label = self._normal(name) if name else ""
            if label != OTHER and len(self._models) < _MAX_CHILDREN:  # what clients invent is not kept
                self._models[name] = label
        return label

    def know_teams(self, names: Iterable[str]) -> None:
        """These teams there are. The first MAX_TEAMS by name have a label each, the same ones in every process; who has
        one keeps it."""
        new = sorted(set(names) - self._teams)[: MAX_TEAMS - len(self._teams)]
        if new:
            self._teams = self._teams.union(new)
            self._updates.clear()
            self._usages.clear()

    def team(self, name: str) -> str:
        """The label of a team, "" of none."""
        return name if not name or name in self._teams else OTHER

    def forget_models(self) -> None:
        """The catalogue has changed: look names of models up again."""
        for kept in (self._models, self._updates, self._usages, self._exchanges):
            kept.clear()

    # Counting.

    def moved(self, reason: str) -> None:
        """Count a conversation that was bound to another workspace."""
        self._of.count(measures.MOVES, reason).inc()

    def upstream_answered(self, account: str, provider: str, model: str, code: str) -> None:
        """Count one exchange with an account."""
        label = self._models.get(model)
        key = (account, provider, self.model(model) if label is None else label, code)
        count = self._exchanges.get(key)
        if count is None:
            count = self._exchanges[key] = self._of.count(measures.UPSTREAM, *key)
        count.value += 1

    def throttled(self, scope: str, reason: str) -> None:
        """Count what a limit refused."""
        self._of.count(measures.THROTTLED, scope, reason).inc()

    def store(self, op: str) -> StoreWatch:
        """What watches an operation of the store; keep it."""
        return StoreWatch(self._of.distribution(measures.STORE, op), self._of.count(measures.STORE_ERRORS, op))

    def observe(self, record: Finished, admit_time: float) -> None:
        """Count one finished request; `admit_time` is seconds spent on the store before it was sent."""
        model = self._models.get(record.model)
        if model is None:
            model = self.model(record.model)
        if record.endpoint != ITEMS:
            kind = record.endpoint, model, record.team, record.status, record.stream, record.route
            update = self._updates.get(kind)
            if update is None:
                update = _keep(self._updates, kind, self._update_for(record, model))
            update(record, admit_time)
        usage = record.usage
        if usage.output or usage.input or usage.cache_read or usage.cache_write_5m or usage.cache_write_1h:
            whose = model, record.account, record.team
            update = self._usages.get(whose)
            if update is None:
                update = _keep(self._usages, whose, self._usage_for(record, model))
            update(record, admit_time)
        if record.outcome != "ok" or record.queued or record.failover or record.missed or record.lacking:
            self._observe_trouble(record)

    # Functions with all label children of a kind of request at hand: they cost more to find than to use, and so would
    # calls for each.

    def _update_for(self, record: Finished, model: str) -> Update:
        """What counts requests like this one."""
        of = self._of
        requests = of.count(
            measures.REQUESTS, record.endpoint, model, self.team(record.team), str(record.status or 499)
        )
        route = of.count(measures.ROUTES, record.route)
        duration = of.distribution(measures.DURATION, record.endpoint, model, "true" if record.stream else "false")
        observe = duration.observe

        def count_only(record: Finished, admit_time: float) -> None:
            requests.value += 1
            route.value += 1
            observe(record.duration)

        if record.status != 200 or record.endpoint not in self._metered:
            return count_only
        ttft = of.distribution(measures.TTFT, model)
        hit, partial, miss, none = (
            of.count(measures.CACHE, model, word) for word in ("hit", "partial", "miss", "none")
        )
        per_token = of.distribution(measures.PER_TOKEN, model).observe if record.stream else None
        durations, ttfts = duration.counts, ttft.counts
        admit, choose, relay, total = self._phases
        admits, chooses, relays, totals = (phase.counts for phase in self._phases)
        of_duration, of_ttft, of_phase = duration.bounds, ttft.bounds, admit.bounds

        def count_answer(record: Finished, admit_time: float) -> None:
            requests.value += 1
            route.value += 1
            seconds = record.duration
            durations[bisect_left(of_duration, seconds)] += 1
            duration.sum += seconds
            if not record.attempts:
                return
            seconds = record.ttft
            ttfts[bisect_left(of_ttft, seconds)] += 1
            ttft.sum += seconds
            usage = record.usage
            read, written = usage.cache_read, usage.cache_write_5m + usage.cache_write_1h
            result = (hit if read > written else partial) if read else miss if written else none
            result.value += 1
            if per_token is not None and usage.output > 1 and record.outcome == "ok":
                per_token((record.duration - record.ttft) / (usage.output - 1))
            admits[bisect_left(of_phase, admit_time)] += 1
            admit.sum += admit_time
            chosen, overhead = record.choose, record.overhead
            chooses[bisect_left(of_phase, chosen)] += 1
            choose.sum += chosen
            rest = overhead - admit_time - chosen
            if rest < 0.0:
                rest = 0.0
            relays[bisect_left(of_phase, rest)] += 1
            relay.sum += rest
            totals[bisect_left(of_phase, overhead)] += 1
            total.sum += overhead

        return count_answer

    def _usage_for(self, record: Finished, model: str) -> Update:
        """What counts tokens and money of requests like this one, as the ledger has them: also those that a broken or
        refused request may be billed for."""
        team, of = self.team(record.team), self._of
        fresh, read, write_5m, write_1h, output = _by_kind(of.counters(measures.TOKENS), model, record.account)
        team_fresh, team_read, team_5m, team_1h, team_output = _by_kind(of.counters(measures.TEAM_TOKENS), model, team)
        cost, savings = of.count(measures.COST, model, team), of.count(measures.SAVINGS, model, team)

        def count_usage(record: Finished, admit_time: float) -> None:
            usage = record.usage
            tokens = usage.input
            fresh.value += tokens
            team_fresh.value += tokens
            tokens = usage.output
            output.value += tokens
            team_output.value += tokens
            tokens = usage.cache_read
            if tokens:
                read.value += tokens
                team_read.value += tokens
            tokens = usage.cache_write_5m
            if tokens:
                write_5m.value += tokens
                team_5m.value += tokens
            tokens = usage.cache_write_1h
            if tokens:
                write_1h.value += tokens
                team_1h.value += tokens
            cost.value += record.cost_nano_usd
            savings.value += record.savings_nano_usd
            if record.priced_by_default:
                of.count(measures.UNPRICED, model).inc()

        return count_usage

    def _observe_trouble(self, record: Finished) -> None:
        """What most requests do not have."""
        if record.queued:
            self._of.distribution(measures.QUEUED, "served" if record.status == 200 else "refused").observe(
                record.queued
            )
        if record.missed:
            self._of.count(measures.MISSED, record.missed_reason).inc(record.missed)
        if record.stream and record.status == 200 and record.outcome in ("interrupted", "client_gone"):
            self._of.count(measures.INTERRUPTED, record.cause).inc()
        lacking = self._of.counters(measures.LACKING)
        for need in record.lacking:
            labels = need, self.team(record.team)
            if labels not in lacking.children and len(lacking.children) >= _MAX_NEEDS:
                labels = OTHER, ""  # clients may invent them
            lacking.labels(*labels).inc()
        if record.throttled:
            self.throttled(record.throttled, record.limit)
        if record.failover and record.status:
            served = record.status < 400
            if served or record.failover != "denied":
                self._of.count(measures.FAILOVERS, record.failover, "recovered" if served else "exhausted").inc()

    def snapshot(self) -> bytes:
        """All numbers of this worker, for `Totals.replace`."""
        return snapshot_of([each.family() for each in self._families])

    def sample(self) -> bytes:
        """What `rates.sample_of` reads of them, likewise: small and quickly made, however many teams there are."""
        return snapshot_of([each.family() for each in self._looked_at])


def _keep(updates: dict[Any, Update], key: tuple[object, ...], update: Update) -> Update:
    """Keep it for the next alike."""
    if len(updates) >= _MAX_UPDATES:
        updates.clear()
    updates[key] = update
    return update


def _by_kind(tokens: Counters, model: str, whose: str) -> Iterator[Count]:
    """What counts the tokens of one model for one account or team: fresh, read, written for either time, output."""
    kinds = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    return (tokens.labels(kind, model, whose) for kind in kinds)
