"""The models that a caller can use, as Anthropic's API lists them, answered from memory.

It knows the catalogue, the operator's aliases, and the names that accounts give. Who may use a model and whether the
pool serves it are questions to whoever asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

import msgspec

from gateway.core.spending.pricing import UNKNOWN_DATE, Catalogue, Model
from gateway.errors import ApiError

Says = Callable[[str], bool]
LIMIT, MOST = 20, 1000  # entries of a page: by default, and at most
_STAGES = ("active", "deprecated", "retired")
_PARAMETERS = 100  # of a query at most
_encode = msgspec.json.Encoder().encode


class Info(msgspec.Struct, frozen=True, tag_field="type", tag="model"):
    """A model as the API shows it: dates as RFC 3339 writes them, sizes in tokens, null for what is not known."""

    id: str
    display_name: str
    created_at: str = UNKNOWN_DATE
    lifecycle: str = "active"
    line: str | None = None
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    deprecated_at: None = None
    retires_at: str | None = None
    capabilities: None = None


class _Page(msgspec.Struct, frozen=True):
    data: list[Info]
    has_more: bool
    first_id: str | None
    last_id: str | None


class _Entry(NamedTuple):
    """A model under the first of `names` that somebody can use; an alias stands for its `target`."""

    info: Info
    names: tuple[str, ...]
    target: str = ""

    def seen(self, may_use: Says, offered: Says) -> Info | None:
        if self.target:
            allowed = may_use(self.info.id) or may_use(self.target)
            return self.info if allowed and offered(self.target) else None
        for name in self.names:
            if offered(name) and may_use(name):
                return self.info if name == self.info.id else msgspec.structs.replace(self.info, id=name)
        return None


class Models:
    """`aliases` are the operator's names; `extra` the names and patterns that accounts serve, of which the patterns do
    not count. What the catalogue does not know is taken for newer than what it knows; aliases follow their model."""

    def __init__(self, catalogue: Catalogue, aliases: Mapping[str, str], extra: Iterable[str] = ()) -> None:
        self._catalogue = catalogue
        unknown: list[_Entry] = []
        named: dict[str, list[str]] = {}  # id -> names that accounts have for it
        for name in dict.fromkeys(extra):
            if name in aliases or any(sign in name for sign in "*?["):
                continue
            model = catalogue.find(name)
            if model is None:
                unknown.append(_Entry(Info(name, name), (name,)))
            else:
                named.setdefault(model.id, []).append(name)
        known = [_known(model, named.get(model.id, []), aliases) for model in catalogue]
        self._by_name = {name: entry for entry in (*unknown, *known) for name in entry.names}
        own = [_alias(alias, target, self._find(target)) for alias, target in aliases.items()]
        beside: dict[str, list[_Entry]] = {}  # id -> aliases of it
        for entry in own:
            found = self._find(entry.target)
            beside.setdefault("" if found is None else found.info.id, []).append(entry)
        self._entries = beside.pop("", [])
        for entry in (*unknown, *known):
            self._entries += [entry, *beside.get(entry.info.id, [])]
        self._by_name |= {entry.info.id: entry for entry in own}

    def _find(self, name: str) -> _Entry | None:
        """The entry of a name, or of a known name and a date."""
        entry = self._by_name.get(name)
        if entry is None:
            model = self._catalogue.find(name)
            entry = None if model is None else self._by_name.get(model.id)
        return entry

    def knows(self, name: str) -> bool:
        """Whether this may be a model's name at all."""
        return name.startswith("claude") or self._find(name) is not None

    def listing(self, may_use: Says, offered: Says, query: bytes) -> bytes:
        """One page of what can be used, newest first, as JSON: `limit`, `after_id` or `before_id`, and `lifecycle`
        of the query. Raises ApiError(400) for a wrong one."""
        asked = _parameters(query)
        limit, stages = limit_of(asked.get("limit", [str(LIMIT)])[-1]), _stages(asked)
        seen = [info for entry in self._entries if (info := entry.seen(may_use, offered)) is not None]
        seen = [info for info in seen if info.lifecycle in stages]
        after, before = _cursor(asked, "after_id", seen), _cursor(asked, "before_id", seen)
        if after is not None and before is not None:
            raise ApiError(400, "before_id: Cannot be used together with after_id")
        if before is not None:
            start, end = max(0, before - limit), before
            more = start > 0
        else:
            start = 0 if after is None else after + 1
            end = start + limit
            more = end < len(seen)
        page = seen[start:end]
        return _encode(_Page(page, more, page[0].id if page else None, page[-1].id if page else None))

    def one(self, name: str, may_use: Says, offered: Says) -> bytes:
        """One model as JSON, by a name as it stands in the path, percent signs and all. Raises the same ApiError(404)
        for a model that does not exist, is not offered, or is not for this caller."""
        name = unquote(name)
        entry = self._find(name)
        info = None if entry is None else entry.seen(may_use, offered)
        if info is None:
            raise ApiError(404, f"model: {name}")
        return _encode(info)


def _known(model: Model, named: list[str], aliases: Container[str]) -> _Entry:
    """A model of the catalogue; one that an account serves by name is not gone, whatever became of it elsewhere."""
    lifecycle = "active"
    if model.retired and not named:
        lifecycle = "retired"
    elif model.retired or model.retires_at is not None:
        lifecycle = "deprecated"
    info = Info(
        model.listed_id, model.display_name, model.created_at, lifecycle, model.line, model.context, model.max_output,
        retires_at=model.retires_at,
    )  # fmt: skip
    names = dict.fromkeys((model.listed_id, *model.names, *named))
    return _Entry(info, tuple(name for name in names if name not in aliases))


def _alias(alias: str, target: str, found: _Entry | None) -> _Entry:
    info = Info(target, target) if found is None else found.info
    shown = msgspec.structs.replace(info, id=alias, display_name=f"{alias} ({info.display_name})")
    return _Entry(shown, (alias,), target)


def _parameters(query: bytes) -> dict[str, list[str]]:
    asked: dict[str, list[str]] = {}
    try:
        for name, value in parse_qsl(query.decode("latin-1"), max_num_fields=_PARAMETERS):
            asked.setdefault(name, []).append(value)
    except ValueError:
        raise ApiError(400, f"The query has more than {_PARAMETERS} parameters") from None
    return asked


def limit_of(text: str) -> int:
    """How many entries a page may have by the `limit` of a query, as the API judges it. Raises ApiError 400."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ApiError(400, "limit: Input should be a valid integer, unable to parse string as an integer")
    limit = int(text)
    if limit < 1:
        raise ApiError(400, "limit: Input should be greater than or equal to 1")
    if limit > MOST:
        raise ApiError(400, f"limit: Input should be less than or equal to {MOST}")
    return limit


def _stages(asked: dict[str, list[str]]) -> set[str]:
    found = {stage for name in ("lifecycle", "lifecycle[]") for stage in asked.get(name, ())}
    if not found <= set(_STAGES):
        raise ApiError(400, "lifecycle: Input should be 'active', 'deprecated' or 'retired'")
    return found or {"active", "deprecated"}


def _cursor(asked: dict[str, list[str]], name: str, seen: list[Info]) -> int | None:
    if name not in asked:
        return None
    for index, info in enumerate(seen):
        if info.id == asked[name][-1]:
            return index
    raise ApiError(400, f"{name}: No such model in this list")
