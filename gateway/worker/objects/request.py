"""The life of a request that is no conversation: batches, files, skills and all else that belongs to one account.

place → (look through the body) → send → take the answer: record whose it is, leave out what is others', put right
where it points. Sending is the proxy's business. It reads top to bottom.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import monotonic, perf_counter
from urllib.parse import unquote

from gateway.config.schema import Caller, Config
from gateway.core.routing.route import Route
from gateway.core.routing.router import Router
from gateway.errors import ApiError
from gateway.listen.addresses import Addresses
from gateway.listen.client import HeaderList
from gateway.upstream.provider import Call
from gateway.upstream.transport import Interrupted, Response
from gateway.worker.callers.limits import Accounting
from gateway.worker.callers.rights import Rights
from gateway.worker.endpoints import LIFETIMES, Answer, At, Body
from gateway.worker.head import AnswerHead, Head, without
from gateway.worker.objects.batch_usage import BatchUsageMeter
from gateway.worker.objects.listing import Listing
from gateway.worker.objects.owners import APART, Owners
from gateway.worker.objects.rewriting import created_ids, results_to
from gateway.worker.request.exchange import Exchange, Kept
from gateway.worker.request.relay import relay_through
from gateway.worker.request.upload import Inspection, Upload, too_large

_LOOKED_AT = 1024 * 1024  # bytes of a body that may decide where it goes
MAX_KEPT = 32 * 1024 * 1024  # bytes of an answer that is looked at whole
_MAYBE_JSON = re.compile(rb"json|text/|urlencoded|\*", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z0-9_-]{4,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_GO_ON = 30.0  # seconds for the answer to a create whose client has gone

Serve = Callable[[Exchange, Route, Call], Awaitable[None]]


class Objects:
    """`serve` asks accounts until one answers for good."""

    def __init__(
        self,
        config: Config,
        router: Router,
        owners: Owners,
        accounting: Accounting,
        batch_usage: BatchUsageMeter,
        serve: Serve,
        rights: Rights,
    ) -> None:
        self._router = router
        self._owners = owners
        self._accounting = accounting
        self._batch_usage = batch_usage
        self._serve = serve
        self._rights = rights
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration."""
        self._total = config.timeouts.total
        self._patience = config.timeouts.client_body
        self._expose_account = config.expose_account
        self._addresses = Addresses(config.trusted_proxies, config.public_url)
        self._secrets = tuple(secret.encode() for secret in config.secret)
        limits = config.limits
        self._limits = {
            Body.JSON: int(limits.max_batch_mb * 1024 * 1024),
            Body.FILE: int(limits.max_file_mb * 1024 * 1024),
        }

    async def journey(self, x: Exchange, head: Head, caller: Caller) -> None:
        """Serve one request."""
        if x.client.method not in _METHODS:
            raise ApiError(405, f"Method {x.client.method} is not allowed here.")
        x.names = await self._in_path(x)
        if head.profile:
            x.names |= await self._owners.in_header(head)
        if x.names:  # before the body is asked for
            await self._owners.where(caller, x.names)
        body = await self._body(x, head, caller)
        if x.endpoint.answer is Answer.PAGE:
            await self._list(x, head, caller)
            return
        if x.endpoint.batches and x.endpoint.answer is Answer.CREATED:
            await self._accounting.batch(caller, x.request_id)
        x.home = await self._owners.where(caller, x.names) if x.names else await self._owners.home(caller)
        lines = head.lines
        if x.endpoint.answer is Answer.RESULTS:  # what is metered is read from its beginning
            lines = without(without(lines, b"range"), b"if-range")
        call = Call(*self._target(x), lines, body, version=head.version)
        route = self._route(x, caller, x.home, "pinned" if x.names else "none")
        if x.endpoint.answer is Answer.CREATED:
            await self._to_the_end(self._create(x, route, call))
            return
        await self._serve(x, route, call)
        if x.kept is not None:
            await self._finish(x, x.kept)

    async def _create(self, x: Exchange, route: Route, call: Call) -> None:
        await self._serve(x, route, call)
        if x.kept is not None:
            await self._finish(x, x.kept)

    @staticmethod
    async def _to_the_end(work: Coroutine[None, None, None]) -> None:
        """What an account makes is somebody's, also if its client does not wait: go on for a while without it. Where
        the client has not sent all, there is nothing to go on with."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait((task,), timeout=_GO_ON)
            task.cancel()
            raise

    async def _list(self, x: Exchange, head: Head, caller: Caller) -> None:
        async def fetch(workspace: str, query: bytes) -> bytes | None:
            """One page from one workspace; None where the client has its answer already."""
            x.forget_answer()
            if x.lease is not None:
                x.lease.release()
            call = Call(*self._target(x, query), head.lines, b"", version=head.version)
            await self._serve(x, self._route(x, caller, workspace, "none"), call)
            return None if x.kept is None else x.kept.body

        listing = Listing(caller, x.client.query, self._owners, fetch, self._secrets)
        body = await listing.page()
        if body is None:
            return
        headers = [(b"content-type", b"application/json"), (b"request-id", x.request_id.encode())]
        kept = x.kept or Kept(200, [*headers, *x.gateway_headers(self._expose_account)], b"")
        await self._finish(x, Kept(kept.status, kept.headers, body))

    async def _in_path(self, x: Exchange) -> frozenset[str]:
        """Objects that the path names: of an endpoint that nobody knows, those that are somebody's."""
        if x.endpoint.at is At.OWNER:
            provided = x.endpoint.kind == "skills" and not x.object.startswith("skill_")
            return frozenset() if provided and x.client.method == "GET" else frozenset({x.object})
        if x.endpoint.kind:
            return frozenset()
        text = unquote((x.client.path + b"?" + x.client.query).decode("latin-1"))
        return await self._owners.known(set(_WORD.findall(text)))

    # The body.

    async def _body(self, x: Exchange, head: Head, caller: Caller) -> bytes | Upload:
        """The request's body, read so far as it may decide where the request goes: `x.names` grows by the objects that
        it names up to there."""
        limit = self._limits[x.endpoint.body]
        if head.content_length > limit:
            raise too_large(limit)
        look = None
        kinds = [value for name, value in x.client.headers if name == b"content-type"]
        if len(kinds) > 1:
            raise ApiError(400, "content-type: given twice")
        known_as_json = x.endpoint.body is Body.JSON and x.endpoint.kind
        if known_as_json or not kinds or _MAYBE_JSON.search(kinds[0]):
            look = Inspection(head.content_encoding, limit, partial(self._judge, x, caller)).look
        size = head.content_length if head.content_length >= 0 else None
        upload = Upload(x.client.read, size, limit, self._patience, partial(self._hold, x), look)
        began = perf_counter()
        whole = await upload.gather(_LOOKED_AT)
        x.body_time = perf_counter() - began
        if whole is not None:
            x.body_size = len(whole)
            return whole
        x.upload = upload
        return upload

    @staticmethod
    def _hold(x: Exchange, size: int) -> None:
        if size > 0:
            x.holding.take(x, size)
        else:
            x.holding.give(x, -size)

    async def _judge(self, x: Exchange, caller: Caller, models: set[str], ids: set[str]) -> None:
        """What came up in a body on its way."""
        for model in models:
            self._rights.check_named(caller, model)
        known = await self._owners.known(ids) if ids else None
        if not known:
            return  # words that look like ids, or ids that the upstream does not know either
        if not x.home:
            x.names |= known
        elif await self._owners.where(caller, known) != x.home:
            raise ApiError(400, APART)

    # Sending.

    def _target(self, x: Exchange, query: bytes | None = None) -> tuple[bytes, bytes]:
        """Method and path with query, the client's or `query`."""
        client = x.client
        if query is None:
            query = client.query
        path = client.path + b"?" + query if query else client.path
        return client.method.encode("ascii"), path

    def _route(self, x: Exchange, caller: Caller, workspace: str, how: str) -> Route:
        deadline = monotonic() + self._total - (perf_counter() - x.t0)
        route = Route(self._router, caller.id.encode()[:64], "", 0, 300, deadline, x.endpoint.name)
        route.pin(workspace, how)
        route.once = x.client.method not in ("GET", "HEAD")
        x.route = route
        return route

    # The answer.

    async def take(self, x: Exchange, response: Response, head: AnswerHead) -> None:
        """An account has answered well."""
        endpoint = x.endpoint
        headers = head.visible + x.gateway_headers(self._expose_account)
        answer = endpoint.answer
        looked_at = answer in (Answer.CREATED, Answer.PAGE, Answer.DELETED) or endpoint.batches
        if looked_at and x.client.method != "HEAD" and head.kind.startswith(b"application/json"):
            x.kept = Kept(response.status, headers, await _read(x, response))
            response.close()
            x.response = None
            return
        if answer is Answer.PAGE and response.status == 200:
            raise ApiError(502, "The upstream gave no proper list.")
        if answer is Answer.DELETED:
            await self._owners.deleted(x.object)
        elif answer is Answer.RESULTS:
            await self._results(x, response, headers)
            return
        await relay_through(x, response, headers)

    async def _results(self, x: Exchange, response: Response, headers: HeaderList) -> None:
        """Results of a batch pass through, and what is read of them is metered, also if that is not all."""
        skip = await self._batch_usage.metered(x.object)
        tap = self._batch_usage.tap(skip)
        try:
            await relay_through(x, response, headers, tap.feed)
            if x.outcome == "ok":
                tap.finish()
        finally:
            self._batch_usage.settle_soon(x, tap, skip)
        for kind, object_id in set(tap.created_ids):
            if x.caller is not None and x.account is not None:
                await self._owners.created(x.caller, object_id, x.account.workspace, LIFETIMES.get(kind, 0))

    async def _finish(self, x: Exchange, kept: Kept) -> None:
        """Look at a whole answer, and pass it on."""
        endpoint, body = x.endpoint, kept.body
        if endpoint.answer is Answer.DELETED:
            await self._owners.deleted(x.object)
        elif endpoint.answer is Answer.CREATED:
            for created in created_ids(body):
                if x.caller is not None and x.account is not None:
                    lifetime = LIFETIMES.get(endpoint.kind, 0)
                    await self._owners.created(x.caller, created, x.account.workspace, lifetime)
        if endpoint.batches:
            body = results_to(body, self._addresses.base_url(x.client.scope))
        await x.answer(kept.status, kept.headers, body)


async def _read(x: Exchange, response: Response) -> bytes:
    """The whole body. Raises Interrupted."""
    parts = []
    size = 0
    while data := await response.read():
        parts.append(data)
        size += len(data)
        x.holding.take(x, len(data))
        if size > MAX_KEPT:
            raise Interrupted("the answer is too large")
    return b"".join(parts)
