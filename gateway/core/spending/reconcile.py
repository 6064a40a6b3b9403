"""Anthropic's own usage report beside the ledger: what they counted, what we did, and what explains the difference.

Their form is that of `GET /v1/organizations/usage_report/messages` of the Admin API. Nothing here knows where reports
come from, nor prices. Tokens are compared class by class; requests their report does not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Annotated

import msgspec

from gateway.records import Usage

HOUR = 3600
ALL = "*"  # in place of a name where the report does not tell models or workspaces apart
DEFAULT = "default"  # how people call the workspace that has no id in reports
EDGE_SECONDS = 600  # how long a request may be under way: the one at an edge may count on either side
_BATCH = "batch"

# A class of tokens by its name in the report -> the field of Usage.
CLASSES = {
    "uncached_input_tokens": "input",
    "cache_read_input_tokens": "cache_read",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write_5m",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_1h",
    "output_tokens": "output",
}

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _Creation(msgspec.Struct):
    ephemeral_5m_input_tokens: _Count = 0
    ephemeral_1h_input_tokens: _Count = 0


class _Result(msgspec.Struct):
    uncached_input_tokens: _Count
    output_tokens: _Count
    cache_read_input_tokens: _Count = 0
    cache_creation: _Creation | None = None
    model: str | None = None
    workspace_id: str | None = None
    api_key_id: str | None = None
    service_tier: str | None = None


class _Bucket(msgspec.Struct):
    starting_at: _Time
    ending_at: _Time
    results: list[_Result]


class _Page(msgspec.Struct):
    data: list[_Bucket]
    has_more: bool = False


_pages = msgspec.json.Decoder(_Page | list[_Page]).decode
_lines = msgspec.json.Decoder(_Page).decode_lines


class Line(msgspec.Struct, frozen=True):
    """One row of the report; None where it does not tell, or where there is none (the default workspace)."""

    workspace: str | None
    key: str | None
    model: str | None
    tier: str | None
    usage: Usage


class Report(msgspec.Struct, frozen=True):
    """The report's pages put together: from `start` until just before `end` (Unix seconds, full hours)."""

    start: int
    end: int
    lines: tuple[Line, ...]


class Ours(msgspec.Struct, frozen=True):
    """What the ledger has of one workspace and model; `requests` include those `estimated`."""

    workspace: str
    model: str
    requests: int
    estimated: int
    usage: Usage


class Scope(msgspec.Struct, frozen=True):
    """What of the report is the gateway's. `workspaces` is their id -> our name (DEFAULT -> ours for the one without an
    id), `keys` the ids of our API keys; where either is empty, everything counts as ours."""

    workspaces: Mapping[str, str] = {}
    keys: frozenset[str] = frozenset()


class Row(msgspec.Struct, frozen=True):
    """One class of tokens of a workspace and model. `other`, `batch`, `estimated` and `edges` are tokens of
    `difference` that they explain, with its sign; `unexplained` is the rest."""

    workspace: str
    model: str
    tokens: str
    theirs: int
    ours: int
    other: int = 0
    batch: int = 0
    estimated: int = 0
    edges: int = 0

    @property
    def difference(self) -> int:
        return self.theirs - self.ours

    @property
    def unexplained(self) -> int:
        return self.difference - self.other - self.batch - self.estimated - self.edges

    @property
    def part(self) -> float:
        """The unexplained part, as a fraction of the larger side."""
        return abs(self.unexplained) / max(self.theirs - self.other, self.ours, 1)


# Reading a report.


def read_report(texts: Iterable[bytes], now: float) -> Report:
    """The report whose pages are in these texts: one each, or a JSON list, or one a line. Buckets that are not over at
    `now` are left out. Raises ValueError, with what to do about it."""
    pages = [page for text in texts for page in _read(text)]
    if pages and all(page.has_more for page in pages):
        raise ValueError("its last page is missing: every page says has_more; fetch them all with page=<next_page>")
    buckets = sorted((bucket for page in pages for bucket in page.data), key=lambda bucket: bucket.starting_at)
    buckets = [bucket for bucket in buckets if bucket.ending_at.timestamp() <= now]
    if not buckets:
        raise ValueError("it has no bucket of time that is over")
    for before, after in pairwise(buckets):
        if after.starting_at != before.ending_at:
            words = "overlap" if after.starting_at < before.ending_at else "leave a gap"
            raise ValueError(f"its buckets {words} at {after.starting_at.isoformat()}; give each page once, and all")
    start, end = buckets[0].starting_at.timestamp(), buckets[-1].ending_at.timestamp()
    if start % HOUR or end % HOUR:
        raise ValueError("it does not begin and end at full hours, which is what the ledger counts in")
    return Report(int(start), int(end), tuple(_line(result) for bucket in buckets for result in bucket.results))


def _read(text: bytes) -> list[_Page]:
    try:
        found = _pages(text)
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            return _lines(text)
        except (msgspec.DecodeError, RecursionError):
            raise ValueError(f"it is not a usage report for messages: {error}") from None
    return found if isinstance(found, list) else [found]


def _line(result: _Result) -> Line:
    created = result.cache_creation or _Creation()
    usage = Usage(
        result.uncached_input_tokens,
        result.cache_read_input_tokens,
        created.ephemeral_5m_input_tokens,
        created.ephemeral_1h_input_tokens,
        result.output_tokens,
    )
    return Line(result.workspace_id, result.api_key_id, result.model, result.service_tier, usage)


# Comparing.


class _Side(msgspec.Struct):
    """Sums of one workspace and model."""

    theirs: Usage = msgspec.field(default_factory=Usage)
    other: Usage = msgspec.field(default_factory=Usage)
    batch: Usage = msgspec.field(default_factory=Usage)
    ours: Usage = msgspec.field(default_factory=Usage)
    edges: Usage = msgspec.field(default_factory=Usage)
    requests: int = 0
    estimated: int = 0


def reconcile(
    report: Report, ours: Iterable[Ours], edges: Iterable[Ours], scope: Scope, canonical: Callable[[str], str]
) -> tuple[Row, ...]:
    """A row for each workspace, model and class of tokens that either side has.

    `ours` is the ledger's of the report's span, `edges` of the two hours around each of its ends; `canonical(model)`
    gives one name to all names of a model. Raises ValueError where the report does not tell apart what `scope` needs.
    """
    by_model = any(line.model is not None for line in report.lines)
    if scope.keys and report.lines and all(line.key is None for line in report.lines):
        raise ValueError("it does not tell API keys apart; fetch it with group_by[]=api_key_id")
    if scope.workspaces and report.lines and all(line.workspace is None for line in report.lines):
        raise ValueError("it does not tell workspaces apart; fetch it with group_by[]=workspace_id")

    sides: dict[tuple[str, str], _Side] = defaultdict(_Side)

    def side(workspace: str, model: str | None) -> _Side:
        place = workspace if scope.workspaces else ALL
        return sides[place, canonical(model or ALL) if by_model or not report.lines else ALL]

    for line in report.lines:
        workspace = line.workspace or DEFAULT
        ours_too = not scope.keys or line.key in scope.keys
        if scope.workspaces and workspace not in scope.workspaces:
            continue  # nothing of ours is there
        found = side(scope.workspaces.get(workspace, ALL), line.model)
        _add(found.theirs, line.usage)
        if not ours_too:
            _add(found.other, line.usage)
        elif line.tier == _BATCH:
            _add(found.batch, line.usage)
    named = set(scope.workspaces.values())
    for each in ours:
        if named and each.workspace not in named:
            continue
        found = side(each.workspace, each.model)
        _add(found.ours, each.usage)
        found.requests += each.requests
        found.estimated += each.estimated
    for each in edges:
        if not named or each.workspace in named:
            _add(side(each.workspace, each.model).edges, each.usage)
    rows = [_row(*names, tokens, field, sides[names]) for names in sorted(sides) for tokens, field in CLASSES.items()]
    return tuple(row for row in rows if row.theirs or row.ours)


def _add(sum: Usage, more: Usage) -> None:
    for field in CLASSES.values():
        setattr(sum, field, getattr(sum, field) + getattr(more, field))


def _row(workspace: str, model: str, tokens: str, field: str, side: _Side) -> Row:
    """Each cause explains as much as it can of what those before have left over: the surest come first."""
    theirs, ours, other = (int(getattr(usage, field)) for usage in (side.theirs, side.ours, side.other))
    left = theirs - ours - other

    def explain(most: int) -> int:
        nonlocal left
        part = max(-most, min(most, left))
        left -= part
        return part

    # A batch counts with us when its results are read, which may be another day, or never.
    batch = explain(int(getattr(side.batch, field))) if left > 0 else 0
    exact = side.requests - side.estimated
    mean = -(-ours // exact) if exact > 0 else max(theirs, ours)
    estimated = explain(side.estimated * mean)
    edges = explain(-(-int(getattr(side.edges, field)) * EDGE_SECONDS // (2 * HOUR)))
    return Row(workspace, model, tokens, theirs, ours, other, batch, estimated, edges)
