"""What goes on now, for operators: an overview, its events as they come, recent requests, and limits.

It does not know processes or the store: it is given functions that answer. Where one of them cannot, it says None.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from secrets import token_hex
from time import monotonic, time
from typing import Any, Protocol

import msgspec

from gateway.admin.dashboard.rates import Numbers, Rates, sample_of
from gateway.admin.dashboard.viewers import Viewers, event
from gateway.admin.desks.cached import Cached
from gateway.admin.desks.cost_to_date import EVERY, CostToDate
from gateway.admin.desks.levels import Levels
from gateway.config.rules import instant_text
from gateway.every import every
from gateway.records import Finished
from gateway.telemetry.counters import Family
from gateway.telemetry.recent import MOST, Recent

EVENT_STREAM = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}
MOST_RECENT = MOST  # requests that are remembered
HISTORY = 900.0  # seconds
POINT = 5.0  # seconds between two points of it, at least
_TICK = 1.0  # seconds between looks at the accounts' states, while somebody watches
_LEVELS_EVERY = 15.0  # seconds between looks at the budgets of teams, for the metrics
_AT_ONCE = 100  # requests in one event
_UNKNOWN = dict.fromkeys(("today_usd", "saved_today_usd", "month_usd", "saved_month_usd"))

_json = msgspec.json.Encoder().encode


class Gateway(Protocol):
    """What it asks of its gateway."""

    def families(self) -> Iterable[Family]:
        """What rates are made of: the sum over all workers."""

    def workers(self) -> tuple[int, int]:
        """How many serve, and how many should."""

    def modes(self) -> Mapping[str, int]:
        """How many processes are in a mode that is not normal, besides what workers say of themselves."""

    def states(self) -> Mapping[str, int]:
        """How many accounts are in each state."""

    def accounts(self) -> list[dict[str, Any]]:
        """As GET /admin/v1/accounts shows them."""

    def exchanged(self, account: str, code: str) -> None:
        """There were exchanges with an account that ended so (a status, or a word) since the last look."""


class Live:
    """Of `gateway`. Call `looked` whenever the workers have told their numbers, and `finished` with their requests; let
    `run` run."""

    def __init__(self, gateway: Gateway, cost_to_date: CostToDate, levels: Levels) -> None:
        self._gateway = gateway
        self._cost_to_date = Cached(cost_to_date.look, EVERY)
        self._levels = levels
        self._levels_at = 0.0  # when to look at them
        self._began = monotonic()
        self._rates = Rates(self._began)
        self._history: deque[dict[str, Any]] = deque(maxlen=int(HISTORY / POINT))
        self._point_at = 0.0
        self._recent = Recent()
        self._viewers = Viewers()
        self._series = token_hex(4)  # ids of events say which process gave them
        self._sent = 0  # the latest request that viewers were told of
        self._changed = asyncio.Event()  # there are new numbers or requests, or it ends
        self._accounts = b""
        self._states: Mapping[str, int] = {}  # of the accounts that viewers were told of

    # What comes in.

    def finished(self, records: Iterable[Finished]) -> None:
        """A worker's requests that have ended."""
        self._recent.add(records)

    def looked(self) -> None:
        """All workers have told their numbers, or could have."""
        now = monotonic()
        sample = sample_of(self._gateway.families(), now)
        for account, code in sorted(self._rates.risen(sample)):
            self._gateway.exchanged(account, code)
        self._rates.add(sample)
        if now - self._point_at >= POINT - 0.5:
            self._point_at = now
            self._history.append(_point(self._rates.numbers()))
        self._changed.set()

    async def run(self) -> None:
        """Tell those who watch, and keep the metrics' copy of what the store knows, until cancelled."""
        await every(_TICK, self._look, "telling those who watch failed", at_once=True)

    async def _look(self) -> None:
        if self._viewers:
            await self._tell()
        if monotonic() >= self._levels_at:
            self._levels_at = monotonic() + _LEVELS_EVERY
            await self._levels.look()

    async def _tell(self) -> None:
        self._viewers.forget_idle()
        states = self._gateway.states()
        changed = self._changed.is_set()
        if changed:
            self._changed.clear()
            self._viewers.tell(event("overview", _json(await self.overview(history=False))), "overview")
            rows = self._recent.since(self._sent, _AT_ONCE)
            if rows:
                self._viewers.tell(self._requests(rows))
            self._sent = self._recent.number
        if changed or states != self._states:  # showing all of many accounts takes its time
            accounts = _json({"data": self._gateway.accounts()})
            if accounts != self._accounts:
                self._accounts = accounts
                self._viewers.tell(event("accounts", accounts), "accounts")
            self._states = states

    # What operators ask.

    async def overview(self, history: bool = True) -> dict[str, Any]:
        """The numbers of now, and with `history` those of the last 15 minutes. It does not fail."""
        numbers = self._rates.numbers()
        alive, configured = self._gateway.workers()
        own, of_workers = self._gateway.modes(), self._rates.latest.degraded
        cost = None if own.get("store") else await self._cost_to_date.get()
        answer: dict[str, Any] = {
            "at": instant_text(time()),
            "uptime_seconds": round(monotonic() - self._began),
            "workers": {"alive": alive, "configured": configured},
            "requests_per_second": round(numbers.requests, 3),
            "errors_per_second": round(numbers.errors, 3),
            "refused_per_second": round(numbers.refused, 3),
            "in_flight": numbers.in_flight,
            "tokens_per_second": {kind: round(rate, 1) for kind, rate in numbers.tokens.items()},
            "ttft_seconds": {"p50": _short(numbers.ttft_p50), "p95": _short(numbers.ttft_p95)},
            "overhead_seconds": {"p50": _short(numbers.overhead_p50), "p99": _short(numbers.overhead_p99)},
            "cache_hit_rate": _short(numbers.cache_hit_rate),
            "spent": cost or _UNKNOWN,
            "degraded": sorted({name for modes in (own, of_workers) for name, count in modes.items() if count}),
            "lacking": {need: round(share, 3) for need, share in numbers.lacking.items()},
            "accounts": dict(self._gateway.states()),
        }
        return {**answer, "history": list(self._history)} if history else answer

    async def events(self, last_event_id: str = "", who: str = "") -> AsyncGenerator[bytes, None]:
        """Server-sent events without end, for a response with the headers EVENT_STREAM; `last_event_id` is that header
        of a browser that comes back, `who` the id of the token that asks. Await it before the response begins: raises
        ApiError 429 or 503 where too many look."""
        series, _, number = last_event_id.partition("-")
        first = [
            event("overview", _json(await self.overview(history=False))),
            event("accounts", _json({"data": self._gateway.accounts()})),
        ]
        if series == self._series and number.isdecimal() and len(number) < 18:
            rows = self._recent.since(int(number), _AT_ONCE)
            first += [self._requests(rows)] if rows else []
        if not self._viewers:
            self._sent = self._recent.number
        return self._viewers.open(b"".join(first), who)

    def recent(
        self, limit: int = 100, key: str | None = None, account: str | None = None, outcome: str | None = None
    ) -> dict[str, Any]:
        """{"data": [...]}: at most `limit` of the last MOST_RECENT requests that fit, the last to end first. `outcome`
        is `ok`, `error`, `interrupted`, `client_gone`, or a status such as 429."""
        return {"data": [row.shown() for row in self._recent.rows(limit, key, account, outcome)]}

    async def levels(self) -> dict[str, Any]:
        """{"data": [...]}: what callers and teams have left of their limits; None while the store is away."""
        return {"data": await self._levels.all()}

    def close(self) -> None:
        """End all streams: the gateway stops."""
        self._viewers.close()
        self._cost_to_date.close()
        self._levels.close()

    def _requests(self, rows: Iterable[Any]) -> bytes:
        shown = [row.shown() for row in rows]
        return event("requests", _json({"data": shown}), f"{self._series}-{self._recent.number}")


def _point(numbers: Numbers) -> dict[str, Any]:
    return {
        "at": instant_text(time()),
        "requests_per_second": round(numbers.requests, 3),
        "errors_per_second": round(numbers.errors, 3),
        "refused_per_second": round(numbers.refused, 3),
        "ttft_p50": _short(numbers.ttft_p50),
        "ttft_p95": _short(numbers.ttft_p95),
        **{kind: round(rate, 1) for kind, rate in numbers.tokens.items()},
        "cache_hit_rate": _short(numbers.cache_hit_rate),
    }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
