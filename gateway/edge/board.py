"""The supervisor's picture of the accounts: what its workers and other gateways tell of them, and how those that are
out come back.

An account whose key was refused, or that could not be reached, is probed by a request that costs nothing; the answer
is news to everybody. It serves nobody, and decides as the workers do: by a router of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from time import monotonic, time
from typing import Any

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.config import Config, catalogue_of
from gateway.core import news
from gateway.core.document import Entry, PoolDocument
from gateway.core.health import PAUSES, Cause
from gateway.core.router import LIMITED, OUT, Router
from gateway.edge.pool import Pool
from gateway.upstream.provider import Call
from gateway.upstream.transport import NotSent, TransportError

PROBE_WAIT = 10.0  # seconds for a probe's answer
UNREACHABLE_EVERY = 5.0  # seconds between probes of an account that cannot be reached
_AGAIN = 5.0  # seconds after a probe that told nothing
_REFUSED = (401, 403)
STATES = ("available", "limited", "draining", "disabled", "out")
_PROBE = Call(b"GET", b"/v1/models?limit=1", [b"accept: application/json\r\n"], b"", version=False)

log = structlog.get_logger("gateway.board")


class Board:
    """`tell` spreads news to every worker of every gateway."""

    def __init__(self, config: Config, tell: Callable[[bytes], None]) -> None:
        self._tell = tell
        self._catalogue = catalogue_of(config)
        self._pool = Pool(config)
        self._router = Router(lambda model: self._catalogue.limit_class(model))
        self._configured = [account.id for account in config.accounts]
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._notes: dict[str, dict[str, str]] = {}  # what accounts' headers said lately

    @property
    def router(self) -> Router:
        """The pool as it stands here, to be asked and left as it is."""
        return self._router

    def configure(self, config: Config) -> None:
        """Follow a new configuration."""
        self._catalogue = catalogue_of(config)
        self._configured = [account.id for account in config.accounts]
        for account in self._pool.configure(config, self._router.ring.accounts):
            self._take(news.Back(account, wholly=True))

    def apply(self, document: PoolDocument) -> None:
        """Follow the agreed pool."""
        self._pool.retire([entry.id for entry in document.accounts], self._configured)
        self._router.apply(document, monotonic(), time())

    def heard(self, data: bytes) -> None:
        """News from a worker or another gateway."""
        heard = news.decode(data)
        if isinstance(heard, news.Hello):
            for each in self._router.picture(monotonic()):
                self._tell(news.encode(each))
        elif isinstance(heard, news.Noted):
            self._notes[heard.account] = heard.headers
        elif heard is not None:
            self._take(heard)

    def _take(self, heard: news.News) -> None:
        concerned = self._concerned(heard)
        before = {entry.id: self.state(entry)[0] for entry in concerned}
        self._router.heard(heard, monotonic())
        for entry in concerned:
            state, why = self.state(entry)
            if state != before[entry.id]:
                log.info("account changed", account=entry.id, state=state, before=before[entry.id], reason=why)
        if isinstance(heard, news.Out) and heard.cause is not Cause.BILLING:
            self._probe_soon(heard.name, heard.cause)
        elif isinstance(heard, news.Back):
            self._probe_no_more(heard.account)

    def _concerned(self, heard: news.News) -> list[Entry]:
        """The accounts whose state these news may change."""
        accounts = self._router.ring.accounts
        organization = ""
        if isinstance(heard, news.Closed):
            organization = heard.organization
        elif isinstance(heard, news.Out):
            if heard.cause is not Cause.BILLING:
                return [accounts[heard.name]] if heard.name in accounts else []
            organization = heard.name
        elif isinstance(heard, news.Back) and heard.account in accounts:
            organization = accounts[heard.account].organization
        return [entry for entry in accounts.values() if entry.organization == organization] if organization else []

    def enable(self, account: str) -> None:
        """An operator says that the account is in order: forget what kept it closed."""
        self._say(news.Back(account, wholly=True))

    def _say(self, said: news.News) -> None:
        self._take(said)
        self._tell(news.encode(said))

    # Probes.

    def _probe_soon(self, account: str, cause: Cause) -> None:
        running = self._probes.get(account)
        if account in self._pool.accounts and (running is None or running.done()):
            self._probes[account] = asyncio.get_running_loop().create_task(self._probe(account, cause))

    def _probe_no_more(self, account: str) -> None:
        """It is back: whoever waits to ask it again need not, and must not keep the next outage from being probed."""
        probe = self._probes.get(account)
        if probe is not None and probe is not asyncio.current_task():
            probe.cancel()
            del self._probes[account]

    async def _probe(self, account: str, cause: Cause) -> None:
        """Ask until the account is back, or somebody else has found that it is."""
        outage = self._router.health(account).outage
        if cause is Cause.UNREACHABLE:
            await asyncio.sleep(UNREACHABLE_EVERY)
        pause = PAUSES[cause].first
        while outage is self._router.health(account).outage and outage.cause is cause:
            if account not in self._pool.accounts or account not in self._router.ring.accounts:
                return
            status = await self._ask(account)
            if status and (cause is Cause.UNREACHABLE or (status < 500 and status not in _REFUSED)):
                log.info("account answers again", account=account, status=status)
                self._say(news.Back(account))
                return
            if cause is Cause.UNREACHABLE:
                wait = UNREACHABLE_EVERY
            elif status in _REFUSED:
                wait, pause = pause, min(PAUSES[cause].longest, pause * 2)
            else:
                wait = _AGAIN
            self._say(news.Out(account, cause, wait + PROBE_WAIT))
            await asyncio.sleep(wait)

    async def _ask(self, account: str) -> int:
        """The status of a free request with the account's key, 0 if there was no answer."""
        found = self._pool.accounts.get(account)
        if found is None:
            return 0
        outgoing = found.provider.prepare(_PROBE)
        with contextlib.suppress(NotSent, TransportError, TimeoutError):
            async with asyncio.timeout(PROBE_WAIT):
                response = await found.transport.send(
                    outgoing.method, outgoing.path, outgoing.headers, outgoing.body, first_byte=PROBE_WAIT
                )
                try:
                    while await response.read():
                        continue
                    return response.status
                finally:
                    response.close()
        return 0

    async def aclose(self) -> None:
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        await self._pool.aclose()

    # What operators see.

    def state(self, entry: Entry) -> tuple[str, str]:
        """One of STATES, and why."""
        now = monotonic()
        if entry.state != "active":
            return entry.state, "by configuration or an operator"
        why, _ = self._router.state(entry, "", "", 0.0, True, now)
        if why == OUT:
            outage = self._router.health(entry.id).outage
            cause = outage.cause if outage.until > now else self._router.organization(entry.organization).cause
            return "out", str(cause or "")
        closed = self._router.closed_classes(entry.organization, now)
        if why == LIMITED or closed:
            return "limited", ", ".join(closed)
        return "available", ""

    def view(self, account: str) -> dict[str, Any]:
        """What is known of an account beyond its configuration."""
        entry = self._router.ring.accounts.get(account)
        if entry is None:
            return {}
        now = monotonic()
        state, why = self.state(entry)
        health = self._router.health(account)
        models = {model: round(until - now) for model, until in health.models.items() if until > now}
        limits = self._router.limits(entry.organization, now)
        return {
            "health": {"state": state, "reason": why, "models_closed_for": models},
            "limits": limits,
            "headers": self._notes.get(account, {}),
        }

    def families(self) -> Iterator[GaugeMetricFamily]:
        """gateway_account_state and gateway_account_ratelimit_remaining_ratio. Every replica tells of every account:
        take the maximum of the one, the minimum of the other, over replicas; never a sum."""
        states = GaugeMetricFamily(
            "gateway_account_state", "1 for the state that an account is in; over replicas take max.",
            labels=("account", "state"),
        )  # fmt: skip
        ratios = GaugeMetricFamily(
            "gateway_account_ratelimit_remaining_ratio", "What is left of a limit; over replicas take min.",
            labels=("account", "model_class", "limit"),
        )  # fmt: skip
        now = monotonic()
        for entry in self._router.ring.accounts.values():
            present = self.state(entry)[0]
            for state in STATES:
                states.add_metric((entry.id, state), float(state == present))
            for limit_class, row in self._router.limits(entry.organization, now).items():
                for kind, label in (("requests", "requests"), ("input", "input_tokens"), ("output", "output_tokens")):
                    if row.get(f"{kind}_limit") and limit_class in frozenset(
                        model.limit_class for model in self._catalogue
                    ):
                        left = row[f"{kind}_left"] / row[f"{kind}_limit"]
                        ratios.add_metric((entry.id, limit_class, label), left)
        yield states
        yield ratios


class AccountStates(Collector):
    """The board's families, for a registry."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self._board.families()
