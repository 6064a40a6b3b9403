"""Lists of objects: only the caller's own, in the upstream's shape, with paging that works and shows nobody else's.

An account lists everything in its workspace. So its pages are read one after the other and what is not the caller's is
left out, until the page that was asked for is full. Two forms of paging: by ids (`after_id`, `before_id`), and by the
upstream's cursors, which come wrapped so that only who got one can use it. It does not know what is listed.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from gateway.config.schema import Caller
from gateway.core.routing.conversation import KEY_BYTES, key
from gateway.errors import ApiError
from gateway.store.owners import Owner
from gateway.worker.callers.model_list import limit_of
from gateway.worker.objects.owners import Owners

_DEFAULT = 20  # entries a page where the client does not say
_MORE = 1000  # entries of a further page by ids, where few of those before were the caller's
_MANY = 100  # likewise, by cursors
_LONGEST = 4000  # characters of a limit that Python may take for a number
MOST_PAGES = 100  # of the upstream's for one of ours
_CURSORS = ("after_id", "before_id", "page", "page_token", "limit")
EMPTY = b'{"data":[],"has_more":false,"first_id":null,"last_id":null,"next_page":null}'

Fetch = Callable[[str, bytes], Awaitable[bytes | None]]


class _Entry(msgspec.Struct):
    """What an account makes by itself belongs to whose deployment or session it comes from; what is `provided` by
    Anthropic is everybody's."""

    id: str = ""
    deployment_id: str | None = None
    scope: Any = None
    source: Any = None

    @property
    def parent(self) -> str | None:
        scope = self.scope.get("id") if isinstance(self.scope, dict) else None
        return self.deployment_id or (scope if isinstance(scope, str) else None)

    @property
    def provided(self) -> bool:
        return bool(self.source == "anthropic")


class _Spot(msgspec.Struct, array_like=True, frozen=True):
    """A place in the lists of several workspaces: which one (a digest of its name), and the upstream's cursor ("" for
    its beginning)."""

    workspace: bytes = b""
    cursor: str = ""


class _Page(msgspec.Struct):
    """One page of the upstream's."""

    data: list[msgspec.Raw] = msgspec.field(default_factory=list)
    has_more: bool | msgspec.UnsetType | None = msgspec.UNSET
    next_page: str | msgspec.UnsetType | None = msgspec.UNSET


Item = tuple[str, msgspec.Raw]
_page = msgspec.json.Decoder(_Page).decode
_entry = msgspec.json.Decoder(_Entry).decode
_spot = msgspec.msgpack.Decoder(_Spot).decode


class Listing:
    """One request of `caller` with this query string. `fetch(workspace, query)` brings a page of the upstream's, None
    if the client has been answered already. `secrets` sign cursors: the first one new ones. Raises ApiError(400) for a
    limit that is no number of any use."""

    def __init__(self, caller: Caller, query: bytes, owners: Owners, fetch: Fetch, secrets: tuple[bytes, ...]) -> None:
        self._caller = caller
        self._owners = owners
        self._fetch = fetch
        self._secrets = secrets
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        self._asked = {name: value for name, value in pairs if name in _CURSORS and value}
        self._others = [(name, value) for name, value in pairs if name not in _CURSORS]
        self._wanted = self._asked.get("limit", "")  # as it came: the upstream judges it
        if len(self._wanted) > _LONGEST:
            limit_of(self._wanted)
        number = int(self._wanted) if self._wanted.isascii() and self._wanted.isdigit() else 0
        self._limit = number if 0 < number <= 1000 else _DEFAULT
        if any(name in ("ids", "ids[]") for name, _ in pairs):
            self._limit = 1000  # a page of its own, as long as it is
        self._pages = 0

    async def page(self) -> bytes | None:
        """The page that was asked for; None where the client has been answered already. Raises ApiError."""
        try:
            return await self._page()
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ApiError(502, "The upstream gave no proper list.") from None

    async def _page(self) -> bytes | None:
        asked = self._asked
        homes = await self._owners.homes(self._caller)
        for name in ("page", "page_token"):
            if name in asked:
                return await self._by_cursor(homes, self._unwrap(name, asked[name]), name)
        if "before_id" in asked:
            return await self._backward(asked["before_id"])
        return await self._forward(homes, asked.get("after_id", ""))

    # By ids.

    async def _forward(self, homes: tuple[str, ...], after: str) -> bytes | None:
        if after:
            present = await self._owners.where(self._caller, [after])
            homes = homes[homes.index(present) :] if present in homes else (present,)
        if not homes:  # nobody else judges what was asked
            if self._wanted:
                limit_of(self._wanted)
            return EMPTY
        own: list[Item] = []
        size = self._wanted
        for workspace in homes:
            more = True
            while more and len(own) <= self._limit:
                if own and self._pages == MOST_PAGES:
                    return _by_ids(own, True)
                page = await self._get(workspace, size, ("after_id", after))
                if page is None:
                    return None
                if page.next_page is not msgspec.UNSET:
                    return await self._by_cursor(homes, _Spot(), "page", page)
                entries = _items(page)
                own += await self._visible(entries)
                more = page.has_more is True and bool(entries)
                after = entries[-1][0] if more else ""
                size = str(max(self._limit, _MORE))
        return _by_ids(own[: self._limit], len(own) > self._limit)

    async def _backward(self, before: str) -> bytes | None:
        workspace = await self._owners.where(self._caller, [before])
        own: list[Item] = []
        size = self._wanted
        more = True
        while more and len(own) <= self._limit:
            page = await self._get(workspace, size, ("before_id", before))
            if page is None:
                return None
            entries = _items(page)
            own = await self._visible(entries) + own
            more = page.has_more is True and bool(entries)
            before = entries[0][0] if more else ""
            size = str(max(self._limit, _MORE))
        return _by_ids(own[-self._limit :], len(own) > self._limit)

    # By cursors.

    async def _by_cursor(
        self, homes: tuple[str, ...], spot: _Spot, name: str, page: _Page | None = None
    ) -> bytes | None:
        """From `spot` on, whose page may be at hand already. It looks one ahead, so that no empty page follows."""
        digests = [self._digests(workspace) for workspace in homes]
        own: list[Item] = []
        at = next((at for at, names in enumerate(digests) if spot.workspace in names), 0)
        tells = False  # pages of this sort have has_more beside their cursor
        cursor, size = spot.cursor, str(max(self._limit, _MANY))
        while at < len(homes):
            if page is None and self._pages == MOST_PAGES:
                return self._with_cursor(own, _Spot(digests[at][0], cursor), tells)
            page = page or await self._get(homes[at], size, (name, cursor))
            if page is None:
                return None
            entries = _items(page)
            tells = tells or page.has_more is not msgspec.UNSET
            visible = await self._visible(entries)
            room = self._limit - len(own)
            if len(visible) > room:
                if room:  # the cursor of what follows the last one shown is the upstream's to say
                    own += visible[:room]
                    shown = entries.index(own[-1]) + 1
                    again = await self._get(homes[at], str(shown), (name, cursor))
                    if again is None:
                        return None
                    cursor = again.next_page or ""
                if cursor or not room:
                    return self._with_cursor(own, _Spot(digests[at][0], cursor), tells)
            else:
                own += visible
                cursor = page.next_page or ""
            at += not cursor
            page = None
        return self._with_cursor(own, None, tells)

    def _with_cursor(self, own: list[Item], spot: _Spot | None, tells: bool) -> bytes:
        page: dict[str, object] = {
            "data": [raw for _, raw in own],
            "next_page": None if spot is None else self._wrap(spot),
        }
        if tells:
            page["has_more"] = spot is not None
        return msgspec.json.encode(page)

    def _digests(self, workspace: str) -> list[bytes]:
        return [key(secret, "", b"workspace", workspace.encode())[:8] for secret in self._secrets]

    def _sign(self, secret: bytes, packed: bytes) -> bytes:
        return key(secret, self._caller.id, b"cursor", packed)

    def _wrap(self, spot: _Spot) -> str:
        packed = msgspec.msgpack.encode(spot)
        return urlsafe_b64encode(self._sign(self._secrets[0], packed) + packed).decode()

    def _unwrap(self, name: str, cursor: str) -> _Spot:
        try:
            signed = urlsafe_b64decode(cursor)
            packed = signed[KEY_BYTES:]
            if any(compare_digest(self._sign(secret, packed), signed[:KEY_BYTES]) for secret in self._secrets):
                return _spot(packed)
        except (ValueError, msgspec.MsgspecError):
            pass
        raise ApiError(400, f"{name}: this cursor is not one of yours")

    # Pages of the upstream's.

    async def _get(self, workspace: str, size: str, cursor: tuple[str, str]) -> _Page | None:
        self._pages += 1
        if self._pages > MOST_PAGES:
            raise ApiError(504, "The list is too long to look for what is yours in it.")
        pairs = [*self._others, *([("limit", size)] if size else []), *([cursor] if cursor[1] else [])]
        body = await self._fetch(workspace, urlencode(pairs).encode("ascii"))
        if body is None:
            return None
        return _page(body)

    async def _visible(self, entries: list[Item]) -> list[Item]:
        """Those of a page that are the caller's."""
        owners = await self._owners.find([entry for entry, _ in entries])
        found = []
        for item, owner in zip(entries, owners, strict=True):
            if owner is None:
                entry = _entry(item[1])
                if entry.provided:
                    found.append(item)
                    continue
                owner = await self._adopted(entry)
            if owner is not None and self._owners.visible(self._caller, owner):
                found.append(item)
        return found

    async def _adopted(self, entry: _Entry) -> Owner | None:
        """Whose an object is that nobody created through the gateway: the owner's of what it comes from."""
        if not entry.parent:
            return None
        owner = (await self._owners.find([entry.parent]))[0]
        return None if owner is None else await self._owners.adopt(entry.id, owner, 0)


def _items(page: _Page) -> list[Item]:
    """Entries by their ids; those without one are nobody's."""
    items = [(_entry(raw).id, raw) for raw in page.data]
    return [item for item in items if item[0]]


def _by_ids(own: list[Item], more: bool) -> bytes:
    first, last = (own[0][0], own[-1][0]) if own else (None, None)
    data = [raw for _, raw in own]
    return msgspec.json.encode({"data": data, "has_more": more, "first_id": first, "last_id": last})
