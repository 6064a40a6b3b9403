"""The life of a request that is no conversation: batches, files, skills and all else that belongs to one account.

place → (look through the body) → send → take the answer: record whose it is, leave out what is others', put right
where it points. Sending is the proxy's business. It reads top to bottom.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from functools import partial
from time import monotonic, perf_counter
from urllib.parse import unquote

from gateway import log
from gateway.config.schema import Caller, Config
from gateway.core.routing.route import Route
from gateway.core.routing.router import Router
from gateway.core.wire.decoding import decode
from gateway.errors import ApiError
from gateway.listen.addresses import Addresses
from gateway.listen.client import HeaderList
from gateway.upstream.provider import Call
from gateway.upstream.transport import Interrupted, Response
from gateway.worker.callers.limits import Accounting
from gateway.worker.callers.rights import Rights
from gateway.worker.endpoints import LIFETIMES, Answer, At, Body, Endpoint
from gateway.worker.head import AnswerHead, Head, without
from gateway.worker.objects.batch_usage import BatchUsageMeter, Decoded
from gateway.worker.objects.listing import Listing
from gateway.worker.objects.owners import APART, Owners
from gateway.worker.objects.rewriting import created_ids, results_to
from gateway.worker.request.dispatch import Dispatch
from gateway.worker.request.journey import Journey, Kept
from gateway.worker.request.relay import relay_through
from gateway.worker.request.upload import Inspection, Upload, too_large

_LOOKED_AT = 1024 * 1024  # bytes of a body that may decide where it goes
MAX_KEPT = 32 * 1024 * 1024  # bytes of an answer that is looked at whole
_MAYBE_JSON = re.compile(rb"json|text/|urlencoded|\*", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z0-9_-]{4,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_GO_ON = 30.0  # seconds for the answer to a create whose client has gone


class Objects:
    def __init__(
        self,
        config: Config,
        router: Router,
        owners: Owners,
        accounting: Accounting,
        batch_usage: BatchUsageMeter,
        dispatch: Dispatch,
        rights: Rights,
    ) -> None:
        self._router = router
        self._owners = owners
        self._accounting = accounting
        self._batch_usage = batch_usage
        self._dispatch = dispatch
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

    async def journey(self, x: Journey, head: Head, caller: Caller) -> None:
        """Serve one request."""
        if x.request.client.method not in _METHODS:
            raise ApiError(405, f"Method {x.request.client.method} is not allowed here.")
        x.request.names = await self._in_path(x)
        if head.profile:
            x.request.names |= await self._owners.in_header(head)
        if x.request.names:  # before the body is asked for
            await self._owners.where(caller, x.request.names)
        body = await self._body(x, head, caller)
        if x.request.endpoint.answer is Answer.PAGE:
            await self._list(x, head, caller)
            return
        if _is_batch(x.request.endpoint):
            await self._accounting.batch(caller, x.request.id)
        names, owners = x.request.names, self._owners
        x.request.home = await owners.where(caller, names) if names else await owners.home(caller)
        lines = head.lines
        if x.request.endpoint.answer is Answer.RESULTS:  # what is metered is read from its beginning
            lines = without(without(lines, b"range"), b"if-range")
        call = Call(*self._target(x), lines, body, version=head.version, endpoint=x.request.endpoint.name)
        route = self._route(x, caller, x.request.home, "pinned" if x.request.names else "none")
        if x.request.endpoint.answer is Answer.CREATED:
            await self._to_the_end(self._create(x, route, call))
            return
        await self._dispatch.serve(x, route, call, self.take)
        if x.reply.kept is not None:
            await self._finish(x, x.reply.kept)

    async def _create(self, x: Journey, route: Route, call: Call) -> None:
        await self._dispatch.serve(x, route, call, self.take)
        if x.reply.kept is not None:
            await self._finish(x, x.reply.kept)

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

    async def _list(self, x: Journey, head: Head, caller: Caller) -> None:
        async def fetch(workspace: str, query: bytes) -> bytes | None:
            """One page from one workspace; None where the client has its answer already."""
            x.reply.forget_kept()
            if x.attempt.lease is not None:
                x.attempt.lease.release()
            name = x.request.endpoint.name
            call = Call(*self._target(x, query), head.lines, b"", version=head.version, endpoint=name)
            await self._dispatch.serve(x, self._route(x, caller, workspace, "none"), call, self.take)
            return None if x.reply.kept is None else x.reply.kept.body

        listing = Listing(caller, x.request.client.target[1], self._owners, fetch, self._secrets)
        body = await listing.page()
        if body is None:
            return
        headers = [(b"content-type", b"application/json"), (b"request-id", x.request.id.encode())]
        kept = x.reply.kept or Kept(200, [*headers, *x.gateway_headers(self._expose_account)], b"")
        await self._finish(x, Kept(kept.status, kept.headers, body))

    async def _in_path(self, x: Journey) -> frozenset[str]:
        """Objects that the path names: of an endpoint that nobody knows, those that are somebody's."""
        if x.request.endpoint.at is At.OWNER:
            provided = x.request.endpoint.kind == "skills" and not x.request.object.startswith("skill_")
            return frozenset() if provided and x.request.client.method == "GET" else frozenset({x.request.object})
        if x.request.endpoint.kind:
            return frozenset()
        text = unquote(b"?".join(x.request.client.target).decode("latin-1"))
        return await self._owners.known(set(_WORD.findall(text)))

    # The body.

    async def _body(self, x: Journey, head: Head, caller: Caller) -> bytes | Upload:
        """The request's body, read so far as it may decide where the request goes: its `names` grow by the objects that
        it names up to there."""
        limit = self._limits[x.request.endpoint.body]
        if head.content_length > limit:
            raise too_large(limit)
        look = None
        kinds = [value for name, value in x.request.client.headers if name == b"content-type"]
        if len(kinds) > 1:
            raise ApiError(400, "content-type: given twice")
        known_as_json = x.request.endpoint.body is Body.JSON and x.request.endpoint.kind
        if known_as_json or not kinds or _MAYBE_JSON.search(kinds[0]):
            judge = partial(self._judge, x, caller)
            look = Inspection(head.content_encoding, limit, judge, _is_batch(x.request.endpoint)).look
        size = head.content_length if head.content_length >= 0 else None
        upload = Upload(x.request.client.read, size, limit, self._patience, x.request.hold, look)
        began = perf_counter()
        whole = await upload.gather(_LOOKED_AT)
        x.times.body = perf_counter() - began
        if whole is not None:
            x.request.body_size = len(whole)
            return whole
        x.request.upload = upload
        return upload

    async def _judge(self, x: Journey, caller: Caller, models: set[str], ids: set[str]) -> None:
        """What came up in a body on its way."""
        check = self._rights.check_unchanged if _is_batch(x.request.endpoint) else self._rights.check_named
        for model in models:
            check(caller, model)
        known = await self._owners.known(ids) if ids else None
        if not known:
            return  # words that look like ids, or ids that the upstream does not know either
        if not x.request.home:
            x.request.names |= known
        elif await self._owners.where(caller, known) != x.request.home:
            raise ApiError(400, APART)

    # Sending.

    def _target(self, x: Journey, query: bytes | None = None) -> tuple[bytes, bytes]:
        """Method and path with query, the client's or `query`."""
        client = x.request.client
        method = client.method.encode("ascii")
        if query is None:
            return method, x.request.target
        return method, client.target[0] + b"?" + query if query else client.target[0]

    def _route(self, x: Journey, caller: Caller, workspace: str, how: str) -> Route:
        deadline = monotonic() + self._total - (perf_counter() - x.request.t0)
        route = Route(self._router, caller.id.encode()[:64], "", 0, 300, deadline, x.request.endpoint.name)
        route.pin(workspace, how)
        route.once = x.request.client.method not in ("GET", "HEAD")
        x.route = route
        return route

    # The answer.

    async def take(self, x: Journey, response: Response, head: AnswerHead) -> None:
        """An account has answered well."""
        endpoint = x.request.endpoint
        answer = endpoint.answer
        looked_at = answer in (Answer.CREATED, Answer.PAGE, Answer.DELETED) or endpoint.batches
        if looked_at and x.request.client.method != "HEAD" and head.kind.startswith(b"application/json"):
            body = await _read(x, response)
            if head.encoding:
                body = _decoded(x, head, body)
            headers = head.visible + x.gateway_headers(self._expose_account)
            x.reply.kept = Kept(response.status, headers, body)
            response.close()
            x.attempt.response = None
            return
        headers = head.visible + x.gateway_headers(self._expose_account)
        if answer is Answer.PAGE and response.status == 200:
            raise ApiError(502, "The upstream gave no proper list.")
        if answer is Answer.DELETED:
            await self._owners.deleted(x.request.object)
        elif answer is Answer.RESULTS:
            await self._results(x, response, headers, head.encoding)
            return
        await relay_through(x, response, headers)

    async def _results(self, x: Journey, response: Response, headers: HeaderList, encoding: bytes) -> None:
        """Results of a batch pass through, and what is read of them is metered, also if that is not all."""
        skip = await self._batch_usage.metered(x.request.object)
        tap = self._batch_usage.tap(skip)
        see = Decoded(tap, x.request.object, encoding).feed if encoding else tap.feed
        try:
            await relay_through(x, response, headers, see)
            if x.outcome == "ok":
                tap.finish()
        finally:
            self._batch_usage.settle_soon(x, tap, skip)
        caller, account = x.request.caller, x.attempt.account
        for kind, object_id in set(tap.created_ids):
            if caller is not None and account is not None:
                await self._owners.created(caller, object_id, account.workspace, LIFETIMES.get(kind, 0))

    async def _finish(self, x: Journey, kept: Kept) -> None:
        """Look at a whole answer, and pass it on."""
        endpoint, body = x.request.endpoint, kept.body
        if endpoint.answer is Answer.DELETED:
            await self._owners.deleted(x.request.object)
        elif endpoint.answer is Answer.CREATED:
            for created in created_ids(body):
                if x.request.caller is not None and x.attempt.account is not None:
                    lifetime = LIFETIMES.get(endpoint.kind, 0)
                    await self._owners.created(x.request.caller, created, x.attempt.account.workspace, lifetime)
        if endpoint.batches:
            body = results_to(body, self._addresses.base_url(x.request.client.scope))
        await x.reply.answer(kept.status, kept.headers, body)


def _is_batch(endpoint: Endpoint) -> bool:
    """Whether a request to this endpoint makes a batch."""
    return endpoint.batches and endpoint.answer is Answer.CREATED


def _decoded(x: Journey, head: AnswerHead, body: bytes) -> bytes:
    """A body that the upstream has encoded although it was asked not to, made plain; as it came where nobody can."""
    try:
        text = decode(body, head.encoding, MAX_KEPT)
    except ApiError:
        log.warning("an answer could not be decoded", request_id=x.request.id, endpoint=x.request.endpoint.name)
        return body
    x.request.hold(len(text))
    head.is_plain()
    return text


async def _read(x: Journey, response: Response) -> bytes:
    """The whole body. Raises Interrupted."""
    parts = []
    size = 0
    while data := await response.read():
        parts.append(data)
        size += len(data)
        x.request.hold(len(data))
        if size > MAX_KEPT:
            raise Interrupted("the answer is too large")
    return b"".join(parts)
