"""The optional features that a request asks for: what one account may be allowed and another not.

Read only when an account has refused something. It does not know which account allows what.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.core.wire.peek import SOURCE, Peek

BETA, TOOL, FIELD = "beta:", "tool:", "field:"
_MOST = 64  # features of one request; clients may invent them
# Members of a body that every provider takes.
_USUAL = frozenset((
    "model", "messages", "max_tokens", "system", "stop_sequences", "stream", "temperature", "top_p", "top_k", "tools",
    "tool_choice", "metadata", "thinking", "mcp_servers", "container",
))  # fmt: skip
# Of those, what some do not take in every form; and the words in a body that tell of such a thing.
_VARIED = frozenset(("tools", "mcp_servers", "container"))
_SIMPLE = _USUAL - _VARIED
_TELLING = frozenset((b'"1h"', SOURCE, b'"cache_control"', b'"file_id"'))
_NONE: frozenset[str] = frozenset()
_BY_URL = re.compile(rb'"type"[ \t\r\n]*:[ \t\r\n]*"url"')
_SCOPE = re.compile(rb'"cache_control"[ \t\r\n]*:[ \t\r\n]*\{[^{}]*"scope"')


def features_of(peek: Peek, betas: Iterable[bytes]) -> frozenset[str]:
    """Names such as `beta:context-1m-2025-08-07`, `tool:web_search_20250305`, `mcp`, `container`, `file`; `betas` are
    the values of the request's `anthropic-beta` headers."""
    found = [f"beta:{name.strip().decode('latin-1')}" for value in betas for name in value.split(b",") if name.strip()]
    tools = peek.value("tools") if "tools" in peek.fields else None
    for tool in tools if isinstance(tools, list) else ():
        kind: Any = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind not in ("custom", "function"):
            found.append(f"tool:{kind[:64]}")
    if "mcp_servers" in peek.fields:
        found.append("mcp")
    if "container" in peek.fields:
        found.append("container")
    if b'"file_id"' in peek.body:
        found.append("file")
    return frozenset(sorted(set(found))[:_MOST]) if found else _NONE


def needs_of(peek: Peek, betas: Sequence[bytes]) -> frozenset[str]:
    """As `features_of`, and what else a provider may lack: `field:context_management` and other members of the body's
    top level, `url` for sources by URL, `cache:scope`, `cache:1h`."""
    if not betas and peek.fields.keys() <= _SIMPLE and _TELLING.isdisjoint(peek.words):
        return _NONE
    found = set(features_of(peek, betas))
    unusual = peek.fields.keys() - _USUAL
    if unusual:
        found |= {FIELD + name[:64] for name in unusual}
    if SOURCE in peek.words and _BY_URL.search(peek.body):
        found.add("url")
    if peek.cache_ttl == 3600:
        found.add("cache:1h")
    if peek.caches and _SCOPE.search(peek.body):
        found.add("cache:scope")
    return frozenset(sorted(found)[:_MOST]) if found else _NONE
