"""What is written down of requests: records, log, metrics, journal and ledger must say the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.records import ITEMS, Finished
from gateway.store.ledger.ledger import Entry, sums_of
from gateway.worker.endpoints import METERED


@dataclass(frozen=True)
class Books:
    """`records` of all requests of a journey, `lines` in the log, requests `counted` by the metrics; the entries of the
    journal and of the ledger in the store (None: it cannot be asked). `broken`: which of them has lost a request, for
    the journey broke it: `log` or `metrics`."""

    records: list[Finished]
    lines: int
    counted: int
    journal: list[Entry]
    ledger: list[Entry] | None
    broken: str = ""

    def problems(self) -> Iterator[str]:
        """Where they differ."""
        known = {record.request_id: record for record in self.records}
        if len(known) != len(self.records):
            yield "a request has two records"
        lines = len(self.records) - (self.broken == "log")
        if self.lines != lines:
            yield f"{self.lines} lines in the log, not {lines}"
        requests = sum(record.endpoint != ITEMS for record in self.records) - (self.broken == "metrics")
        if self.counted != requests:
            yield f"{self.counted} requests in the metrics, not {requests}"
        for name, entries in (("journal", self.journal), ("ledger", self.ledger or [])):
            ids = [entry.id for entry in entries]
            if len(set(ids)) != len(ids):
                yield f"the {name} has a request twice"
            if not known.keys() >= set(ids):
                yield f"the {name} has what nobody asked"
        if self.ledger is not None:
            told = {entry.id: entry for entry in self.ledger}
            if told != {entry.id: entry for entry in self.journal if any(sums_of(entry))}:
                yield f"the ledger has {list(told)}, the journal {self.journal}"
        entries_by_id = {entry.id: entry for entry in self.journal}
        for record in self.records:
            yield from _differs(record, entries_by_id.get(record.request_id))


def _differs(record: Finished, entry: Entry | None) -> Iterator[str]:
    usage = record.usage
    tokens = (usage.input, usage.cache_read, usage.cache_write_5m, usage.cache_write_1h, usage.output)
    if entry is None:
        if any(tokens) or record.cost_nano_usd:
            yield f"{record.request_id} has used something, and is not in the journal"
        elif record.attempts and record.endpoint in METERED:
            yield f"{record.request_id} was sent, and is not in the journal"
        return
    said = (
        (*tokens, record.cost_nano_usd, record.savings_nano_usd, int(record.estimated)),
        (record.caller, record.team, record.account, record.endpoint),
    )
    written = (
        (
            entry.input, entry.cache_read, entry.write_5m, entry.write_1h, entry.output, entry.cost_nano,
            entry.savings_nano, entry.estimated,
        ),
        (entry.caller, entry.team, entry.account, entry.endpoint),
    )  # fmt: skip
    if said != written:
        yield f"the journal says {written}, the record {said}"


def _sums(entry: Entry) -> tuple[int, ...]:
    return (
        entry.requests,
        entry.estimated,
        entry.input,
        entry.cache_read,
        entry.write_5m,
        entry.write_1h,
        entry.output,
    )
