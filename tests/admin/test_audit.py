"""The audit log's file, and what is not written to it. The list in the store is looked at through gateways."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.admin.audit import FILE, OLD_FILES, Audit, AuditFile, Entry
from gateway.log import captured


def lines(folder: Path) -> list[int]:
    """What is in all files, the oldest first."""
    files = [folder / f"{FILE}.{number}" for number in range(OLD_FILES + 1, 0, -1)]
    return [
        json.loads(line)["n"]
        for file in [*files, folder / FILE]
        if file.exists()
        for line in file.read_text().splitlines()
    ]


def test_lines_are_added_for_the_owners_eyes_only(tmp_path: Path):
    folder = tmp_path / "data"
    for number in range(3):
        AuditFile(str(folder)).append(b'{"n":%d}' % number)
    assert lines(folder) == [0, 1, 2]
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700


def test_a_large_file_makes_room_for_a_new_one_and_only_the_latest_are_kept(tmp_path: Path):
    file = AuditFile(str(tmp_path), max_bytes=20)
    for number in range(20):  # two or three lines a file
        file.append(b'{"n":%d}' % number)
    kept = lines(tmp_path)
    assert kept == list(range(20 - len(kept), 20)) and len(kept) >= 2 * OLD_FILES
    assert len(list(tmp_path.iterdir())) <= OLD_FILES + 1
    assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}


def test_a_disk_that_cannot_be_written_is_said_once_and_stops_nobody(tmp_path: Path):
    folder = tmp_path / "data"
    folder.write_text("not a folder")
    file = AuditFile(str(folder))
    with captured() as logs:
        file.append(b"{}")
        file.append(b"{}")
    assert [line["event"] for line in logs] == ["audit log not written"]
    folder.unlink()
    file.append(b'{"n":1}')
    assert lines(folder) == [1]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path):
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
    with captured() as logs:
        AuditFile(str(tmp_path)).append(b"{}")
    assert len(logs) == 1 and not (tmp_path / "elsewhere").exists()


class Log:
    """An audit log whose store nobody asks, with a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0
        self.audit = Audit("redis://127.0.0.1:1/0", AuditFile(str(folder)), lambda: self.now)
        self._number = 0

    async def record(self, action: str, status: int, who: str = "anna") -> None:
        self._number += 1
        await self.audit.record(
            Entry(
                id=f"req_{self._number}", at="", who=who, role="read", by="session", address="192.0.2.1", action=action,
                method="POST", resource="x", status=status,
            )
        )  # fmt: skip

    def written(self) -> list[tuple[str, str, int]]:
        rows = [json.loads(line) for line in (self.folder / FILE).read_text().splitlines()]
        return [(row["who"], row["action"], row["status"]) for row in rows]


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[Log]:
    log = Log(tmp_path)
    yield log
    await log.audit.close()


async def test_what_is_refused_again_and_again_is_written_down_once_a_minute(book: Log):
    with captured() as logs:
        for _ in range(50):
            await book.record("key.revoke", 404)
        for who, action, status in (
            ("bert", "key.revoke", 404),
            ("anna", "key.rotate", 404),
            ("anna", "key.revoke", 409),
        ):
            await book.record(action, status, who)
        first = book.written()
        book.now += 60
        await book.record("key.revoke", 404)
    assert first == [
        ("anna", "key.revoke", 404), ("bert", "key.revoke", 404), ("anna", "key.rotate", 404),
        ("anna", "key.revoke", 409),
    ]  # fmt: skip
    assert book.written()[len(first) :] == [("anna", "key.revoke", 404)]
    assert [(line["who"], line["times"]) for line in logs if line["event"] == "audit: the same again"] == [("anna", 49)]


@pytest.mark.parametrize("status", [200, 201, 303, 500, 503])
async def test_what_changed_something_or_may_have_is_written_down_each_time(book: Log, status: int):
    for _ in range(50):
        await book.record("account.change", status)
    assert len(book.written()) == 50


@pytest.mark.parametrize("action", ["session.begin", "session.end"])
async def test_who_may_only_look_cannot_push_out_what_others_did(book: Log, action: str):
    with captured() as logs:
        for status in (303, 403):
            for _ in range(500):
                await book.record(action, status)
        assert 1 < len(book.written()) <= 10
        await book.record(action, 303, "bert")
        assert book.written()[-1] == ("bert", action, 303)
        book.now += 3600
        await book.record(action, 303)
    assert book.written()[-1] == ("anna", action, 303)
    assert [line["times"] for line in logs if line["event"] == "audit: the same again"] == [990]
