"""`/v1/files`: uploads of any size, kept as spools, and the lists of them in both generations' shape."""

import mimetypes
from typing import Any, cast
from urllib.parse import quote

from gateway.lab.simulator.call import Call, json_reply
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.multipart import Part
from gateway.lab.simulator.objects import Object, Objects
from gateway.lab.simulator.pages import cursor_page, id_page
from gateway.lab.simulator.reply import Framing, Reply
from gateway.lab.simulator.spool import Spool
from gateway.lab.simulator.world import Account

__all__ = ["Files", "uploaded"]

KIND = "files"
OLD_BETA = "files-api-2025-04-14"
LIFETIME = (3600, 7_776_000)
MAX_IDS = 100


def uploaded(call: Call) -> list[Part]:
    """The parts of a form that was read as it came; `ApiError` 400 if it was none, or compressed."""
    upload = call.request.upload
    if call.encoding is not None:
        code = "request_body_encoding_unsupported"
        raise ApiError(400, "an upload cannot be compressed", error_code=code)
    if upload is None:
        raise ApiError(400, "content-type: multipart/form-data is required")
    if upload.complaint is not None:
        raise ApiError(400, upload.complaint)
    return upload.parts


class Files:
    """The files of every workspace. Any may be downloaded, unlike upstream, so that tests can compare bytes."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def answer(self, call: Call) -> Reply:
        """The reply to any request below `/v1/files`; `ApiError` 400, 404 or 405."""
        match (call.method, call.parts[1:]):
            case ("POST", []):
                return json_reply(self._create(call))
            case ("GET", []):
                return json_reply(self._list(call))
            case ("GET" | "HEAD", [ident]):
                return json_reply(self._get(call, ident).data)
            case ("DELETE", [ident]):
                self._objects.remove(self._get(call, ident))
                return json_reply({"id": ident, "type": "file_deleted"})
            case ("GET" | "HEAD", [ident, "content"]):
                return self._content(self._get(call, ident))
            case (_, [] | [_] | [_, "content"]):
                raise call.refuse_method()
        raise call.unknown_path()

    def produced(self, account: Account, filename: str, content: bytes, created_at: str) -> Object:
        """A file that a tool made in the account's workspace."""
        return self._add(account, filename, "text/plain", Spool(content), created_at, {})

    def _create(self, call: Call) -> dict[str, Any]:
        parts = uploaded(call)
        part = next((part for part in parts if part.name == "file"), None)
        if part is None:
            raise ApiError(400, "file: Field required")
        if part.content.size > call.settings.max_file:
            raise ApiError(413, "File exceeds the maximum size")
        more: dict[str, Any] = {}
        lasts = None
        given = next((part.text for part in parts if part.name == "expires_in_seconds"), None)
        if given is not None:
            if not given.isdigit() or not LIFETIME[0] <= int(given) <= LIFETIME[1]:
                raise ApiError(400, "expires_in_seconds: Input should be between 3600 and 7776000")
            lasts = float(given)
            more["expires_at"] = call.stamp(call.now + lasts)
        name = (part.filename or "").replace("\\", "/").rpartition("/")[2]
        mime = part.mime or mimetypes.guess_type(name)[0] or "application/octet-stream"
        name = name or "unnamed" + (mimetypes.guess_extension(mime) or "")
        return self._add(call.account, name, mime, part.content, call.stamp(), more, lasts).data

    def _add(
        self,
        account: Account,
        name: str,
        mime: str,
        content: Spool,
        created_at: str,
        more: dict[str, Any],
        lasts: float | None = None,
    ) -> Object:
        ident = self._objects.new_id("file_")
        data = {
            "type": "file",
            "id": ident,
            "filename": name,
            "mime_type": mime,
            "size_bytes": content.size,
            "created_at": created_at,
            "downloadable": True,
            **more,
        }
        return self._objects.add(KIND, ident, account, data, lasts=lasts, held=content)

    def _get(self, call: Call, ident: str) -> Object:
        return self._objects.get(KIND, call.account.workspace, ident, "File")

    def _list(self, call: Call) -> dict[str, Any]:
        found = self._objects.all(KIND, call.account.workspace)
        query = call.query
        ids = query.get("ids[]", []) + query.get("ids", [])
        if len(set(ids)) > MAX_IDS:
            raise ApiError(400, f"ids: at most {MAX_IDS} are allowed")
        if ids and ("page" in query or "limit" in query):
            raise ApiError(400, "ids: cannot be combined with page or limit")
        if ids:
            found = [one for one in found if one.id in ids]
            query = {"limit": [str(MAX_IDS)]}
        if "scope_id" in call.query:
            found = [one for one in found if (one.data.get("scope") or {}).get("id") == call.query["scope_id"][-1]]
        if call.has_beta(OLD_BETA):
            return id_page(found[::-1], query, _shown)
        return cursor_page(found, query, _shown, call.account.workspace)

    @staticmethod
    def _content(found: Object) -> Reply:
        content = cast(Spool, found.held)
        headers = (
            f"content-type: {found.data['mime_type']}\r\n"
            f"content-disposition: attachment; filename*=UTF-8''{quote(found.data['filename'])}\r\n"
        )
        steps = ((0.0, piece, 0) for piece in content.pieces()) if content.size else [(0.0, b"", 0)]
        return Reply(200, headers.encode("latin-1", "replace"), steps, content.size, Framing.LENGTH)


def _shown(found: Object) -> dict[str, Any]:
    return found.data
