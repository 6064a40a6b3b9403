"""The journal of one event loop: one write a tick, and nothing lost while the disk takes none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from gateway.log import captured
from gateway.store.ledger import tick_journal
from gateway.store.ledger.ledger import UsageJournal
from gateway.store.ledger.tick_journal import TickJournal


class Disk:
    """A journal's: its `writes`, unless it is full."""

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.full = False
        self.closed = False

    def extend(self, records: Sequence[bytes]) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.writes.append(list(records))

    def close(self) -> None:
        self.closed = True


class Request:
    def __init__(self, intent: bytes) -> None:
        self.intent = intent
        self.journaled = False


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def journal(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> TickJournal:
    monkeypatch.setattr(tick_journal, "_AGAIN", 0.0)
    return TickJournal(cast(UsageJournal, disk))


async def test_what_begins_and_ends_in_one_tick_is_one_write_and_intents_come_first(disk, journal):
    one, two = Request(b"one"), Request(b"two")
    journal.intend(one)
    journal.keep(b"ended")
    journal.intend(two)
    assert (disk.writes, one.journaled) == ([], False)
    await asyncio.sleep(0)
    assert (disk.writes, one.journaled, two.journaled) == ([[b"one", b"two", b"ended"]], True, True)
    journal.keep(b"later")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert disk.writes[1:] == [[b"later"]]


async def test_a_full_disk_takes_no_intent_and_all_else_waits_for_room(disk, journal):
    one = Request(b"one")
    disk.full = True
    with captured() as said:
        for number in range(3):
            journal.intend(one)
            journal.keep(b"ended %d" % number)
            await asyncio.sleep(0)
    assert (journal.full, one.journaled, len(journal.waiting)) == (True, False, 3)
    assert [each["log_level"] for each in said] == ["error"]  # once
    disk.full = False
    journal.write()
    assert disk.writes == [[b"ended 0", b"ended 1", b"ended 2"]]
    assert (journal.full, one.journaled, journal.waiting) == (False, False, [])


async def test_who_insists_has_it_written_now_or_knows_that_it_is_not(disk, journal):
    one, two = Request(b"one"), Request(b"two")
    journal.intend(one)
    assert journal.insist(one) and disk.writes == [[b"one"]]
    await asyncio.sleep(0)
    assert journal.insist(one) and disk.writes == [[b"one"]]  # no more than once
    disk.full = True
    journal.intend(two)
    await asyncio.sleep(0)
    assert not journal.insist(two)
    disk.full = False
    assert journal.insist(two) and disk.writes[1:] == [[b"two"]]


async def test_a_full_disk_is_not_tried_for_every_request(disk, journal, monkeypatch):
    monkeypatch.setattr(tick_journal, "_AGAIN", 3600.0)
    disk.full = True
    journal.keep(b"ended")
    await asyncio.sleep(0)
    disk.full = False
    assert not journal.insist(Request(b"one")) and disk.writes == []


async def test_what_waits_is_bounded_and_the_latest(disk, journal, monkeypatch):
    monkeypatch.setattr(tick_journal, "MOST", 5)
    disk.full = True
    for number in range(9):
        journal.keep(b"%d" % number)
    await asyncio.sleep(0)
    assert journal.waiting == [b"4", b"5", b"6", b"7", b"8"]


async def test_much_that_waited_is_written_a_part_at_a_time(disk, journal, monkeypatch):
    monkeypatch.setattr(tick_journal, "_AT_ONCE", 4)
    for number in range(10):
        journal.keep(b"%d" % number)
    for _ in range(4):
        await asyncio.sleep(0)
    assert [len(each) for each in disk.writes] == [4, 4, 2]
    assert [each for write in disk.writes for each in write] == [b"%d" % number for number in range(10)]


async def test_whatever_the_disk_raises_the_tick_goes_on(disk, journal, monkeypatch):
    monkeypatch.setattr(disk, "extend", lambda records: 1 / 0)
    journal.keep(b"ended")
    await asyncio.sleep(0)
    assert (journal.full, journal.waiting) == (True, [b"ended"])


async def test_at_the_end_what_waits_is_written(disk, journal):
    journal.keep(b"ended")
    journal.close()
    assert disk.writes == [[b"ended"]] and disk.closed
