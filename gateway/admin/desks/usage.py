"""What was used and what it cost, for operators: JSON of the admin API, from the ledger in the store.

It counts nothing itself, and knows neither callers nor accounts: names are those of the ledger.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec
from starlette.datastructures import QueryParams

from gateway import log
from gateway.admin.desks.period import period
from gateway.config.rules import instant_text
from gateway.errors import ApiError
from gateway.store.client.connection import StoreDown
from gateway.store.ledger.ledger import Entry
from gateway.store.ledger.usage import GROUPS, Group, Page, Span, Sums, TooManyRows, Totals

NANO = 1_000_000_000
MOST_RECORDS = 1000  # in one answer
_RECORDS = 100  # where nobody says how many
_FILTERS = ("key", "team", "model", "account")
PROVIDER = "provider"  # of the account
NAMES = (*GROUPS, PROVIDER)  # by which usage is shown
_TOTALS = ("group_by", "from", "to", "detail", *_FILTERS)
_LISTED = ("key", "team", "from", "to", "limit", "before")
_AWAY = "The store is away"


class Store(Protocol):
    """The ledger as it is read, as in store.ledger.usage. Both raise StoreDown."""

    async def sum(self, span: Span, groups: tuple[str, ...], only: Mapping[str, frozenset[str]]) -> Sums: ...
    async def records(self, tenant: str, span: Span, key: str, limit: int, before: str) -> Page: ...


class Usage:
    """`now()` gives Unix seconds; `told()` has the store told of what has ended until then; `provider(account)` is
    whose an account is, None for one that nobody knows any more; `names(model)` are all names of the model that has
    this one."""

    def __init__(
        self,
        store: Store,
        now: Callable[[], float],
        told: Callable[[], Awaitable[None]],
        provider: Callable[[str], str | None] = lambda account: None,
        names: Callable[[str], Iterable[str]] = lambda model: (model,),
    ) -> None:
        self._store = store
        self._provider = provider
        self._names = names
        self._now = now
        self._told = told

    async def totals(self, query: QueryParams) -> dict[str, Any]:
        """What `query` asks for: the most expensive groups first, but days in their order. `detail=true` says of cache
        writes for how long. Raises ApiError: 400 for a query that makes no sense, 503 while the store is away."""
        _known(query, _TOTALS)
        groups = _groups(query)
        detail = _one(query, "detail").lower()
        if detail not in ("", "true", "false"):
            raise ApiError(400, "detail must be true or false")
        only = {name: frozenset(filter(None, query.getlist(name))) for name in _FILTERS}
        only["model"] = frozenset(name for model in only["model"] for name in self._names(model))
        span = self._span(query)
        await self._told()
        stored = tuple(dict.fromkeys("account" if name == PROVIDER else name for name in groups))
        try:
            sums = await self._store.sum(span, stored, {name: only[name] for name in only if only[name]})
        except StoreDown as error:
            raise ApiError(503, f"{_AWAY}: {error}") from None
        except TooManyRows as error:
            raise ApiError(400, f"That makes {error}") from None
        rows = sums.rows if PROVIDER not in groups else self._by_provider(sums.rows, stored, groups)
        answer: dict[str, Any] = {
            "data": [_row(groups, group, totals, detail == "true") for group, totals in _sorted(rows, groups)]
        }
        if sums.unreadable:
            log.warning("usage unreadable", aggregates=sums.unreadable)
            answer["unreadable"] = sums.unreadable  # the numbers are too low
        return answer

    def _by_provider(
        self, rows: Mapping[Group, Totals], stored: tuple[str, ...], groups: tuple[str, ...]
    ) -> dict[Group, Totals]:
        """Rows of accounts, as rows of their providers."""
        found: dict[Group, Totals] = {}
        for group, totals in rows.items():
            values = dict(zip(stored, group, strict=True))
            account = values["account"]
            values[PROVIDER] = self._provider(account) if account else None
            found.setdefault(tuple(values[name] for name in groups), Totals()).add(totals)
        return found

    async def records(self, query: QueryParams) -> dict[str, Any]:
        """Single requests of a team or of a caller without one, the latest settled first; `next` is what `before` must
        be for those that follow, None at the end. A `provisional` one stands for a settlement that had not come: where
        another of its id is before it, that one counts. Raises ApiError as `totals` does."""
        _known(query, _LISTED)
        key, team = _one(query, "key"), _one(query, "team")
        if not key and not team:
            raise ApiError(400, "Give team, or key for a caller without one, or both for one caller of the team")
        limit = _one(query, "limit") if "limit" in query else str(_RECORDS)
        if not re.fullmatch("[0-9]{1,9}", limit) or not 1 <= int(limit) <= MOST_RECORDS:
            raise ApiError(400, f"limit must be a number from 1 to {MOST_RECORDS}")
        tenant = f"t:{team}" if team else f"c:{key}"
        span = self._span(query)
        await self._told()
        try:
            page = await self._store.records(tenant, span, key, int(limit), _one(query, "before"))
        except StoreDown as error:
            raise ApiError(503, f"{_AWAY}: {error}") from None
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        answer: dict[str, Any] = {"data": [_record(record) for record in page.records], "next": page.next}
        if page.unreadable:
            answer["unreadable"] = page.unreadable
        return answer

    def _span(self, query: QueryParams) -> Span:
        try:
            return period(_one(query, "from"), _one(query, "to"), self._now())
        except ValueError as error:
            raise ApiError(400, str(error)) from None


def dollars(nano: int) -> str:
    """Nano-dollars as dollars, exactly: 12.5 or 0.000000001."""
    whole, rest = divmod(abs(nano), NANO)
    return f"{'-' if nano < 0 else ''}{whole}.{f'{rest:09}'.rstrip('0') or '0'}"


def _number(nano: int) -> msgspec.Raw:
    """Dollars as a JSON number, written by hand: a float has no room for every nano-dollar of a large sum."""
    return msgspec.Raw(dollars(nano).encode())


# What is asked.


def _known(query: QueryParams, names: tuple[str, ...]) -> None:
    unknown = [name for name in query if name not in names]
    if unknown:
        raise ApiError(
            400, f"Unknown parameters: {', '.join(sorted(unknown)[:10])[:200]}; known are {', '.join(names)}"
        )


def _one(query: QueryParams, name: str) -> str:
    """The value of a parameter that comes once; "" without one."""
    values = query.getlist(name)
    if len(values) > 1:
        raise ApiError(400, f"{name} must be given once")
    return values[0].strip() if values else ""


def _groups(query: QueryParams) -> tuple[str, ...]:
    groups = tuple(name.strip() for each in query.getlist("group_by") for name in each.split(",") if name.strip())
    if any(name not in NAMES for name in groups) or len(set(groups)) < len(groups):
        raise ApiError(400, f"group_by must be one of {', '.join(NAMES)}, or several of them with commas")
    return groups or ("key",)


# What is said.


def _sorted(rows: Mapping[Group, Totals], groups: tuple[str, ...]) -> list[tuple[Group, Totals]]:
    days = [groups.index("day")] if "day" in groups else []
    return sorted(
        rows.items(),
        key=lambda row: ([row[0][day] for day in days], -row[1].cost_nano, [value or "" for value in row[0]]),
    )


def _row(groups: tuple[str, ...], group: Group, totals: Totals, detail: bool) -> dict[str, Any]:
    return {
        **dict(zip(groups, group, strict=True)),
        "requests": totals.requests,
        "input_tokens": totals.input,
        "cache_read_input_tokens": totals.cache_read,
        "cache_creation_input_tokens": totals.write_5m + totals.write_1h,
        "output_tokens": totals.output,
        "cost_usd": _number(totals.cost_nano),
        "savings_usd": _number(totals.savings_nano),
        "estimated_requests": totals.estimated,
        **({"cache_creation": _creation(totals)} if detail else {}),
    }


def _record(entry: Entry) -> dict[str, Any]:
    return {
        "request_id": entry.id,
        "at": instant_text(entry.at / 1000),
        "ended": instant_text(entry.ended / 1000),
        "key": entry.caller,
        "team": entry.team or None,
        "model": entry.model,
        "account": entry.account,
        "endpoint": entry.endpoint,
        "requests": entry.requests,
        "estimated": bool(entry.estimated),
        "provisional": entry.provisional,
        "input_tokens": entry.input,
        "cache_read_input_tokens": entry.cache_read,
        "cache_creation": _creation(entry),
        "output_tokens": entry.output,
        "cost_usd": _number(entry.cost_nano),
        "savings_usd": _number(entry.savings_nano),
    }


def _creation(used: Totals | Entry) -> dict[str, int]:
    """Cache writes as Anthropic's `usage` tells them apart."""
    return {"ephemeral_5m_input_tokens": used.write_5m, "ephemeral_1h_input_tokens": used.write_1h}
