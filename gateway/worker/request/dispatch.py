"""Asking accounts, one after another, until one answers for good; and what the client is told where none does.

Where a request goes next, its route decides; what one exchange brings, `exchange` says.
"""

from __future__ import annotations

import asyncio
from random import random
from time import monotonic, perf_counter

from gateway.config.schema import Config
from gateway.core.routing.document import Entry
from gateway.core.routing.features import features_of
from gateway.core.routing.outcomes import HIDDEN, Outcome, nameless, retry_after, tells_error
from gateway.core.routing.placement import NONE
from gateway.core.routing.route import Refuse, Route, Wait
from gateway.core.routing.router import FULL, Router
from gateway.errors import TYPES, ApiError
from gateway.upstream.provider import Call
from gateway.upstream.transport import Began
from gateway.worker.accounts import SLOT_WAIT, Account, Lease, Pool
from gateway.worker.request.exchange import Exchange, Take
from gateway.worker.request.failure import ALL_LIMITED, BUSY, CAUSES, NO_ACCOUNT, OUT, UNREACHABLE, Failure
from gateway.worker.request.journey import Journey, Phase

Begun = tuple[Entry, Began]  # who was asked, and what comes of it


class Dispatch:
    """Of one process."""

    def __init__(self, config: Config, pool: Pool, router: Router, exchange: Exchange) -> None:
        self._pool = pool
        self._router = router
        self._exchange = exchange
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration from the next request on."""
        self._repeat = config.retry_ambiguous
        self._total = config.timeouts.total
        self._expose_account = config.expose_account
        self._exchange.configure(config)

    async def serve(
        self, x: Journey, route: Route, call: Call, take: Take | None = None, begun: Begun | None = None
    ) -> None:
        """Ask, step by step, while nothing but pings has reached the client and this process does not stop; the first
        one has `begun`, perhaps. Raises ApiError where nobody is left to ask."""
        shown: Failure | None = None  # what the client may see
        refuse: Refuse | None = None
        outcome: Outcome | None = None  # of the last exchange
        while begun is not None or ((not x.reply.started or x.reply.pinged) and not x.interrupted):
            if begun is None:
                x.phase = Phase.WAITING  # no ping while no upstream has the request
                step = route.next(monotonic(), random())
                if isinstance(step, Wait):
                    await self._pause(x, step.seconds)
                    continue
                if isinstance(step, Refuse):
                    refuse = step
                    break
                entry, exchange = step.entry, None
                if not await self._take(x, route, entry):
                    continue
            else:
                (entry, exchange), begun = begun, None
            failure = await self._exchange.run(x, route, entry, call, take, exchange)
            if failure is None:
                return
            outcome = failure.outcome
            if failure.tells_more(shown):
                shown = failure
            if x.attempt.lease is not None:
                x.attempt.lease.release()
            if not self._again(x, route, entry, failure):
                break
        route.unserved(monotonic())
        await self._give_up(x, shown, refuse or route.refuse(monotonic()), outcome)

    async def _take(self, x: Journey, route: Route, entry: Entry) -> bool:
        """Whether the account is asked now: it has a slot for the request."""
        account = self._pool.accounts.get(entry.id)
        if account is None:
            route.no_slot(entry)
            return False
        caller = x.request.caller
        tenant = caller.tenant if caller is not None else ""
        lease = account.lease_now(tenant) or await self._slot(x, route, entry, account, tenant)
        if lease is None:
            return False
        if perf_counter() - x.request.t0 >= self._total:
            lease.release()
            raise ApiError(504, "The request could not be served in time.")
        x.ask(account, lease)
        route.sent(entry, monotonic())
        return True

    def _again(self, x: Journey, route: Route, entry: Entry, failure: Failure) -> bool:
        """Whether another step is worth while, after this one failed."""
        if failure.ours:  # it says nothing of the account
            route.answer_began()
            return False
        request, features = x.request, NONE
        if failure.outcome is Outcome.DECLINED and request.needs.asked and self._unfit(x, route, entry, failure):
            return True
        if failure.disputed and request.peek is not None and request.head is not None:
            features = features_of(request.peek, request.head.betas)
        again = route.answered(
            entry, failure.outcome, failure.retry_after, monotonic(), random(), self._repeat, failure.kind, features
        )
        if again:
            x.failover = x.failover or failure.outcome.value
            if failure.outcome is Outcome.BROKEN:
                x.abandon()
        return again and (request.upload is None or not request.upload.begun)

    def _unfit(self, x: Journey, route: Route, entry: Entry, failure: Failure) -> bool:
        """Whether the account has refused a need, which is news: then it is asked without that, or another one is."""
        request, account = x.request, x.attempt.account
        known = account.capabilities if account is not None else None
        if known is None or request.peek is None:
            return False
        now, model, words = monotonic(), request.peek.model, (failure.body or b"").decode(errors="replace")
        learned = known.refused(model, request.needs.asked, words, request.peek.fields, now)
        if learned:
            self._router.refused_need(entry.id, learned)
            route.unfit(entry, not known.fit(model, request.needs.asked, now).lacks, now)
        return bool(learned)

    async def _pause(self, x: Journey, seconds: float) -> None:
        """Wait for a limit, without a slot; a client that goes ends it."""
        began = perf_counter()
        self._router.waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._router.waiting -= 1
            x.times.queued += perf_counter() - began

    async def _slot(self, x: Journey, route: Route, entry: Entry, account: Account, tenant: str) -> Lease | None:
        """A slot of an account that has none free, in the tenant's turn; all waits of one request for slots together
        are bounded. None where the account is not to be asked now."""
        now = perf_counter()
        if not x.times.slot_until:
            x.times.slot_until = now + SLOT_WAIT
        try:
            wait = max(0.0, x.times.slot_until - now)
            lease = await account.lease(wait, tenant, route.tokens, batch=not x.request.endpoint.peeks)
        finally:
            x.times.queued += perf_counter() - now
        if lease is None:
            route.no_slot(entry)
        elif not route.open_still(entry, monotonic()):
            lease.release()
            return None
        return lease

    async def _give_up(self, x: Journey, shown: Failure | None, refuse: Refuse, outcome: Outcome | None) -> None:
        """Nobody is left to ask: pass on the last answer, or say what it means where it was about an account."""
        if shown is not None and shown.head is None:
            raise ApiError(shown.status, shown.words)
        if shown is None or shown.head is None or shown.outcome in HIDDEN:
            if refuse.status == 404:
                lacking = x.route is not None and x.route.lacking and self._router.offers(x.request.model)
                raise ApiError(404, f"{f'{x.request.endpoint.name} of ' if lacking else ''}model: {x.request.model}")
            seconds = retry_after(refuse.seconds)
            if refuse.status == 429:
                raise ApiError(429, ALL_LIMITED, retry_after=seconds, limit=("account", "rate_limit"))
            raise self._nobody(x, outcome, seconds)
        status, head, body, reply = shown.status, shown.head, shown.body, x.reply
        if body is not None and status == 429:
            body = nameless(body)
        x.outcome = "error"
        if shown.outcome is Outcome.OVERLOADED:
            x.cause = shown.outcome.value
        x.upstream_request_id = head.request_id.decode("latin-1")
        headers = head.visible + x.gateway_headers(self._expose_account)
        if shown.event and body is not None:
            if not reply.started:
                await reply.start(200, headers)
            await reply.write(body, more=False)
            return
        if status < 400 or body is None or not head.kind.startswith(b"application/json") or not tells_error(body):
            wait = None if head.retry_after is None else retry_after(head.retry_after)
            status = status if status in TYPES else 502
            raise ApiError(status, "The upstream gave no proper answer.", retry_after=wait)
        if reply.started:
            await reply.write(b"event: error\ndata: " + b" ".join(body.splitlines()) + b"\n\n", more=False)
            return
        if head.retry_after is not None:
            headers.append((b"retry-after", b"%d" % retry_after(head.retry_after)))
        await reply.answer(status, headers, body)

    def _nobody(self, x: Journey, outcome: Outcome | None, seconds: int) -> ApiError:
        """The refusal of a request that no account can serve now, `outcome` being that of the last exchange."""
        route = x.route
        if route is not None and route.placement.away == FULL:
            return ApiError(
                529, NO_ACCOUNT.format(BUSY), retry_after=seconds, limit=("account", "concurrency"), cause="busy"
            )
        causes = self._router.closed_by(x.request.model, "" if route is None else route.limit_class, monotonic())
        if not causes and outcome in CAUSES:
            causes = [CAUSES[outcome]]
        words = NO_ACCOUNT.format(UNREACHABLE if causes == ["unreachable"] else OUT)
        return ApiError(529, words, retry_after=seconds, cause=",".join(causes))
