"""The plain objects of `kinds`: create, list, get, update, delete, archive, and one level of sub-resources."""

from hashlib import sha256
from typing import Any

from gateway.lab.simulator.call import Call, json_reply
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.kinds import KINDS, Kind, sub_of
from gateway.lab.simulator.links import Links
from gateway.lab.simulator.objects import Object, Objects
from gateway.lab.simulator.pages import cursor_page
from gateway.lab.simulator.reply import Reply
from gateway.lab.simulator.sessions import Sessions
from gateway.lab.simulator.work import Work

__all__ = ["Resources"]

HOUR = 3600.0


class Resources:
    """The objects of every collection; `links` knows what each refers to."""

    def __init__(self, objects: Objects, links: Links) -> None:
        self._objects = objects
        self._links = links
        self._sessions = Sessions(objects)
        self._work = Work(objects)

    def answer(self, call: Call) -> Reply:
        """The reply to any request below one of `KINDS`; `ApiError` 400, 404 or 405."""
        name, *rest = call.parts
        kind = KINDS[name]
        match (call.method, rest):
            case ("POST", []) if kind.creatable:
                return json_reply(self._create(call, name, call.json()).data)
            case ("GET", []):
                found = self._objects.all(name, _scope(call, kind))
                order = call.query.get("order", ["desc"])[-1]
                return json_reply(self._page(call, found, _scope(call, kind), descending=order != "asc"))
            case (_, []):
                raise call.refuse_method()
        owner = self._objects.get(name, _scope(call, kind), rest[0], kind.label)
        match (call.method, rest[1:]):
            case ("GET", []):
                return json_reply(owner.data)
            case ("POST", []):
                return json_reply(self._update(call, name, owner, call.json()))
            case ("DELETE", []):
                self._objects.remove(owner)
                return json_reply({"id": owner.id, "type": f"{kind.type}_deleted"})
            case ("POST", [action]):
                changed = self._act(call, name, owner, action)
                if changed is not None:
                    return json_reply(changed)
            case (_, []):
                raise call.refuse_method()
        if name == "sessions":
            reply = self._sessions.answer(call, owner, rest[1:])
        else:
            reply = self._work.answer(call, owner, rest[1:]) if name == "environments" else None
        return self._sub(call, name, owner, rest[1:]) if reply is None else reply

    def _create(self, call: Call, name: str, given: dict[str, Any]) -> Object:
        kind = KINDS[name]
        for field in kind.required:
            if given.get(field) is None:
                raise ApiError(400, f"{field}: Field required")
        resolved = self._links.resolved(name, given, call.account.workspace)
        ident = self._objects.new_id(kind.prefix)
        data = {**kind.fields, **resolved, **_basics(call, ident, kind.type)}
        if name == "tunnels":
            data["domain"] = f"{ident.removeprefix(kind.prefix).lower()}.tunnel.example.com"
        made = self._objects.add(name, ident, call.account, data, scope=_scope(call, kind))
        if name == "agents":
            self._remember(call, made)
        if name == "sessions":
            data["resources"] = [self._add_sub(call, name, made, "resources", one).data for one in data["resources"]]
            thread = {"session_id": ident, "agent": data["agent"], "status": "idle", "parent_thread_id": None}
            self._add_sub(call, name, made, "threads", thread)
        return made

    def _update(self, call: Call, name: str, found: Object, given: dict[str, Any]) -> dict[str, Any]:
        changes = self._links.resolved(name, given, call.account.workspace)
        if isinstance(changes.get("metadata"), dict):
            merged = found.data.get("metadata", {}) | changes["metadata"]
            changes["metadata"] = {key: value for key, value in merged.items() if value is not None}
        for fixed in ("id", "type", "created_at"):
            changes.pop(fixed, None)
        found.data = {**found.data, **changes, "updated_at": call.stamp()}
        if name == "agents":
            found.data["version"] += 1
            self._remember(call, found)
        return found.data

    def _act(self, call: Call, name: str, found: Object, action: str) -> dict[str, Any] | None:
        """Carries out what is an action and not a sub-resource; None if it is none."""
        if action == "archive":
            found.data = found.data | {"archived_at": call.stamp(), "updated_at": call.stamp()}
            return found.data
        if action in KINDS[name].actions:
            found.data = found.data | KINDS[name].actions[action] | {"updated_at": call.stamp()}
            return found.data
        if (name, action) == ("deployments", "run"):
            return self._run(call, found)
        if name == "tunnels" and action in ("reveal_token", "rotate_token"):
            if action == "rotate_token" or found.held is None:
                found.held = self._objects.new_id("tunnel-token-")
            return {"id": found.id, "type": "tunnel_token", "tunnel_token": found.held}
        if name == "user_profiles" and action in ("action_urls", "enrollment_url"):
            kind = "enrollment_url" if action == "enrollment_url" else "user_profile_action_url"
            url = f"https://example.com/{self._objects.new_id('go')}"
            return {"type": kind, "url": url, "expires_at": call.stamp(call.now + HOUR)}
        return None

    def _run(self, call: Call, deployment: Object) -> dict[str, Any]:
        given = {field: deployment.data[field] for field in ("agent", "environment_id", "vault_ids", "resources")}
        session = self._create(call, "sessions", given)
        session.data["deployment_id"] = deployment.id
        ident = self._objects.new_id(KINDS["deployment_runs"].prefix)
        data = {
            "id": ident,
            "type": KINDS["deployment_runs"].type,
            "agent": deployment.data["agent"],
            "created_at": call.stamp(),
            "deployment_id": deployment.id,
            "error": None,
            "session_id": session.id,
            "trigger_context": {"type": "manual"},
        }
        return self._objects.add("deployment_runs", ident, call.account, data).data

    def _remember(self, call: Call, agent: Object) -> None:
        """Keeps what an agent is in its present version."""
        version = str(agent.data["version"])
        self._objects.add("agents/versions", version, call.account, agent.data, parent=agent.id)

    # Sub-resources.

    def _sub(self, call: Call, name: str, owner: Object, rest: list[str]) -> Reply:
        sub, kind = rest[0], f"{name}/{rest[0]}"
        match (call.method, rest[1:]):
            case ("POST", []):
                return json_reply(self._add_sub(call, name, owner, sub, call.json()).data)
            case ("GET", []):
                return json_reply(self._page(call, self._objects.all(kind, owner.scope, owner.id), owner.scope))
            case (_, []):
                raise call.refuse_method()
        found = self._objects.get(kind, owner.scope, rest[1], sub, owner.id)
        match (call.method, rest[2:]):
            case ("GET", []):
                return json_reply(found.data)
            case ("POST", []):
                return json_reply(self._update(call, kind, found, call.json()))
            case ("DELETE", []):
                self._objects.remove(found)
                return json_reply({"id": found.id, "type": sub_of(name, sub).deleted})
            case ("POST", ["archive"]):
                found.data = found.data | {"archived_at": call.stamp()}
                return json_reply(found.data)
            case ("POST", [_]):
                return json_reply(found.data)
        raise call.unknown_path()

    def _add_sub(self, call: Call, name: str, owner: Object, sub: str, given: dict[str, Any]) -> Object:
        shape, kind = sub_of(name, sub), f"{name}/{sub}"
        resolved = self._links.resolved(kind, given, call.account.workspace)
        ident = self._objects.new_id(shape.prefix)
        kind_of_it = given.get("type", shape.type) if kind == "sessions/resources" else shape.type
        data = {**shape.fields, **resolved, **_basics(call, ident, str(kind_of_it))}
        data[f"{KINDS[name].type}_id"] = owner.id
        if kind == "sessions/resources" and "file_id" in data:
            data.setdefault("mount_path", f"/mnt/session/uploads/{data['file_id']}")
        if kind == "memory_stores/memories":
            self._fill_memory(call, owner, data)
        return self._objects.add(kind, ident, call.account, data, scope=owner.scope, parent=owner.id)

    def _fill_memory(self, call: Call, store: Object, data: dict[str, Any]) -> None:
        content = str(data.get("content") or "").encode()
        data |= {"content_sha256": sha256(content).hexdigest(), "content_size_bytes": len(content)}
        data.setdefault("path", f"/{data['id']}")
        shown = ("content", "content_sha256", "content_size_bytes", "path")
        version = {"memory_id": data["id"], "operation": "created", **{name: data.get(name) for name in shown}}
        data["memory_version_id"] = self._add_sub(call, "memory_stores", store, "memory_versions", version).id

    def _page(self, call: Call, found: list[Object], scope: str, *, descending: bool = True) -> dict[str, Any]:
        """A page of the objects whose fields are as the query says."""
        if call.query.get("include_archived", ["false"])[-1] != "true":
            found = [one for one in found if one.data.get("archived_at") is None]
        for field, values in call.query.items():
            if field.endswith("_id"):
                found = [one for one in found if _field(one, field) in values]
        page = cursor_page(found, call.query, lambda one: one.data, scope, descending=descending)
        return page | {"prev_page": None} if call.parts == ["sessions"] else page


def _scope(call: Call, kind: Kind) -> str:
    return call.account.organization if kind.of_organization else call.account.workspace


def _basics(call: Call, ident: str, kind: str) -> dict[str, Any]:
    now = call.stamp()
    return {"id": ident, "type": kind, "created_at": now, "updated_at": now, "archived_at": None}


def _field(found: Object, name: str) -> Any:
    if name == "agent_id":
        return (found.data.get("agent") or {}).get("id")
    return found.data.get(name)
