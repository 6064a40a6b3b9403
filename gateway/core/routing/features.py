"""The optional features that a request asks for: what one account may be allowed and another not.

Read only when an account has refused something. It does not know which account allows what.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.core.wire.peek import Peek

_MOST = 64  # features of one request; clients may invent them


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
    return frozenset(sorted(set(found))[:_MOST])
