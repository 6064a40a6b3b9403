"""The admin API: every path of it, who may use it, what it takes and gives. Here the desks meet their routes.

It decides nothing: the desks do.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import msgspec
from starlette.responses import Response, StreamingResponse

import gateway
from gateway.admin import schemas
from gateway.admin.access import Access, Who
from gateway.admin.audit import MOST, Audit
from gateway.admin.dashboard.live import EVENT_STREAM, MOST_RECENT
from gateway.admin.desks.accounts import Accounts
from gateway.admin.desks.boosts import Boosts
from gateway.admin.desks.callers import Callers
from gateway.admin.desks.conversations import Conversations
from gateway.admin.desks.keys import Keys
from gateway.admin.desks.teams import Teams
from gateway.admin.desks.usage import NAMES, Usage
from gateway.admin.management import account_routes, conversation_routes
from gateway.admin.routes import OPEN, Call, Good, Param, Route, json, known_query, whole_number
from gateway.admin.tenants import boost_routes, caller_routes, key_routes, team_routes
from gateway.config.rules import moment_text
from gateway.store.ledger.usage import GROUPS
from gateway.telemetry.scrapes import Encode, Scrapes

_LISTED = 100  # where nobody says how many
Answer = Callable[[], Awaitable[dict[str, Any]]]


class Live(Protocol):
    """What goes on now, as in admin.dashboard.live."""

    async def overview(self) -> dict[str, Any]: ...
    async def events(self, last_event_id: str = "", who: str = "") -> AsyncGenerator[bytes, None]: ...
    def recent(
        self, limit: int = 100, key: str | None = None, account: str | None = None, outcome: str | None = None
    ) -> dict[str, Any]: ...
    async def levels(self) -> dict[str, Any]: ...


class Desks(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers. `scrape` gives all metrics of now in an encoding; `readiness` and `pool` give the bodies of their
    paths; `metrics_open()` tells whether anybody may scrape, `clients()` how clients reach this gateway."""

    scrape: Callable[[Encode], Awaitable[bytes]]
    readiness: Answer
    pool: Answer
    accounts: Accounts
    conversations: Conversations
    keys: Keys
    callers: Callers
    teams: Teams
    boosts: Boosts
    usage: Usage
    live: Live
    audit: Audit
    metrics_open: Callable[[], bool]
    clients: Callable[[], dict[str, Any]] = dict


def api_routes(desks: Desks, access: Access) -> list[Route]:
    """All but the document of the API, which is made of them."""
    return [
        *_health(desks),
        _me(desks.clients),
        *_live(desks.live, access),
        *account_routes(desks.accounts, desks.conversations),
        *conversation_routes(desks.conversations),
        *team_routes(desks.teams),
        *caller_routes(desks.callers, desks.keys),
        *key_routes(desks.keys),
        *boost_routes(desks.boosts),
        *_usage(desks.usage),
        _audit(desks.audit),
    ]


# What is so.


def _health(desks: Desks) -> list[Route]:
    scrapes = Scrapes(desks.scrape)

    async def healthz(call: Call) -> Response:
        return json({"status": "ok"})

    async def readyz(call: Call) -> Response:
        body = await desks.readiness()
        return json(body, 200 if body["ready"] else 503)

    async def metrics(call: Call) -> Response:
        headers = call.request.headers
        of_now = call.who is not None and "no-cache" in headers.get("cache-control", "").lower()
        body, content_type = await scrapes.get(headers.get("accept", ""), of_now)
        return Response(body, headers={"content-type": content_type})

    async def pool(call: Call) -> Response:
        return json(await desks.pool())

    ready = schemas.READY
    scrape = Good("Prometheus's text format, or OpenMetrics if asked for", None, "text/plain")
    return [
        Route(
            method="GET", path="/healthz", handler=healthz, about="Whether the process answers", role=OPEN,
            good={200: Good("It does", schemas.record(status=schemas.TEXT))},
        ),
        Route(
            method="GET", path="/readyz", handler=readyz, about="Whether clients are served, and what that takes",
            role=OPEN, good={200: Good("They are", ready), 503: Good("Not yet, or no longer", ready)},
        ),
        Route(
            method="GET", path="/metrics", handler=metrics, about="Metrics, totals over all workers",
            good={200: scrape}, opened=desks.metrics_open,
        ),
        Route(
            method="GET", path="/admin/v1/pool", handler=pool, about="The pool as all gateways have agreed on it",
            good={200: Good("The agreed document", schemas.POOL)},
        ),
    ]  # fmt: skip


def _me(clients: Callable[[], dict[str, Any]]) -> Route:
    async def me(call: Call) -> Response:
        who = call.known
        until = moment_text(who.until) if who.session else None
        return json({
            "id": who.id, "role": who.role, "csrf": who.csrf or None, "expires_at": until,
            "version": gateway.__version__, "clients": clients(),
        })  # fmt: skip

    return Route(
        method="GET", path="/admin/v1/me", handler=me, about="Who asks, and what a browser needs to change something",
        good={200: Good("The token's id and role", schemas.ME)},
    )  # fmt: skip


def _live(live: Live, access: Access) -> list[Route]:
    async def overview(call: Call) -> Response:
        return json(await live.overview())

    async def events(call: Call) -> Response:
        stream = await live.events(call.request.headers.get("last-event-id", "")[:100], call.known.id)
        return StreamingResponse(_while_allowed(stream, access, call.known), headers=EVENT_STREAM)

    async def recent(call: Call) -> Response:
        query = known_query(call.query, "limit", "key", "account", "outcome")
        limit = whole_number(query.pop("limit", None), "limit", _LISTED, MOST_RECENT)
        return json(live.recent(limit, **query))

    async def limits(call: Call) -> Response:
        return json(await live.levels())

    only = (
        Param("key", "only those of this caller", schemas.TEXT),
        Param("account", "only those that this account served", schemas.TEXT),
        Param("outcome", "only those that ended so: ok, error, interrupted, client_gone, or a status", schemas.TEXT),
    )
    return [
        Route(
            method="GET", path="/admin/v1/overview", handler=overview, about="How the gateway does now, and has lately",
            good={200: Good("Numbers of now, and a history of 15 minutes", schemas.OVERVIEW)},
        ),
        Route(
            method="GET", path="/admin/v1/live", handler=events, endless=True, may=(429, 503),
            about="The same as server-sent events: overview, accounts, requests",
            good={200: Good("A stream without end", None, "text/event-stream")},
        ),
        Route(
            method="GET", path="/admin/v1/requests", handler=recent, about="The latest requests of this gateway",
            query=(_limit(MOST_RECENT), *only),
            good={200: Good("The last to end first", schemas.page(schemas.REQUEST))},
        ),
        Route(
            method="GET", path="/admin/v1/limits", handler=limits, about="What callers and teams may still use",
            good={200: Good("Callers and teams that have limits", schemas.page(schemas.LEVEL))},
        ),
    ]  # fmt: skip


async def _while_allowed(stream: AsyncGenerator[bytes, None], access: Access, who: Who) -> AsyncIterator[bytes]:
    """The stream, until whoever asked for it may no longer."""
    async with contextlib.aclosing(stream):
        async for piece in stream:
            if not access.holds(who):
                break
            yield piece


# What was.


def _usage(desk: Usage) -> list[Route]:
    async def totals(call: Call) -> Response:
        return json(await desk.totals(call.query))

    async def records(call: Call) -> Response:
        return json(await desk.records(call.query))

    form = "a time, a UTC day, or how long ago: 2030-01-31T18:00:00Z, 2030-01-31, 7d, 24h"
    span = (
        Param("from", f"{form}; without it, the start of the month", schemas.SPAN),
        Param("to", f"{form}; without it, now", schemas.SPAN),
    )
    groups = Param("group_by", "one of them, or several with commas", schemas.groups(*NAMES))
    only = tuple(Param(name, f"only this {name}", schemas.TEXT, many=True) for name in GROUPS if name != "day")
    detail = Param("detail", "of cache writes, for how long", schemas.choice("true", "false", ""))
    return [
        Route(
            method="GET", path="/admin/v1/usage", handler=totals, about="What was used, and what it cost",
            query=(groups, *span, detail, *only),
            good={200: Good("The most expensive groups first", schemas.page(schemas.USAGE))}, may=(503,),
        ),
        Route(
            method="GET", path="/admin/v1/usage/records", handler=records, may=(503,),
            about="Single requests of a team, or of a caller without one",
            query=(
                Param("key", "the caller", schemas.TEXT), Param("team", "the team", schemas.TEXT), *span,
                _limit(1000), _before(),
            ),
            good={200: Good("The latest first", _paged(schemas.USAGE_RECORD))},
        ),
    ]  # fmt: skip


def _audit(audit: Audit) -> Route:
    async def entries(call: Call) -> Response:
        query = known_query(call.query, "limit", "before")
        limit = whole_number(query.get("limit"), "limit", _LISTED, MOST)
        return json(await audit.list(limit, query.get("before", "")))

    return Route(
        method="GET", path="/admin/v1/audit", handler=entries, about="Who changed what, on all gateways", may=(503,),
        query=(_limit(MOST), _before()), good={200: Good("The latest first", _paged(schemas.AUDIT_ENTRY))},
    )  # fmt: skip


def _limit(most: int) -> Param:
    return Param("limit", "of the answer's length", {"type": "integer", "minimum": 1, "maximum": most})


def _before() -> Param:
    return Param("before", "the `next` of an earlier answer", schemas.CURSOR)


def _paged(item: schemas.Schema) -> schemas.Schema:
    return schemas.record(data=schemas.many(item), next=schemas.maybe(schemas.TEXT))
