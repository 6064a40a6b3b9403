"""One request on its way through the gateway: everything known of it, and the client's end of it.

It sends what it is told to; what that should be, `proxy` and `relay` decide.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from time import perf_counter, time
from typing import Protocol

import msgspec

from gateway.config.schema import Caller
from gateway.core.routing.route import Route
from gateway.core.wire.chat_meter import PING as CHAT_PING
from gateway.core.wire.chat_meter import ChatMeter, error_event
from gateway.core.wire.peek import Peek
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


class Kept(msgspec.Struct, frozen=True):
    """An account's answer that is looked at before the client gets it; `headers` are the client's."""

    status: int
    headers: HeaderList
    body: bytes


class Holding:
    """Bytes of request bodies that this process holds for retries, over all requests; bounded by `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0

    def take(self, x: Exchange, size: int) -> None:
        """Hold so much more for `x`. Raises ApiError(529) where there is no room."""
        self.bytes += size
        x.held += size
        if self.bytes > self.most:
            words = "The gateway holds too many large requests now. Please try again later."
            raise ApiError(529, words, retry_after=1, limit=("gateway", "memory"), cause="memory")

    def give(self, x: Exchange, size: int | None = None) -> None:
        """Hold so much less for `x`, by default nothing any more."""
        size = x.held if size is None else size
        self.bytes -= size
        x.held -= size


class Opening(Protocol):
    """What of a stream is held until its first content."""

    async def commit(self) -> None:
        """Send it: from now on this stream is the client's answer."""
        ...


class Exchange:
    """Times are perf_counter seconds. `status` is what the client saw, 0 before its answer began; `patient_from` is
    when the wait for the first byte began."""

    head: Head | None = None
    caller: Caller | None = None
    body = b""
    peek: Peek | None = None
    stream = False
    conversation = b""  # its key; empty for a request that has none
    route: Route | None = None
    reservation: Reservation | None = None
    binding: Binding | None = None
    leader: Leader | None = None  # this request's, while others wait for it
    account: Account | None = None
    lease: Lease | None = None
    call: Call | None = None
    task: asyncio.Task[None] | None = None
    trace: Trace | None = None
    slot_until = 0.0  # when waiting for a slot ends
    queued = 0.0  # seconds spent on waiting, for limits and slots
    sent = False  # an upstream has the request and may bill it, and what it used is not known whole
    body_size = 0
    text_size = 0  # of it, what counts for tokens
    held = 0  # bytes of it that this process keeps
    object: str  # the id that the path names
    names: frozenset[str] = frozenset()  # objects of its own that it names or has made
    home = ""  # the workspace where it goes
    threaded = False  # the answer's id will be asked for
    upload: Upload | None = None
    kept: Kept | None = None
    interrupted = ""  # why this process ends the request, if it does
    response: Response | None = None
    attempts = 0
    status = 0
    outcome = "ok"
    cause = ""
    estimated = False
    failover = ""  # why it was tried again
    throttled = limit = ""  # whose limit refused it, and which
    cached = 0  # tokens of the conversation that a cache had when the request came, or had had lately
    cached_in = ""  # the workspace of that cache, "" if it has run out
    reached = False  # an upstream has had the request
    upstream_request_id = ""
    began = False  # the request is on its way to an upstream
    started = False  # the head of the answer is out
    pinged = False  # it is, by a ping, and no more than pings: any account's stream may follow
    opening: Opening | None = None  # of a stream of which nothing but a message_start has come
    over_since = 0.0  # when the model had said why it stopped, and nothing but pings has come since
    ended = False
    hurried = False  # less time is left for an answer's head than an account may take
    writing = False  # the client has yet to take what was written last
    raw = False  # in the middle of an event that passes in pieces
    body_time = admit_time = choose_time = waited = first_byte = response_began = 0.0

    def __init__(self, endpoint: Endpoint, client: Client, holding: Holding, object_id: str = "") -> None:
        self.t0 = self.patient_from = perf_counter()
        self.at = time()
        self.request_id = new_request_id()
        self.endpoint = endpoint
        self.client = client
        self.holding = holding
        self.object = object_id
        self.meter: UsageMeter | ChatMeter = ChatMeter() if endpoint.chat else UsageMeter()
        self.last_sent = self.renewed = self.t0

    @property
    def quiet(self) -> bool:
        """Whether a ping may go out: a stream on its way, between events."""
        return self.stream and self.began and not self.ended and not self.raw and not self.writing

    @property
    def model(self) -> str:
        return self.peek.model if self.peek is not None else ""

    def gateway_headers(self, expose_account: bool) -> HeaderList:
        """The gateway's own headers of a proxied answer."""
        headers = [
            (b"x-gateway-request-id", self.request_id.encode()),
            (b"x-gateway-attempts", b"%d" % self.attempts),
            (b"x-gateway-route", self.route.how.encode() if self.route is not None else b"none"),
        ]
        if expose_account and self.account is not None:
            headers.append((b"x-gateway-account", self.account.tag))
        if self.reservation is not None:
            headers += self.reservation.headers()
        return headers

    def remember_cache(self) -> None:
        """Note what caches have of the conversation, before this request changes that."""
        route = self.route
        record = route.record if route is not None else None
        if route is None or record is None:
            return
        place, tokens, until = record.workspace, record.tokens, record.warm_until
        if not tokens:  # bound anew just now
            place, tokens, until = record.previous, record.previous_tokens, record.previous_warm_until
        self.cached = tokens
        self.cached_in = place if until > route.now_ms else ""

    def missed(self) -> tuple[int, str]:
        """Tokens that the answer wrote into a cache though another had them or this one had had them, and why they
        could not be read: what the client changed, or an account evicted early, is not among them."""
        usage = self.meter.usage
        written = usage.cache_write_5m + usage.cache_write_1h
        tokens = min(written, self.cached - usage.cache_read)
        if tokens <= 0 or self.route is None or self.account is None or self.account.workspace == self.cached_in:
            return 0, ""
        if not self.cached_in:
            return tokens, "expired"
        return tokens, self.route.how if self.route.how in ("detour", "stateless") else "moved"

    def abandon(self) -> None:
        """An account's answer will not reach the client: another one's is metered by itself."""
        ttl, self.meter = self.meter.ttl, ChatMeter() if self.endpoint.chat else UsageMeter()
        self.meter.ttl = ttl
        self.first_byte = self.over_since = 0.0
        self.sent = False

    def forget_request(self) -> None:
        """Nobody will send this body again: thousands of long streams should not hold theirs."""
        self.body = b""
        self.holding.give(self)
        if self.call is not None:
            self.call.body = b""
        if self.peek is not None:
            self.peek.forget()

    def forget_answer(self) -> None:
        """Another one is asked for, which follows what was kept."""
        self.kept = None

    async def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Send a whole answer."""
        headers.append((b"content-length", b"%d" % len(body)))
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

    async def refuse(self, error: ApiError, headers: HeaderList) -> None:
        """Answer with an error of the gateway's own: as JSON, or as an event where a stream has begun."""
        self.outcome = "error" if self.outcome == "ok" else self.outcome
        self.throttled, self.limit = error.limit
        self.cause = self.cause or error.cause
        if self.ended:
            return
        if self.started:
            event = error_event if self.endpoint.chat else ApiError.event
            await self.write(event(error, self.request_id), more=False)
            return
        own = error.headers(self.request_id)
        own += [header for header in headers if header[0] != b"x-gateway-request-id"]
        await self.answer(error.status, own, error.body(self.request_id))

    async def ping(self, headers: HeaderList) -> None:
        """Break the silence of a stream, at an event boundary; before the first event this commits the head."""
        if not self.quiet:
            return
        self.last_sent = perf_counter()
        if self.opening is not None and self.meter.started and (self.pinged or not self.started):
            await self.opening.commit()
        if not self.started:
            self.pinged = True
            await self.start(200, headers)
        if self.quiet:  # still: the head may have waited for a slow client
            ping = CHAT_PING if self.endpoint.chat else PING
            await self.client.write(ping, True)
