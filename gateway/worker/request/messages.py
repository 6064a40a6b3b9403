"""The life of a request whose body names a model: messages, their tokens, chats.

read → peek → check → choose → admit → send. Sending is the proxy's business. It reads top to bottom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic, perf_counter

from gateway.config.schema import Caller, Config
from gateway.core.routing.conversation import identify
from gateway.core.routing.features import features_of
from gateway.core.routing.route import Route
from gateway.core.routing.router import Router
from gateway.core.wire.aliases import with_model
from gateway.core.wire.decoding import decode
from gateway.core.wire.peek import Peek, peek
from gateway.core.wire.references import references
from gateway.errors import ApiError
from gateway.upstream.provider import Call
from gateway.worker.affinity.bindings import Admission
from gateway.worker.affinity.single_flight import SingleFlight
from gateway.worker.callers.limits import Accounting
from gateway.worker.callers.rights import Rights
from gateway.worker.head import Head, without
from gateway.worker.objects.owners import Owners
from gateway.worker.request.exchange import Exchange
from gateway.worker.request.upload import too_large

_DECODED_AT_ONCE = 64 * 1024  # bytes of a compressed body that may be decoded while others wait

Serve = Callable[[Exchange, Route, Call], Awaitable[None]]


class Messages:
    """`serve` asks accounts until one answers for good; `bound_thinking(model)` says whether only the account that
    produced a model's thinking reads it."""

    def __init__(
        self,
        config: Config,
        router: Router,
        admission: Admission,
        accounting: Accounting,
        owners: Owners,
        rights: Rights,
        single_flight: SingleFlight,
        serve: Serve,
        bound_thinking: Callable[[str], bool],
    ) -> None:
        self._router = router
        self._admission = admission
        self._accounting = accounting
        self._owners = owners
        self._rights = rights
        self._single_flight = single_flight
        self._serve = serve
        self._bound_thinking = bound_thinking
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration from the next request on."""
        self._secret = config.secret[0].encode()
        self._former_secret = config.secret[1].encode() if len(config.secret) > 1 else None
        self._total = config.timeouts.total
        self._max_body = int(config.limits.max_body_mb * 1024 * 1024)

    async def journey(self, x: Exchange, head: Head, caller: Caller) -> None:
        """Serve one request: its conversation says where it goes, and the objects that it names."""
        x.body = text = await self._read_body(x)
        if head.content_encoding not in (b"", b"identity"):
            text = await self._decoded(x, head.content_encoding)
        peeked = x.peek = peek(text)
        self._rights.check_body(caller, peeked)
        if peeked.model in self._rights.aliases:
            self._resolve(x, head, peeked)
        x.stream = peeked.stream and x.endpoint.events
        x.threaded = "thread" in peeked.fields
        x.meter.ttl = peeked.cache_ttl
        named = references(peeked)
        route = x.route = self._route(x, head, peeked, caller.id)
        began = perf_counter()
        if head.profile:
            named |= await self._owners.in_header(head)
        if named:
            route.pin(await self._where(caller, named, x.threaded))
        endpoint = x.endpoint
        warm = 0
        if x.conversation and endpoint.metered and self._accounting.plan(caller).message.reserved:
            warm = self._admission.warm(caller, x.conversation, peeked.model)
        reservation = x.reservation = self._accounting.ask(
            caller, x.request_id, x.at, endpoint, peeked, int(route.tokens), warm
        )
        if x.conversation:
            former = None
            if self._former_secret is not None:
                former = identify(self._former_secret, caller.id, head.conversation, head.session, head.agent, peeked)
            x.binding = await self._admission.bind(caller, x.conversation, peeked, route, former, reservation)
            place = None if x.binding is None or not x.endpoint.metered else (x.binding.key, x.binding.model)
            if place is not None and (not route.warm or self._single_flight.leads(place)):
                await self._join_flight(x, route, caller, former)
        elif reservation is not None:
            await self._accounting.take(reservation)
        x.admit_time = perf_counter() - began - x.queued
        x.remember_cache()

        client = x.client
        path = client.path + b"?" + client.query if client.query else client.path
        x.call = Call(b"POST", path, head.lines, x.body, peeked.model, x.stream, head.version, x.endpoint.chat)
        await self._serve(x, route, x.call)

    async def _where(self, caller: Caller, named: frozenset[str], threaded: bool) -> str:
        try:
            return await self._owners.where(caller, named)
        except ApiError as error:
            if threaded and error.status == 404:  # SDKs begin the thread anew by this code
                raise ApiError(404, error.message, code="thread_not_found") from None
            raise

    def _resolve(self, x: Exchange, head: Head, peeked: Peek) -> None:
        """Put the model in the body that its alias stands for: the one change that is ever made to a body."""
        model = self._rights.aliases[peeked.model]
        x.body = with_model(peeked.body, peeked.fields, model)
        peeked.model = model
        if head.content_encoding:
            head.lines = without(head.lines, b"content-encoding")

    async def _decoded(self, x: Exchange, encoding: bytes) -> bytes:
        """The body as its encoding hides it. It is sent as it came."""
        work = partial(decode, x.body, encoding, self._max_body)
        text = work() if x.body_size < _DECODED_AT_ONCE else await asyncio.to_thread(work)
        x.holding.take(x, len(text))
        x.body_size = len(text)
        return text

    def _route(self, x: Exchange, head: Head, peeked: Peek, caller: str) -> Route:
        """The request as routing sees it. What has no conversation need not wander either: the caller is its key."""
        key = None
        if "messages" in peeked.fields:
            key = identify(self._secret, caller, head.conversation, head.session, head.agent, peeked)
        deadline = monotonic() + self._total - (perf_counter() - x.t0)
        x.text_size = peeked.text_size
        own_limit = "" if x.endpoint.metered else x.endpoint.name
        x.conversation = key or b""
        route = Route(
            self._router, key or caller.encode()[:64], peeked.model, x.text_size, peeked.cache_ttl, deadline, own_limit
        )
        if "speed" in peeked.fields and peeked.value("speed") == "fast":
            route.limit_class += ":fast"  # a bucket of its own
        route.caller = caller
        if self._router.picky:
            route.bar(features_of(peeked, head.betas), monotonic())
        if key is not None:
            route.account_bound = self._bound_thinking(peeked.model) and peeked.signed_thinking
        return route

    async def _join_flight(self, x: Exchange, route: Route, caller: Caller, former: bytes | None) -> None:
        """Of a cold conversation's simultaneous requests the first goes; the others wait until its answer begins."""
        binding, peeked = x.binding, x.peek
        if binding is None or peeked is None:
            return
        began = perf_counter()
        x.leader, waited = await self._single_flight.join((binding.key, binding.model), peeked)
        if waited:
            x.queued += perf_counter() - began
            x.binding = await self._admission.bind(caller, x.conversation, peeked, route, former)

    async def _read_body(self, x: Exchange) -> bytes:
        """The whole request body, within its bound."""
        limit = self._max_body
        if x.head is not None and x.head.content_length > limit:
            raise too_large(limit)
        began = perf_counter()
        body, more = await x.client.read()
        x.holding.take(x, len(body))
        if more:
            parts = [body]
            size = len(body)
            while more:
                piece, more = await x.client.read()
                parts.append(piece)
                size += len(piece)
                if size > limit:
                    raise too_large(limit)
                x.holding.take(x, len(piece))
            body = b"".join(parts)
        x.body_time = perf_counter() - began
        x.body_size = len(body)
        return body
