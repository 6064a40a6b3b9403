"""Prompt groups: conversations that begin with the same tools and system prompt, and where that prefix is in cache.

A new conversation of a group reads the prefix wherever another one has written it, which is worth more than an even
spread by rank. What is known comes from answers alone. Times are seconds of one clock.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from gateway.core.wire.peek import Peek

MAX_GROUPS = 10_000
_BILLING = b"x-anthropic-billing-header:"
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Block(msgspec.Struct):
    text: Any = ""


_block = msgspec.json.Decoder(_Block).decode


def group_of(peek: Peek) -> str:
    """The name of a body's group, "" where it has neither tools nor a system prompt."""
    tools, system = peek.fields.get("tools"), peek.fields.get("system")
    if tools is None and system is None:
        return ""
    digest = blake2b(digest_size=8)
    for part in (bytes(tools or b""), _without_billing(system) or b""):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()


def _without_billing(system: msgspec.Raw | None) -> bytes | None:
    """The system prompt less the block by which Claude Code tells its bill, which differs from session to session."""
    if system is None:
        return None
    text = bytes(system)
    if not text.startswith(b"[") or _BILLING not in text[:4096]:
        return text
    try:
        blocks = _items(system)
        first = _block(blocks[0])
    except (msgspec.MsgspecError, UnicodeDecodeError, IndexError):
        return text
    if isinstance(first.text, str) and first.text.startswith(_BILLING.decode()):
        return b",".join(bytes(block) for block in blocks[1:])
    return text


class _Group:
    __slots__ = ("shared", "warm")

    def __init__(self) -> None:
        self.shared = 0.0  # tokens that a new conversation reads where the prefix is warm
        self.warm: dict[str, float] = {}  # workspace -> until


class Groups:
    """The groups that this process has lately seen."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def touch(self, name: str, workspace: str, until: float) -> None:
        """The group's prefix was read or written in this workspace."""
        group = self._groups.get(name)
        if group is None:
            if len(self._groups) >= MAX_GROUPS:
                del self._groups[next(iter(self._groups))]
            group = self._groups[name] = _Group()
        if group.warm.get(workspace, 0.0) < until:
            group.warm[workspace] = until

    def read(self, name: str, tokens: float) -> None:
        """A conversation's first request has read this many tokens where its group's prefix was warm."""
        group = self._groups.get(name)
        if group is not None and tokens:
            group.shared = tokens if not group.shared else min(group.shared * 1.05, tokens)

    def shared(self, name: str, workspace: str, now: float) -> float | None:
        """Tokens of the prefix in this workspace's cache, None if it is not warm there."""
        group = self._groups.get(name)
        if group is None or group.warm.get(workspace, 0.0) <= now:
            return None
        return group.shared
