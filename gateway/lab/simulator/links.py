"""What plain objects refer to: each must exist in the same workspace, and some are shown resolved."""

from typing import Any

from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.files import KIND as FILES
from gateway.lab.simulator.kinds import KINDS
from gateway.lab.simulator.objects import Object, Objects
from gateway.lab.simulator.skills import Skills

__all__ = ["Links"]

_SNAPSHOT = ("id", "type", "name", "description", "model", "system", "tools", "skills", "mcp_servers", "multiagent",
             "execution_identity", "version")  # fmt: skip
_BY_ID = {"memory_store_id": "memory_stores", "environment_id": "environments", "session_id": "sessions"}


class Links:
    """Follows references within a workspace."""

    def __init__(self, objects: Objects, skills: Skills) -> None:
        self._objects = objects
        self._skills = skills

    def resolved(self, kind: str, given: dict[str, Any], scope: str) -> dict[str, Any]:
        """The fields of a body as an object shows them; `ApiError` 400 or 404 for a reference to nothing."""
        data = dict(given)
        self._check(data, scope)
        for one in [*_objects_in(data, "resources"), *_objects_in(data, "inputs")]:
            self._check(one, scope)
        for skill in _objects_in(data, "skills"):
            if skill.get("type") == "custom":
                self._skills.resolve(scope, str(skill.get("skill_id")), str(skill.get("version") or "latest"))
        if kind in ("agents", "dreams") and isinstance(data.get("model"), str):
            data["model"] = {"id": data["model"], "speed": "standard"}
        if kind in ("sessions", "deployments") and "agent" in data:
            agent = self._agent(data["agent"], scope)
            shown = _SNAPSHOT if kind == "sessions" else ("id", "type", "version")
            data["agent"] = {name: agent.data.get(name) for name in shown}
        return data

    def _check(self, data: dict[str, Any], scope: str) -> None:
        if isinstance(data.get("file_id"), str):
            self._objects.get(FILES, scope, data["file_id"], "File")
        for field, kind in _BY_ID.items():
            if isinstance(data.get(field), str):
                self._objects.get(kind, scope, data[field], KINDS[kind].label)
        for field, kind in (("vault_ids", "vaults"), ("session_ids", "sessions")):
            named = data.get(field)
            for ident in named if isinstance(named, list) else []:
                self._objects.get(kind, scope, str(ident), KINDS[kind].label)

    def _agent(self, given: Any, scope: str) -> Object:
        ident = given.get("id") if isinstance(given, dict) else given
        if not isinstance(ident, str):
            raise ApiError(400, "agent: Input should be an agent id or a reference to one")
        return self._objects.get("agents", scope, ident, KINDS["agents"].label)


def _objects_in(data: dict[str, Any], field: str) -> list[dict[str, Any]]:
    found = data.get(field)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
