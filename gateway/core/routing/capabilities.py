"""What an account can serve of what requests ask for: by a table, by its operator, and by what its refusals have shown.

For accounts on other clouds, which lack some of Anthropic's API. A need (see `features`) is served, left out of the
call, or not to be had; what nobody knows is tried. Times are seconds of one clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from math import inf
from typing import NamedTuple

import msgspec

from gateway.core.routing.features import BETA, FIELD, TOOL

LEARNED_FOR = 3600.0  # seconds
MOST = 256  # needs that one account has shown to lack
_KEPT = 4096  # judgements that are remembered


class Verdict(StrEnum):
    """What becomes of a need at an account."""

    OK = "ok"
    DROP = "drop"
    NO = "no"


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kinds: tuple[str, ...]
    source: str
    models: tuple[str, ...] = ("*",)
    ok: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    no: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    as_of: str
    rows: tuple[_Row, ...]
    pairs: dict[str, tuple[str, ...]]


class Table:
    """The needs of every kind of account: `kind` is a provider's name, with its API where it has several."""

    def __init__(self, rows: tuple[_Row, ...], pairs: Mapping[str, tuple[str, ...]]) -> None:
        self._rows = rows
        self.members = pairs  # of a body, that go with a flag
        self._look = lru_cache(_KEPT)(self._find)

    @classmethod
    def read(cls, text: Mapping[str, object]) -> Table:
        """From the parsed document; ValueError if it is not what it should be."""
        document = msgspec.convert(text, _Document)
        return cls(document.rows, document.pairs)

    def verdict(self, kind: str, model: str, need: str) -> Verdict | None:
        """What the table says of a need; None if nothing."""
        return self._look(kind, model, need)

    def _find(self, kind: str, model: str, need: str) -> Verdict | None:
        for row in reversed(self._rows):
            if kind in row.kinds and _fits(model, row.models):
                for verdict, patterns in ((Verdict.NO, row.no), (Verdict.DROP, row.drop), (Verdict.OK, row.ok)):
                    if _fits(need, patterns):
                        return verdict
        return None

    def fields(self, kind: str) -> frozenset[str]:
        """The members of a body that such an account knows without any flag; nothing where that is not stated."""
        return frozenset(name for row in self._rows if kind in row.kinds for name in row.fields)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Fit(NamedTuple):
    """How a request fits an account: what the call leaves out, and what the account lacks, until when that holds."""

    drops: frozenset[str]
    lacks: frozenset[str]
    until: float = inf


class Learned(NamedTuple):
    """That an account refuses a need of a model, and what becomes of it."""

    model: str
    need: str
    verdict: Verdict


_NOTHING: frozenset[str] = frozenset()
_FITS = Fit(_NOTHING, _NOTHING)


class Capabilities:
    """Those of one account. `own` are the operator's words, patterns of needs; `strict`: a flag is never left out."""

    def __init__(self, table: Table, kind: str, own: Mapping[str, Verdict] | None = None, strict: bool = False) -> None:
        self._table = table
        self._kind = kind
        self._own = dict(own or {})
        self._strict = strict
        self._fields = table.fields(kind)
        self._learned: dict[tuple[str, str], tuple[Verdict, float]] = {}
        self._fits: dict[tuple[str, frozenset[str]], Fit] = {}

    def fit(self, model: str, needs: frozenset[str], now: float) -> Fit:
        """How a request of a model with these needs fits."""
        if not needs:
            return _FITS
        known = self._fits.get((model, needs))
        if known is None or known.until <= now:
            if len(self._fits) >= _KEPT:
                self._fits.clear()
            known = self._fits[model, needs] = self._reckon(model, needs, now)
        return known

    def _reckon(self, model: str, needs: frozenset[str], now: float) -> Fit:
        drops, lacks, until = set[str](), set[str](), inf
        for need in needs:
            learned, forgotten = self._learned.get((model, need), (None, 0.0))
            if learned is not None and forgotten > now:
                verdict: Verdict | None = learned
                until = min(until, forgotten)
            else:
                verdict = self.known(model, need)
            if verdict is Verdict.DROP and not (self._strict and need.startswith(BETA)):
                drops.add(need)
            elif verdict is Verdict.NO or verdict is Verdict.DROP:
                lacks.add(need)
        for flag, members in self._table.members.items():
            if flag in drops:  # half a pair is an error
                drops |= {FIELD + name for name in members if FIELD + name in needs}
        return Fit(frozenset(drops), frozenset(lacks - drops), until)

    def known(self, model: str, need: str) -> Verdict | None:
        """What the operator says of a need, else the table; None if nobody does."""
        for pattern, verdict in self._own.items():
            if fnmatchcase(need, pattern):
                return verdict
        return self._table.verdict(self._kind, model, need)

    # What refusals show.

    def refused(
        self, model: str, needs: frozenset[str], words: str, members: Iterable[str], now: float
    ) -> list[Learned]:
        """The account has refused a request of these needs, whose body has these members, in these words: what is new.

        A need that they name is one it lacks. Where they speak of flags and name none, it is those of the request that
        nobody knows; one that is known to be served is unlearned only where it was refused alone.
        """
        flags = {need for need in needs if need.startswith(BETA)}
        named = {need for need in needs if _names(need, words)}
        if not named and "beta" in words.lower():
            unknown = {need for need in flags if self.known(model, need) is None}
            named = unknown or (flags if len(flags) == 1 else set())
        elif len(named) > 1:
            named = {need for need in named if self.known(model, need) is not Verdict.OK}
        foreign = bool(self._fields) and not self._fields.issuperset(members)
        found = []
        for need in sorted(named):
            if self._learned.get((model, need), (None, 0.0))[1] > now:
                continue
            leave_out = need.startswith(BETA) and not self._strict and not foreign
            found.append(Learned(model, need, Verdict.DROP if leave_out else Verdict.NO))
        for each in found:
            self.learn(each, LEARNED_FOR, now)
        return found

    def learn(self, learned: Learned, seconds: float, now: float) -> None:
        """Hold it for so long."""
        place = learned.model, learned.need
        self._learned.pop(place, None)
        while len(self._learned) >= MOST:
            del self._learned[next(iter(self._learned))]
        self._learned[place] = learned.verdict, now + seconds
        self._fits.clear()

    def learned(self, now: float) -> list[tuple[Learned, float]]:
        """What was learned and still holds, with the seconds for which it does."""
        return [
            (Learned(model, need, verdict), until - now)
            for (model, need), (verdict, until) in self._learned.items()
            if until > now
        ]


def _names(need: str, words: str) -> bool:
    """Whether a refusal names it."""
    kind, _, name = need.partition(":")
    if need.startswith((BETA, TOOL)):
        return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", words) is not None
    if need.startswith(FIELD):
        return re.search(rf"(?:^|[\s`'\"]){re.escape(name)}[`'\"]?(?::|\.| )", words) is not None
    return kind in ("mcp", "container") and (f"{kind}_servers" if kind == "mcp" else kind) in words
