"""What one event loop writes into the journal of usage: once a tick, however many requests begin and end in it.

It does not know what the records mean, nor what becomes of a request whose intent could not be written.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

from gateway import log
from gateway.store.ledger.ledger import UsageJournal

MOST = 50_000  # records kept for a disk that is full: beyond it the oldest go, which the store was told of
_AT_ONCE = 1000
_AGAIN = 0.1  # seconds after a write that failed in which another one would


class Intended(Protocol):
    """A request whose `intent` (packed) is to be `journaled` before it goes on."""

    journaled: bool

    @property
    def intent(self) -> bytes: ...


class TickJournal:
    """`full` while the disk takes nothing: what is to be kept waits here then, and is written when there is room."""

    def __init__(self, journal: UsageJournal) -> None:
        self.full = False
        self._journal = journal
        self._waiting: list[bytes] = []
        self._intended: list[Intended] = []
        self._armed = False
        self._again_at = 0.0

    @property
    def waiting(self) -> list[bytes]:
        """What is not written yet."""
        return self._waiting

    def keep(self, packed: bytes) -> None:
        """Write a record at the end of this tick, or as soon as that is possible."""
        self._waiting.append(packed)
        self._arm()

    def intend(self, request: Intended) -> None:
        """Write the request's intent at the end of this tick; it is journaled then, or not."""
        self._intended.append(request)
        self._arm()

    def insist(self, request: Intended) -> bool:
        """Whether its intent is written; now, if it was not yet."""
        if not request.journaled:
            if request not in self._intended:
                self._intended.append(request)
            self.write()
        return request.journaled

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self.write)

    def write(self) -> None:
        """Write what waits."""
        self._armed = False
        intended, self._intended = self._intended, []
        waiting = self._waiting
        if not (intended or waiting) or (self.full and monotonic() < self._again_at):
            return
        records = []
        for request in intended:
            records.append(request.intent)
        records += waiting[:_AT_ONCE]  # each after its intent
        try:
            self._journal.extend(records)
        except Exception as error:  # no space, mostly; whatever it was, the tick goes on and the next may write
            self._failed(error)
            return
        self.full = False
        for request in intended:
            request.journaled = True
        del waiting[:_AT_ONCE]
        if waiting:
            self._arm()

    def _failed(self, error: Exception) -> None:
        if not self.full:
            self.full = True
            log.error("the journal of usage cannot be written", reason=str(error))
        self._again_at = monotonic() + _AGAIN
        del self._waiting[:-MOST]

    def close(self) -> None:
        """Write what waits, and let what was written be compacted; now and then, and at the end."""
        self.write()
        self._journal.close()
