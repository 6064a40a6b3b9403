"""The journal on a real disk: processes killed while they write, disks that fill up, compactions cut short."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.ledger import journal
from gateway.store.ledger.journal import Journal, compact, read

KEEP: Callable[[Iterable[bytes]], Iterable[bytes]] = lambda records: records  # noqa: E731


def once(records: Iterable[bytes]) -> Iterable[bytes]:
    return sorted(set(records))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def write(folder) -> Iterator[Callable[..., Journal]]:
    """Append these records to a new segment, which stays open for the length of the test."""
    made: list[Journal] = []

    def write(*records: bytes) -> Journal:
        made.append(Journal(folder))
        for record in records:
            made[-1].append(record)
        return made[-1]

    yield write
    for each in made:
        each.close()


def segments(folder: Path) -> list[str]:
    """The suffixes of all files but the lock."""
    return sorted(path.suffix for path in folder.iterdir() if path.name != "lock")


def only(folder: Path, suffix: str) -> Path:
    (path,) = folder.glob(f"*{suffix}")
    return path


def test_records_are_read_back_in_their_order(folder, write):
    assert list(read(folder)) == []
    write(b"1", b"two\nlines", b"\0" * 70_000)
    assert list(read(folder)) == [b"1", b"two\nlines", b"\0" * 70_000]


def test_nothing_is_made_before_there_is_something_to_keep(folder):
    Journal(folder).close()
    compact(folder, KEEP)
    assert list(read(folder)) == []
    assert not folder.exists()


def test_a_record_without_bytes_and_one_beyond_a_segment_are_refused(folder, write, monkeypatch):
    monkeypatch.setattr(journal, "SEGMENT", 10)
    with pytest.raises(ValueError):
        write(b"")
    with pytest.raises(ValueError):
        write(b"x" * 11)
    assert not folder.exists()


def test_only_the_owner_may_read_it(folder, write):
    write(b"1").close()
    compact(folder, KEEP)
    write(b"2")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_record_is_in_the_kernels_hands_before_append_returns(folder, write):
    mine = write(b"1")
    assert list(read(folder)) == [b"1"]
    mine.append(b"2")
    assert list(read(folder)) == [b"1", b"2"]


def test_a_full_segment_is_closed_and_another_begun(folder, write, monkeypatch):
    monkeypatch.setattr(journal, "SEGMENT", 100)
    records = [b"%03d" % number + b"." * 40 for number in range(20)]
    write(*records)
    assert segments(folder) == [".log"] * 10
    assert sorted(read(folder)) == records
    write(b"last")
    assert segments(folder) == [".log"] * 10 + [".open"]


def test_older_segments_are_read_first(folder, write, monkeypatch):
    clock = iter(range(9))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    first, second = write(b"1"), write(b"2")
    third = write(b"3")
    first.append(b"1b")
    assert list(read(folder)) == [b"1", b"1b", b"2", b"3"]
    second.close()
    third.close()
    compact(folder, KEEP)
    assert list(read(folder)) == [b"1", b"1b", b"2", b"3"]


def test_a_closed_journal_begins_anew_with_the_next_record(folder, write):
    mine = write(b"1")
    mine.close()
    mine.close()
    assert segments(folder) == [".log"]
    mine.append(b"2")
    assert segments(folder) == [".log", ".open"]


def test_closing_is_possible_where_the_folder_is_gone(folder, write):
    mine = write(b"1")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    mine.close()
    mine.append(b"2")
    assert list(read(folder)) == [b"2"]


# What a death or a loss of power leaves behind.

WRITER = """
import sys
from pathlib import Path
from gateway.store.ledger import journal
journal.SEGMENT = int(sys.argv[2])
mine = journal.Journal(Path(sys.argv[1]))
name = sys.argv[3]
number = 0
while True:
    mine.append(f"{name}:{number}".encode())
    sys.stdout.buffer.write(b"%d\\n" % number)
    sys.stdout.buffer.flush()
    number += 1
"""


@contextlib.contextmanager
def writing(folder: Path, name: str, segment: int = 16 * 1024 * 1024) -> Iterator[subprocess.Popen[bytes]]:
    """A process that appends until it is killed, and says what it has appended."""
    words = [sys.executable, "-c", WRITER, str(folder), str(segment), name]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def told(process: subprocess.Popen[bytes], at_least: int = 1) -> int:
    """The number up to which it has appended: at least so many."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= at_least:
            return int(line)
    raise AssertionError("it has died")


def numbers(folder: Path, name: str) -> list[int]:
    parts = (record.decode().split(":") for record in read(folder))
    return [int(number) for who, number in parts if who == name]


def killed(process: subprocess.Popen[bytes]) -> int:
    """The last number that it said, once it is dead."""
    process.kill()
    process.wait()
    assert process.stdout is not None
    return max((int(line) for line in process.stdout if line.endswith(b"\n")), default=0)


@pytest.mark.parametrize("segment", [16 * 1024 * 1024, 300])
def test_a_killed_process_loses_nothing(folder, segment):
    with writing(folder, "a", segment) as process:
        last = max(told(process, 2000), killed(process))
    kept = sorted(numbers(folder, "a"))
    assert kept == list(range(len(kept)))
    assert len(kept) > last


def test_the_segment_of_a_killed_process_is_compacted_and_a_live_ones_is_not(folder, write):
    write(b"b:0")
    with writing(folder, "a") as process:
        last = max(told(process, 100), killed(process))
    assert segments(folder) == [".open", ".open"]
    compact(folder, KEEP)
    assert segments(folder) == [".log", ".open"]
    assert numbers(folder, "a") == list(range(len(numbers(folder, "a")))) and len(numbers(folder, "a")) > last
    assert numbers(folder, "b") == [0]


@pytest.mark.parametrize("cut", range(1, 17))
def test_a_torn_tail_is_skipped(folder, write, cut):
    write(b"1", b"2", b"last").close()
    path = only(folder, ".log")
    os.truncate(path, path.stat().st_size - cut)
    write(b"3")
    assert sorted(read(folder)) == [b"1", b"2", b"3"]
    compact(folder, KEEP)
    assert sorted(read(folder)) == [b"1", b"2", b"3"]


def test_a_tail_of_zeros_is_skipped(folder, write):
    write(b"1").close()
    with only(folder, ".log").open("ab") as file:
        file.write(bytes(4096))
    assert list(read(folder)) == [b"1"]


@given(data=st.data())
def test_damage_costs_the_records_that_it_hits_and_no_others(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("journal")
    records = data.draw(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=8))
    mine = Journal(folder)
    for record in records:
        mine.append(record)
    mine.close()
    path = only(folder, ".log")
    raw = bytearray(path.read_bytes())
    first = data.draw(st.integers(0, len(raw) - 1))
    after = data.draw(st.integers(first + 1, len(raw)))
    for at in range(first, after):
        raw[at] ^= 0x55
    path.write_bytes(raw)
    whole, at = [], 0
    for record in records:
        if at + 12 + len(record) <= first or at >= after:
            whole.append(record)
        at += 12 + len(record)
    assert list(read(folder)) == whole


def test_a_length_beyond_reason_is_not_believed(folder, write):
    write(b"1").close()
    with only(folder, ".log").open("ab") as file:
        file.write(struct.pack(">4sII", b"\xffgwr", 2**32 - 1, 0))
    write(b"2")
    assert sorted(read(folder)) == [b"1", b"2"]


FULL = """
import resource, signal, sys
from pathlib import Path
from gateway.store.ledger.journal import Journal
mine = Journal(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
kept = []
def fill(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for _ in range(10):
        record = b"%d:" % len(kept) + b"." * 100
        try:
            mine.append(record)
        except OSError:
            break
        kept.append(record)
    else:
        sys.exit("never full")
fill(500)
fill(1000)
print(len(kept))
"""


def test_a_disk_that_fills_up_costs_the_record_that_did_not_fit(folder):
    said = subprocess.run([sys.executable, "-c", FULL, str(folder)], capture_output=True, check=True).stdout
    assert [int(record.split(b":")[0]) for record in read(folder)] == list(range(int(said)))
    assert int(said) >= 6


def test_of_many_records_that_do_not_fit_together_none_is_kept(folder):
    text = FULL.replace("mine.append(record)", "mine.extend([record] * 3)").replace("fill(500)", "fill(700)")
    said = subprocess.run([sys.executable, "-c", text, str(folder)], capture_output=True, check=True).stdout
    numbers = [int(record.split(b":")[0]) for record in read(folder)]
    assert numbers == [number for number in range(int(said)) for _ in range(3)]
    assert int(said) >= 2


@pytest.mark.parametrize("broken", ["open", "rename"])
def test_a_segment_that_cannot_be_begun_is_tried_again(folder, write, monkeypatch, broken):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    mine = write()
    before = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(*(os, "open", refuse) if broken == "open" else (Path, "rename", refuse))
        with pytest.raises(OSError):
            mine.append(b"1")
    assert len(os.listdir("/dev/fd")) == before
    mine.append(b"2")
    assert list(read(folder)) == [b"2"]


# Compaction.


def test_compaction_leaves_one_segment_of_what_the_fold_makes(folder, write):
    for number in range(5):
        write(b"%d" % number).close()
    compact(folder, lambda records: [b"+".join(sorted(records)), b"more"])
    assert segments(folder) == [".log"]
    assert list(read(folder)) == [b"0+1+2+3+4", b"more"]
    compact(folder, lambda records: [each.upper() for each in records])
    assert segments(folder) == [".log"]
    assert list(read(folder)) == [b"0+1+2+3+4", b"MORE"]


def test_what_folds_to_nothing_leaves_nothing(folder, write):
    write(b"1").close()
    compact(folder, lambda records: [])
    compact(folder, KEEP)
    assert list(read(folder)) == []


def test_a_fold_that_fails_costs_nothing(folder, write):
    def fails(records: Iterable[bytes]) -> Iterator[bytes]:
        yield next(iter(records))
        raise RuntimeError("no")

    write(b"1", b"2").close()
    with pytest.raises(RuntimeError):
        compact(folder, fails)
    assert segments(folder) == [".log"]
    assert list(read(folder)) == [b"1", b"2"]


class Died(BaseException):
    """Instead of a SIGKILL."""


@pytest.mark.parametrize("done", range(4))
def test_a_compaction_that_dies_between_rename_and_unlink_has_happened(folder, write, monkeypatch, done):
    """Not even a duplicate: what the fold has dropped must not come back with a part of what it was dropped from."""
    for number in range(3):
        write(b"%d" % number).close()
    unlink, calls = Path.unlink, iter(range(100))

    def dying(path: Path, missing_ok: bool = False) -> None:
        if path.exists() and next(calls) >= done:
            raise Died
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(Died) if done < 3 else contextlib.nullcontext():
        patch.setattr(Path, "unlink", dying)
        compact(folder, lambda records: [each for each in records if each != b"1"])
    assert len(segments(folder)) == 4 - done
    assert list(read(folder)) == [b"0", b"2"]
    write(b"3").close()
    compact(folder, KEEP)
    assert segments(folder) == [".log"]
    assert sorted(read(folder)) == [b"0", b"2", b"3"]


def test_a_compaction_that_dies_before_the_rename_has_not_happened(folder, write, monkeypatch):
    write(b"1").close()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda path, to: (_ for _ in ()).throw(Died))
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        with pytest.raises(Died):
            compact(folder, lambda records: [])
    assert segments(folder) == [".log", ".new"]
    assert list(read(folder)) == [b"1"]
    os.utime(only(folder, ".new"), (0, 0))
    compact(folder, KEEP)
    assert segments(folder) == [".log"]
    assert list(read(folder)) == [b"1"]


KILLED = """
import os, sys
from pathlib import Path
from gateway.store.ledger import journal
syscalls = int(sys.argv[2])
def counting(name):
    real = getattr(os, name)
    def call(*args, **options):
        global syscalls
        syscalls -= 1
        if syscalls < 0:
            os.kill(os.getpid(), 9)
        return real(*args, **options)
    setattr(os, name, call)
for name in ("open", "rename", "unlink", "fsync", "close"):
    counting(name)
journal.compact(Path(sys.argv[1]), lambda records: sorted(records))
"""


def test_a_compaction_killed_anywhere_loses_and_doubles_nothing(folder, write):
    """It is killed before each of its system calls in turn."""
    expected: list[bytes] = []
    for round_ in range(40):
        expected += (b"%03d" % round_, b"%03d+" % round_)
        write(expected[-2]).close()
        write(expected[-1]).close()
        words = [sys.executable, "-c", KILLED, str(folder), str(round_)]
        status = subprocess.run(words, check=False).returncode
        assert sorted(read(folder)) == expected
        if status == 0:
            break
        assert status == -signal.SIGKILL
        compact(folder, KEEP)
        assert sorted(read(folder)) == expected
        assert segments(folder).count(".log") == 1
    else:
        raise AssertionError("it never came to its end")
    assert round_ > 10


def test_two_compactors_at_once_lose_nothing(folder, write):
    for number in range(30):
        write(b"%d" % number).close()
    start = threading.Barrier(3)

    def work() -> None:
        start.wait()
        for _ in range(20):
            compact(folder, once)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    start.wait()
    while any(thread.is_alive() for thread in threads):
        assert sorted(read(folder)) == sorted(b"%d" % number for number in range(30))
    assert segments(folder) == [".log"]


def test_a_compactor_waits_for_the_one_before_it(folder, write):
    write(b"1").close()
    entered, release = threading.Event(), threading.Event()

    def slow(records: Iterable[bytes]) -> Iterable[bytes]:
        entered.set()
        assert release.wait(20)
        return list(records)

    first = threading.Thread(target=compact, args=(folder, slow))
    first.start()
    assert entered.wait(20)
    write(b"2").close()
    second = threading.Thread(target=compact, args=(folder, KEEP))
    second.start()
    release.set()
    first.join(20)
    second.join(20)
    assert sorted(read(folder)) == [b"1", b"2"]
    assert segments(folder) == [".log"]


def test_compaction_under_live_writers_loses_and_doubles_nothing(folder):
    with writing(folder, "a", 400) as a, writing(folder, "b", 4000) as b:
        told(a)
        told(b)
        for number in range(1, 20):
            compact(folder, KEEP)
            told(a, 50 * number)
            told(b, 50 * number)
            seen = Counter(read(folder))
            assert max(seen.values()) == 1
        last = {"a": killed(a), "b": killed(b)}
    compact(folder, KEEP)
    assert segments(folder) == [".log"]
    for name, number in last.items():
        kept = sorted(numbers(folder, name))
        assert kept == list(range(len(kept)))
        assert len(kept) > max(number, 50 * 19)


def test_a_reader_under_compaction_and_writers_sees_everything_that_was_there_when_it_began(folder):
    stop = threading.Event()

    def compacting() -> None:
        while not stop.is_set():
            compact(folder, KEEP)

    thread = threading.Thread(target=compacting)
    with writing(folder, "a", 200) as process:
        told(process)
        thread.start()
        try:
            for number in range(1, 20):
                last = told(process, 20 * number)
                kept = sorted(numbers(folder, "a"))
                assert len(kept) == len(set(kept)) and kept[: last + 1] == list(range(last + 1))
        finally:
            stop.set()
            thread.join()
