"""A request's life, from its head to its record. Read from top to bottom.

recognise (app) → authenticate → peek → choose → admit → send → judge → relay → settle
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

import structlog

from gateway.config import Config
from gateway.core.conversation import identify
from gateway.core.peek import peek
from gateway.core.routing import (
    ACCOUNT_OUT,
    AMBIGUOUS,
    IMPROPER,
    LIMITED,
    NEVER_SENT,
    RELAY,
    RETRY_AMBIGUOUS,
    Rule,
    judge,
    judge_body,
    judge_event,
    may_retry,
    retry_after,
)
from gateway.edge.admission import Admission, Binding, Callers
from gateway.edge.cycle import Receive, Scope, Send
from gateway.edge.endpoints import Endpoint
from gateway.edge.exchange import Exchange
from gateway.edge.head import AnswerHead, read_head
from gateway.edge.pool import SLOT_WAIT, Account, Lease, Pool
from gateway.edge.relay import StreamRelay, broken, cause_of, relay_whole, words_for
from gateway.edge.settlement import Settlement
from gateway.errors import TYPES, ApiError
from gateway.upstream.provider import Call
from gateway.upstream.transport import Interrupted, NotSent, Response, TransportError

MAX_REFUSAL = 1024 * 1024  # bytes kept of an upstream's error body
_REFUSAL_WAIT = 2.0  # seconds for that body to arrive
_WARM_ENOUGH = 150_000  # ms: half of the shortest cache lifetime; a stream that begins later than this renews at once

log = structlog.get_logger("gateway.proxy")

NO_ACCOUNT = "No account can serve this request now. Please try again later."
ALL_LIMITED = "The accounts that can serve this request are at their rate limits. Please try again later."


class Refusal:
    """An upstream's answer that another account should better give, read whole and set aside. `body` is None where it
    did not arrive whole; `event` says that it is the beginning of a stream."""

    def __init__(self, status: int, head: AnswerHead, body: bytes | None, rule: Rule, event: bool = False) -> None:
        self.status = status
        self.head = head
        self.body = body
        self.rule = rule
        self.event = event


class Proxy:
    """The journey, over what the process is made of. `live` are the requests on their way;
    `upstream_answered(account, model, code)` is told of each exchange with an account."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        callers: Callers,
        admission: Admission,
        settlement: Settlement,
        upstream_answered: Callable[[str, str, str], None],
    ) -> None:
        self.live: set[Exchange] = set()
        self._config = config
        self._secret = config.secret[0].encode()
        self._former_secret = config.secret[1].encode() if len(config.secret) > 1 else None
        self._affinity = config.affinity.header.lower().encode()
        self._max_body = int(config.limits.max_body_mb * 1024 * 1024)
        self._pool = pool
        self._callers = callers
        self._admission = admission
        self._settlement = settlement
        self._answered = upstream_answered
        self._ambiguous = RETRY_AMBIGUOUS if config.retry_ambiguous else AMBIGUOUS

    async def handle(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request of a forwarded endpoint."""
        x = Exchange(endpoint, scope, receive, send)
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
            self._settlement.settle(x)

    async def _journey(self, x: Exchange) -> None:
        scope = x.scope
        head = x.head = read_head(scope["headers"], self._affinity)
        if head.hosts != 1 and scope["http_version"] == "1.1":
            raise ApiError(400, "host: exactly one is needed")
        caller = x.caller = self._callers.authenticate(head)
        if scope["method"] != x.endpoint.method:
            raise ApiError(405, f"Method {scope['method']} is not allowed here; use {x.endpoint.method}.")

        if x.endpoint.peeks:
            x.body = await self._read_body(x)
            if head.content_encoding not in (b"", b"identity"):
                raise ApiError(400, "content-encoding: compressed request bodies are not supported")
            x.peek = peek(x.body)
            x.stream = x.peek.stream and x.endpoint.metered
        model = x.model
        if model and not self._callers.may_use(caller, model):
            raise ApiError(403, f"Your key may not use the model {model}.")

        conversation = None
        if x.peek is not None and "messages" in x.peek.fields:
            conversation = identify(self._secret, caller.id, head.conversation, head.session, head.agent, x.peek)
        if conversation is not None:
            began = perf_counter()
            former = None
            if self._former_secret is not None:
                former = identify(self._former_secret, caller.id, head.conversation, head.session, head.agent, x.peek)
            x.binding = await self._admission.bind(caller, conversation, model, former)
            x.admit_time = perf_counter() - began
        else:  # nothing to keep together, but one caller's requests need not wander either
            x.binding = Binding(None, "none", caller.id.encode()[:64])

        query = scope["query_string"]
        path = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
        method = scope["method"].encode("ascii")
        x.call = Call(method, path, head.lines, x.body, model, x.stream, head.version)
        await self._serve(x, x.call)

    async def _read_body(self, x: Exchange) -> bytes:
        """The whole request body, within its bound."""
        limit, too_large = self._max_body, f"Request body is larger than {self._config.limits.max_body_mb:g} MB."
        if x.head is not None and x.head.content_length > limit:
            raise ApiError(413, too_large)
        began = perf_counter()
        message = await x.receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts = [body]
            size = len(body)
            while message.get("more_body"):
                message = await x.receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise ApiError(413, too_large)
            body = b"".join(parts)
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        x.body_time = perf_counter() - began
        x.body_size = len(body)
        return body

    # Send and judge.

    async def _serve(self, x: Exchange, call: Call) -> None:
        """Try accounts in order until one answers for good, while nothing has reached the client."""
        binding = x.binding
        assert binding is not None  # noqa: S101 - set by _journey
        failure: tuple[int, str] | Refusal | None = None  # no exception: a kept one would keep its frames
        asked: list[float | None] = []
        moves: dict[str, int] = {}  # by the rules' budgets
        for account in self._pool.candidates(binding.workspace, binding.conversation, call.model):
            if x.started or x.interrupted:
                break  # a ping has committed the head, or this process stops: no other account may answer now
            lease = x.lease = account.lease_now() or await self._wait_for_slot(x, account)
            if lease is None:
                continue
            x.account = account
            x.attempts += 1
            try:
                rule = await self._attempt(x, account, call)
            except NotSent:
                rule = NEVER_SENT
            except TransportError as error:
                if x.response is not None:
                    x.response.close()
                    x.response = None
                x.cause = cause_of(error)
                self._answered(account.id, call.model, x.cause)
                rule, failure = self._ambiguous, words_for(x.cause)
            if isinstance(rule, Refusal):
                if rule.rule is LIMITED:
                    asked.append(rule.head.retry_after)
                if not (asked and rule.rule is ACCOUNT_OUT):  # a limit tells the client more than a dead account
                    failure = rule
                rule = rule.rule
            if rule is RELAY:
                return
            lease.release()
            moved = moves.get(rule.budget, 0)
            if not may_retry(rule, moved):
                break
            moves[rule.budget] = moved + 1
        if not x.attempts and not self._pool.offers(call.model):
            failure = (404, f"model: {call.model}")
        await self._give_up(x, failure, asked)

    async def _wait_for_slot(self, x: Exchange, account: Account) -> Lease | None:
        """A slot of a full account; all waits of one request for slots together are bounded."""
        now = perf_counter()
        if not x.slot_until:
            x.slot_until = now + SLOT_WAIT
        return await account.lease(max(0.0, x.slot_until - now))

    async def _attempt(self, x: Exchange, account: Account, call: Call) -> Rule | Refusal:
        """One exchange with one account. RELAY means that the client has its answer."""
        response = x.response = await self._send(x, account, call)
        status = response.status
        self._answered(account.id, call.model, str(status))
        rule = judge(status)
        head = AnswerHead(response.headers)
        if rule is not RELAY:
            x.sent = False  # refused, so not billed
            return await self._set_aside(x, response, head, rule)
        x.upstream_request_id = head.request_id.decode("latin-1")
        if head.kind.startswith(b"text/event-stream"):
            return await self._relay_stream(x, account, response, head)
        if not head.kind.startswith(b"application/json"):
            return await self._set_aside(x, response, head, IMPROPER)
        if x.displaced:
            await self._note_served(x)
        if x.started:  # the head of a stream went out with a ping, yet the answer is none
            x.sent = not x.meter.read_json(await _read_bounded(response) or b"")
            raise ApiError(502, "The upstream did not answer with a stream.")
        await relay_whole(x, response, head.visible + x.gateway_headers(self._config.expose_account))
        return RELAY

    async def _send(self, x: Exchange, account: Account, call: Call) -> Response:
        sent = perf_counter()
        remaining = self._config.timeouts.total - (sent - x.t0)
        if remaining <= 0:
            raise ApiError(504, "The request could not be served in time.")
        x.response = None
        x.began = x.sent = True
        outgoing = account.provider.prepare(call)
        try:
            return await account.transport.send(
                outgoing.method, outgoing.path, outgoing.headers, outgoing.body, first_byte=remaining
            )
        except NotSent:
            x.sent = False
            self._answered(account.id, call.model, "not_sent")
            raise
        finally:
            x.response_began = perf_counter()
            x.waited += x.response_began - sent

    async def _relay_stream(
        self, x: Exchange, account: Account, response: Response, head: AnswerHead
    ) -> Rule | Refusal:
        relay = StreamRelay(x, response, account.provider.framing(response.headers))
        opened = perf_counter()
        error = await relay.open()
        x.waited += perf_counter() - opened
        if error and not x.started:
            response.close()
            x.response = None
            x.sent = False
            x.meter.error = ""
            return Refusal(200, head, relay.opening, judge_event(error), event=True)
        if x.displaced:
            await self._note_served(x)
        if x.meter.started:
            x.renewed = perf_counter()
            if x.binding is not None and x.binding.warm_for < _WARM_ENOUGH:
                self._settlement.renew(x, 0.0, 0)
        x.forget_request()
        await relay.run(head.visible + x.gateway_headers(self._config.expose_account))
        return RELAY

    async def _set_aside(self, x: Exchange, response: Response, head: AnswerHead, rule: Rule) -> Refusal:
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
        return Refusal(status, head, body, judge_body(rule, body or b""))

    async def _note_served(self, x: Exchange) -> None:
        """Another workspace answers than the one the conversation is bound to."""
        binding, account = x.binding, x.account
        if binding is None or account is None:
            return
        if binding.route == "new":  # no cache anywhere yet: it may as well live where it was served first
            await self._admission.rebind(binding, account.workspace)
        elif binding.route != "stateless":
            binding.route = "detour"

    async def _give_up(self, x: Exchange, failure: tuple[int, str] | Refusal | None, asked: list[float | None]) -> None:
        """No account is left: pass on the last answer, or say what it means where it was about an account."""
        if failure is None:
            raise ApiError(529, NO_ACCOUNT, retry_after=retry_after([]))
        if isinstance(failure, tuple):
            raise ApiError(*failure)
        status, head, body, hide = failure.status, failure.head, failure.body, failure.rule.hide
        if hide == 429:
            raise ApiError(429, ALL_LIMITED, retry_after=retry_after(asked))
        if hide:
            raise ApiError(hide, NO_ACCOUNT, retry_after=retry_after([]))
        x.outcome = "error"
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
            headers.append((b"retry-after", b"%d" % retry_after([head.retry_after])))
        await x.answer(status, headers, body)


async def _read_bounded(response: Response) -> bytes | None:
    """The whole body, None if it is longer than MAX_REFUSAL."""
    parts = []
    size = 0
    while size < MAX_REFUSAL and (data := await response.read()):
        parts.append(data)
        size += len(data)
    return b"".join(parts) if size < MAX_REFUSAL else None
