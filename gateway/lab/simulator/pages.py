"""Lists in pages: the older style by ids, the newer one by opaque cursors."""

import base64
import binascii
from collections.abc import Callable
from typing import Any

from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.objects import Object

__all__ = ["cursor_page", "id_page", "limit_of"]

_Show = Callable[[Object], dict[str, Any]]


def limit_of(query: dict[str, list[str]], usual: int = 20) -> int:
    """`limit`, 1 to 1000; `ApiError` 400 for any other."""
    try:
        limit = int(query.get("limit", [str(usual)])[-1])
    except ValueError:
        limit = 0
    if not 1 <= limit <= 1000:
        raise ApiError(400, "limit: Input should be between 1 and 1000")
    return limit


def id_page(found: list[Object], query: dict[str, list[str]], show: _Show) -> dict[str, Any]:
    """`data, has_more, first_id, last_id` of objects in the order given, from `after_id` or up to `before_id`."""
    limit = limit_of(query)
    ids = [one.id for one in found]
    for name in ("after_id", "before_id"):
        if name in query and query[name][-1] not in ids:
            raise ApiError(400, f"{name}: {query[name][-1]!r} is not known")
    if "before_id" in query:
        end = ids.index(query["before_id"][-1])
        page, more = found[max(0, end - limit) : end], end > limit
    else:
        start = ids.index(query["after_id"][-1]) + 1 if "after_id" in query else 0
        page, more = found[start : start + limit], start + limit < len(found)
    return {
        "data": [show(one) for one in page],
        "has_more": more,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def cursor_page(
    found: list[Object], query: dict[str, list[str]], show: _Show, scope: str, *, descending: bool = True
) -> dict[str, Any]:
    """`data, next_page` of objects in the order of their numbers; a cursor of another scope is a 400."""
    limit = limit_of(query)
    at = _position(query["page"][-1], scope) if query.get("page", [""])[-1] else None
    if descending:
        rest = [one for one in reversed(found) if at is None or one.number < at]
    else:
        rest = [one for one in found if at is None or one.number > at]
    page = rest[:limit]
    more = len(rest) > limit
    return {"data": [show(one) for one in page], "next_page": _cursor(page[-1].number, scope) if more else None}


def _cursor(number: int, scope: str) -> str:
    return "page_" + base64.urlsafe_b64encode(f"{number}:{scope}".encode()).decode().rstrip("=")


def _position(cursor: str, scope: str) -> int:
    try:
        text = cursor.removeprefix("page_")
        number, _, owner = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(":")
        if cursor.startswith("page_") and owner == scope:
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise ApiError(400, "page: invalid or expired cursor")
