"""What a Messages body lets an account do on its own before it answers, and what has a price: web searches, and answers
or advice of other models.

For rights and budgets, which turn on it: what two parsers could read in two ways is refused, and what nobody can read.
It does not know prices, nor who may use what.
"""

from __future__ import annotations

import msgspec

from gateway.core.wire.peek import Peek, members_once
from gateway.errors import ApiError

SEARCHES = 10  # web searches of a request that sets no bound
MOST_SEARCHES = 10_000  # of one tool, whatever a client writes
MOST_MODELS = 8  # beside the one that is asked

_DATED = b"_202"  # what the types of all server tools hold: web_search_20260318
_MODEL = b'"model"'
_ESCAPE = b"\\u00"  # by which either could be spelled
_SEARCH, _ADVISOR = "web_search_", "advisor_"

_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_string = msgspec.json.Decoder(str).decode
_integer = msgspec.json.Decoder(int | None).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Members = dict[str, msgspec.Raw]


class Extras(msgspec.Struct, frozen=True):
    """How many web searches a request may make, and the models that may read its prompt too, one for each time: those
    that answer where the first one declines, and advisors."""

    searches: int = 0
    models: tuple[str, ...] = ()


DEFAULT = "default"  # fallbacks of Anthropic's choice
_NONE = Extras()


def extras(peek: Peek) -> Extras:
    """Those of a request. In place of a model of Anthropic's choice stands the one that is asked. Raises
    ApiError(400)."""
    found, models = 0, _fallbacks_of(peek, [peek.model])
    for tool in _tools_of(peek, _DATED):
        kind = _text("tools.type", tool.get("type"))
        if kind.startswith(_SEARCH):
            found += _uses(tool, SEARCHES, MOST_SEARCHES)
        elif kind.startswith(_ADVISOR):
            models += [_text("tools.model", tool.get("model")) or peek.model] * _uses(tool, 1, MOST_MODELS)
    return Extras(found, tuple(models[:MOST_MODELS])) if found or models else _NONE


def models_beside(peek: Peek) -> list[str]:
    """The models that a request names beside the one that is asked: those that it falls back to (DEFAULT where they are
    of Anthropic's choice), and those of its tools. Raises ApiError(400)."""
    named = [_text("tools.model", tool.get("model")) for tool in _tools_of(peek, _MODEL)]
    return [name for name in _fallbacks_of(peek, [DEFAULT]) + named if name]


def _fallbacks_of(peek: Peek, usual: list[str]) -> list[str]:
    """Those of a request; `usual` where it leaves them to Anthropic."""
    raw = peek.fields.get("fallbacks")
    if raw is None:
        return []
    if peek.sure("fallbacks") == DEFAULT:
        return usual
    named = []
    for each in _items("fallbacks", bytes(raw)):
        model = members_once("fallbacks", bytes(each)).get("model", each)  # or the name alone
        named.append(_text("fallbacks.model", model))
    return [name for name in named if name]


def _tools_of(peek: Peek, word: bytes) -> list[Members]:
    """The members of those tools that may hold the word."""
    raw = bytes(peek.fields.get("tools", b""))
    if word not in raw and not (peek.escapes and _ESCAPE in raw):
        return []
    tools = [bytes(each) for each in _items("tools", raw)]
    return [members_once("tools", each) for each in tools if word in each or _ESCAPE in each]


def _items(name: str, raw: bytes) -> list[msgspec.Raw]:
    """Those of a list; where there is none, the upstream refuses the request."""
    try:
        return _list(raw)
    except msgspec.ValidationError:
        return []
    except _UNREADABLE:
        raise _unreadable(name) from None


def _text(name: str, raw: msgspec.Raw | None) -> str:
    """A value that is text, "" where it is absent or something else."""
    try:
        return _string(raw) if raw is not None else ""
    except msgspec.ValidationError:
        return ""
    except _UNREADABLE:
        raise _unreadable(name) from None


def _uses(tool: Members, usual: int, most: int) -> int:
    """How often a tool may be used, by its own bound."""
    try:
        bound = _integer(tool["max_uses"]) if "max_uses" in tool else None
    except _UNREADABLE:
        raise ApiError(400, "tools.max_uses: Input should be a valid integer") from None
    return usual if bound is None else max(0, min(bound, most))


def _unreadable(name: str) -> ApiError:
    return ApiError(400, f"{name}: it is not valid JSON")
