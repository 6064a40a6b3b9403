"""Prompt caches: what a request reads, what it writes, and when that becomes readable.

Pure: `now` (seconds) is an argument. A cache belongs to a scope, (workspace, model id, speed). Entries exist only
where a request had a breakpoint; a reader looks back from each of its own breakpoints over at most 20 positions.
"""

import msgspec

from gateway.lab.simulator.prompt import Prompt

__all__ = ["CachePlan", "PromptCache", "Scope"]

LOOKBACK = 20
Scope = tuple[str, str, str | None]
SWEEP_EVERY = 4096


class _Entry:
    __slots__ = ("expires", "ttl")

    def __init__(self, expires: float, ttl: float) -> None:
        self.expires = expires
        self.ttl = ttl


class CachePlan(msgspec.Struct, frozen=True):
    """Token counts of one request (`fresh + read + write_5m + write_1h` is all its input), and what it will write."""

    fresh: int
    read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    scope: Scope | None = None
    writes: tuple[tuple[bytes, float], ...] = ()


class PromptCache:
    """The entries of every scope."""

    def __init__(self) -> None:
        self._scopes: dict[Scope, dict[bytes, _Entry]] = {}
        self._writes = 0

    def __repr__(self) -> str:
        return f"<PromptCache of {sum(map(len, self._scopes.values()))} entries in {len(self._scopes)} scopes>"

    def clear(self) -> None:
        self._scopes.clear()

    def plan(self, scope: Scope, prompt: Prompt, minimum: int, now: float) -> CachePlan:
        """What this prompt reads (refreshing it) and would write; nothing is written before `begin`."""
        if not prompt.breakpoints:
            return CachePlan(prompt.tokens)
        entries = self._scopes.get(scope, {})
        hit = self._longest_hit(entries, prompt, now)
        read = prompt.upto[hit] if hit >= 0 else 0
        write_5m = write_1h = 0
        done = read
        writes = []
        for point in prompt.breakpoints:
            tokens = prompt.upto[point.position]
            prefix = prompt.prefixes[point.position]
            if point.position <= hit:
                # Part of what is being read: used, hence refreshed.
                known = entries.get(prefix)
                if known is not None and known.expires > now:
                    known.expires = now + known.ttl
                continue
            if tokens < minimum:
                continue
            writes.append((prefix, point.ttl))
            if point.ttl > 300:
                write_1h += tokens - done
            else:
                write_5m += tokens - done
            done = tokens
        return CachePlan(prompt.tokens - done, read, write_5m, write_1h, scope, tuple(writes))

    def begin(self, plan: CachePlan, now: float) -> None:
        """The response has begun: what the plan writes is readable from here on."""
        if plan.scope is None or not plan.writes:
            return
        entries = self._scopes.setdefault(plan.scope, {})
        for prefix, ttl in plan.writes:
            known = entries.get(prefix)
            if known is None or known.expires < now + ttl:
                entries[prefix] = _Entry(now + ttl, ttl)
        self._writes += 1
        if self._writes % SWEEP_EVERY == 0:
            self._sweep(now)

    @staticmethod
    def _longest_hit(entries: dict[bytes, _Entry], prompt: Prompt, now: float) -> int:
        """The index of the longest readable position, -1 if there is none."""
        if not entries:
            return -1
        for point in reversed(prompt.breakpoints):
            for position in range(point.position, max(point.position - LOOKBACK, -1), -1):
                entry = entries.get(prompt.prefixes[position])
                if entry is not None and entry.expires > now:
                    entry.expires = now + entry.ttl
                    return position
        return -1

    def _sweep(self, now: float) -> None:
        for entries in self._scopes.values():
            for prefix in [prefix for prefix, entry in entries.items() if entry.expires <= now]:
                del entries[prefix]
