"""A conversation's binding for one model: where it lives, how warm it is there, and where it was before.

The record as the store keeps it (MessagePack, one field of the conversation's hash) and as processes remember it. Times
are the store's clock in milliseconds. It does not decide anything.
"""

from __future__ import annotations

import msgspec

COLD = 0  # `warm_until` of a cache that nobody has seen written


def record_key(tenant: str, conversation: bytes) -> str:
    """Where the store keeps a conversation's bindings."""
    return f"{{{tenant}}}:b:{conversation.hex()}"


class Move(msgspec.Struct, array_like=True):
    """One rebind: when (ms), from and to which workspace, and why."""

    at: int
    origin: str
    target: str
    reason: str


class Record(msgspec.Struct, array_like=True):
    """`tokens` and `size` (bytes of body) are those of the last answered turn, 0 before the first; `account_bound` says
    that the history holds blocks which only this workspace's accounts read; `detour` is the last workspace that stood
    in."""

    workspace: str
    generation: int = 1
    warm_until: int = COLD
    tokens: int = 0
    size: int = 0
    account_bound: int = 0
    previous: str = ""
    previous_warm_until: int = COLD
    previous_tokens: int = 0
    detour: str = ""
    detour_warm_until: int = COLD
    voluntary: int = 0  # when it last moved without need (ms)
    moves: list[Move] = []  # the last few, oldest first
    group: str = ""  # of conversations that share tools and system prompt
    in_flight_until: int = COLD  # a request is on its way there whose answer will make it warm
    kept_until: int = 0  # whoever extended the record's life last knows that it lasts so long (ms)

    def is_cold(self, now_ms: int) -> bool:
        """Neither is its cache there, nor a request on its way that will write it."""
        return self.warm_until <= now_ms and self.in_flight_until <= now_ms


def moved(record: Record, target: str, reason: str, now_ms: int, in_flight: int, voluntary: bool = False) -> Record:
    """The record once its conversation is bound to `target`, as rebind.lua makes it: a request goes there that takes
    `in_flight` ms at most. A cache that is still warm there is taken over."""
    new = msgspec.structs.replace(
        record, workspace=target, generation=record.generation + 1, warm_until=COLD, tokens=0, size=0,
        previous=record.workspace, previous_warm_until=record.warm_until, previous_tokens=record.tokens,
        moves=[*record.moves[-4:], Move(now_ms, record.workspace, target, reason)], in_flight_until=now_ms + in_flight,
    )  # fmt: skip
    if target == record.detour and record.detour_warm_until > now_ms:
        new.warm_until, new.tokens, new.size = record.detour_warm_until, record.tokens, record.size
        new.detour, new.detour_warm_until = "", COLD
    elif target == record.previous and record.previous_warm_until > now_ms:
        new.warm_until, new.tokens = record.previous_warm_until, record.previous_tokens
        new.size = record.size * record.previous_tokens // record.tokens if record.tokens else 0
    if voluntary:
        new.voluntary = now_ms
    return new


pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(Record).decode
