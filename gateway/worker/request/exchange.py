"""One exchange with one account: sent, judged, and a good answer taken to the client.

What an exchange that failed means for the request, `dispatch` decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic, perf_counter

from gateway.config.schema import Config
from gateway.core.routing.broadcast import Noted
from gateway.core.routing.document import Entry
from gateway.core.routing.outcomes import Outcome, judge, judge_event
from gateway.core.routing.route import Route
from gateway.core.routing.router import Router
from gateway.core.wire.created_ids import CreatedId
from gateway.errors import ApiError
from gateway.listen.client import HeaderList
from gateway.upstream.credential import NotReady
from gateway.upstream.fitting import fitted
from gateway.upstream.provider import Call
from gateway.upstream.transport import Began, Interrupted, NotSent, Response, TransportError, Unable, Withdrawn
from gateway.worker.accounts import Account, Pool, readable_notes
from gateway.worker.endpoints import LIFETIMES
from gateway.worker.head import LIMIT_KINDS, AnswerHead
from gateway.worker.objects.owners import Owners
from gateway.worker.request.failure import Failure
from gateway.worker.request.home import Home
from gateway.worker.request.journey import Journey, Phase
from gateway.worker.request.relay import (
    StreamRelay,
    answer_whole,
    cause_of,
    counter_of,
    decoded_stream,
    error_told,
    is_answer,
    may_be_billed,
    plain,
    read_whole,
    relay_long,
    relay_through,
    words_for,
)

MAX_REFUSAL = 1024 * 1024  # bytes kept of an upstream's error body
_RENEWAL_WAIT = 5.0  # seconds that a request waits for another credential
_REFUSAL_WAIT = 2.0  # seconds for that body to arrive
_LOOK_EVERY = 0.02  # seconds between looks at what answers say of one limit
_NOTE_EVERY = 1.0  # seconds between looks at what else they say of one account
_TELL_EVERY = 15.0  # seconds between tellings of that
PATIENT = 60.0  # seconds for an answer's head, below which its absence says nothing of the account

# Takes a good answer of what is no conversation to the client.
Take = Callable[[Journey, Response, AnswerHead], Awaitable[None]]


class Exchange:
    """Exchanges of one process. `answered(account, provider, model, code)` is told of each."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        router: Router,
        owners: Owners,
        home: Home,
        answered: Callable[[str, str, str, str], None],
    ) -> None:
        self._pool = pool
        self._router = router
        self._owners = owners
        self._home = home
        self._told = answered
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration from the next request on."""
        self._timeouts = config.timeouts
        self._expose_account = config.expose_account

    async def run(
        self, x: Journey, route: Route, entry: Entry, call: Call, take: Take | None, begun: Began | None = None
    ) -> Failure | None:
        """Ask the account of this attempt, if that has not `begun`. None means that the client has its answer."""
        account, attempt = x.attempt.account, x.attempt
        assert account is not None  # noqa: S101 - an attempt is one at an account
        try:
            renewed = False
            while True:
                sent = self._send(x, account, call) if begun is None else _awaited(x, begun)
                response = attempt.response = await sent
                begun = None
                self.answered(account, call, str(response.status))
                failure = await self._answer(x, route, entry, account, response, take)
                if failure is None or failure.outcome is not Outcome.UNAUTHORIZED or renewed:
                    break
                renewed = await _renewed(x, account)
                if not renewed:
                    break
        except NotSent as error:
            ours = isinstance(error, Unable | NotReady)
            return Failure(Outcome.UNABLE if ours else Outcome.UNSENT)
        except TransportError as error:
            cause = x.cause = cause_of(error)
            self._close(x)
            x.reached = True
            self.answered(account, call, cause)
            status, words = words_for(cause)
            ours = cause == "drain" or (cause == "timeout" and attempt.hurried)
            return Failure(Outcome.BROKEN, status, words=words, ours=ours)
        if failure is None and x.outcome == "ok":
            route.completed(entry, monotonic())
        elif failure is None and x.outcome == "interrupted" and x.cause in ("upstream", "timeout"):
            route.interrupted(entry, monotonic())
        return failure

    async def _send(self, x: Journey, account: Account, call: Call) -> Response:
        request, attempt, times = x.request, x.attempt, x.times
        sent = perf_counter()
        if not times.choose:
            times.choose = max(0.0, sent - request.t0 - times.body - times.admit - times.queued)
        remaining = max(0.0, self._timeouts.total - (sent - request.t0))
        attempt.sent = True
        x.phase = Phase.SENT
        attempt.hurried = remaining < PATIENT and remaining < self._timeouts.first_byte
        try:
            if request.needs.asked and account.capabilities is not None:
                call = fitted(call, account.capabilities.fit(call.model, request.needs.asked, monotonic()).drops)
            outgoing = account.provider.prepare(call)
            attempt.whole = outgoing.whole
            response = await account.transport.send(
                outgoing.method, outgoing.path, outgoing.headers, outgoing.body, first_byte=remaining
            )
            x.reached = True
            return response
        except Withdrawn:
            attempt.sent = False
            raise
        except NotSent as error:
            attempt.sent = False
            cause = "no_credential" if isinstance(error, NotReady) else "not_sent"
            self.answered(account, call, cause)
            raise
        finally:
            attempt.response_began = perf_counter()
            times.waited += attempt.response_began - sent
            if request.upload is not None:
                attempt.patient_from = attempt.response_began

    async def _answer(
        self, x: Journey, route: Route, entry: Entry, account: Account, response: Response, take: Take | None
    ) -> Failure | None:
        headers, endpoint, provider = response.headers, x.request.endpoint, account.provider
        if provider.head is not None:
            headers = provider.head(headers)
        outcome, head = judge(response.status), AnswerHead(headers, provider.secret.encode())
        self.look(x, route, account, head, outcome is Outcome.LIMITED)
        if outcome is not Outcome.SERVED:
            return await self._set_aside(x, route, account, response, head, outcome)
        x.upstream_request_id = head.request_id.decode("latin-1")
        if take is not None:
            await self._home.served(x, route, entry)
            x.phase = Phase.RELAYING
            await take(x, response, head)
            return None
        if head.kind.startswith(b"text/event-stream"):
            if endpoint.events:
                return await self._stream(x, route, entry, account, response, head)
            await self._home.served(x, route, entry)
            await relay_through(x, response, self._headers(x, head), counter_of(x))
            return None
        if not head.kind.startswith(b"application/json"):
            return await self._set_aside(x, route, account, response, head, Outcome.IMPROPER)
        return await self._whole(x, route, entry, response, head)

    async def _whole(
        self, x: Journey, route: Route, entry: Entry, response: Response, head: AnswerHead
    ) -> Failure | None:
        """An answer in JSON."""
        reply, attempt, endpoint = x.reply, x.attempt, x.request.endpoint
        status = response.status
        streamed, reply.stream = reply.stream, False  # whatever was asked for: no ping belongs into this answer
        try:
            held, whole = await read_whole(response)
        except Interrupted:
            reply.stream = streamed
            raise
        text = held if whole else None
        if text is not None and head.encoding:
            text = plain(text, head.encoding)
        if attempt.whole is not None and text is not None:
            held = text = attempt.whole(text)
            head.is_plain()
        if text is not None and not is_answer(text, endpoint):
            reply.stream = streamed
            if may_be_billed(text, endpoint):
                raise Interrupted("an answer that is not whole")
            self._close(x)
            attempt.sent = False
            return Failure(Outcome.IMPROPER, status, head)
        await self._home.served(x, route, entry)
        if reply.started:  # the head of a stream went out with a ping, yet the answer is none
            attempt.sent = not attempt.meter.read_json(text or b"")
            raise ApiError(502, "The upstream did not answer with a stream.")
        x.phase = Phase.RELAYING
        headers = self._headers(x, head)
        if whole:
            await answer_whole(x, response, headers, held, text or b"", self._own)
        else:
            await relay_long(x, response, headers, held)
        return None

    async def _stream(
        self, x: Journey, route: Route, entry: Entry, account: Account, response: Response, head: AnswerHead
    ) -> Failure | None:
        """An answer in events."""
        decoder = decoded_stream(head.encoding, account.provider.decoder(response.headers))
        if head.encoding:
            head.is_plain()
        relay = StreamRelay(x, response, head, self._headers, decoder, self._own, self._home.stream_began)
        x.phase = Phase.OPENING
        opened = perf_counter()
        try:
            error = await relay.open()
        finally:
            x.times.waited += (x.reply.first_byte or perf_counter()) - opened
        if error:
            self._close(x)
            x.abandon()
            outcome = judge_event(error)
            if account.provider.tells_limits:
                outcome = route.means(outcome, head.retry_after, monotonic(), head.about)
            opening = error_told(x, response, relay.opening, decoder is None)
            return Failure(outcome, 200, head, opening, event=True)
        await self._home.served(x, route, entry)
        x.phase = Phase.RELAYING
        await relay.run()
        return None

    async def _set_aside(
        self, x: Journey, route: Route, account: Account, response: Response, head: AnswerHead, outcome: Outcome
    ) -> Failure:
        """Read a refusal whole, so that its connection is free and it can still be passed on."""
        x.attempt.sent = False  # refused, so not billed
        status = response.status  # a closed response may already be another exchange's
        body: bytes | None = None
        try:
            async with asyncio.timeout(_REFUSAL_WAIT):
                body = await _read_bounded(response)
        except (TimeoutError, Interrupted) as error:
            if isinstance(error, Interrupted) and cause_of(error) == "drain":
                raise
            body = None
        headers = response.headers
        self._close(x)
        if head.encoding and body is not None:
            body = plain(body, head.encoding)
            head.is_plain()
        if status < 300:  # no answer of the API, whatever it is
            if may_be_billed(body or b"", x.request.endpoint):
                x.attempt.sent = True
                raise Interrupted("an answer that does not say what it is")
            return Failure(outcome, status, head)
        provider = account.provider
        refusal = provider.refusal(status, headers, body, head.request_id.decode("latin-1") or x.request.id)
        if refusal.body is not body and provider.head is not None:
            head.is_json()
        if refusal.reason:
            account.tell_refusal(x.request.model, status, refusal.reason, monotonic())
        if refusal.retry_after is not None:
            head.retry_after = refusal.retry_after
        outcome = refusal.outcome
        if provider.tells_limits:
            outcome = route.means(outcome, head.retry_after, monotonic(), head.about)
        return Failure(outcome, refusal.status, head, refusal.body)

    def _headers(self, x: Journey, head: AnswerHead) -> HeaderList:
        return head.visible + x.gateway_headers(self._expose_account)

    @staticmethod
    def _close(x: Journey) -> None:
        """The answer is of no use any more."""
        response, x.attempt.response = x.attempt.response, None
        if response is not None:
            response.close()

    async def _own(self, x: Journey, created: list[CreatedId]) -> None:
        """What an answer brings is its caller's from now on."""
        request, account = x.request, x.attempt.account
        for kind, object_id in created:
            if request.caller is not None and account is not None and object_id not in request.names:
                request.names |= {object_id}
                await self._owners.created(request.caller, object_id, account.workspace, LIFETIMES.get(kind, 0))

    def answered(self, account: Account, call: Call, code: str) -> None:
        """An account has answered so."""
        self._told(account.id, account.config.provider, call.model, code)

    def look(self, x: Journey, route: Route, account: Account, head: AnswerHead, limited: bool = False) -> None:
        """Look at the head of an answer, `limited` if it is a 429."""
        if not head.request_id:
            head.visible.append((b"request-id", x.request.id.encode()))
        if head.about:
            self._observe(route, account, head, limited)

    def _observe(self, route: Route, account: Account, head: AnswerHead, limited: bool) -> None:
        """What an answer's head says of the account and its limits: read now and then, and whenever it is a refusal."""
        domain, now = route.reserved.domain, monotonic()
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


async def _awaited(x: Journey, begun: Began) -> Response:
    """The answer to what was sent already, whose head has come, or will not."""
    await begun.answered()
    x.reached = True
    return begun


async def _renewed(x: Journey, account: Account) -> bool:
    """Whether an account that has refused its credential has another by now, to ask it once more."""
    upload = x.request.upload
    if upload is not None and upload.begun:
        return False
    try:
        async with asyncio.timeout(_RENEWAL_WAIT):
            return await account.provider.credential.refresh()
    except TimeoutError:
        return False


async def _read_bounded(response: Response) -> bytes | None:
    """The whole body, None if it is longer than MAX_REFUSAL."""
    parts = []
    size = 0
    while size < MAX_REFUSAL and (data := await response.read()):
        parts.append(data)
        size += len(data)
    return b"".join(parts) if size < MAX_REFUSAL else None
