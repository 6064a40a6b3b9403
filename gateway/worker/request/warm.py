"""The short way of most requests: to the account where their conversation is warm, and whole back again.

One object carries such a request from its last byte to its record: told by the store that the conversation lives where
this process remembers it, and by the account's connection that an answer in JSON is whole. No task wakes for it. As
soon as anything is not as it mostly is, the journey goes on the long way from where it is: in `messages`, `dispatch` or
`exchange`, which say what is done then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic, perf_counter
from typing import Any

import msgspec

from gateway import log
from gateway.config.schema import Config
from gateway.core.routing.binding import unpack
from gateway.core.routing.route import Route
from gateway.core.wire.created_ids import hints
from gateway.core.wire.peek import peek
from gateway.core.wire.references import references
from gateway.errors import ApiError
from gateway.listen.cycle import Cycle
from gateway.listen.plain_head import PlainHead
from gateway.store.client.client import StoreDown
from gateway.telemetry.tracing import Trace
from gateway.upstream.credential import NotReady
from gateway.upstream.transport import Began, NotSent
from gateway.worker.accounts import Pool
from gateway.worker.affinity.bindings import Admission, Proposal
from gateway.worker.callers.authenticate import Callers
from gateway.worker.callers.limits import Accounting
from gateway.worker.callers.rights import Rights
from gateway.worker.endpoints import HOT
from gateway.worker.head import AnswerHead, read_plain
from gateway.worker.request.exchange import PATIENT, Exchange
from gateway.worker.request.home import Home
from gateway.worker.request.journey import Holding, Journey, Phase, begun
from gateway.worker.request.messages import Messages, call_of

_PATH = b"/v1/messages"
_ENDPOINT = HOT[_PATH]


class WarmWay:
    """Of one process. `see_through(x, rest)` has the rest of a journey done the long way, `ended(x)` is told of one
    that needs none; `live` are the requests on their way."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        admission: Admission,
        accounting: Accounting,
        callers: Callers,
        rights: Rights,
        home: Home,
        exchange: Exchange,
        messages: Messages,
        holding: Holding,
        live: set[Journey],
        trace: Callable[[bytes], Trace],
        see_through: Callable[[Journey, Coroutine[Any, Any, None]], Coroutine[Any, Any, None]],
        ended: Callable[[Journey], None],
    ) -> None:
        self.pool = pool
        self.admission = admission
        self.accounting = accounting
        self.home = home
        self.exchange = exchange
        self.messages = messages
        self.live = live
        self.see_through = see_through
        self.ended = ended
        self._callers = callers
        self._rights = rights
        self._holding = holding
        self._trace = trace
        self._whole: list[Warm] = []  # whose answers have come
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration from the next request on."""
        self.total = config.timeouts.total
        self._max_body = int(config.limits.max_body_mb * 1024 * 1024)
        self.expose_account = config.expose_account
        self._affinity = config.affinity.header.lower().encode()

    def take(self, cycle: Cycle) -> bool:
        """Whether a request, which has arrived whole, is served this way. If not nothing was done for it."""
        plain = cycle.plain
        if plain is None or cycle.target[0] != _PATH:
            return False
        try:
            journey = self._read(cycle, plain)
        except ApiError:  # the long way comes upon it too, and says so
            return False
        except Exception as error:
            x, failed = begun(_ENDPOINT, cycle, self._holding), _raise(error)
            self.live.add(x)
            cycle.go_on(lambda _: self.see_through(x, failed))
            return True
        if journey is None:
            return False
        cycle.chunks.clear()
        cycle.pending = 0
        cycle.body_read = True
        Warm(self, cycle, *journey).admit()
        return True

    def whole(self, warm: Warm) -> None:
        """An answer has come. Those that come together are given to their clients together, and then settled: one
        after the other, each step for all, costs a good part less."""
        if not self._whole:
            asyncio.get_running_loop().call_soon(self._answer)
        self._whole.append(warm)

    def _answer(self) -> None:
        whole, self._whole = self._whole, []
        for x in [warm.answer() for warm in whole]:
            if x is not None:
                try:
                    self.ended(x)
                except Exception:  # it costs no other one
                    log.exception("unhandled error", request_id=x.request.id)

    def _read(self, cycle: Cycle, plain: PlainHead) -> tuple[Journey, Route, Proposal] | None:
        """What is asked, if it is a turn of a conversation that this process remembers as warm, and nothing else."""
        head, rights, messages = read_plain(plain, self._affinity), self._rights, self.messages
        if head.hosts != 1 or head.profile or head.content_encoding:
            return None
        caller = self._callers.find(head)
        if caller is None:
            return None
        body = b"".join(cycle.chunks)
        peeked = peek(body)
        fields, size = peeked.fields, len(body)
        rights.check_body(caller, peeked)
        if "messages" not in fields or "thread" in fields or peeked.model in rights.aliases:
            return None
        conversation = messages.conversation(caller, head, peeked)
        proposal = None if conversation is None else self.admission.warm_at(caller, conversation, peeked.model)
        if proposal is None or references(peeked) or not self._fits(size):
            return None
        x = begun(_ENDPOINT, cycle, self._holding)
        request = x.request
        request.head, request.caller, request.body, request.body_size, request.peek = head, caller, body, size, peeked
        route = x.route = messages.route(request, head, peeked, caller, conversation)
        if request.needs.asked:
            return None
        trace = request.trace = self._trace(head.traceparent)
        if trace.header is not None:
            head.continue_trace(trace.header, trace.broken)
        x.phase, x.reply.stream, x.attempt.meter.ttl = Phase.ADMITTING, peeked.stream, peeked.cache_ttl
        plan, tokens = self.accounting.plan(caller), proposal.record.tokens
        x.reservation = self.accounting.ask(
            caller, plan, request.id, request.at, _ENDPOINT, peeked, int(route.tokens), tokens, proposal.key
        )
        request.hold(size)
        return x, route, proposal

    def _fits(self, size: int) -> bool:
        """Whether a body is within all bounds."""
        return size <= self._max_body and self._holding.bytes + size <= self._holding.most


class Warm:
    """One request. As a future is, it is told the store's reply, and then what comes from the account; as a task is, it
    is cancelled when its client has gone."""

    __slots__ = ("_began", "_call", "_cycle", "_entry", "_exchange", "_head", "_over", "_proposal",
                 "_route", "_way", "_x")  # fmt: skip

    def __init__(self, way: WarmWay, cycle: Cycle, x: Journey, route: Route, proposal: Proposal) -> None:
        self._way = way
        self._cycle = cycle
        self._x = x
        self._route = route
        self._proposal = proposal
        self._exchange: Began | None = None
        self._head: AnswerHead | None = None
        self._over = False  # it has ended, or goes on the long way

    def admit(self) -> None:
        """Ask the store."""
        way, x = self._way, self._x
        way.live.add(x)
        self._cycle.task = self
        self._began = perf_counter()
        try:
            way.admission.ask(self._proposal, x.reservation, self)
        except StoreDown as error:
            self.set_exception(error)
        except Exception as error:
            self._go_on(_raise(error))

    # As futures are.

    def done(self) -> bool:
        return self._over

    def set_result(self, result: Any, /) -> None:
        try:
            if self._exchange is None:
                self._admitted(result)
            else:
                self._heard(self._exchange)
        except Exception as error:
            if self._over:
                log.exception("unhandled error", request_id=self._x.request.id)
            else:
                self._go_on(_raise(error))

    def set_exception(self, error: Any, /) -> None:
        asked = asyncio.get_running_loop().create_future()
        asked.set_exception(error)
        asked.exception()  # whether anybody comes to ask or not
        self._ask_on(asked)

    # As tasks are.

    def cancelling(self) -> int:
        return int(self._over)

    def cancel(self) -> bool:
        if not self._over:
            self._go_on(_raise(asyncio.CancelledError()))
        return True

    # The long way.

    def _ask_on(self, asked: asyncio.Future[Any]) -> None:
        x, route = self._x, self._route
        self._go_on(self._way.messages.admitted(x, route, (self._proposal, asked), self._began))

    def _hand_over(self, reply: Any) -> None:
        """With what the store has said."""
        asked = asyncio.get_running_loop().create_future()
        asked.set_result(reply)
        self._ask_on(asked)

    def _hand_on(self, exchange: Began) -> None:
        """With what an account has been sent, and may have answered."""
        attempt, self._exchange = self._x.attempt, None
        exchange.tell(None)
        if exchange.status:
            attempt.response = exchange
        attempt.response_began = attempt.response_began or perf_counter()
        self._x.times.waited += attempt.response_began - attempt.renewed
        self._go_on(self._way.messages.begun(self._x, self._route, self._call, (self._entry, exchange)))

    def _go_on(self, rest: Coroutine[Any, Any, None]) -> None:
        self._over = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            attempt = self._x.attempt
            exchange.tell(None)
            exchange.close()
            attempt.response = None
            attempt.response_began = attempt.response_began or perf_counter()
            self._x.times.waited += perf_counter() - attempt.renewed
        way, x = self._way, self._x
        self._cycle.go_on(lambda _: way.see_through(x, rest))

    # The short way.

    def _admitted(self, reply: Any) -> None:
        """The store has answered: send it, if the conversation lives here, and nobody has to wait for anything."""
        way, x, route, proposal = self._way, self._x, self._route, self._proposal
        request, attempt = x.request, x.attempt
        if reply[0] or way.home.flights.leads((proposal.key, proposal.model)):  # refused, or made anew
            return self._hand_over(reply)
        try:
            record = unpack(reply[1])
        except msgspec.MsgspecError:
            return self._hand_over(reply)
        now = monotonic()
        entry = route.straight(record, reply[2], now)
        account = way.pool.accounts.get(entry.id) if entry is not None else None
        if entry is None or account is None:
            return self._hand_over(reply)
        sent = perf_counter()
        remaining = way.total - (sent - request.t0)
        if remaining < PATIENT or not account.transport.ready:
            return self._hand_over(reply)
        call = call_of(x)
        try:
            outgoing = account.provider.prepare(call)
        except NotReady:  # as the long way will find
            return self._hand_over(reply)
        body = outgoing.body
        if outgoing.whole is not None or not isinstance(body, bytes):
            return self._hand_over(reply)
        caller = request.caller
        lease = attempt.lease = account.lease_now(caller.tenant if caller is not None else "")
        exchange = None
        if lease is not None:
            try:
                exchange = account.transport.begin(outgoing.method, outgoing.path, outgoing.headers, body, remaining)
            except NotSent:  # as the long way will find
                exchange = None
            if exchange is None:
                lease.release()
        if lease is None or exchange is None:
            attempt.lease = None
            return self._hand_over(reply)
        self._exchange, self._entry, self._call = exchange, entry, call
        exchange.tell(self)
        x.ask(account, lease)
        attempt.sent, x.phase = True, Phase.SENT
        if x.reservation is not None:
            x.reservation.answered(reply)
        x.binding = way.admission.confirmed(proposal, record, reply)
        times = x.times
        times.admit = sent - self._began
        times.choose = max(0.0, self._began - request.t0 - times.body)
        x.remember_cache()
        x.call = call
        route.sent(entry, now)
        return None

    def _heard(self, exchange: Began) -> None:
        """Something has come from the account: its answer is the client's if it is one in JSON, and whole."""
        head = self._head
        if head is None:
            x, attempt = self._x, self._x.attempt
            account = attempt.account
            if exchange.status != 200 or x.reply.stream or account is None:
                return self._hand_on(exchange)
            attempt.response, attempt.response_began, x.reached = exchange, perf_counter(), True
            provider, headers = account.provider, exchange.headers
            if provider.head is not None:
                headers = provider.head(headers)
            head = self._head = AnswerHead(headers, provider.secret.encode())
            x.upstream_request_id = head.request_id.decode("latin-1")
            if head.encoding or not head.kind.startswith(b"application/json"):
                return self._hand_on(exchange)
        if exchange.phase == "done":
            self._way.whole(self)
        elif exchange.phase != "body" or exchange.full:
            self._hand_on(exchange)
        return None

    def answer(self) -> Journey | None:
        """The account's answer is whole: give it to the client. Returns what is to be settled then."""
        exchange, head = self._exchange, self._head
        if exchange is not None and head is not None and not self._over:
            try:
                return self._answered(exchange, head)
            except Exception as error:
                self._go_on(_raise(error))
        return None

    def _answered(self, exchange: Began, head: AnswerHead) -> Journey | None:
        way, x, route, cycle, entry = self._way, self._x, self._route, self._cycle, self._entry
        text, attempt, reply, account = exchange.held, x.attempt, x.reply, x.attempt.account
        meter = attempt.meter
        if account is None or cycle.held_up or hints(text) or not meter.read_message(text):
            self._hand_on(exchange)
            return None
        now = monotonic()
        x.times.waited += perf_counter() - attempt.renewed
        way.exchange.answered(account, self._call, "200")
        way.exchange.look(x, route, account, head)
        x.phase = Phase.RELAYING
        route.served(entry, now)
        headers = head.visible + x.gateway_headers(way.expose_account)
        reply.started = reply.ended = True
        reply.status = 200
        attempt.sent = False  # the answer has told all that it used
        cycle.answer_now(200, headers, text)
        reply.first_byte = perf_counter()
        route.completed(entry, now)
        self._over = True
        exchange.tell(None)
        cycle.task = None
        return x


async def _raise(error: BaseException) -> None:
    raise error
