"""A request's life, from its head to its record. Read from top to bottom.

recognise (app) → authenticate → peek, choose, admit (messages), or place (objects) → send → judge → relay → settle
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from random import random
from time import monotonic, perf_counter

from gateway import log
from gateway.config.schema import Caller, Config
from gateway.core.routing.broadcast import Noted
from gateway.core.routing.document import Entry
from gateway.core.routing.features import features_of
from gateway.core.routing.outcomes import (
    DISPUTED,
    HIDDEN,
    Outcome,
    judge,
    judge_body,
    judge_event,
    nameless,
    refusal_kind,
    retry_after,
    without_secret,
)
from gateway.core.routing.route import NONE, Refuse, Route, Wait
from gateway.core.routing.router import FULL, Router
from gateway.core.spending.keyring import Keyring
from gateway.core.wire.created_ids import CreatedId
from gateway.errors import TYPES, ApiError
from gateway.listen.client import Client, HeaderList
from gateway.telemetry.tracing import Trace
from gateway.upstream.provider import Call
from gateway.upstream.transport import Interrupted, NotSent, Response, TransportError, Unable, Withdrawn
from gateway.worker.accounts import SLOT_WAIT, Account, Lease, Pool, readable_notes
from gateway.worker.affinity.bindings import Admission
from gateway.worker.affinity.single_flight import SingleFlight
from gateway.worker.callers.authenticate import Callers
from gateway.worker.callers.limits import Accounting
from gateway.worker.callers.rights import Rights
from gateway.worker.endpoints import LIFETIMES, At, Endpoint
from gateway.worker.head import LIMIT_KINDS, AnswerHead, read_head
from gateway.worker.objects.batch_usage import BatchUsageMeter
from gateway.worker.objects.owners import Owners
from gateway.worker.objects.request import Objects
from gateway.worker.request.exchange import Exchange, Holding
from gateway.worker.request.messages import Messages
from gateway.worker.request.relay import (
    StreamRelay,
    answer_whole,
    broken,
    cause_of,
    decoded_stream,
    is_answer,
    plain,
    read_whole,
    relay_long,
    relay_through,
    words_for,
)
from gateway.worker.request.settlement import Settlement

MAX_REFUSAL = 1024 * 1024  # bytes kept of an upstream's error body
_REFUSAL_WAIT = 2.0  # seconds for that body to arrive
_DECODED_AT_ONCE = 64 * 1024  # bytes of a compressed body that may be decoded while others wait
_LOOK_EVERY = 0.02  # seconds between looks at what answers say of one limit
_NOTE_EVERY = 1.0  # seconds between looks at what else they say of one account
_TELL_EVERY = 15.0  # seconds between tellings of that
_PATIENT = 60.0  # seconds for an answer's head, below which its absence says nothing of the account
_WARM_ENOUGH = 150_000  # ms: half of the shortest cache lifetime; a stream that begins later than this renews at once


NO_ACCOUNT = "No account can serve this request now: {}. Please try again later."
# Why, as far as a client is told: whose account lacks what is nobody else's business.
_BUSY, _UNREACHABLE, _OUT = "all are busy", "the upstream cannot be reached", "none is in service"
_SAID = {  # by what an account did last, where nothing is held against any
    Outcome.UNSENT: "unreachable", Outcome.UNAUTHORIZED: "credential", Outcome.SPENT: "billing",
}  # fmt: skip
ALL_LIMITED = "The accounts that can serve this request are at their rate limits. Please try again later."


class Refusal:
    """An upstream's answer that another account should better give, read whole and set aside. `body` is None where it
    did not arrive whole; `event` says that it is the beginning of a stream; `kind` names refusals alike."""

    def __init__(
        self, status: int, head: AnswerHead, body: bytes | None, outcome: Outcome, event: bool = False
    ) -> None:
        self.kind = refusal_kind(status, body or b"") if outcome in DISPUTED else ""
        self.status = status
        self.head = head
        self.body = body
        self.outcome = outcome
        self.event = event


class Proxy:
    """The journey, over what the process is made of. `live` are the requests on their way;
    `upstream_answered(account, model, code)` is told of each exchange with an account; `bound_thinking(model)` says
    whether only the account that produced a model's thinking reads it; `trace(traceparent)` is the trace of a request
    whose client says that."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        router: Router,
        admission: Admission,
        accounting: Accounting,
        settlement: Settlement,
        owners: Owners,
        batch_usage: BatchUsageMeter,
        keyring: Keyring[Caller],
        upstream_answered: Callable[[str, str, str], None],
        bound_thinking: Callable[[str], bool],
        trace: Callable[[bytes], Trace],
    ) -> None:
        self.live: set[Exchange] = set()
        self._pool = pool
        self._router = router
        self._admission = admission
        self._settlement = settlement
        self._owners = owners
        self._answered = upstream_answered
        self._trace = trace
        self._callers = Callers(keyring, lambda: self._admission.store_up)
        self._single_flight = SingleFlight()
        self._holding = Holding(0)
        self._rights = Rights(config, router.offers)
        self._messages = Messages(
            config,
            router,
            admission,
            accounting,
            owners,
            self._rights,
            self._single_flight,
            self._serve,
            bound_thinking,
        )
        self._objects = Objects(config, router, owners, accounting, batch_usage, self._serve, self._rights)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration from the next request on."""
        self._config = config
        self._affinity = config.affinity.header.lower().encode()
        self._holding.most = int(config.limits.max_held_mb * 1024 * 1024)
        self._rights.configure(config)
        self._messages.configure(config)
        self._objects.configure(config)

    def know(self, keyring: Keyring[Caller]) -> None:
        """Recognise callers by this table from the next request on."""
        self._callers = Callers(keyring, lambda: self._admission.store_up)

    async def handle(self, endpoint: Endpoint, client: Client, object_id: str = "") -> None:
        """Serve one request of an endpoint, whose path names `object_id`."""
        x = Exchange(endpoint, client, self._holding, object_id)
        x.task = asyncio.current_task()
        self.live.add(x)
        try:
            await self._journey(x)
        except ApiError as error:
            await x.refuse(error, x.gateway_headers(self._config.expose_account))
        except asyncio.CancelledError:
            if not x.interrupted:
                x.outcome, x.cause = "client_gone", "client"
                raise
            x.cause = x.interrupted
            await x.refuse(broken(Interrupted(x.cause)), x.gateway_headers(self._config.expose_account))
        except Exception:
            log.exception("unhandled error", request_id=x.request_id)
            x.outcome, x.cause = "error", "gateway"
            await x.refuse(ApiError(500, "The gateway failed to handle this request."), [])
        finally:
            self.live.discard(x)
            self._release_leader(x)
            self._holding.give(x)
            self._settlement.settle(x)

    async def _journey(self, x: Exchange) -> None:
        client = x.client
        head = x.head = read_head(client.headers, self._affinity)
        trace = x.trace = self._trace(head.traceparent)
        if trace.header is not None:
            head.continue_trace(trace.header, trace.broken)
        if head.hosts != 1 and client.version == "1.1":
            raise ApiError(400, "host: exactly one is needed")
        x.caller = self._callers.authenticate(head)
        endpoint, method = x.endpoint, client.method
        if endpoint.at is At.REFUSED:
            raise ApiError(
                403, "This part of the API is for the company's administrators; the gateway does not pass it on."
            )
        if endpoint.method and method != endpoint.method:
            raise ApiError(405, f"Method {method} is not allowed here; use {endpoint.method}.")
        if endpoint.peeks:
            await self._messages.journey(x, head, x.caller)
        elif endpoint.at is At.HERE:
            await self._list_models(x, x.caller)
        else:
            await self._objects.journey(x, head, x.caller)

    async def _list_models(self, x: Exchange, caller: Caller) -> None:
        body = self._rights.models(caller, x.object, x.client.query)
        headers = [(b"content-type", b"application/json"), (b"request-id", x.request_id.encode())]
        await x.answer(200, headers + x.gateway_headers(False), body)

    # Send and judge.

    async def _serve(self, x: Exchange, route: Route, call: Call) -> None:
        """Ask accounts, step by step, until one answers for good, while nothing but pings has reached the client."""
        failure: tuple[int, str] | Refusal | None = None  # no exception: a kept one would keep its frames
        refuse: Refuse | None = None
        outcome: Outcome | None = None  # of the last exchange
        while (not x.started or x.pinged) and not x.interrupted:  # else there is an answer, or this process stops
            step = route.next(monotonic(), random())
            if isinstance(step, Wait):
                await self._pause(x, step.seconds)
                continue
            if isinstance(step, Refuse):
                refuse = step
                break
            entry = step.entry
            account = self._pool.accounts.get(entry.id)
            tenant = x.caller.tenant if x.caller is not None else ""
            lease = None if account is None else account.lease_now(tenant)
            if lease is None and account is not None:
                lease = await self._wait_for_slot(x, account, tenant, route.tokens)
                if lease is not None and not route.open_still(entry, monotonic()):
                    lease.release()
                    continue
            if account is None or lease is None:
                route.no_slot(entry)
                continue
            x.lease, x.account = lease, account
            x.attempts += 1
            route.sent(entry, monotonic())
            wait: float | None = None
            kind, features = "", NONE
            try:
                result = await self._attempt(x, route, entry, account, call)
            except NotSent as error:
                outcome = Outcome.UNABLE if isinstance(error, Unable) else Outcome.UNSENT
            except TransportError as error:
                if x.response is not None:
                    x.response.close()
                    x.response = None
                x.cause = cause_of(error)
                x.reached = True
                self._answered(account.id, call.model, x.cause)
                outcome = Outcome.BROKEN
                if not _is_told(failure):
                    failure = words_for(x.cause)
                if x.cause == "drain" or (
                    x.cause == "timeout" and x.hurried
                ):  # it is our own end, and says nothing of it
                    lease.release()
                    route.answer_began()
                    break
            else:
                if result is None:
                    if x.outcome == "ok":
                        route.completed(entry, monotonic())
                    elif x.outcome == "interrupted" and x.cause in ("upstream", "timeout"):
                        route.interrupted(entry, monotonic())
                    return
                outcome, wait, kind = result.outcome, result.head.retry_after, result.kind
                if outcome in DISPUTED and x.peek is not None and x.head is not None:
                    features = features_of(x.peek, x.head.betas)
                if not _is_told(failure) or outcome in DISPUTED:  # what the client may see says more
                    failure = result
            lease.release()
            x.began = False  # no ping while no upstream has the request
            repeat = self._config.retry_ambiguous
            again = route.answered(entry, outcome, wait, monotonic(), random(), repeat, kind, features)
            if again:
                x.failover = x.failover or outcome.value
                if outcome is Outcome.BROKEN:
                    x.abandon()
            if not again or (x.upload is not None and x.upload.begun):
                break
        route.unserved(monotonic())
        await self._give_up(x, failure, refuse or route.refuse(monotonic()), outcome)

    async def _pause(self, x: Exchange, seconds: float) -> None:
        """Wait for a limit, without a slot; a client that goes ends it."""
        began = perf_counter()
        self._router.waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._router.waiting -= 1
            x.queued += perf_counter() - began

    async def _wait_for_slot(self, x: Exchange, account: Account, tenant: str, tokens: float) -> Lease | None:
        """A slot of a full account, in the tenant's turn; all waits of one request for slots together are bounded."""
        now = perf_counter()
        if not x.slot_until:
            x.slot_until = now + SLOT_WAIT
        try:
            return await account.lease(max(0.0, x.slot_until - now), tenant, tokens, batch=not x.endpoint.peeks)
        finally:
            x.queued += perf_counter() - now

    async def _attempt(self, x: Exchange, route: Route, entry: Entry, account: Account, call: Call) -> Refusal | None:
        """One exchange with one account. None means that the client has its answer."""
        response = x.response = await self._send(x, account, call)
        status = response.status
        self._answered(account.id, call.model, str(status))
        outcome = judge(status)
        head = AnswerHead(response.headers)
        if head.about:
            self._observe(route, account, head, outcome is Outcome.LIMITED)
        if outcome is not Outcome.SERVED:
            x.sent = False  # refused, so not billed
            return await self._set_aside(x, route, response, head, outcome)
        x.upstream_request_id = head.request_id.decode("latin-1")
        if not x.endpoint.peeks:
            self._note_served(x, route, entry)
            await self._objects.take(x, response, head)
            return None
        if head.kind.startswith(b"text/event-stream"):
            if x.endpoint.events:
                return await self._relay_stream(x, route, entry, account, response, head)
            self._note_served(x, route, entry)
            headers = head.visible + x.gateway_headers(self._config.expose_account)
            await relay_through(x, response, headers, x.meter.count)
            return None
        if not head.kind.startswith(b"application/json"):
            x.sent = False
            return await self._set_aside(x, route, response, head, Outcome.IMPROPER)
        streamed, x.stream = x.stream, False  # whatever was asked for: no ping belongs into this answer
        try:
            held, whole = await read_whole(response)
        except Interrupted:
            x.stream = streamed
            raise
        text = plain(held, head.encoding) if whole else None
        if text is not None and not is_answer(text, x.endpoint.metered and not x.endpoint.chat):
            response.close()
            x.response = None
            x.stream, x.sent = streamed, False
            return Refusal(status, head, None, Outcome.IMPROPER)
        reason = self._note_served(x, route, entry)
        if reason:
            await self._settle_in(x, route, entry, reason)
        if x.started:  # the head of a stream went out with a ping, yet the answer is none
            x.sent = not x.meter.read_json(text or b"")
            raise ApiError(502, "The upstream did not answer with a stream.")
        headers = head.visible + x.gateway_headers(self._config.expose_account)
        if whole:
            await answer_whole(x, response, headers, held, text or b"", partial(self._own, x))
        else:
            await relay_long(x, response, headers, held)
        return None

    async def _own(self, x: Exchange, created: list[CreatedId]) -> None:
        """What an answer brings is its caller's from now on."""
        for kind, object_id in created:
            if x.caller is not None and x.account is not None and object_id not in x.names:
                x.names |= {object_id}
                await self._owners.created(x.caller, object_id, x.account.workspace, LIFETIMES.get(kind, 0))

    def _observe(self, route: Route, account: Account, head: AnswerHead, limited: bool) -> None:
        """What an answer's head says of the account and its limits: read now and then, and whenever it is a refusal."""
        domain, now = route.domain, monotonic()
        if domain is not None and (now >= domain.look_at or limited or head.retry_after is not None):
            domain.look_at = now + _LOOK_EVERY
            limits = head.rate_limits
            for index, kind in enumerate(LIMIT_KINDS):
                limit, remaining = limits[2 * index], limits[2 * index + 1]
                if limit is not None and remaining is not None:
                    domain.observe(kind, limit, remaining, now)
        if now >= account.note_at:
            account.note_at = now + _NOTE_EVERY
            notes = head.notes
            account.note(notes)
            self._pool.check_identity(account, notes)
            if now >= account.tell_at:
                account.tell_at = now + _TELL_EVERY
                self._router.tell(Noted(account.id, readable_notes(account)))

    async def _send(self, x: Exchange, account: Account, call: Call) -> Response:
        sent = perf_counter()
        if not x.choose_time:
            x.choose_time = max(0.0, sent - x.t0 - x.body_time - x.admit_time - x.queued)
        remaining = self._config.timeouts.total - (sent - x.t0)
        if remaining <= 0:
            raise ApiError(504, "The request could not be served in time.")
        x.response = None
        x.began = x.sent = True
        x.hurried = remaining < min(_PATIENT, self._config.timeouts.first_byte)
        outgoing = account.provider.prepare(call)
        try:
            response = await account.transport.send(
                outgoing.method, outgoing.path, outgoing.headers, outgoing.body, first_byte=remaining
            )
            x.reached = True
            return response
        except Withdrawn:
            x.sent = False
            raise
        except NotSent:
            x.sent = False
            self._answered(account.id, call.model, "not_sent")
            raise
        finally:
            x.response_began = perf_counter()
            x.waited += x.response_began - sent
            if x.upload is not None:
                x.patient_from = x.response_began

    async def _relay_stream(
        self, x: Exchange, route: Route, entry: Entry, account: Account, response: Response, head: AnswerHead
    ) -> Refusal | None:
        def headers() -> HeaderList:
            return head.visible + x.gateway_headers(self._config.expose_account)

        framing = decoded_stream(head.encoding, account.provider.framing(response.headers))
        if head.encoding:
            head.visible = [header for header in head.visible if header[0] != b"content-encoding"]
        relay = StreamRelay(x, response, headers, framing, partial(self._own, x), partial(self._stream_began, x, route))
        opened = perf_counter()
        try:
            error = await relay.open()
        finally:
            x.waited += (x.first_byte or perf_counter()) - opened
        if error:
            response.close()
            x.response = None
            x.abandon()
            outcome = route.means(judge_event(error), head.retry_after, monotonic(), head.about)
            opening = without_secret(relay.opening, account.config.api_key)
            return Refusal(200, head, opening, outcome, event=True)
        reason = self._note_served(x, route, entry)
        if reason:
            await self._settle_in(x, route, entry, reason)
        x.forget_request()
        await relay.run()
        return None

    def _stream_began(self, x: Exchange, route: Route) -> None:
        """A message has begun: its prompt is in the account's cache, and those who wait for that may go."""
        x.renewed = perf_counter()
        if not route.warm or route.warm_for < _WARM_ENOUGH or x.leader is not None:
            self._settlement.renew(x, 0.0, x.meter.usage.total_input)
        if x.binding is not None and x.account is not None and x.binding.record.workspace == x.account.workspace:
            self._release_leader(x)

    async def _set_aside(
        self, x: Exchange, route: Route, response: Response, head: AnswerHead, outcome: Outcome
    ) -> Refusal:
        """Read a refusal whole, so that its connection is free and it can still be passed on."""
        status = response.status  # a closed response may already be another exchange's
        body: bytes | None = None
        try:
            async with asyncio.timeout(_REFUSAL_WAIT):
                body = await _read_bounded(response)
        except (TimeoutError, Interrupted):
            body = None
        response.close()
        x.response = None
        if body is not None and x.account is not None:
            body = without_secret(body, x.account.config.api_key)
        outcome = route.means(judge_body(outcome, body or b""), head.retry_after, monotonic(), head.about)
        return Refusal(status, head, body, outcome)

    def _note_served(self, x: Exchange, route: Route, entry: Entry) -> str:
        """An account's answer is about to go to the client: whom it helps. Returns why the conversation now lives
        there, "" if nothing has changed."""
        reason = route.served(entry, monotonic())
        if x.leader is not None:
            reason = reason or "leads"
        return reason

    async def _settle_in(self, x: Exchange, route: Route, entry: Entry, reason: str) -> None:
        """Bind the conversation to the workspace that serves it now, and let those who wait for its cache go."""
        if reason != "leads" and x.binding is not None:
            await self._admission.rebind(x.binding, route, entry.workspace, reason)
        if x.leader is not None:
            self._settlement.renew(x, 0.0, 0)
            self._release_leader(x)

    def _release_leader(self, x: Exchange) -> None:
        if x.leader is not None and x.binding is not None:
            self._single_flight.release((x.binding.key, x.binding.model), x.leader)
            x.leader = None

    async def _give_up(
        self, x: Exchange, failure: tuple[int, str] | Refusal | None, refuse: Refuse, outcome: Outcome | None
    ) -> None:
        """Nobody is left to ask: pass on the last answer, or say what it means where it was about an account."""
        if isinstance(failure, tuple):
            raise ApiError(*failure)
        if failure is None or failure.outcome in HIDDEN:
            if refuse.status == 404:
                raise ApiError(404, f"model: {x.model}")
            seconds = retry_after(refuse.seconds)
            if refuse.status == 429:
                raise ApiError(429, ALL_LIMITED, retry_after=seconds, limit=("account", "rate_limit"))
            raise self._nobody(x, outcome, seconds)
        status, head, body = failure.status, failure.head, failure.body
        if body is not None and status == 429:
            body = nameless(body)
        x.outcome = "error"
        if failure.outcome is Outcome.OVERLOADED:
            x.cause = failure.outcome.value
        x.upstream_request_id = head.request_id.decode("latin-1")
        headers = head.visible + x.gateway_headers(self._config.expose_account)
        if failure.event and body is not None:
            if not x.started:
                await x.start(200, headers)
            await x.write(body, more=False)
            return
        if status < 400 or body is None or not head.kind.startswith(b"application/json"):
            raise ApiError(status if status in TYPES else 502, "The upstream gave no proper answer.")
        if x.started:
            await x.write(b"event: error\ndata: " + b" ".join(body.splitlines()) + b"\n\n", more=False)
            return
        if head.retry_after is not None:
            headers.append((b"retry-after", b"%d" % retry_after(head.retry_after)))
        await x.answer(status, headers, body)

    def _nobody(self, x: Exchange, outcome: Outcome | None, seconds: int) -> ApiError:
        """The refusal of a request that no account can serve now, `outcome` being that of the last exchange."""
        route = x.route
        if route is not None and route.away == FULL:
            words = NO_ACCOUNT.format(_BUSY)
            return ApiError(529, words, retry_after=seconds, limit=("account", "concurrency"), cause="busy")
        causes = self._router.closed_by(x.model, "" if route is None else route.limit_class, monotonic())
        if not causes and outcome in _SAID:
            causes = [_SAID[outcome]]
        words = NO_ACCOUNT.format(_UNREACHABLE if causes == ["unreachable"] else _OUT)
        return ApiError(529, words, retry_after=seconds, cause=",".join(causes))


def _is_told(failure: tuple[int, str] | Refusal | None) -> bool:
    """Whether an account has said what may be the client's mistake."""
    return isinstance(failure, Refusal) and failure.outcome in DISPUTED


async def _read_bounded(response: Response) -> bytes | None:
    """The whole body, None if it is longer than MAX_REFUSAL."""
    parts = []
    size = 0
    while size < MAX_REFUSAL and (data := await response.read()):
        parts.append(data)
        size += len(data)
    return b"".join(parts) if size < MAX_REFUSAL else None
