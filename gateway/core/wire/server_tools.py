"""What a Messages body lets an account do on its own before it answers, and what has a price: web searches, and answers
or advice of other models.

For budgets. It does not know prices.
"""

from __future__ import annotations

import msgspec

from gateway.core.wire.peek import Peek

SEARCHES = 10  # web searches of a request that sets no bound
MOST_MODELS = 8  # beside the one that is asked

_DATED = b"_202"  # what the types of all server tools hold: web_search_20260318
_SEARCH, _ADVISOR = "web_search_", "advisor_"


class _Tool(msgspec.Struct):
    type: str | None = None
    model: str | None = None
    max_uses: int | None = None


class _Fallback(msgspec.Struct):
    model: str


_tools = msgspec.json.Decoder(list[_Tool]).decode
_fallbacks = msgspec.json.Decoder(list[_Fallback]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Extras(msgspec.Struct, frozen=True):
    """How many web searches a request may make, and the models that may read its prompt too, one for each time: those
    that answer where the first one declines, and advisors."""

    searches: int = 0
    models: tuple[str, ...] = ()


_NONE = Extras()


def extras(peek: Peek) -> Extras:
    """Those of a request. In place of a model of Anthropic's choice stands the one that is asked."""
    fallbacks, tools = peek.fields.get("fallbacks"), peek.fields.get("tools")
    named = tools is not None and _DATED in bytes(tools)
    if fallbacks is None and not named:
        return _NONE
    found, models = 0, list[str]() if fallbacks is None else _fallbacks_of(peek, fallbacks)
    for tool in _tools_of(tools) if tools is not None and named else ():
        kind, bound = tool.type or "", tool.max_uses
        if kind.startswith(_SEARCH):
            found += SEARCHES if bound is None else max(0, bound)
        elif kind.startswith(_ADVISOR):
            models += [tool.model or peek.model] * (1 if bound is None else max(0, min(bound, MOST_MODELS)))
    return Extras(found, tuple(models[:MOST_MODELS]))


def _fallbacks_of(peek: Peek, raw: msgspec.Raw) -> list[str]:
    try:
        return [each.model for each in _fallbacks(raw)]
    except _UNREADABLE:
        return [peek.model] if peek.value("fallbacks") == "default" else []


def _tools_of(raw: msgspec.Raw) -> list[_Tool]:
    try:
        return _tools(raw)
    except _UNREADABLE:  # the upstream refuses it
        return []
