"""The part of the admin API by which operators manage accounts, conversations and keys, and what of it is written down.

It decides nothing: the desks do.
"""

from __future__ import annotations

from starlette.responses import Response

from gateway.admin import schemas
from gateway.admin.access import OPERATE
from gateway.admin.desks.accounts import Accounts
from gateway.admin.desks.conversations import KINDS, Conversations, wanted
from gateway.admin.desks.keys import Keys
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


def key_routes(desk: Keys) -> list[Route]:
    async def all_keys(call: Call) -> Response:
        return json({"data": desk.all()})

    async def create(call: Call) -> Response:
        made = await desk.create(await call.body())
        fields = ("caller", "team", "models", "limits", "expires_at")
        call.about(f"keys/{made['id']}", **{name: (None, made[name]) for name in fields})
        return json(made, 201)

    async def change(call: Call) -> Response:
        before = desk.caller(call.params["id"])
        call.about(f"callers/{before['caller']}" if before else "")
        after = await desk.change(call.params["id"], await call.body())
        changes = {name: ((before or {}).get(name), after[name]) for name in ("models", "limits", "metadata")}
        call.about(f"callers/{after['caller']}", **changes)
        return json(after)

    async def delete(call: Call) -> Response:
        before = desk.caller(call.params["id"])
        call.about(f"callers/{before['caller']}" if before else "")
        gone = await desk.delete(call.params["id"])
        call.about(f"callers/{gone['caller']}", source=("store", None), keys_revoked=(0, gone["revoked"]))
        return json(gone)

    async def revoke_all(call: Call) -> Response:
        before = desk.caller(call.params["id"])
        call.about(f"callers/{before['caller']}" if before else "")
        after = await desk.revoke_all(call.params["id"])
        call.about(f"callers/{after['caller']}", keys_revoked=(0, after["revoked"]))
        return json(after)

    async def rotate(call: Call) -> Response:
        before = desk.find(call.params["id"])
        call.about(f"keys/{before['id']}" if before else "")
        made = await desk.rotate(call.params["id"], await call.body())
        old, was = made["replaces"], before or {}
        changes = {name: (was.get(name), old[name]) for name in ("replaced_by", "expires_at")}
        call.about(f"keys/{old['id']}", caller=(None, made["caller"]), **changes)
        return json(made, 201)

    async def revoke(call: Call) -> Response:
        before = desk.find(call.params["id"])
        call.about(f"keys/{before['id']}" if before else "")
        gone = await desk.revoke(call.params["id"])
        call.about(f"keys/{gone['id']}", state=((before or {}).get("state"), gone["state"]))
        return json(gone)

    id_ = (Param("id", "of the key", schemas.TEXT, required=True),)
    caller = (Param("id", "of the caller", schemas.TEXT, required=True),)
    return [
        Route(
            method="GET", path="/admin/v1/keys", handler=all_keys, about="All callers and their keys",
            good={200: Good("By caller", schemas.page(schemas.CALLER))},
        ),
        Route(
            method="POST", path="/admin/v1/keys", handler=create, about="Make a key, and its caller if it is new",
            role=OPERATE, action="key.create", body=schemas.KEY_CREATE, may=(409, 503),
            good={201: Good("The key, shown this once", schemas.NEW_KEY)},
        ),
        Route(
            method="PATCH", path="/admin/v1/callers/{id}", handler=change, role=OPERATE, action="caller.change",
            about="Give a caller made at run time other limits, models or notes",
            params=caller, body=schemas.CALLER_CHANGE, may=(404, 409, 503),
            good={200: Good("The caller and its keys", schemas.CHANGED_CALLER)},
        ),
        Route(
            method="DELETE", path="/admin/v1/callers/{id}", handler=delete, role=OPERATE, action="caller.delete",
            about="Delete a caller made at run time: its keys end at once, its usage stays", params=caller,
            may=(404, 409, 503), good={200: Good("Who is deleted", schemas.DELETED_CALLER)},
        ),
        Route(
            method="DELETE", path="/admin/v1/callers/{id}/keys", handler=revoke_all, role=OPERATE,
            action="caller.revoke", about="End all keys of a caller that were made at run time, for good",
            params=caller, may=(404, 503), good={200: Good("The caller and its keys", schemas.REVOKED_CALLER)},
        ),
        Route(
            method="DELETE", path="/admin/v1/keys/{id}", handler=revoke, about="End a key, everywhere and for good",
            params=id_, role=OPERATE, action="key.revoke", may=(404, 409, 503),
            good={200: Good("The key", schemas.KEY)},
        ),
        Route(
            method="POST", path="/admin/v1/keys/{id}/rotate", handler=rotate, params=id_, role=OPERATE,
            about="Make a key that replaces this one", action="key.rotate", body=schemas.KEY_ROTATE,
            body_required=False, may=(404, 409, 503),
            good={201: Good("The new key, shown this once", schemas.ROTATED_KEY)},
        ),
    ]  # fmt: skip
