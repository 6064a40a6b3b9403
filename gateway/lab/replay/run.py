"""A whole `gateway replay`: a stream, the oracle's run, and one run of each policy for each seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import msgspec

from gateway import __version__
from gateway.lab.replay import agents, events, trace
from gateway.lab.replay.agents import Agents
from gateway.lab.replay.engine import Run, Served, replay
from gateway.lab.replay.events import Event
from gateway.lab.replay.figures import (
    FRESH_COST,
    READ_COST,
    WINDOW,
    WRITE_COST,
    After,
    Totals,
    Yardstick,
    after_events,
    duration,
    figures,
)  # fmt: skip
from gateway.lab.replay.policy import ANTHROPIC, Account, Factory, Request
from gateway.lab.replay.pool import Pace, Pool
from gateway.lab.replay.strawmen import Hash
from gateway.lab.simulator.world import PROVIDERS

TIGHTNESS = 1.3  # times what the oracle needs


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to replay. Without `trace` the stream is synthetic. `accounts` are Anthropic's, `clouds` those at each
    cloud. `events`: None for the built-in ones of a synthetic stream, and none for a trace."""

    trace: Path | None = None
    accounts: int = 10
    clouds: int = 0
    ttl: float = 300.0
    seed: int = 1
    seeds: int = 1
    tight: bool = False
    events: tuple[Event, ...] | None = None
    events_from: str = "events"
    agents: Agents = Agents()
    pace: Pace = Pace()


class Stream(msgspec.Struct):
    """What arrives. With `turns`, requests of a conversation come one after the other."""

    requests: list[Request]
    turns: bool


class Outcome(msgspec.Struct):
    """One seed: the oracle, what organizations allow (tokens a minute, None: anything), and every policy's run."""

    seed: int
    stream: Stream
    events: list[Event]
    yard: Yardstick
    limit: int | None
    runs: dict[str, Run]

    def figures(self) -> dict[str, dict[str, Any]]:
        """By policy."""
        return {name: figures(run, self.yard) for name, run in self.runs.items()}

    def after(self, name: str) -> list[After]:
        return after_events(self.runs[name], self.yard, self.events)


class Report(msgspec.Struct):
    """Everything, the first seed's outcome first."""

    settings: Settings
    outcomes: list[Outcome]

    def parameters(self) -> dict[str, Any]:
        """All that the figures depend on."""
        settings, first = self.settings, self.outcomes[0]
        requests = first.stream.requests
        return {
            "version": __version__,
            "source": settings.trace.name if settings.trace is not None else "synthetic",
            "requests": len(requests),
            "conversations": len({request.conversation for request in requests}),
            "duration_s": duration(requests),
            "accounts": len(_accounts(settings)),
            "providers": dict(Counter(account.provider for account in _accounts(settings))),
            "ttl_s": settings.ttl,
            "seed": settings.seed,
            "seeds": settings.seeds,
            "policies": list(first.runs),
            "tight": settings.tight,
            "tightness": TIGHTNESS,
            "limit_tokens_per_minute": first.limit,
            "block_tokens": requests[0].block,
            "costs": {"read": READ_COST, "written": WRITE_COST, "fresh": FRESH_COST},
            "window_s": WINDOW,
            "window_least_tokens": first.yard.large,
            "pace": msgspec.to_builtins(settings.pace),
            "turns_wait_for_answers": first.stream.turns,
            "sessions_wait": any(request.session for request in requests),
            "agents": msgspec.to_builtins(settings.agents) if settings.trace is None else None,
            "events": [
                {name: value for name, value in msgspec.to_builtins(event).items() if value is not None}
                for event in first.events
            ],
        }

    def plain(self) -> dict[str, Any]:
        """The object that `--json` prints; `worst` and `runs` only for several seeds."""
        first = self.outcomes[0]
        found: dict[str, Any] = {
            "parameters": self.parameters(),
            "oracle": first.yard.figures(),
            "policies": {
                name: {
                    **figures,
                    "by_provider": self.by_provider(name),
                    "after_events": msgspec.to_builtins(first.after(name)),
                }
                for name, figures in first.figures().items()
            },
        }
        if len(self.outcomes) > 1:
            found["worst"] = self.worst()
            found["runs"] = [
                {"seed": each.seed, "oracle": each.yard.figures(), "policies": each.figures()} for each in self.outcomes
            ]
        return found

    def worst(self) -> dict[str, dict[str, Any]]:
        """By policy, each figure's worst value over the seeds: the lowest R and H, the highest of all others."""
        by_seed = [outcome.figures() for outcome in self.outcomes]
        return {
            name: {
                figure: _worst(figure, [figures[name][figure] for figures in by_seed]) for figure in by_seed[0][name]
            }
            for name in by_seed[0]
        }

    def by_provider(self, name: str) -> dict[str, dict[str, int]]:
        """Requests and input tokens of a policy's first run at each provider; accounts that events add are
        Anthropic's."""
        whose = {account.id: account.provider for account in _accounts(self.settings)}
        served: dict[str, list[Served]] = {provider: [] for provider in whose.values()}
        for each in self.outcomes[0].runs[name].served:
            served.setdefault(whose.get(each.account, ANTHROPIC), []).append(each)
        return {
            provider: {"requests": len(some), "cache_read_tokens": totals.read, "new_tokens": totals.new}
            for provider, some in served.items()
            for totals in [Totals.of(some)]
        }

    def decisions(self, name: str) -> list[dict[str, Any]]:
        """Each request of a policy's first run, in the order of `index`."""
        outcome = self.outcomes[0]
        rows = [
            {
                "index": request.index,
                "account": served.account,
                "route": served.route,
                "reason": served.reason,
                "workspace": served.workspace,
                "arrived": round(served.arrived, 6),
                "sent": round(served.sent, 6),
                "started": round(served.started, 6),
                "read": served.read,
                "written": served.written,
                "fresh": served.fresh,
            }
            for request, served in zip(outcome.stream.requests, outcome.runs[name].served, strict=True)
        ]
        return sorted(rows, key=lambda row: int(row["index"]))


def run(
    settings: Settings, factories: dict[str, Factory], progress: Callable[[str], None] = lambda text: None
) -> Report:
    """Replay the stream through every policy. Raises TraceError, EventsError or PolicyError."""
    recorded = trace.load(settings.trace) if settings.trace is not None else None
    accounts = _accounts(settings)
    outcomes: list[Outcome] = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        if recorded is not None:
            stream = Stream(recorded, turns=False)
        else:
            stream = Stream(agents.stream(settings.agents, seed, settings.pace), turns=True)
        if recorded is not None and outcomes:
            yard = outcomes[0].yard
        else:
            progress(f"seed {seed}: oracle")
            yard = oracle(stream, settings.ttl, settings.pace)
        limit = ceil(TIGHTNESS * yard.new_per_minute / len(accounts)) if settings.tight else None
        happens = _events(settings, stream, accounts)
        runs = {}
        for name, factory in factories.items():
            progress(f"seed {seed}: {name}")
            pool = Pool(accounts, settings.ttl, limit)
            policy = factory(accounts, settings.ttl, seed)
            runs[name] = replay(policy, pool, settings.pace, stream.requests, happens, stream.turns)
        outcomes.append(Outcome(seed, stream, happens, yard, limit, runs))
    return Report(settings, outcomes)


def _accounts(settings: Settings) -> list[Account]:
    own = [Account.alone(f"account-{number}") for number in range(1, settings.accounts + 1)]
    return own + [Account.at(each, number) for each in PROVIDERS for number in range(1, settings.clouds + 1)]


def oracle(stream: Stream, ttl: float, pace: Pace) -> Yardstick:
    """The same stream in one workspace without limits or events."""
    alone = [Account.alone("oracle")]
    done = replay(Hash(alone, ttl, 0), Pool(alone, ttl), pace, stream.requests, turns=stream.turns)
    return Yardstick.of(stream.requests, done)


def _events(settings: Settings, stream: Stream, accounts: Sequence[Account]) -> list[Event]:
    names = [account.id for account in accounts]
    if settings.events is not None:
        return events.check(settings.events, names, settings.events_from)
    if settings.trace is not None:
        return []
    return events.check(events.churn(duration(stream.requests), names), names)


def _worst(figure: str, values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: max(each.get(name, 0) for each in values) for name in sorted(set().union(*values))}
    known = [value for value in values if value is not None]
    if not known:
        return None
    return min(known) if figure in ("R", "H", "cache_read_tokens", "requests") else max(known)
