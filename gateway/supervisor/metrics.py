"""The metrics as a scraper gets them: the workers', and those that the supervisor alone gives, of accounts and teams,
which every replica knows alike, and what its workers cannot say of themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from time import monotonic, time

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.admin.desks.levels import Levels
from gateway.supervisor.pool.account_states import AccountStates
from gateway.supervisor.pool.diagnosis import KINDS, STATES, full_in

DEGRADED = "gateway_degraded"


class Whole(Collector):
    """What all workers count, with the modes of the supervisor among theirs: a family is told of once."""

    def __init__(self, workers: Collector, modes: Mapping[str, int]) -> None:
        self._workers = workers
        self._modes = modes

    def collect(self) -> Iterator[Metric]:
        """The families."""
        own = GaugeMetricFamily(
            DEGRADED,
            "Worker processes in a mode that is not normal; store: it is away for them; journal: they cannot write it; "
            "workers: they do not serve.",
            labels=("mode",),
        )
        modes = Counter({**self._modes, "store": 0})  # the supervisor's own sight of it decides about no request
        for metric in self._workers.collect():
            if metric.name == DEGRADED:
                modes.update({sample.labels.get("mode", ""): sample.value for sample in metric.samples})
            else:
                yield metric
        for mode, value in modes.items():
            own.add_metric((mode,), value)
        yield own


class Exposition:
    """All metrics as text: those of the workers, once `refresh()` has made them new, those in `registry`, and what
    `modes()` says of the supervisor."""

    def __init__(
        self,
        workers: Collector,
        registry: Collector,
        modes: Callable[[], Mapping[str, int]],
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._workers = workers
        self._registry = registry
        self._modes = modes
        self._refresh = refresh

    async def encoded(self, encode: Callable[[Collector], bytes]) -> bytes:
        """All metrics of now."""
        await self._refresh()
        # What the loop changes is read by the loop; what takes long is done beside it.
        whole = _Together(list(self._registry.collect()), Whole(self._workers, dict(self._modes())))
        return await asyncio.to_thread(encode, whole)


class _Together(Collector):
    def __init__(self, own: Iterable[Metric], workers: Collector) -> None:
        self._own = own
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        yield from self._own
        yield from self._workers.collect()


class Gauges(Collector):
    """`in_flight()` are the requests that each account has, `bindings()` those of each workspace, None while nobody
    knows."""

    def __init__(
        self,
        account_states: AccountStates,
        in_flight: Callable[[], Mapping[str, int]],
        bindings: Callable[[], Mapping[str, int] | None],
        levels: Levels,
    ) -> None:
        self._account_states = account_states
        self._in_flight = in_flight
        self._bindings = bindings
        self._levels = levels

    def collect(self) -> Iterator[Metric]:
        """The families."""
        yield self._states()
        yield from self._limits()
        yield from self._use()
        yield self._budgets()
        yield self._thresholds()

    def _states(self) -> Metric:
        family = GaugeMetricFamily(
            "gateway_account_state", "1 for the state that an account is in; over replicas take max.",
            labels=("account", "provider", "state"),
        )  # fmt: skip
        for account, present in self._account_states.states().items():
            provider = self._account_states.provider(account)
            for state in STATES:
                family.add_metric((account, provider, state), float(state == present))
        return family

    def _limits(self) -> Iterator[Metric]:
        labels = ("account", "model_class", "limit")
        ratios = GaugeMetricFamily(
            "gateway_account_ratelimit_remaining_ratio", "What is left of a limit; over replicas take min.",
            labels=labels,
        )  # fmt: skip
        resets = GaugeMetricFamily(
            "gateway_account_ratelimit_reset_timestamp_seconds",
            "When a limit is whole again, or open again after a 429 if that is later; past where it is whole. "
            "Over replicas take max.", labels=labels,
        )  # fmt: skip
        router, now, wall = self._account_states.router, monotonic(), time()
        for entry in router.ring.accounts.values():
            for limit_class, row in router.rate_limits(entry.organization, now).items():
                for kind, name in KINDS.items():
                    if row.get(f"{kind}_limit") and self._account_states.known_class(limit_class):
                        left, of = row[f"{kind}_left"], row[f"{kind}_limit"]
                        place = (entry.id, limit_class, name)
                        ratios.add_metric(place, left / of)
                        resets.add_metric(place, round(wall + full_in(left, of, row.get("closed_for", 0.0))))
        yield ratios
        yield resets

    def _use(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "gateway_account_in_flight",
            "Requests that an account has of this gateway now; over replicas take sum.", labels=("account",),
        )  # fmt: skip
        bindings = GaugeMetricFamily(
            "gateway_account_bindings",
            "Conversations (for each model they talk to) that are bound to the account's workspace, about: the store's "
            "are counted at leisure. Accounts of one workspace have the same; over replicas take max.",
            labels=("account",),
        )  # fmt: skip
        now, counts = self._in_flight(), self._bindings()
        for entry in self._account_states.router.ring.accounts.values():
            in_flight.add_metric((entry.id,), now.get(entry.id, 0))
            if counts is not None:
                bindings.add_metric((entry.id,), counts.get(entry.workspace, 0))
        yield in_flight
        yield bindings

    def _budgets(self) -> Metric:
        family = GaugeMetricFamily(
            "gateway_team_budget_remaining_ratio",
            "What is left of a team's budget of this UTC day, week or month (window), of which what runs is reserved; "
            "over replicas take max.", labels=("team", "window"),
        )  # fmt: skip
        for team, window, ratio in self._levels.budgets():
            family.add_metric((team, window), ratio)
        return family

    def _thresholds(self) -> Metric:
        family = GaugeMetricFamily(
            "gateway_team_budget_soft_threshold_ratio",
            "The highest soft threshold that is passed of a team's budget of this UTC day, week or month (window); "
            "over replicas take max.", labels=("team", "window"),
        )  # fmt: skip
        for passed in self._levels.thresholds():
            if passed.kind == "team":
                family.add_metric((passed.id, passed.window), passed.share)
        return family
