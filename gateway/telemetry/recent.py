"""The last requests of all workers, for operators: what a log line says of each, never a body, a key or a conversation.

It does not know where they come from, and remembers them no longer than this process lives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice, takewhile
from typing import Any

import msgspec

from gateway.config.rules import instant_text
from gateway.records import ITEMS, Finished

MOST = 500  # requests that are remembered, and that a worker keeps between two tellings


class Row(msgspec.Struct, frozen=True):
    """One request; `number` counts them as they came to be known here. See records.Finished."""

    number: int
    ended: float
    record: Finished

    def shown(self) -> dict[str, Any]:
        """As JSON has it. What there is none of is None."""
        record, usage = self.record, self.record.usage
        return {
            "request_id": record.request_id,
            "upstream_request_id": record.upstream_request_id or None,
            "trace_id": record.trace_id or None,
            "at": instant_text(record.at),
            "key": record.caller or None,
            "team": record.team or None,
            "endpoint": record.endpoint,
            "model": record.model or None,
            "conversation": record.conversation or None,
            "stream": record.stream,
            "account": record.account or None,
            "route": record.route,
            "reason": record.reason or None,
            "attempts": record.attempts,
            "status": record.status or None,
            "outcome": record.outcome,
            "cause": record.cause or None,
            "limit": f"{record.throttled}: {record.limit}" if record.throttled else None,
            "tokens": {
                "input": usage.input,
                "cache_read": usage.cache_read,
                "cache_write": usage.cache_write_5m + usage.cache_write_1h,
                "output": usage.output,
            },
            "cost_usd": record.cost_nano_usd / 1e9,
            "saved_usd": record.savings_nano_usd / 1e9,
            "duration_seconds": round(record.duration, 4),
            "ttft_seconds": round(record.ttft, 4) or None,
        }


class Recent:
    """`changed()` is called after each addition."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._rows: deque[Row] = deque(maxlen=MOST)
        self._changed = changed
        self.number = 0  # of the latest

    def __repr__(self) -> str:
        return f"<Recent {len(self._rows)} requests>"

    def add(self, records: Iterable[Finished]) -> None:
        """A worker's, in the order in which they ended. What stands for items of batches is no request."""
        before = self.number
        for record in records:
            if record.endpoint != ITEMS:
                self.number += 1
                self._rows.append(Row(self.number, record.at + record.duration, record))
        if self.number > before:
            self._changed()

    def rows(
        self, limit: int, key: str | None = None, account: str | None = None, outcome: str | None = None
    ) -> list[Row]:
        """At most `limit` that fit, the last to end first. `outcome` is one of Finished's, or a status as text."""
        found = [
            row
            for row in self._rows
            if (not key or row.record.caller == key)
            and (not account or row.record.account == account)
            and (not outcome or outcome in (row.record.outcome, str(row.record.status)))
        ]
        found.sort(key=lambda row: row.ended, reverse=True)
        return found[:limit]

    def since(self, number: int, limit: int) -> list[Row]:
        """At most `limit` of those after that number, the latest first."""
        return list(islice(takewhile(lambda row: row.number > number, reversed(self._rows)), limit))
