"""The part of the admin API by which operators manage accounts and conversations, and what of it is written down.

It decides nothing: the desks do.
"""

from __future__ import annotations

from starlette.responses import Response

from gateway.admin import schemas
from gateway.admin.access import OPERATE
from gateway.admin.desks.accounts import Accounts
from gateway.admin.desks.conversations import KINDS, Conversations, wanted
from gateway.admin.routes import Call, Good, Param, Route, json, known_query

_SHOWN = ("state", "weight", "drain_until")  # of an account, in the audit log


def account_routes(desk: Accounts, conversations: Conversations) -> list[Route]:
    async def all_accounts(call: Call) -> Response:
        return json({"data": desk.all()})

    async def one(call: Call) -> Response:
        return json(desk.one(call.params["id"]))

    async def change(call: Call) -> Response:
        before = desk.one(call.params["id"])
        call.about(f"accounts/{before['id']}")
        after = await desk.change(before["id"], await call.body())
        call.about(f"accounts/{before['id']}", **{name: (before[name], after[name]) for name in _SHOWN})
        return json(after)

    async def flush(call: Call) -> Response:
        gone = await conversations.flush_account(call.params["id"])
        call.about(f"accounts/{gone['account']}", bindings=(gone["flushed"], 0))
        return json(gone)

    id_ = (Param("id", "of the account", schemas.TEXT, required=True),)
    account = Good("The account", schemas.ACCOUNT)
    return [
        Route(
            method="GET", path="/admin/v1/accounts", handler=all_accounts, about="All accounts, and how each one does",
            good={200: Good("By id", schemas.page(schemas.ACCOUNT))},
        ),
        Route(
            method="GET", path="/admin/v1/accounts/{id}", handler=one, about="One account", params=id_,
            good={200: account}, may=(404,),
        ),
        Route(
            method="PATCH", path="/admin/v1/accounts/{id}", handler=change, params=id_, role=OPERATE,
            about="Drain, disable or enable an account, or change its weight", action="account.change",
            body=schemas.ACCOUNT_CHANGE, good={200: account}, may=(404, 503),
        ),
        Route(
            method="DELETE", path="/admin/v1/accounts/{id}/bindings", handler=flush, params=id_, role=OPERATE,
            about="Forget which conversations live on the account's workspace", action="account.flush",
            good={200: Good("How many were forgotten", schemas.FLUSHED_ACCOUNT)}, may=(404, 503),
        ),
    ]  # fmt: skip


def conversation_routes(desk: Conversations) -> list[Route]:
    async def show(call: Call) -> Response:
        known_query(call.query, "kind", "agent")
        return json(await desk.show(wanted(call.request.scope["raw_path"], call.query)))

    async def flush(call: Call) -> Response:
        known_query(call.query, "kind", "agent")
        gone = await desk.flush(wanted(call.request.scope["raw_path"], call.query))
        call.about(f"conversations/{gone['caller']}/{gone['conversation']}", bindings=(gone["flushed"], 0))
        return json(gone)

    path = "/admin/v1/conversations/{key}/{id...}"
    params = (
        Param("key", "id of the caller", schemas.TEXT, required=True),
        Param("id", "the conversation's id, as the client sends it", schemas.CONVERSATION_ID, required=True),
    )
    query = (
        Param("kind", "of the id; without it, whichever is known", schemas.choice(*KINDS, "")),
        Param("agent", "agent id that Claude Code sends with a session; needs kind=session", schemas.TEXT),
    )
    return [
        Route(
            method="GET", path=path, handler=show, about="Where a conversation lives, and why", params=params,
            query=query, good={200: Good("Its bindings", schemas.CONVERSATION)}, may=(404, 503),
        ),
        Route(
            method="DELETE", path=path, handler=flush, about="Forget a conversation: its next request is its first",
            params=params, query=query, role=OPERATE, action="conversation.flush",
            good={200: Good("How many bindings were forgotten", schemas.FLUSHED_CONVERSATION)}, may=(404, 503),
        ),
    ]  # fmt: skip
