"""The pool on disk: there when the store is not, and never in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.core.routing.document import Entry, PoolDocument
from gateway.log import captured
from gateway.supervisor.pool.snapshot import NAME, Kept, Snapshot

DOCUMENT = PoolDocument(7, (Entry("a", "w", "o", 2.0, ("x", "y"), "draining", 50.0, 9.0), Entry("b", "w", "o")))
OVERRIDES: dict[str, dict[str, object]] = {"a": {"state": "draining", "drain_until": 50}}


def test_what_was_written_is_read(tmp_path: Path):
    Snapshot(str(tmp_path / "new/folder")).write(DOCUMENT, OVERRIDES)
    path = tmp_path / "new/folder" / NAME
    assert Snapshot(str(path.parent)).read() == Kept(DOCUMENT, OVERRIDES)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [NAME]


def test_nothing_is_there_before_the_first_time(tmp_path: Path):
    with captured() as logs:
        assert Snapshot(str(tmp_path / "none")).read() is None
    assert logs == []


def test_only_a_change_is_written(tmp_path: Path):
    snapshot = Snapshot(str(tmp_path))
    snapshot.write(DOCUMENT, OVERRIDES)
    inode = snapshot.path.stat().st_ino
    snapshot.write(DOCUMENT, dict(OVERRIDES))
    assert snapshot.path.stat().st_ino == inode
    again = Snapshot(str(tmp_path))
    again.read()
    again.write(DOCUMENT, OVERRIDES)
    assert snapshot.path.stat().st_ino == inode
    again.write(DOCUMENT, {})
    assert Snapshot(str(tmp_path)).read() == Kept(DOCUMENT, {})


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"null", b"[]", b'{"document":7}', b"\xff\xfe", b'{"document":{"epoch":1,"accounts":[{"id":"a"}]}}',
        b'{"document":{"accounts":[{"id":"a","workspace":"a","organization":"a","weight":0}]}}',
        b'{"document":{"accounts":[{"id":"a","workspace":"a","organization":"a","state":"resting"}]}}',
        b'{"document":{"accounts":[' + b",".join([b'{"id":"a","workspace":"a","organization":"a"}'] * 2) + b"]}}",
    ],
)  # fmt: skip
def test_what_makes_no_sense_costs_one_warning_and_is_replaced(tmp_path: Path, data: bytes):
    (tmp_path / NAME).write_bytes(data)
    snapshot = Snapshot(str(tmp_path))
    with captured() as logs:
        assert snapshot.read() is None
    assert [line["event"] for line in logs] == ["pool snapshot ignored"]
    snapshot.write(DOCUMENT, {})
    assert Snapshot(str(tmp_path)).read() == Kept(DOCUMENT)


def test_a_disk_that_fails_costs_one_warning(tmp_path: Path):
    blocker = tmp_path / "data"
    blocker.write_text("not a folder")
    snapshot = Snapshot(str(blocker))
    with captured() as logs:
        assert snapshot.read() is None
        for epoch in range(3):
            snapshot.write(PoolDocument(epoch), {})
    assert [line["event"] for line in logs] == ["pool snapshot ignored", "pool snapshot not written"]
    blocker.unlink()
    snapshot.write(DOCUMENT, {})
    assert Snapshot(str(blocker)).read() == Kept(DOCUMENT)


def test_a_newer_version_may_have_written_more(tmp_path: Path):
    (tmp_path / NAME).write_bytes(
        b'{"mood":1,"document":{"epoch":3,"accounts":[{"id":"a","workspace":"a","organization":"a","mood":2}]}}'
    )
    assert Snapshot(str(tmp_path)).read() == Kept(PoolDocument(3, (Entry("a", "a", "a"),)))
