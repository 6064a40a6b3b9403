"""The part of the admin API by which operators manage teams, callers, keys and boosts, and what of it is written down.

It decides nothing: the desks do.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.admin import schemas
from gateway.admin.access import OPERATE
from gateway.admin.desks.boosts import Boosts
from gateway.admin.desks.callers import Callers
from gateway.admin.desks.keys import Keys
from gateway.admin.desks.records import etag
from gateway.admin.desks.teams import Teams
from gateway.admin.routes import Call, Good, Param, Route, json

_TEAM = ("name", "models", "limits", "key_policy", "metadata")  # what the audit log shows of one
_CALLER = ("team", "kind", "label", "email", "status", "models", "limits", "metadata")
_BOOST = ("team", "caller", "usd", "until", "reason")


def _named(kind: str) -> tuple[Param, ...]:
    return (Param("id", f"of the {kind}", schemas.TEXT, required=True),)


def _tag(shown: dict[str, Any], *apart: str) -> str:
    """The entity tag of something shown together with `apart`, which is no part of it."""
    return etag({name: value for name, value in shown.items() if name not in ("warnings", *apart)})


def team_routes(desk: Teams) -> list[Route]:
    async def all_teams(call: Call) -> Response:
        return json({"data": desk.all()})

    async def one(call: Call) -> Response:
        shown = desk.one(call.params["id"])
        return json(shown, etag=_tag(shown, "members"))

    async def create(call: Call) -> Response:
        made = await desk.create(await call.body())
        call.about(f"teams/{made['id']}", **{name: (None, made[name]) for name in _TEAM})
        return json(made, 201, _tag(made, "members"))

    async def change(call: Call) -> Response:
        before = desk.find(call.params["id"]) or {}
        call.about(f"teams/{before['id']}" if before else "")
        after = await desk.change(call.params["id"], await call.body(), call.match)
        call.about(f"teams/{after['id']}", **{name: (before.get(name), after[name]) for name in _TEAM})
        return json(after, etag=_tag(after, "members"))

    async def delete(call: Call) -> Response:
        before = desk.find(call.params["id"]) or {}
        call.about(f"teams/{before['id']}" if before else "")
        gone = await desk.delete(call.params["id"], call.match)
        call.about(
            f"teams/{gone['id']}", source=("store", None), callers=(gone["callers"], []),
            keys_revoked=(0, gone["revoked"]),
        )  # fmt: skip
        return json(gone)

    changed = Good("The team", schemas.CHANGED_TEAM)
    return [
        Route(
            method="GET", path="/admin/v1/teams", handler=all_teams, about="All teams, and who is in them",
            good={200: Good("By id", schemas.page(schemas.TEAM))},
        ),
        Route(
            method="POST", path="/admin/v1/teams", handler=create, role=OPERATE, action="team.create",
            about="Make a team", body=schemas.TEAM_CREATE, may=(409, 503), good={201: changed},
        ),
        Route(
            method="GET", path="/admin/v1/teams/{id}", handler=one, about="One team", params=_named("team"),
            good={200: Good("The team", schemas.TEAM)}, may=(404,),
        ),
        Route(
            method="PATCH", path="/admin/v1/teams/{id}", handler=change, role=OPERATE, action="team.change",
            about="Give a team made at run time another name, other limits, models, policy or notes",
            params=_named("team"), body=schemas.TEAM_CHANGE, matches=True, may=(404, 409, 503), good={200: changed},
        ),
        Route(
            method="DELETE", path="/admin/v1/teams/{id}", handler=delete, role=OPERATE, action="team.delete",
            about="Delete a team made at run time and its callers: their keys end at once, their usage stays",
            params=_named("team"), matches=True, may=(404, 409, 503),
            good={200: Good("What is deleted", schemas.DELETED_TEAM)},
        ),
    ]  # fmt: skip


def caller_routes(desk: Callers, keys: Keys) -> list[Route]:
    def about(call: Call) -> dict[str, Any]:
        """The caller as it is before; only who is one is written down."""
        before = desk.find(call.params["id"]) or {}
        call.about(f"callers/{before['id']}" if before else "")
        return before

    async def all_callers(call: Call) -> Response:
        return json({"data": desk.all()})

    async def one(call: Call) -> Response:
        shown = desk.one(call.params["id"])
        return json({**shown, "keys": keys.of(shown["id"])}, etag=_tag(shown))

    async def create(call: Call) -> Response:
        made = await desk.create(await call.body())
        call.about(f"callers/{made['id']}", **{name: (None, made[name]) for name in _CALLER})
        return json({**made, "keys": []}, 201, _tag(made))

    async def change(call: Call) -> Response:
        before = about(call)
        after = await desk.change(call.params["id"], await call.body(), call.match)
        call.about(f"callers/{after['id']}", **{name: (before.get(name), after[name]) for name in _CALLER})
        return json({**after, "keys": keys.of(after["id"])}, etag=_tag(after))

    async def delete(call: Call) -> Response:
        about(call)
        gone = await desk.delete(call.params["id"], call.match)
        call.about(f"callers/{gone['caller']}", source=("store", None), keys_revoked=(0, gone["revoked"]))
        return json(gone)

    async def its_keys(call: Call) -> Response:
        return json({"data": keys.of(call.params["id"])})

    async def make(call: Call) -> Response:
        about(call)
        made = await keys.create_of(call.params["id"], await call.body())
        fields = ("caller", "label", "expires_at")
        call.about(f"keys/{made['id']}", **{name: (None, made[name]) for name in fields})
        return json(made, 201)

    async def revoke_all(call: Call) -> Response:
        about(call)
        after = await keys.revoke_all(call.params["id"], call.match)
        call.about(f"callers/{after['caller']}", keys_revoked=(0, after["revoked"]))
        return json(after)

    caller = _named("caller")
    return [
        Route(
            method="GET", path="/admin/v1/callers", handler=all_callers, about="All callers, without their keys",
            good={200: Good("By id", schemas.page(schemas.CALLER_ALONE))},
        ),
        Route(
            method="POST", path="/admin/v1/callers", handler=create, role=OPERATE, action="caller.create",
            about="Make a caller: a person or a service", body=schemas.CALLER_CREATE, may=(409, 503),
            good={201: Good("The caller, as yet without a key", schemas.CHANGED_CALLER)},
        ),
        Route(
            method="GET", path="/admin/v1/callers/{id}", handler=one, about="One caller and its keys", params=caller,
            good={200: Good("The caller", schemas.CALLER)}, may=(404,),
        ),
        Route(
            method="PATCH", path="/admin/v1/callers/{id}", handler=change, role=OPERATE, action="caller.change",
            about="Give a caller made at run time another team or status, other limits, models or notes",
            params=caller, body=schemas.CALLER_CHANGE, matches=True, may=(404, 409, 503),
            good={200: Good("The caller and its keys", schemas.CHANGED_CALLER)},
        ),
        Route(
            method="DELETE", path="/admin/v1/callers/{id}", handler=delete, role=OPERATE, action="caller.delete",
            about="Delete a caller made at run time: its keys end at once, its usage stays", params=caller,
            matches=True, may=(404, 409, 503), good={200: Good("Who is deleted", schemas.DELETED_CALLER)},
        ),
        Route(
            method="GET", path="/admin/v1/callers/{id}/keys", handler=its_keys, about="The keys of a caller",
            params=caller, good={200: Good("The oldest first", schemas.page(schemas.ITS_KEY))}, may=(404,),
        ),
        Route(
            method="POST", path="/admin/v1/callers/{id}/keys", handler=make, role=OPERATE, action="key.create",
            about="Make a key of a caller", params=caller, body=schemas.CALLER_KEY_CREATE, body_required=False,
            may=(404, 409, 503), good={201: Good("The key, shown this once", schemas.NEW_KEY)},
        ),
        Route(
            method="DELETE", path="/admin/v1/callers/{id}/keys", handler=revoke_all, role=OPERATE,
            action="caller.revoke", about="End all keys of a caller that were made at run time, for good",
            params=caller, matches=True, may=(404, 503),
            good={200: Good("The caller and its keys", schemas.REVOKED_CALLER)},
        ),
    ]  # fmt: skip


def key_routes(desk: Keys) -> list[Route]:
    async def all_keys(call: Call) -> Response:
        return json({"data": desk.all()})

    async def one(call: Call) -> Response:
        shown = desk.one(call.params["id"])
        return json(shown, etag=etag(desk.find(shown["id"]) or {}))

    async def create(call: Call) -> Response:
        made = await desk.create(await call.body())
        fields = ("caller", "team", "models", "limits", "expires_at")
        call.about(f"keys/{made['id']}", **{name: (None, made[name]) for name in fields})
        return json(made, 201)

    async def rotate(call: Call) -> Response:
        before = desk.find(call.params["id"])
        call.about(f"keys/{before['id']}" if before else "")
        made = await desk.rotate(call.params["id"], await call.body(), call.match)
        old, was = made["replaces"], before or {}
        changes = {name: (was.get(name), old[name]) for name in ("replaced_by", "expires_at")}
        call.about(f"keys/{old['id']}", caller=(None, made["caller"]), **changes)
        return json(made, 201)

    async def revoke(call: Call) -> Response:
        before = desk.find(call.params["id"])
        call.about(f"keys/{before['id']}" if before else "")
        gone = await desk.revoke(call.params["id"], call.match)
        call.about(f"keys/{gone['id']}", state=((before or {}).get("state"), gone["state"]))
        return json(gone)

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
            method="GET", path="/admin/v1/keys/{id}", handler=one, about="One key made at run time, and its caller",
            params=_named("key"), good={200: Good("The key", schemas.KEY)}, may=(404,),
        ),
        Route(
            method="DELETE", path="/admin/v1/keys/{id}", handler=revoke, about="End a key, everywhere and for good",
            params=_named("key"), role=OPERATE, action="key.revoke", matches=True, may=(404, 409, 503),
            good={200: Good("The key", schemas.KEY)},
        ),
        Route(
            method="POST", path="/admin/v1/keys/{id}/rotate", handler=rotate, params=_named("key"), role=OPERATE,
            about="Make a key that replaces this one", action="key.rotate", body=schemas.KEY_ROTATE,
            body_required=False, matches=True, may=(404, 409, 503),
            good={201: Good("The new key, shown this once", schemas.ROTATED_KEY)},
        ),
    ]  # fmt: skip


def boost_routes(desk: Boosts) -> list[Route]:
    async def all_boosts(call: Call) -> Response:
        return json({"data": desk.all()})

    async def one(call: Call) -> Response:
        shown = desk.one(call.params["id"])
        return json(shown, etag=etag(shown))

    async def create(call: Call) -> Response:
        made = await desk.create(await call.body(), call.known.id)
        call.about(f"boosts/{made['id']}", **{name: (None, made[name]) for name in _BOOST})
        return json(made, 201, etag(made))

    async def delete(call: Call) -> Response:
        before = desk.find(call.params["id"]) or {}
        call.about(f"boosts/{before['id']}" if before else "")
        gone = await desk.delete(call.params["id"], call.match)
        call.about(f"boosts/{gone['id']}", **{name: (before.get(name), None) for name in _BOOST})
        return json(gone)

    boost = Good("The boost", schemas.BOOST)
    return [
        Route(
            method="GET", path="/admin/v1/boosts", handler=all_boosts, about="Budgets that were raised for a while",
            good={200: Good("The latest first", schemas.page(schemas.BOOST))},
        ),
        Route(
            method="POST", path="/admin/v1/boosts", handler=create, role=OPERATE, action="boost.create",
            about="Raise the budgets of a team or a caller for a while", body=schemas.BOOST_CREATE,
            may=(404, 409, 503), good={201: boost},
        ),
        Route(
            method="GET", path="/admin/v1/boosts/{id}", handler=one, about="One boost", params=_named("boost"),
            good={200: boost}, may=(404,),
        ),
        Route(
            method="DELETE", path="/admin/v1/boosts/{id}", handler=delete, role=OPERATE, action="boost.delete",
            about="End a boost now", params=_named("boost"), matches=True, may=(404, 503), good={200: boost},
        ),
    ]  # fmt: skip
