"""`/v1/skills` and their versions, in both generations' shape."""

import io
import re
import zipfile
from typing import Any, cast

from gateway.lab.simulator.call import Call, json_reply
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.files import uploaded
from gateway.lab.simulator.multipart import Part
from gateway.lab.simulator.objects import Object, Objects
from gateway.lab.simulator.pages import cursor_page
from gateway.lab.simulator.reply import Reply

__all__ = ["Skills"]

KIND = "skills"
VERSIONS = "skills/versions"
OLD_BETA = "skills-2025-10-02"

_FIELD = re.compile(r"^(name|description|display_name):\s*(.+?)\s*$", re.MULTILINE)


class _Version:
    """What one version holds: its files by path, and the number by which old clients name it."""

    __slots__ = ("epoch", "files")

    def __init__(self, files: list[Part], epoch: int) -> None:
        self.files = files
        self.epoch = str(epoch)


class Skills:
    """The skills of every workspace; those that the upstream itself publishes are not among them."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def answer(self, call: Call) -> Reply:
        """The reply to any request below `/v1/skills`; `ApiError` 400, 404 or 405."""
        match (call.method, call.parts[1:]):
            case ("POST", []):
                return json_reply(self._create(call))
            case ("GET", []):
                return json_reply(self._list(call))
            case ("GET", [ident]):
                return json_reply(_shown(call, self._get(call, ident)))
            case ("DELETE", [ident]):
                self._objects.remove(self._get(call, ident))
                return json_reply({"id": ident, "type": "skill_deleted"})
            case ("POST", [ident, "versions"]):
                made = self._add_version(call, self._get(call, ident), uploaded(call))
                return json_reply(_version_shown(call, made))
            case ("GET", [ident, "versions"]):
                found = self._objects.all(VERSIONS, call.account.workspace, self._get(call, ident).id)
                return json_reply(_page(call, found, _version_shown))
            case ("GET", [ident, "versions", name]):
                return json_reply(_version_shown(call, self._version(call, ident, name)))
            case ("DELETE", [ident, "versions", name]):
                found_version = self._version(call, ident, name)
                self._objects.remove(found_version)
                return json_reply({"id": _name(call, found_version), "type": "skill_version_deleted"})
            case ("GET", [ident, "versions", name, "content"]):
                return _archive(self._version(call, ident, name))
            case (_, [] | [_] | [_, "versions"] | [_, "versions", _] | [_, "versions", _, "content"]):
                raise call.refuse_method()
        raise call.unknown_path()

    def resolve(self, workspace: str, ident: str, version: str) -> str:
        """The version id that a reference in a request means; `ApiError` 404 where this workspace has none."""
        skill = self._objects.get(KIND, workspace, ident, "Skill")
        return self._named(skill, version).id

    def _create(self, call: Call) -> dict[str, Any]:
        parts = uploaded(call)
        given = {part.name: part.text for part in parts if part.filename is None}
        fields = _front_matter(parts)
        label = given.get("display_name") or given.get("display_title") or fields["name"]
        now = call.stamp()
        ident = self._objects.new_id("skill_")
        data = {
            "type": "skill",
            "id": ident,
            "display_name": label,
            "latest_version_id": "",
            "source": {"type": "custom"},
            "created_at": now,
            "updated_at": now,
        }
        skill = self._objects.add(KIND, ident, call.account, data)
        self._add_version(call, skill, parts)
        return _shown(call, skill)

    def _add_version(self, call: Call, skill: Object, parts: list[Part]) -> Object:
        fields = _front_matter(parts)
        ident = self._objects.new_id("skillver_")
        versions = self._objects.all(VERSIONS, skill.scope, skill.id)
        epoch = int((call.epoch + call.now) * 1_000_000)
        if versions:
            epoch = max(epoch, int(cast(_Version, versions[-1].held).epoch) + 1)
        data = {"type": "skill_version", "id": ident, "skill_id": skill.id, **fields, "created_at": call.stamp()}
        held = _Version([part for part in parts if part.filename], epoch)
        skill.data["latest_version_id"] = ident
        skill.data["updated_at"] = call.stamp()
        skill.held = held.epoch
        return self._objects.add(VERSIONS, ident, call.account, data, parent=skill.id, held=held)

    def _list(self, call: Call) -> dict[str, Any]:
        found = self._objects.all(KIND, call.account.workspace)
        if call.query.get("source", ["custom"])[-1] != "custom":
            found = []
        return _page(call, found, _shown)

    def _get(self, call: Call, ident: str) -> Object:
        return self._objects.get(KIND, call.account.workspace, ident, "Skill")

    def _version(self, call: Call, ident: str, name: str) -> Object:
        return self._named(self._get(call, ident), name)

    def _named(self, skill: Object, name: str) -> Object:
        for one in self._objects.all(VERSIONS, skill.scope, skill.id)[::-1]:
            if name in ("latest", one.id, cast(_Version, one.held).epoch):
                return one
        raise ApiError(404, f"Skill version not found: {name}")


def _is_old(call: Call) -> bool:
    return call.has_beta(OLD_BETA)


def _name(call: Call, version: Object) -> str:
    return cast(_Version, version.held).epoch if _is_old(call) else version.id


def _shown(call: Call, skill: Object) -> dict[str, Any]:
    data = dict(skill.data)
    if _is_old(call):
        data["display_title"] = data.pop("display_name")
        data["latest_version"] = skill.held
        data["source"] = "custom"
        del data["latest_version_id"]
    return data


def _version_shown(call: Call, version: Object) -> dict[str, Any]:
    if not _is_old(call):
        return version.data
    return version.data | {"version": cast(_Version, version.held).epoch, "directory": version.data["name"]}


def _page(call: Call, found: list[Object], show: Any) -> dict[str, Any]:
    page = cursor_page(found, call.query, lambda one: show(call, one), call.account.workspace)
    return page | {"has_more": page["next_page"] is not None} if _is_old(call) else page


def _front_matter(parts: list[Part]) -> dict[str, str]:
    """Name and description from the SKILL.md at the root of the one folder; `ApiError` 400 where there is none."""
    root = next(
        (part for part in parts if part.filename and re.fullmatch(r"(?:[^/]+/)?SKILL\.md", part.filename)), None
    )
    if root is None:
        raise ApiError(400, "files: a SKILL.md at the root of the top-level directory is required")
    fields = dict(_FIELD.findall(root.text))
    folder = (root.filename or "").partition("/")[0]
    return {"name": fields.get("name", folder), "description": fields.get("description", "")}


def _archive(version: Object) -> Reply:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in cast(_Version, version.held).files:
            # A fixed date: the same files make the same bytes.
            archive.writestr(zipfile.ZipInfo(part.filename or "", (2026, 1, 1, 0, 0, 0)), part.content.whole())
    return Reply.of(200, packed.getvalue(), b"content-type: application/zip\r\n")
