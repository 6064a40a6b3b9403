"""The supervisor's picture of the accounts: what its workers and other gateways tell of them, and how those that are
out come back.

An account whose key may have been refused is probed by a request that costs nothing; the answer is told to all who
have the same key. It serves nobody, and decides as the workers do: by a router of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from time import monotonic, time
from typing import Any

from gateway import log
from gateway.config.rules import moment_text
from gateway.config.schema import Config, catalogue_of
from gateway.core.routing import broadcast
from gateway.core.routing.conduct import OWN
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.health import PAUSES, Cause
from gateway.core.routing.router import Router
from gateway.supervisor.pool.diagnosis import Diagnosis, diagnose, fault, headroom
from gateway.upstream.transport import Unable
from gateway.worker.accounts import Pool
from gateway.worker.revival import KEY_REFUSED, PROBE_WAIT, probe

_AGAIN = 5.0  # seconds after a probe that told nothing
_SHOWN = {
    Cause.CREDENTIAL: "its key was not accepted",
    Cause.BILLING: "its organization is out of credit, over its spending limit or on hold",
    Cause.UNREACHABLE: "no connection could be had, several times",
}


class AccountStates:
    """`tell` broadcasts to every worker of every gateway; the processes of this one have names that begin with
    `gateway`. `running()` are the names of all processes that run, None while nobody knows."""

    def __init__(
        self,
        config: Config,
        tell: Callable[[bytes], None],
        gateway: str = "",
        running: Callable[[], Collection[str] | None] = lambda: None,
    ) -> None:
        self._tell = tell
        self._running = running
        self._gateway = gateway
        self._catalogue = catalogue_of(config)
        self._pool = Pool(config)
        self._router = Router(
            lambda model: self._catalogue.limit_class(model),
            names=lambda model: self._catalogue.names(model),
            judges=False,
        )
        self._lend()
        self._configured = [account.id for account in config.accounts]
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._accepted: dict[str, float] = {}  # when a probe last showed that an account's key is accepted
        self._unreachable: dict[str, dict[str, float]] = {}  # account -> process that cannot reach it -> until
        self._notes: dict[str, dict[str, str]] = {}  # what accounts' headers said lately
        self._since: dict[str, tuple[Diagnosis, float]] = {}  # how accounts stood when last looked at, and since when
        self._faults: dict[str, tuple[str, float]] = {}  # the last of each account, and when (Unix seconds)

    @property
    def router(self) -> Router:
        """The pool as it stands here, to be asked and left as it is."""
        return self._router

    def _lend(self) -> None:
        """Let the router know what this process has of the accounts."""
        router, pool = self._router, self._pool
        router.held = pool.credentials
        router.offer.partial, router.offer.capabilities = pool.partial, pool.capabilities

    def configure(self, config: Config) -> None:
        """Follow a new configuration."""
        self._catalogue = catalogue_of(config)
        self._configured = [account.id for account in config.accounts]
        renewed = self._pool.configure(config, self._router.ring.accounts)
        self._lend()
        self._router.offer.forget()
        for account in renewed:
            self._take(broadcast.Back(account, wholly=True))

    def apply(self, document: PoolDocument) -> None:
        """Follow the agreed pool."""
        self._pool.retire([entry.id for entry in document.accounts], self._configured)
        self._router.apply(document, monotonic(), time())
        for known in (self._since, self._faults, self._notes, self._accepted, self._unreachable):
            for gone in known.keys() - self._router.ring.accounts.keys():
                del known[gone]
        self.look()

    def heard(self, data: bytes) -> None:
        """A broadcast from a worker or another gateway."""
        heard = broadcast.decode(data)
        if isinstance(heard, broadcast.Hello):
            for each in self._router.picture(monotonic()):
                self._tell(broadcast.encode(each))
        elif isinstance(heard, broadcast.Noted):
            self._notes[heard.account] = heard.headers
        elif isinstance(heard, broadcast.Suspected):
            self._suspect(heard.account)
        elif heard is not None:
            self._take(heard)

    def _take(self, heard: broadcast.Fact) -> None:
        if isinstance(heard, broadcast.Failing) and self._lacks_connections(heard):
            heard = broadcast.Unreachable(heard.account, heard.process, heard.seconds)
        concerned = self._concerned(heard)
        before = {entry.id: self.diagnosis(entry).state for entry in concerned}
        if isinstance(heard, broadcast.Unreachable):
            self._heard_unreachable(heard)
        else:
            self._router.heard(heard, monotonic())
        for entry in concerned:
            now = self._look_at(entry)
            if now.state != before[entry.id]:
                self._log(entry.id, before[entry.id], now, getattr(heard, "process", ""))
        if isinstance(heard, broadcast.Out) and heard.account:
            self._note_fault(heard.account, _SHOWN[heard.cause])
        if isinstance(heard, broadcast.Out) and heard.cause is Cause.CREDENTIAL:
            self._probe_soon(heard.name)
        elif isinstance(heard, broadcast.Back):
            self._probe_no_more(heard.account)

    def _lacks_connections(self, heard: broadcast.Failing) -> bool:
        """Whether another gateway's process says no more than that it gets no connection: its own trouble."""
        return (
            bool(heard.faults)
            and heard.faults.keys() <= OWN
            and not heard.process.startswith(self._gateway)
            and heard.account not in self._router.failing
        )

    def _log(self, account: str, before: str, now: Diagnosis, by: str) -> None:
        """Say that an account is in another state than `before`; `by` is the process that has shown it, if it says."""
        if now.state == "failing":
            wait = max(0, round(now.until - monotonic()))
            log.warning(
                "account fails where others do not", account=account, faults=now.faults, tried_again_in=wait,
                judged_by=now.by,
            )  # fmt: skip
        elif before == "failing" and now.state in ("available", "limited"):
            log.warning("account is well again", account=account, shown_by=by)
        else:
            log.info("account changed", account=account, state=now.state, before=before, reason=now.reason)

    def _concerned(self, heard: broadcast.Fact) -> list[Entry]:
        """The accounts whose state this may change."""
        accounts = self._router.ring.accounts
        organization = ""
        if isinstance(heard, broadcast.Closed):
            organization = heard.organization
        elif isinstance(heard, broadcast.Out):
            if heard.cause is not Cause.BILLING:
                return [accounts[heard.name]] if heard.name in accounts else []
            organization = heard.name
        elif isinstance(heard, broadcast.Back) and heard.account in accounts:
            organization = accounts[heard.account].organization
        elif isinstance(heard, broadcast.Failing | broadcast.Recovered | broadcast.Unreachable):
            return [accounts[heard.account]] if heard.account in accounts else []
        return [entry for entry in accounts.values() if entry.organization == organization] if organization else []

    def enable(self, account: str) -> None:
        """An operator says that the account is in order: forget what kept it closed."""
        self._say(broadcast.Back(account, wholly=True))

    def _say(self, said: broadcast.Fact) -> None:
        self._take(said)
        self._tell(broadcast.encode(said))

    def _heard_unreachable(self, heard: broadcast.Unreachable) -> None:
        """For operators: an account is out here while a process of this gateway cannot reach it. What other gateways
        find is shown beside that."""
        now = monotonic()
        by = self._unreachable.setdefault(heard.account, {})
        if heard.seconds:
            by[heard.process] = now + heard.seconds + PROBE_WAIT
            self._note_fault(heard.account, _SHOWN[Cause.UNREACHABLE])
        else:
            by.pop(heard.process, None)
        self._look_for_connections(heard.account, now)

    def _look_for_connections(self, account: str, now: float) -> None:
        by = {name: until for name, until in self._unreachable.get(account, {}).items() if until > now}
        self._unreachable[account] = by
        own = [until for name, until in by.items() if name.startswith(self._gateway)]
        outage = self._router.health(account).outage
        if own and outage.cause in (None, Cause.UNREACHABLE):
            outage.cause, outage.until, outage.trial = Cause.UNREACHABLE, max(own), False
        elif not own and outage.cause is Cause.UNREACHABLE:
            outage.end()

    # Probes.

    def _suspect(self, account: str) -> None:
        """A request was answered 401: its key is out once the account's own free probe says so too. Where there is no
        such probe it is out at once, and comes back by one request that is answered well."""
        found = self._pool.accounts.get(account)
        if found is not None and not found.provider.probe_proves:
            outage = self._router.health(account).outage
            if outage.cause is not Cause.CREDENTIAL or outage.until <= monotonic():
                seconds = self._router.key_refused(account, monotonic())
                credential = self._router.credential(account)
                self._say(broadcast.Out(account, Cause.CREDENTIAL, seconds, account, credential))
            return
        if monotonic() - self._accepted.get(account, -_AGAIN) >= _AGAIN:
            self._probe_soon(account)

    def _probe_soon(self, account: str) -> None:
        running = self._probes.get(account)
        if account in self._pool.accounts and (running is None or running.done()):
            self._probes[account] = asyncio.get_running_loop().create_task(self._probe(account))

    def _probe_no_more(self, account: str) -> None:
        """It is back: whoever waits to ask it again need not, and must not keep the next outage from being probed."""
        probe = self._probes.get(account)
        if probe is not None and probe is not asyncio.current_task():
            probe.cancel()
            del self._probes[account]

    async def _probe(self, account: str) -> None:
        """Ask whether the account's key is accepted until it is, or somebody else has found that it is."""
        pause = PAUSES[Cause.CREDENTIAL].first
        while account in self._pool.accounts and account in self._router.ring.accounts:
            status = await self._ask(account)
            out = self._router.health(account).outage.cause is Cause.CREDENTIAL
            credential = self._router.credential(account)
            if status and status < 500 and status not in KEY_REFUSED:
                self._accepted[account] = monotonic()
                if out:
                    log.info("account answers again", account=account, status=status)
                    self._say(broadcast.Back(account, credential=credential))
                else:
                    log.info("a request was answered 401, though the account's key is accepted", account=account)
                return
            if status in KEY_REFUSED:
                wait, pause = pause, min(PAUSES[Cause.CREDENTIAL].longest, pause * 2)
                shown = "" if out else account
            elif out:
                wait, shown = _AGAIN, ""
            else:
                return  # nothing is known: the next 401 asks again
            self._say(broadcast.Out(account, Cause.CREDENTIAL, wait + PROBE_WAIT, shown, credential))
            await asyncio.sleep(wait)

    async def _ask(self, account: str) -> int:
        """The status of a free request with the account's key, 0 if there was no answer."""
        found = self._pool.accounts.get(account)
        if found is None:
            return 0
        try:
            return await probe(found)
        except Unable:
            return 0

    async def aclose(self) -> None:
        running = list(self._probes.values())
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._pool.aclose()

    # What operators see.

    def exchanged(self, account: str, code: str) -> None:
        """Exchanges of this gateway with an account have ended so: with a status, or a word for what went wrong."""
        what = fault(code)
        if what is not None:
            self._note_fault(account, what)

    def _note_fault(self, account: str, what: str) -> None:
        if account in self._router.ring.accounts:
            self._faults[account] = (what, time())

    def look(self) -> None:
        """Note how all accounts stand, so that it is known since when: now and then."""
        now = monotonic()
        for account in self._unreachable:
            self._look_for_connections(account, now)
        running = self._running() if self._router.failing.marked else None
        for account in self._router.failing.outlive(running, now) if running is not None else ():
            log.info("account is no longer avoided: who judged it has ended", account=account)
        for entry in self._router.ring.accounts.values():
            self._look_at(entry)

    def _look_at(self, entry: Entry) -> Diagnosis:
        now = self.diagnosis(entry)
        known = self._since.get(entry.id)
        same = known is not None and known[0].lasts(now)
        self._since[entry.id] = (now, known[1] if same and known is not None else time())
        return now

    def diagnosis(self, entry: Entry) -> Diagnosis:
        """How an account stands now, and why."""
        return diagnose(self._router, entry, monotonic(), time())

    def states(self) -> dict[str, str]:
        """The state of each account."""
        return {entry.id: self.diagnosis(entry).state for entry in self._router.ring.accounts.values()}

    def _unreachable_from(self, account: str, now: float) -> list[str]:
        """The other gateways of which a process cannot reach the account."""
        by = self._unreachable.get(account, {})
        others = (name for name, until in by.items() if until > now and not name.startswith(self._gateway))
        return sorted({name.rpartition(".")[0] or name for name in others})

    def known_class(self, limit_class: str) -> bool:
        """Whether a class of models is one of the catalogue's, and not of a client's own invention."""
        return any(model.limit_class == limit_class for model in self._catalogue)

    def view(self, account: str) -> dict[str, Any]:
        """What is known of an account beyond its configuration: nothing while it is not in the pool."""
        entry = self._router.ring.accounts.get(account)
        if entry is None:
            return {
                "health": None,
                "last_error": None,
                "headroom": [],
                "limits": {},
                "headers": {},
                **self._where(account),
            }
        now, wall = monotonic(), time()
        health = self._look_at(entry)
        closed = self._router.health(account)
        models = {model: round(until - now) for model, until in closed.models.items() if until > now}
        features = [
            {"model": model, "features": sorted(some), "closed_for": round(until - now)}
            for (model, some), until in closed.features.items()
            if until > now
        ]
        until = wall + health.until - now if health.until else None
        what, at = self._faults.get(account, ("", 0.0))
        return {
            "health": {
                "state": health.state,
                "reason": health.reason,
                "why": health.why,
                "since": moment_text(round(self._since[account][1])),
                "until": until and moment_text(round(until)),
                "models_closed_for": models,
                "features_closed": features,
                "judged_by": health.by or None,
                "faults": health.faults,
                "unreachable_from": self._unreachable_from(account, now),
            },
            "last_error": {"at": moment_text(round(at)), "what": what} if at else None,
            "headroom": headroom(self._router, entry.organization, now, wall),
            "limits": self._router.rate_limits(entry.organization, now),
            "headers": self._notes.get(account, {}),
            **self._where(account),
        }

    def provider(self, account: str) -> str:
        """The provider of an account, as far as this gateway's own file tells; else ""."""
        return self._where(account)["provider"] or ""

    def _where(self, account: str) -> dict[str, str | None]:
        """Who answers for an account, as far as this gateway's own file tells."""
        found = self._pool.accounts.get(account)
        config = None if found is None else found.config
        return {
            "provider": None if config is None else config.provider,
            "region": None if config is None else config.region or None,
        }
