"""One request on its way through the gateway: what was asked, what an account was asked, what the client has of it.

Each of these is a noun of its own; `Journey` holds them together with what was decided. What they should do,
`messages`, `dispatch` and `relay` say.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from enum import IntEnum
from time import perf_counter, time
from typing import NamedTuple, Protocol

import msgspec

from gateway.config.schema import Caller
from gateway.core.routing.route import Route
from gateway.core.wire.chat_meter import PING as CHAT_PING
from gateway.core.wire.chat_meter import ChatMeter, error_event
from gateway.core.wire.peek import Peek
from gateway.core.wire.short_way import ShortWay
from gateway.core.wire.usage_meter import UsageMeter
from gateway.errors import ApiError
from gateway.listen.client import Client, HeaderList
from gateway.telemetry.tracing import Trace
from gateway.upstream.provider import Call
from gateway.upstream.transport import Response
from gateway.worker.accounts import Account, Lease
from gateway.worker.affinity.bindings import Binding
from gateway.worker.affinity.single_flight import Leader
from gateway.worker.callers.limits import Reservation
from gateway.worker.endpoints import Endpoint
from gateway.worker.head import Head
from gateway.worker.request.upload import Upload

_prefix = "req_gw" + secrets.token_hex(8)
_counter = itertools.count(1)
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def new_request_id() -> str:
    """Unique over all processes: a random prefix of this one, and a counter."""
    return f"{_prefix}{next(_counter):06x}"


class Phase(IntEnum):
    """How far a journey is. WAITING and SENT take turns while accounts are asked."""

    READING = 0  # the request
    ADMITTING = 1  # where it goes, and whether its limits allow it
    WAITING = 2  # for a limit or a slot, or between two accounts
    SENT = 3  # an account has it, or is being sent it
    OPENING = 4  # a stream's beginning is held until its first content
    RELAYING = 5  # the answer goes to the client


class Kept(msgspec.Struct, frozen=True):
    """An account's answer that is looked at before the client gets it; `headers` are the client's."""

    status: int
    headers: HeaderList
    body: bytes


class Needs(NamedTuple):
    """What of a request some accounts may lack, and what of it some do."""

    asked: frozenset[str]
    lacking: tuple[str, ...]


NO_NEEDS = Needs(frozenset(), ())


class Holding:
    """Bytes of request bodies that this process holds for retries, over all requests; bounded by `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0


class Request(msgspec.Struct, eq=False):
    """What was asked. `t0` is when (perf_counter seconds), `at` the same in Unix seconds; `object` is the id that the
    path names; `held` bytes of it this process keeps, `home` is the workspace where the objects are whose `names` it
    has or makes; `threaded`: the answer's id will be asked for; `upload` is a body that passes through."""

    endpoint: Endpoint
    client: Client
    holding: Holding
    t0: float
    at: float
    id: str
    object: str = ""
    head: Head | None = None
    caller: Caller | None = None
    trace: Trace | None = None
    body: bytes = b""
    body_size: int = 0
    held: int = 0
    peek: Peek | None = None
    conversation: bytes = b""  # its key; empty for a request that has none
    threaded: bool = False
    needs: Needs = NO_NEEDS
    names: frozenset[str] = frozenset()
    home: str = ""
    upload: Upload | None = None

    @property
    def model(self) -> str:
        return self.peek.model if self.peek is not None else ""

    @property
    def target(self) -> bytes:
        """Its path with its query."""
        path, query = self.client.target
        return path + b"?" + query if query else path

    def hold(self, size: int) -> None:
        """Keep so many bytes more, or fewer. Raises ApiError(529) where there is no room."""
        holding = self.holding
        holding.bytes += size
        self.held += size
        if size > 0 and holding.bytes > holding.most:
            words = "The gateway holds too many large requests now. Please try again later."
            raise ApiError(529, words, retry_after=1, limit=("gateway", "memory"), cause="memory")

    def forget(self) -> None:
        """Nobody will send this again: thousands of long streams should not hold theirs."""
        self.body = b""
        self.client.headers, self.client.plain = [], None
        if self.head is not None:
            self.head.lines = []
        self.hold(-self.held)
        if self.peek is not None:
            self.peek.forget()


class Attempt(msgspec.Struct, eq=False):
    """What one account was asked, and its answer. Times are perf_counter seconds; `patient_from` is when the wait for
    the first byte began."""

    account: Account | None
    meter: UsageMeter | ChatMeter
    renewed: float
    patient_from: float
    lease: Lease | None = None
    response: Response | None = None
    sent: bool = False  # it may bill the request, and what that used is not known whole
    hurried: bool = False  # less time was left for an answer's head than an account may take
    response_began: float = 0.0
    estimated: bool = False
    whole: Callable[[bytes], bytes] | None = None  # makes its JSON Anthropic's
    over_since: float = 0.0  # when the model had said why it stopped, and nothing but pings has come since


class Opening(Protocol):
    """What of a stream is held until its first content."""

    async def commit(self) -> None:
        """Send it: from now on this stream is the client's answer."""
        ...


class Reply(msgspec.Struct, eq=False):
    """What the client has: nothing, pings, a head, part of an answer, all of it. `status` is 0 before it began;
    `first_byte` is when the first of an account's answer came (perf_counter seconds)."""

    client: Client
    request_id: str
    chat: bool
    last_sent: float
    stream: bool = False  # pings may break its silence
    status: int = 0
    started: bool = False  # the head is out
    pinged: bool = False  # it is, by a ping, and no more than pings: any account's stream may follow
    ended: bool = False
    writing: bool = False  # the client has yet to take what was written last
    raw: bool = False  # in the middle of an event that passes in pieces
    opening: Opening | None = None  # of a stream of which nothing but a message_start has come
    kept: Kept | None = None
    way: ShortWay | None = None  # that most of a stream goes
    first_byte: float = 0.0

    async def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Send a whole answer."""
        self.started = self.ended = True
        self.status = status
        await self.client.answer(status, headers, body)
        self.first_byte = perf_counter()

    async def start(self, status: int, headers: HeaderList) -> None:
        """Send the head of the answer. From here on, or from the first event after pings, no other account can serve
        this request."""
        self.started = True
        self.status = status
        await self.client.start(status, headers)

    async def write(self, body: bytes, more: bool) -> None:
        """Send body bytes; `more` is False with the last ones."""
        self.ended = not more
        self.pinged = False
        self.writing = True
        await self.client.write(body, more)
        self.writing = False
        self.last_sent = perf_counter()
        if not self.first_byte:
            self.first_byte = self.last_sent

    def forget_kept(self) -> None:
        """Another answer is asked for, which follows what was kept."""
        self.kept = None

    async def refuse(self, error: ApiError, headers: HeaderList) -> None:
        """Send an error of the gateway's own: as JSON, or as an event where a stream has begun."""
        if self.ended:
            return
        if self.started:
            await self.write(self.event_of(error), more=False)
            return
        own = error.headers(self.request_id)
        own += [header for header in headers if header[0] != b"x-gateway-request-id"]
        await self.answer(error.status, own, error.body(self.request_id))

    def event_of(self, error: ApiError) -> bytes:
        """An error of the gateway's own as one event of this stream."""
        return error_event(error, self.request_id) if self.chat else error.event(self.request_id)

    def silent_since(self, now: float) -> float:
        """When the client was last sent something (perf_counter seconds). What goes the short way is looked at only
        here."""
        if self.way is not None and self.way.looked_at():
            self.last_sent = now
        return self.last_sent

    @property
    def quiet(self) -> bool:
        """Whether a ping may go out: a stream that has not ended, between events."""
        return self.stream and not self.ended and not self.raw and not self.writing

    async def ping(self, headers: HeaderList, begun: bool) -> None:
        """Break the silence of a stream, at an event boundary; before the first event this commits the head, and what
        is held if a message has `begun`."""
        if not self.quiet:
            return
        self.last_sent = perf_counter()
        if self.opening is not None and begun and (self.pinged or not self.started):
            await self.opening.commit()
        if not self.started:
            self.pinged = True
            await self.start(200, headers)
        if self.quiet:  # still: the head may have waited for a slow client
            await self.client.write(CHAT_PING if self.chat else PING, True)


class Times(msgspec.Struct, eq=False):
    """Seconds that a request spent: on its body, on being admitted, on choosing an account, `queued` for limits and
    slots, `waited` for upstreams; and when its waiting for a slot ends (perf_counter seconds)."""

    body: float = 0.0
    admit: float = 0.0
    choose: float = 0.0
    queued: float = 0.0
    waited: float = 0.0
    slot_until: float = 0.0


class Journey(msgspec.Struct, eq=False):
    """Everything known of one request on its way, and what was decided about it."""

    request: Request
    reply: Reply
    attempt: Attempt
    times: Times
    phase: Phase = Phase.READING
    route: Route | None = None
    reservation: Reservation | None = None
    binding: Binding | None = None
    leader: Leader | None = None  # this request's, while others wait for it
    call: Call | None = None
    interrupted: str = ""  # why this process ends it, if it does
    attempts: int = 0
    reached: bool = False  # an upstream has had it
    upstream_request_id: str = ""
    outcome: str = "ok"
    cause: str = ""
    failover: str = ""  # why it was tried again
    limit: tuple[str, str] = ("", "")  # whose limit refused it, and which
    cached: tuple[int, str] = (0, "")  # tokens of the conversation that a cache had, and its workspace ("": run out)

    def ask(self, account: Account, lease: Lease) -> None:
        """The next account is asked: what it answers is metered by itself."""
        if not self.attempts:
            self.attempt.account, self.attempt.lease = account, lease
            self.attempt.renewed = self.attempt.patient_from = perf_counter()
            self.attempts = 1
            return
        ttl = self.attempt.meter.ttl
        meter = ChatMeter() if self.request.endpoint.chat else UsageMeter()
        meter.ttl = ttl
        now = perf_counter()
        self.attempt = Attempt(account, meter, now, now, lease)
        self.attempts += 1

    def abandon(self) -> None:
        """The account's answer will not reach the client."""
        ttl = self.attempt.meter.ttl
        self.attempt.meter = meter = ChatMeter() if self.request.endpoint.chat else UsageMeter()
        meter.ttl = ttl
        self.attempt.over_since = self.reply.first_byte = 0.0
        self.attempt.sent = False

    def interrupt(self, reason: str) -> None:
        """End it: with an error event where a stream runs, else with an error."""
        self.interrupted = reason
        if self.attempt.response is not None:
            self.attempt.response.interrupt(reason)
        elif not self.reply.ended:
            self.request.client.cancel()

    def gateway_headers(self, expose_account: bool) -> HeaderList:
        """The gateway's own headers of a proxied answer."""
        account = self.attempt.account
        headers = [
            (b"x-gateway-request-id", self.request.id.encode()),
            (b"x-gateway-attempts", b"%d" % self.attempts),
            (b"x-gateway-route", self.route.placement.how.encode() if self.route is not None else b"none"),
        ]
        if expose_account and account is not None:
            headers.append((b"x-gateway-account", account.tag))
        if self.reservation is not None:
            headers += self.reservation.headers()
            if self.reservation.limits.soft:
                head = self.request.head
                headers += self.reservation.warnings(head is not None and head.claude_code)
        return headers

    def remember_cache(self) -> None:
        """Note what caches have of the conversation, before this request changes that."""
        route = self.route
        record = route.placement.record if route is not None else None
        if route is None or record is None:
            return
        place, tokens, until = record.workspace, record.tokens, record.warm_until
        if not tokens:  # bound anew just now
            place, tokens, until = record.previous, record.previous_tokens, record.previous_warm_until
        self.cached = tokens, place if until > route.placement.now_ms else ""

    def missed(self) -> tuple[int, str]:
        """Tokens that the answer wrote into a cache though another had them or this one had had them, and why they
        could not be read: what the client changed, or an account evicted early, is not among them."""
        had, where = self.cached
        usage, account = self.attempt.meter.usage, self.attempt.account
        written = usage.cache_write_5m + usage.cache_write_1h
        tokens = min(written, had - usage.cache_read)
        if tokens <= 0 or self.route is None or account is None or account.workspace == where:
            return 0, ""
        if not where:
            return tokens, "expired"
        return tokens, self.route.placement.how if self.route.placement.how in ("detour", "stateless") else "moved"

    def forget_request(self) -> None:
        """Nobody will send it again."""
        self.request.forget()
        if self.call is not None:
            self.call.body, self.call.lines = b"", []

    async def refuse(self, error: ApiError, headers: HeaderList) -> None:
        """Answer with an error of the gateway's own."""
        head = self.request.head
        if error.kind == "billing_error" and head is not None and head.claude_code:
            error.status = 402  # which it shows with our words; of a 429 it may say that it is no limit of one's own
        self.outcome = "error" if self.outcome == "ok" else self.outcome
        self.limit = error.limit
        self.cause = self.cause or error.cause
        await self.reply.refuse(error, headers)


def begun(endpoint: Endpoint, client: Client, holding: Holding, object_id: str = "") -> Journey:
    """The journey of a request that has just arrived, whose path names `object_id`."""
    now, plain, request_id = perf_counter(), client.plain, new_request_id()
    t0 = now if plain is None else plain.at
    meter = ChatMeter() if endpoint.chat else UsageMeter()
    return Journey(
        Request(endpoint, client, holding, t0, time() - (now - t0), request_id, object_id),
        Reply(client, request_id, endpoint.chat, t0),
        Attempt(None, meter, t0, t0),
        Times(now - t0),
    )
