"""The life of a request whose body names a model: messages, their tokens, chats.

read → peek → check → choose → admit → send. Sending is the proxy's business. It reads top to bottom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic, perf_counter

import msgspec

from gateway.config.schema import Caller, Config
from gateway.core.routing.binding import record_key
from gateway.core.routing.conversation import identify
from gateway.core.routing.features import BETA, FIELD, TOOL, features_of, needs_of
from gateway.core.routing.route import Route
from gateway.core.routing.router import Router
from gateway.core.wire.decoding import decode
from gateway.core.wire.members import edited
from gateway.core.wire.peek import Peek, peek
from gateway.core.wire.references import references
from gateway.errors import ApiError
from gateway.upstream.provider import Call
from gateway.worker.affinity.bindings import Admission
from gateway.worker.callers.limits import Accounting
from gateway.worker.callers.rights import Rights
from gateway.worker.head import Head, without
from gateway.worker.objects.owners import Owners
from gateway.worker.request.dispatch import Begun, Dispatch
from gateway.worker.request.home import Asked, Home
from gateway.worker.request.journey import Journey, Needs, Phase, Request
from gateway.worker.request.upload import too_large

_MOST_OUTPUT = 1_000_000  # tokens that anybody reserves, whatever a client writes
_DECODED_AT_ONCE = 64 * 1024  # bytes of a compressed body that may be decoded while others wait
_READ_AT_ONCE = 1024 * 1024  # bytes of a body of which every object may be looked at while others wait

_LACKING = {
    "mcp": "mcp_servers: Extra inputs are not permitted",
    "container": "container: Extra inputs are not permitted",
    "file": "messages: sources of the type file are not supported",
    "url": "messages: sources of the type url are not supported",
}


class Messages:
    """`bound_thinking(model)` says whether only the account that produced a model's thinking reads it."""

    def __init__(
        self,
        config: Config,
        router: Router,
        admission: Admission,
        accounting: Accounting,
        owners: Owners,
        rights: Rights,
        home: Home,
        dispatch: Dispatch,
        bound_thinking: Callable[[str], bool],
    ) -> None:
        self._router = router
        self._admission = admission
        self._accounting = accounting
        self._owners = owners
        self._rights = rights
        self._home = home
        self._dispatch = dispatch
        self._bound_thinking = bound_thinking
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration from the next request on."""
        self._secret = config.secret[0].encode()
        self._former_secret = config.secret[1].encode() if len(config.secret) > 1 else None
        self._total = config.timeouts.total
        self._max_body = int(config.limits.max_body_mb * 1024 * 1024)

    async def journey(self, x: Journey, head: Head, caller: Caller) -> None:
        """Serve one request: its conversation says where it goes, and the objects that it names."""
        request, endpoint = x.request, x.request.endpoint
        request.body = await self._read_body(x, head)
        encoding = head.content_encoding
        plain = encoding in (b"", b"identity")
        # No name for the text: a stream's frames live as long as it does.
        peeked = request.peek = peek(request.body if plain else await self._decoded(request, encoding))
        self._rights.check_body(caller, peeked)
        if peeked.model in self._rights.aliases:
            self._resolve(request, head, peeked)
        x.reply.stream = peeked.stream and endpoint.events
        request.threaded = "thread" in peeked.fields
        x.attempt.meter.ttl = peeked.cache_ttl
        large = request.body_size > _READ_AT_ONCE
        named = await asyncio.to_thread(references, peeked) if large and _is_read(peeked) else references(peeked)
        key = None
        if "messages" in peeked.fields:
            at_once = not large or head.conversation or head.session
            words = caller, head, peeked
            key = self.conversation(*words) if at_once else await asyncio.to_thread(self.conversation, *words)
        route = x.route = self.route(request, head, peeked, caller, key)

        x.phase = Phase.ADMITTING
        began = perf_counter()
        if head.profile:
            named |= await self._owners.in_header(head)
        if named:
            route.pin(await self._where(caller, named, request.threaded))
        await self._admit(x, route, head, caller, peeked)
        await self._go(x, route, began)

    async def admitted(self, x: Journey, route: Route, asked: Asked, began: float) -> None:
        """Go on with a request for whose admission the store was `asked` already, at `began` (perf_counter)."""
        await self._home.find(x, route, None, asked)
        await self._go(x, route, began)

    async def _go(self, x: Journey, route: Route, began: float) -> None:
        x.times.admit = perf_counter() - began - x.times.queued
        x.remember_cache()
        x.call = call = call_of(x)
        await self._dispatch.serve(x, route, call)

    async def begun(self, x: Journey, route: Route, call: Call, begun: Begun) -> None:
        """Go on with a request that an account has been sent already."""
        await self._dispatch.serve(x, route, call, begun=begun)

    def conversation(self, caller: Caller, head: Head, peeked: Peek) -> bytes | None:
        """The key of a request's conversation, None if it has none."""
        principal = caller.principal or caller.id
        return identify(self._secret, principal, head.conversation, head.session, head.agent, peeked)

    async def _admit(self, x: Journey, route: Route, head: Head, caller: Caller, peeked: Peek) -> None:
        """Take what the caller's limits allow, and find out where the conversation lives: by one script of the
        store's."""
        request, endpoint, accounting = x.request, x.request.endpoint, self._accounting
        key, warm = request.conversation, 0
        plan = accounting.plan(caller)
        if key and endpoint.metered and plan.message.reserved:
            warm = self._admission.warm(caller, key, peeked.model)
        reservation = x.reservation = accounting.ask(
            caller, plan, request.id, request.at, endpoint, peeked, int(route.tokens), warm,
            record_key(caller.tenant, key) if key and warm else "",
        )  # fmt: skip
        if key:
            former = None
            if self._former_secret is not None:
                principal = caller.principal or caller.id
                former = identify(self._former_secret, principal, head.conversation, head.session, head.agent, peeked)
            await self._home.find(x, route, former)
        elif reservation is not None:
            await accounting.take(reservation)

    async def _where(self, caller: Caller, named: frozenset[str], threaded: bool) -> str:
        try:
            return await self._owners.where(caller, named)
        except ApiError as error:
            if threaded and error.status == 404:  # SDKs begin the thread anew by this code
                raise ApiError(404, error.message, code="thread_not_found") from None
            raise

    def _resolve(self, request: Request, head: Head, peeked: Peek) -> None:
        """Put the model in the body that its alias stands for."""
        model = self._rights.aliases[peeked.model]
        request.body = edited(peeked.body, peeked.fields, put={"model": msgspec.json.encode(model)})
        peeked.model = model
        if head.content_encoding:
            head.lines = without(head.lines, b"content-encoding")

    async def _decoded(self, request: Request, encoding: bytes) -> bytes:
        """The body as its encoding hides it. It is sent as it came."""
        work = partial(decode, request.body, encoding, self._max_body)
        text = work() if request.body_size < _DECODED_AT_ONCE else await asyncio.to_thread(work)
        request.hold(len(text))
        request.body_size = len(text)
        return text

    def route(self, request: Request, head: Head, peeked: Peek, caller: Caller, key: bytes | None) -> Route:
        """The request as routing sees it. What has no conversation need not wander either: the caller is its key."""
        deadline = monotonic() + self._total - (perf_counter() - request.t0)
        size = peeked.text_size
        own_limit = "" if request.endpoint.metered else request.endpoint.name
        request.conversation = key or b""
        route = Route(
            self._router, key or caller.id.encode()[:64], peeked.model, size, peeked.cache_ttl, deadline, own_limit
        )
        if "speed" in peeked.fields and peeked.value("speed") == "fast":
            route.limit_class += ":fast"  # a bucket of its own
        route.caller = caller.id
        if self._router.offer.partial:
            if not own_limit:
                route.claim = route.tokens + min(peeked.max_tokens, _MOST_OUTPUT)
            route.leave_out(self._router.offer.without(request.endpoint.name, peeked.model))
        if self._router.offer.capabilities:
            self._fit(request, head, peeked, route)
        if self._router.picky:
            route.bar(features_of(peeked, head.betas), monotonic())
        if key is not None:
            route.placement.account_bound = self._bound_thinking(peeked.model) and peeked.signed_thinking
        return route

    def _fit(self, request: Request, head: Head, peeked: Peek, route: Route) -> None:
        """Leave out the accounts that lack what the request needs. Raises ApiError where all do."""
        needs = needs_of(peeked, head.betas)
        if not needs:
            return
        unfit = self._router.offer.unfit(peeked.model, needs, monotonic())
        request.needs = Needs(needs, tuple(sorted(frozenset().union(*unfit.values()))))
        if not unfit:
            return
        everyone, model = route.lacking.union(unfit), peeked.model
        if not self._router.offers(model, everyone) and self._router.offers(model, route.lacking):
            raise _lacking(sorted(frozenset.intersection(*unfit.values()) or next(iter(unfit.values())))[0])
        route.leave_out(everyone)

    async def _read_body(self, x: Journey, head: Head) -> bytes:
        """The whole request body, within its bound."""
        request, limit = x.request, self._max_body
        if head.content_length > limit:
            raise too_large(limit)
        began = perf_counter()
        body, more = await request.client.read()
        request.hold(len(body))
        if more:
            parts = [body]
            size = len(body)
            while more:
                piece, more = await request.client.read()
                parts.append(piece)
                size += len(piece)
                if size > limit:
                    raise too_large(limit)
                request.hold(len(piece))
            body = b"".join(parts)
        x.times.body += perf_counter() - began
        request.body_size = len(body)
        return body


def call_of(x: Journey) -> Call:
    """What an account is asked for a request that has been read."""
    request, head, peeked = x.request, x.request.head, x.request.peek
    assert head is not None and peeked is not None  # noqa: S101 - it has been read
    return Call(
        b"POST", request.target, head.lines, request.body, peeked.model, x.reply.stream, head.version,
        request.endpoint.chat, request.endpoint.name, peeked,
    )  # fmt: skip


def _lacking(need: str) -> ApiError:
    """What Anthropic says of a need that it does not have."""
    name = need.partition(":")[2]
    if need.startswith(BETA):
        words = f"Unexpected value(s) `{name}` for the `anthropic-beta` header."
    elif need.startswith(TOOL):
        words = f"tools: Input tag '{name}' found using 'type' does not match any of the expected tags"
    elif need.startswith(FIELD):
        words = f"{name}: Extra inputs are not permitted"
    else:
        words = _LACKING.get(need, f"{need}: not supported")
    return ApiError(400, words)


def _is_read(peeked: Peek) -> bool:
    """Whether `references` may have to look at every object."""
    fields = peeked.fields
    return peeked.escapes or "container" in fields or "thread" in fields or b'"file_id"' in peeked.words
