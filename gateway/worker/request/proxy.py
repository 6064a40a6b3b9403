"""A request's life, from its head to its record: recognised, served as what it is, settled whatever happens.

Read on in `messages` (what names a model) or `objects.request` (what belongs to one account), then in `dispatch`,
`exchange`, `relay` and `settlement`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from gateway import log
from gateway.config.schema import Caller, Config, Team
from gateway.core.routing.router import Router
from gateway.errors import ApiError
from gateway.listen.client import Client
from gateway.telemetry.tracing import Trace
from gateway.upstream.transport import Interrupted
from gateway.worker.accounts import Pool
from gateway.worker.affinity.bindings import Admission
from gateway.worker.callers.authenticate import Callers
from gateway.worker.callers.limits import Accounting
from gateway.worker.callers.own_view import OwnView
from gateway.worker.callers.rights import Rights
from gateway.worker.endpoints import At, Endpoint
from gateway.worker.head import read_head, read_plain
from gateway.worker.objects.batch_usage import BatchUsageMeter
from gateway.worker.objects.owners import Owners
from gateway.worker.objects.request import Objects
from gateway.worker.request.dispatch import Dispatch
from gateway.worker.request.exchange import Exchange
from gateway.worker.request.home import Home
from gateway.worker.request.journey import Holding, Journey, Phase, begun
from gateway.worker.request.messages import Messages
from gateway.worker.request.relay import broken
from gateway.worker.request.settlement import Settlement
from gateway.worker.request.token_exchange import exchange as exchange_token
from gateway.worker.request.warm import WarmWay


class Proxy:
    """The journeys of one process, over what it is made of. `live` are the requests on their way;
    `upstream_answered(account, provider, model, code)` is told of each exchange with an account;
    `bound_thinking(model)` says whether only the account that produced a model's thinking reads it;
    `trace(traceparent)` is the trace of a request whose client says that."""

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
        callers: Callers,
        own_view: OwnView,
        upstream_answered: Callable[[str, str, str, str], None],
        bound_thinking: Callable[[str], bool],
        trace: Callable[[bytes], Trace],
    ) -> None:
        self.live: set[Journey] = set()
        self.holding = Holding(0)
        self.home = Home(admission, settlement)
        self._admission = admission
        self._settlement = settlement
        self._trace = trace
        self._callers = callers
        self._own_view = own_view
        self._rights = Rights(config, router.offers)
        exchange = Exchange(config, pool, router, owners, self.home, upstream_answered)
        self._dispatch = Dispatch(config, pool, router, exchange)
        self._messages = Messages(
            config, router, admission, accounting, owners, self._rights, self.home, self._dispatch, bound_thinking
        )
        self.warm = WarmWay(
            config, pool, admission, accounting, callers, self._rights, self.home, exchange, self._messages,
            self.holding, self.live, trace, self.see_through, self.ended,
        )  # fmt: skip
        self._objects = Objects(config, router, owners, accounting, batch_usage, self._dispatch, self._rights)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration from the next request on."""
        self._expose_account = config.expose_account
        self._affinity = config.affinity.header.lower().encode()
        self.holding.most = int(config.limits.max_held_mb * 1024 * 1024)
        self._rights.configure(config)
        self._messages.configure(config)
        self._objects.configure(config)
        self._dispatch.configure(config)
        self.warm.configure(config)

    def know(self, teams: Mapping[str, Team]) -> None:
        """These are the teams that there are."""
        self._rights.know(teams)

    def end(self, deleted: Collection[str], teams: Collection[str]) -> None:
        """What is being served to callers who were deleted ends now, and what is to callers by token (a slash is in the
        ids of those alone) of `teams` that were."""
        for x in list(self.live) if deleted or teams else ():
            caller = x.request.caller
            if caller is not None and (caller.id in deleted or ("/" in caller.id and caller.team in teams)):
                x.interrupt("revoked")

    async def handle(self, endpoint: Endpoint, client: Client, object_id: str = "") -> None:
        """Serve one request of an endpoint, whose path names `object_id`."""
        x = begun(endpoint, client, self.holding, object_id)
        self.live.add(x)
        await self.see_through(x, self._serve(x, endpoint, client))

    async def _serve(self, x: Journey, endpoint: Endpoint, client: Client) -> None:
        plain, affinity, request = client.plain, self._affinity, x.request
        head = request.head = read_head(client.headers, affinity) if plain is None else read_plain(plain, affinity)
        trace = request.trace = self._trace(head.traceparent)
        if trace.header is not None:
            head.continue_trace(trace.header, trace.broken)
        if head.hosts != 1 and client.version == "1.1":
            raise ApiError(400, "host: exactly one is needed")
        if endpoint.at is At.EXCHANGE and self._callers.may_exchange:
            return await exchange_token(x, self._callers)
        caller = self._callers.find(head) or await self._callers.identify(head, client.scope)
        request.caller = caller
        if endpoint.at is At.REFUSED or endpoint.at is At.EXCHANGE:
            raise ApiError(
                403, "This part of the API is for the company's administrators; the gateway does not pass it on."
            )
        if endpoint.method and client.method != endpoint.method:
            raise ApiError(405, f"Method {client.method} is not allowed here; use {endpoint.method}.")
        if endpoint.peeks:
            await self._messages.journey(x, head, caller)
        elif endpoint.at is At.HERE:
            await self._here(x, caller)
        else:
            await self._objects.journey(x, head, caller)

    async def see_through(self, x: Journey, rest: Coroutine[Any, Any, None]) -> None:
        """Have the rest of a journey done. Whatever comes of it, its client is answered and it is settled once."""
        try:
            # What goes on here may have ended before this task began, which nobody could tell it then.
            if x.reservation is not None and not x.reply.ended and (x.interrupted or x.request.client.gone):
                rest.close()
                raise asyncio.CancelledError
            await rest
        except ApiError as error:
            if x.request.client.gone and not x.reply.ended:
                x.outcome, x.cause = "client_gone", "client"
            else:
                await x.refuse(error, x.gateway_headers(self._expose_account))
        except asyncio.CancelledError:
            if not x.interrupted:
                x.outcome, x.cause = "client_gone", "client"
                raise
            x.cause = x.interrupted
            if x.phase is Phase.RELAYING and x.reply.started:
                x.outcome = "interrupted"
            await x.refuse(broken(Interrupted(x.cause)), x.gateway_headers(self._expose_account))
        except Exception:
            log.exception("unhandled error", request_id=x.request.id)
            x.outcome, x.cause = "error", "gateway"
            await x.refuse(ApiError(500, "The gateway failed to handle this request."), [])
        finally:
            self.ended(x)

    def ended(self, x: Journey) -> None:
        """It has ended."""
        self.live.discard(x)
        if x.leader is not None:
            self.home.release(x)
        x.request.hold(-x.request.held)
        self._settlement.settle(x)

    async def _here(self, x: Journey, caller: Caller) -> None:
        request = x.request
        if request.endpoint.name == "models":
            body = self._rights.models(caller, request.object, request.client.target[1])
        else:
            body = await self._own_view.answer(caller, request.endpoint.name == "me_usage", request.client.target[1])
        headers = [(b"content-type", b"application/json"), (b"request-id", request.id.encode())]
        await x.reply.answer(200, headers + x.gateway_headers(False), body)
