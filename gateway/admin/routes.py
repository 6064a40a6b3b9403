"""Routes of the admin listener as data: path, method, who may, what it takes, what it gives, and the function for it.

Requests are led by this table and the OpenAPI document is made of it, so that the two cannot disagree. It knows neither
tokens nor what is behind a route.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.admin.access import OPERATE, READ, Who
from gateway.admin.desks.records import Match
from gateway.errors import ApiError

MAX_BODY = 64 * 1024  # bytes that an operator's request may have
OPEN: Final = ""  # the role of routes that need none

Schema = dict[str, Any]
Changes = dict[str, tuple[Any, Any]]  # field -> before, after
_encode = msgspec.json.Encoder().encode


class Call:
    """One request on its way: `who` asks (None where nobody need be known), `params` are those of the path, decoded.
    What a handler tells `about` goes to the audit log."""

    def __init__(self, request: Request, request_id: str, params: Mapping[str, str]) -> None:
        self.request = request
        self.request_id = request_id
        self.params = params
        self.who: Who | None = None
        self.resource = ""
        self.changes: Changes = {}
        self._body: bytes | ApiError | None = None

    @property
    def query(self) -> QueryParams:
        return self.request.query_params

    @property
    def match(self) -> Match:
        """What `If-Match` says."""
        return Match(self.request.headers.get("if-match", ""))

    @property
    def known(self) -> Who:
        """Who asks, on a route that needs a role."""
        if self.who is None:
            raise RuntimeError("a route that needs nobody asks who it is")
        return self.who

    def about(self, resource: str, **changes: tuple[Any, Any]) -> None:
        """What was changed, and each field before and after; fields that stayed are left out. Never a secret, and no
        id that was not found to be one."""
        self.resource = resource
        self.changes = {name: pair for name, pair in changes.items() if pair[0] != pair[1]}

    async def arrived(self) -> None:
        """Wait for the whole body, or until it is known what is wrong with it."""
        with contextlib.suppress(ApiError):
            await self.body()

    async def body(self) -> bytes:
        """The whole body. Raises ApiError 413, and 400 for a length that is no number."""
        if self._body is None:
            try:
                self._body = await self._read()
            except ApiError as error:
                self._body = error
        if isinstance(self._body, ApiError):
            raise self._body
        return self._body

    async def _read(self) -> bytes:
        pieces, size = [], 0
        length = self.request.headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,18}", length):
            raise ApiError(400, "Content-Length: it is no number of any use")
        if int(length) > MAX_BODY:
            raise _TOO_LARGE
        try:
            async for piece in self.request.stream():
                pieces.append(piece)
                size += len(piece)
                if size > MAX_BODY:
                    raise _TOO_LARGE
        except ClientDisconnect:
            raise ApiError(400, "The request ended before its body did") from None
        return b"".join(pieces)


_TOO_LARGE = ApiError(413, f"A request to the admin listener may have {MAX_BODY} bytes")
Handler = Callable[[Call], Awaitable[Response]]


class Param(msgspec.Struct, frozen=True):
    """A parameter of a path or a query; `many`: it may be given several times."""

    name: str
    about: str
    schema: Schema
    required: bool = False
    many: bool = False


class Good(msgspec.Struct, frozen=True):
    """A good answer: what it is, and its JSON Schema, or its media type where it is no JSON."""

    about: str
    schema: Schema | None = None
    media_type: str = "application/json"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """`path` has `{name}` for one segment, `{name...}` for all that follow. `action` is its name in the audit log, for
    routes that change something. `may` adds statuses of errors to those that all routes of its kind may answer with.
    `matches`: `If-Match` may name what it changes, 412 is the answer where that is not so. `opened()` tells that it
    needs no role now. `api`: part of the documented one; `page`: people are led to sign in; `endless`: it has no
    HEAD."""

    method: str
    path: str
    handler: Handler
    about: str
    good: Mapping[int, Good] = {}
    role: str = READ
    action: str = ""
    query: tuple[Param, ...] = ()
    params: tuple[Param, ...] = ()
    body: Schema | None = None
    body_required: bool = True
    may: tuple[int, ...] = ()
    matches: bool = False
    opened: Callable[[], bool] | None = None
    api: bool = True
    page: bool = False
    endless: bool = False

    @property
    def changes(self) -> bool:
        return self.role == OPERATE

    def open(self) -> bool:
        return self.role == OPEN or (self.opened is not None and self.opened())


class Table:
    """The routes; `find` gives those of a path by method, and the path's parameters."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._paths: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            rows = self._paths.setdefault(route.path, {})
            if route.method in rows:
                raise ValueError(f"{route.method} {route.path} is there twice")
            rows[route.method] = route
            if route.method == "GET" and not route.endless:
                rows["HEAD"] = route
        self._patterns = [(_pattern(path), rows) for path, rows in self._paths.items() if "{" in path]

    def find(self, raw_path: str) -> tuple[Mapping[str, Route], dict[str, str]]:
        """By the path as it came, percent-encoded: only parameters may be. Nothing for a path that leads nowhere."""
        rows = self._paths.get(raw_path)
        if rows is not None and "{" not in raw_path:
            return rows, {}
        for pattern, rows in self._patterns:
            found = pattern.fullmatch(raw_path)
            if found:
                return rows, {name: unquote(value, errors="replace") for name, value in found.groupdict().items()}
        return {}, {}


def _pattern(path: str) -> re.Pattern[str]:
    text = re.escape(path)
    text = re.sub(r"\\\{(\w+)\\\.\\\.\\\.\\\}", r"(?P<\1>[\\s\\S]*)", text)
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", text))


def json(data: object, status: int = 200, etag: str = "") -> Response:
    """An answer of JSON; numbers that are `msgspec.Raw` go out as they are. `etag` is what `If-Match` may name."""
    return Response(_encode(data), status, {"etag": etag} if etag else None, media_type="application/json")


def known_query(query: QueryParams, *names: str) -> dict[str, str]:
    """Parameters that come at most once, those not given left out. Raises ApiError 400 for others."""
    unknown = sorted(set(query) - set(names))
    if unknown:
        raise ApiError(400, f"Unknown parameters: {', '.join(unknown[:10])[:200]}; known are {', '.join(names)}")
    for name in query:
        if len(query.getlist(name)) > 1:
            raise ApiError(400, f"{name} must be given once")
    return dict(query)


def whole_number(given: str | None, name: str, default: int, most: int) -> int:
    """The number from 1 to `most` that was given as text, `default` for None. Raises ApiError 400."""
    if given is None:
        return default
    if not re.fullmatch("[0-9]{1,9}", given) or not 1 <= int(given) <= most:
        raise ApiError(400, f"{name} must be a number from 1 to {most}")
    return int(given)
