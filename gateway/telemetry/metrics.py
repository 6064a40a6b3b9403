"""Metrics: plain numbers in each worker, which travel as snapshots to where they are added up.

Labels are bounded: models that the catalogue does not know are `other`, teams beyond MAX_TEAMS too, and no label ever
holds a key, user, conversation or request id.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import cast

from gateway.records import ITEMS, Finished
from gateway.telemetry import metric_table as measures
from gateway.telemetry.counters import (
    Count,
    Counters,
    Distribution,
    Gauges,
    Histograms,
    Summed,
    observe_together,
    snapshot_of,
)
from gateway.telemetry.metric_table import Measure

OTHER = "other"
MAX_TEAMS = 500
_MAX_CHILDREN = 16_384  # label combinations kept at hand
_MAX_NEEDS = 512  # needs by team that are told apart

Update = Callable[[Finished], None]


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
        self._updates: dict[tuple[str | int | bool, ...], Update] = {}
        self._by_account: dict[tuple[str, str], Update] = {}
        self._by_team: dict[tuple[str, str], Update] = {}
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
        self._route = of.counters(measures.ROUTES).labels
        self._phases = tuple(of.distribution(measures.OVERHEAD, each) for each in ("admit", "choose", "relay", "total"))

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
            self._by_team.clear()

    def team(self, name: str) -> str:
        """The label of a team, "" of none."""
        return name if not name or name in self._teams else OTHER

    def forget_models(self) -> None:
        """The catalogue has changed: look names of models up again."""
        for kept in (self._models, self._updates, self._by_account, self._by_team, self._exchanges):
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
            key = (record.endpoint, model, record.team, record.status, record.stream)
            update = self._updates.get(key)
            if update is None:
                if len(self._updates) >= _MAX_CHILDREN:
                    self._updates.clear()
                update = self._updates[key] = self._update_for(record, model)
            update(record)
            self._route(record.route).value += 1
            if record.status == 200 and record.attempts and record.endpoint in self._metered:
                self._observe_overhead(record, admit_time)
        usage = record.usage
        if usage.output or usage.input or usage.cache_read or usage.cache_write_5m or usage.cache_write_1h:
            self._observe_usage(record, model)
        if record.outcome != "ok" or record.queued or record.failover or record.missed or record.lacking:
            self._observe_trouble(record)

    def _update_for(self, record: Finished, model: str) -> Update:
        """One function with all label children of this kind of request at hand: they cost more to find than to use."""
        requests = self._of.count(
            measures.REQUESTS, record.endpoint, model, self.team(record.team), str(record.status or 499)
        )
        duration = (
            self._of.histograms(measures.DURATION)
            .labels(record.endpoint, model, "true" if record.stream else "false")
            .observe
        )

        def count_only(record: Finished) -> None:
            requests.value += 1
            duration(record.duration)

        if record.status != 200 or record.endpoint not in self._metered:
            return count_only
        ttft = self._of.distribution(measures.TTFT, model).observe
        hit, partial, miss, none = (
            self._of.count(measures.CACHE, model, word) for word in ("hit", "partial", "miss", "none")
        )
        per_token = self._of.distribution(measures.PER_TOKEN, model).observe if record.stream else None

        def count_answer(record: Finished) -> None:
            requests.value += 1
            duration(record.duration)
            if not record.attempts:
                return
            ttft(record.ttft)
            usage = record.usage
            read, written = usage.cache_read, usage.cache_write_5m + usage.cache_write_1h
            result = (hit if read > written else partial) if read else miss if written else none
            result.value += 1
            if per_token is not None and usage.output > 1 and record.outcome == "ok":
                per_token((record.duration - record.ttft) / (usage.output - 1))

        return count_answer

    def _observe_overhead(self, record: Finished, admit_time: float) -> None:
        rest = record.overhead - admit_time - record.choose
        observe_together(self._phases, (admit_time, record.choose, rest if rest > 0.0 else 0.0, record.overhead))

    def _observe_usage(self, record: Finished, model: str) -> None:
        """Tokens and money, as the ledger has them: also those that a broken or refused request may be billed for."""
        account, team = (model, record.account), (model, record.team)
        update = self._by_account.get(account)
        if update is None:
            update = self._by_account[account] = _token_update(self._of.counters(measures.TOKENS), *account)
        update(record)
        update = self._by_team.get(team)
        if update is None:
            if len(self._by_team) >= _MAX_CHILDREN:
                self._by_team.clear()
            update = self._by_team[team] = self._team_update(model, self.team(record.team))
        update(record)
        if record.priced_by_default:
            self._of.count(measures.UNPRICED, model).inc()

    def _team_update(self, model: str, team: str) -> Update:
        tokens = _token_update(self._of.counters(measures.TEAM_TOKENS), model, team)
        cost, savings = (
            self._of.count(measures.COST, model, team),
            self._of.count(measures.SAVINGS, model, team),
        )

        def count_money(record: Finished) -> None:
            tokens(record)
            cost.value += record.cost_nano_usd
            savings.value += record.savings_nano_usd

        return count_money

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


def _token_update(tokens: Counters, model: str, whose: str) -> Update:
    """Counts the tokens of one model for one account or team."""
    fresh, read, write_5m, write_1h, output = (
        tokens.labels(kind, model, whose)
        for kind in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    )

    def count_tokens(record: Finished) -> None:
        usage = record.usage
        fresh.value += usage.input
        read.value += usage.cache_read
        write_5m.value += usage.cache_write_5m
        write_1h.value += usage.cache_write_1h
        output.value += usage.output

    return count_tokens
