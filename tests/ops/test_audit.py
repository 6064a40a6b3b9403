"""The audit log's file. Its list in the store is looked at through gateways."""

from __future__ import annotations

import json
from pathlib import Path

from structlog.testing import capture_logs

from gateway.ops.audit import FILE, OLD_FILES, AuditFile


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
    with capture_logs() as logs:
        file.append(b"{}")
        file.append(b"{}")
    assert [line["event"] for line in logs] == ["audit log not written"]
    folder.unlink()
    file.append(b'{"n":1}')
    assert lines(folder) == [1]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path):
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
    with capture_logs() as logs:
        AuditFile(str(tmp_path)).append(b"{}")
    assert len(logs) == 1 and not (tmp_path / "elsewhere").exists()
