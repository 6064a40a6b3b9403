"""One stream of whole lines: from many threads and processes, for machines and for people."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import log
from gateway.config.schema import Log
from gateway.log import captured
from gateway.records import Finished, Usage
from gateway.telemetry import logs
from gateway.telemetry.logs import LogWriter, RequestLog, configure

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
RECORD = Finished(
    "req_1", 1_800_000_000.25, "messages", method="POST", status=200, caller="alice", model="claude-sonnet-4-5",
    stream=True, account="team-a", workspace="w1", route="bound", attempts=1,
    usage=Usage(input=10, cache_read=90, output=7), cost_nano_usd=1_234_500, duration=1.5,
)  # fmt: skip


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with captured():
        yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Output:
    """A file that a writer writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.writer = LogWriter(self.fd)

    def configure(self, level: Any = "info", form: Any = "json", sample: float = 1.0) -> RequestLog:
        return configure(Log(level=level, format=form, sample=sample), self.writer, self.fd)

    def lines(self) -> list[str]:
        """What was written; ends the writer."""
        self.writer.close()
        return [line.decode() for line in self.path.read_bytes().splitlines()]

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    made = Output(tmp_path / "log")
    yield made
    made.writer.close()
    os.close(made.fd)


class Pipe:
    """A pipe whose reading end is read only when told."""

    def __init__(self, size: int = 4096) -> None:
        self.out, self.fd = os.pipe()
        with contextlib.suppress(AttributeError, OSError):
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, size)
        self.data = b""
        self.reader = threading.Thread(target=self._read)

    def _read(self) -> None:
        while data := os.read(self.out, 65536):
            self.data += data

    def read_on(self) -> None:
        self.reader.start()

    def all(self) -> list[bytes]:
        """Everything that came through; closes the pipe."""
        os.close(self.fd)
        self.reader.join(20)
        os.close(self.out)
        assert not self.data or self.data.endswith(b"\n")
        return self.data.splitlines()


# Lines.


def test_a_line_is_one_json_object_with_time_level_event_and_fields(output):
    output.configure()
    log.warning("it happened", account="a", seconds=1.5, text='quote " newline \n \u2028 \x00 \u00e9')
    (line,) = output.records()
    assert TIME.fullmatch(line["time"]) and datetime.fromisoformat(line.pop("time")) > datetime(2026, 1, 1, tzinfo=UTC)
    assert line == {
        "level": "warning", "event": "it happened", "account": "a", "seconds": 1.5,
        "text": 'quote " newline \n \u2028 \x00 \u00e9',
    }  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [b"\xff", object(), {1: 2}, {("a", 1): {2, 3}}, 10**30, float("nan"), ValueError("x"), Path("/x"), [None, (1,)]],
)
def test_values_of_any_type_make_a_line(output, value):
    output.configure()
    log.info("odd", value=value)
    (line,) = output.records()
    assert line["event"] == "odd" and "value" in line


@pytest.mark.parametrize("form", ["json", "human"])
def test_text_that_is_no_unicode_makes_a_line_too(output, form):
    output.configure(form=form)
    log.info("odd", value="file \udc80 name")
    (line,) = output.lines()
    assert "odd" in line


@pytest.mark.parametrize(
    "value",
    ["x" * 50_000, 'é\n"' * 20_000, 10**5000, [["y" * 9000]], {"a": float("nan")}],
    ids=["text", "quotes", "number", "list", "nan"],
)
def test_no_line_is_longer_than_a_pipe_takes_in_one_piece(output, value):
    output.configure(form="json")
    log.warning("odd", value=value, other=1)
    (line,) = output.lines()
    assert len(line) < logs.PIPE_PIECE
    assert (json.loads(line)["event"], json.loads(line)["other"]) == ("odd", 1)


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lines_below_the_level_are_not_written(output, level, seen):
    requests = output.configure(level)
    for method in ("debug", "info", "warning", "error"):
        getattr(log, method)("said")
    requests.request(RECORD)
    records = output.records()
    assert [record["level"] for record in records if record["event"] == "said"] == seen
    assert ("request" in [record["event"] for record in records]) == ("info" in seen)


@pytest.mark.parametrize("form", ["json", "human"])
def test_an_exception_is_told_with_its_traceback(output, form):
    output.configure(form=form)
    try:
        raise ValueError("the cause")
    except ValueError:
        log.exception("it failed", account="a")
    lines = output.lines()
    if form == "json":
        (line,) = lines
        record = json.loads(line)
        assert (record["level"], record["event"], record["account"]) == ("error", "it failed", "a")
        assert "Traceback" in record["exception"] and "ValueError: the cause" in record["exception"]
    else:
        assert "error" in lines[0] and "it failed account=a" in lines[0]
        assert lines[1].startswith("Traceback") and lines[-1] == "ValueError: the cause"


def test_libraries_that_use_the_standard_library_end_in_the_same_stream(output):
    output.configure()
    library = logging.getLogger("some.library")
    library.info("not told")
    library.warning("careful: %s", "100%")
    library.error("it is bad")
    try:
        raise ValueError("the cause")
    except ValueError:
        library.exception("it failed")
    records = output.records()
    assert [(record["level"], record["event"]) for record in records] == [
        ("warning", "careful: 100%"), ("error", "it is bad"), ("error", "it failed")
    ]  # fmt: skip
    assert {record["logger"] for record in records} == {"some.library"}
    assert "ValueError: the cause" in records[2]["exception"]
    assert "exception" not in records[1]


# Requests.


def test_a_request_is_one_line_that_holds_the_whole_record(output):
    output.configure().request(RECORD)
    (line,) = output.lines()
    found = json.loads(line)
    assert found["event"] == "request" and list(found)[:2] == ["time", "level"]
    assert (found["time"], found["level"], found["at"]) == ("2027-01-15T08:00:01.750Z", "info", 1_800_000_000.25)
    assert msgspec.json.decode(line, type=Finished) == RECORD


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({}, "info"), ({"status": 404, "outcome": "error"}, "info"), ({"status": 0, "outcome": "client_gone"}, "info"),
        ({"status": 529, "outcome": "error"}, "warning"), ({"outcome": "interrupted"}, "warning"),
    ],
)  # fmt: skip
def test_a_request_that_failed_is_a_warning(fields, level, output, tmp_path):
    record = msgspec.structs.replace(RECORD, **fields)
    output.configure().request(record)
    assert [line["level"] for line in output.records()] == [level]
    for least, written in (("warning", level == "warning"), ("error", False)):
        other = Output(tmp_path / least)
        other.configure(least).request(record)
        assert len(other.lines()) == written
        os.close(other.fd)


def test_a_request_is_one_short_line_for_people(output):
    requests = output.configure(form="human")
    requests.request(RECORD)
    requests.request(Finished("req_2", 1.0, "messages", outcome="client_gone"))
    first, second = output.lines()
    for part in (
        "200",
        "messages",
        "claude-sonnet-4-5",
        "bound",
        "team-a",
        "in 100 (cached 90) out 7",
        "$0.00123",
        "1500.0 ms",
    ):
        assert part in first
    assert first.endswith("  req_1") and "  alice  " in first
    assert second.endswith("  req_2") and "gone" in second and "client_gone" in second and "$" not in second


@pytest.mark.parametrize("form", ["json", "human"])
def test_a_refused_request_says_whose_limit_it_was(output, form):
    refused = msgspec.structs.replace(RECORD, status=429, outcome="error", throttled="caller", limit="budget_day")
    output.configure(form=form).request(refused)
    (line,) = output.lines()
    assert "budget_day" in line and "caller" in line and "alice" in line and "req_1" in line


def test_a_request_that_nobody_could_serve_says_why(output):
    requests = output.configure(form="human")
    requests.request(msgspec.structs.replace(RECORD, status=529, outcome="error", cause="billing,credential"))
    (line,) = output.lines()
    assert "529" in line and "error billing,credential" in line


class Terminal:
    """A terminal that a writer writes to."""

    def __init__(self) -> None:
        self.leader, self.fd = os.openpty()
        self.writer = LogWriter(self.fd)

    def said(self) -> str:
        """What was written; ends the terminal."""
        self.writer.close()
        os.set_blocking(self.leader, False)
        data = b""
        with contextlib.suppress(OSError):
            while piece := os.read(self.leader, 65536):
                data += piece
        os.close(self.leader)
        os.close(self.fd)
        return data.decode()


def test_lines_for_people_are_written_only_on_a_terminal_unless_asked_for(output):
    output.configure(form="auto")
    log.info("said", account="a")
    (line,) = output.records()
    assert line["account"] == "a"
    terminal = Terminal()
    configure(Log(format="auto", no_color="1"), terminal.writer, terminal.fd)
    log.info("said", account="a")
    assert "info    said account=a" in terminal.said()


FAILED = msgspec.structs.replace(RECORD, status=529, outcome="error")


def test_lines_are_coloured_on_a_terminal_alone_and_not_against_the_will_of_its_owner(output):
    def say(requests: RequestLog) -> None:
        log.error("said", account="a")
        requests.request(RECORD)
        requests.request(FAILED)

    coloured, plain = Terminal(), Terminal()
    say(configure(Log(), coloured.writer, coloured.fd))
    text = coloured.said()
    assert "\x1b[31merror  \x1b[0m said account=a" in text
    assert "\x1b[32m200\x1b[0m" in text and "\x1b[31m529\x1b[0m" in text
    say(configure(Log(no_color="1"), plain.writer, plain.fd))
    assert "\x1b" not in plain.said()
    say(output.configure(form="human"))
    assert not [line for line in output.lines() if "\x1b" in line]


def test_what_others_say_does_not_reach_the_terminal_as_commands():
    terminal = Terminal()
    configure(Log(no_color="1"), terminal.writer, terminal.fd)
    log.warning("said", reason="\x1b]0;title\x07\n\x1b[2J", account="a")
    (line,) = terminal.said().splitlines()
    assert "\x1b" not in line and "\x07" not in line and line.endswith("account=a")


# Sampling.


def logged(output: Output, records: list[Finished], **options: Any) -> set[str]:
    """The ids of those that have a line."""
    requests = output.configure(**options)
    for each in records:
        requests.request(each)
    return {line["request_id"] for line in output.records()}


def ids(prefix: str = "req_gw0123456789abcdef") -> list[Finished]:
    return [msgspec.structs.replace(RECORD, request_id=f"{prefix}{number:06x}") for number in range(20_000)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_a_share_of_good_requests_is_logged(share, output):
    assert len(logged(output, ids(), sample=share)) / 20_000 == pytest.approx(share, abs=0.01)


def test_which_requests_are_logged_their_ids_alone_say(tmp_path):
    first, second, more = (Output(tmp_path / name) for name in "abc")
    some = logged(first, ids()[::2], sample=0.2)
    assert some == logged(second, ids(), sample=0.2) & {each.request_id for each in ids()[::2]}
    assert some < logged(more, ids(), sample=0.4)  # a larger share is a superset
    for each in (first, second, more):
        os.close(each.fd)


@pytest.mark.parametrize(
    "fields",
    [
        {"status": 529, "outcome": "error"}, {"status": 404}, {"outcome": "interrupted", "cause": "upstream"},
        {"status": 0, "outcome": "client_gone"}, {"failover": "limited", "attempts": 2},
    ],
)  # fmt: skip
def test_requests_with_any_trouble_are_always_logged(fields, output):
    troubled = [msgspec.structs.replace(each, **fields) for each in ids()[:500]]
    assert len(logged(output, troubled, sample=0.0)) == 500


def test_sampling_leaves_lines_that_are_no_requests_alone(output):
    output.configure(sample=0.0)
    log.info("said")
    assert [line["event"] for line in output.records()] == ["said"]


# Many writers.


def test_lines_of_many_threads_stay_whole_and_in_each_threads_order():
    pipe = Pipe()
    writer = LogWriter(pipe.fd)
    pipe.read_on()

    def write(name: int) -> None:
        for number in range(1000):
            writer.write(b"%d %d %s\n" % (name, number, b"x" * (number * 7 % 300)))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    seen: dict[int, list[int]] = {name: [] for name in range(8)}
    for line in pipe.all():
        name, number, rest = line.split(b" ")
        assert rest == b"x" * (int(number) * 7 % 300)
        seen[int(name)].append(int(number))
    assert all(numbers == list(range(1000)) for numbers in seen.values())


PROGRAM = """
import json, sys
from gateway.telemetry.logs import LogWriter
name, fd, count, longest = map(int, sys.argv[1:])
writer = LogWriter(fd)
for number in range(count):
    line = json.dumps({"name": name, "number": number, "text": str(name) * (number * 37 % longest)})
    writer.write(line.encode() + b"\\n")
writer.close()
"""


def lines_of_processes(count: int, longest: int) -> list[bytes]:
    """What comes through one pipe that four processes share."""
    pipe = Pipe(65536)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(name), str(pipe.fd), str(count), str(longest)],
            pass_fds=[pipe.fd], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for name in range(4)
    ]  # fmt: skip
    pipe.read_on()
    assert [process.wait(60) for process in processes] == [0] * 4
    return pipe.all()


@pytest.mark.parametrize("longest", [400, 4000])
def test_lines_of_many_processes_on_one_pipe_never_mix(longest):
    lines = lines_of_processes(400, longest)
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            pytest.fail(f"a mixed line of {len(line)} bytes: {line[:60]!r}")
        assert record["text"] == str(record["name"]) * (record["number"] * 37 % longest)
        records.append(record)
    assert Counter(record["name"] for record in records) == dict.fromkeys(range(4), 400)


# Readers that do not read.


def test_lines_that_nobody_reads_are_counted_and_the_number_is_told(monkeypatch):
    monkeypatch.setattr(logs, "MAX_QUEUED", 50)
    pipe = Pipe()
    writer = LogWriter(pipe.fd)
    for number in range(2000):
        writer.write(b'{"number":%d,"text":"%s"}\n' % (number, b"x" * 500))
    pipe.read_on()
    writer.close()
    records = [json.loads(line) for line in pipe.all()]
    lost = [record for record in records if record.get("event") == "log lines lost"]
    numbers = [record["number"] for record in records if "number" in record]
    assert lost and lost[0]["level"] == "error"
    assert len(numbers) + sum(record["lost"] for record in lost) == 2000
    assert numbers == sorted(numbers)


def test_a_reader_that_is_gone_stops_nothing():
    pipe = Pipe()
    writer = LogWriter(pipe.fd)
    os.close(pipe.out)
    for number in range(100):
        writer.write(b"%d\n" % number)
    writer.close()
    os.close(pipe.fd)
    assert not writer._thread.is_alive()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_does_not_end_the_log(tmp_path):
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = LogWriter(fd)
    writer.write(b"lost\n")
    written = threading.Event()
    flush = writer._flush

    def flush_and_tell() -> None:
        try:
            flush()
        finally:
            written.set()

    writer._flush = flush_and_tell  # type: ignore[method-assign]
    assert written.wait(20)
    room = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    os.dup2(room, fd)  # somebody made room
    writer.write(b"kept\n")
    writer.close()
    os.close(fd)
    os.close(room)
    assert (tmp_path / "log").read_text().endswith("kept\n")


def test_a_stream_that_does_not_block_gets_every_line_whole():
    pipe = Pipe()
    os.set_blocking(pipe.fd, False)
    writer = LogWriter(pipe.fd)
    lines = [b"%d %s" % (number, b"x" * (number * 13 % 900)) for number in range(300)]
    for line in lines:
        writer.write(line + b"\n")
    pipe.read_on()
    writer.close()
    assert pipe.all() == lines


def test_closing_writes_what_is_queued(output):
    for number in range(1000):
        output.writer.write(b"%d\n" % number)
    assert output.lines() == [str(number) for number in range(1000)]
    output.writer.close()


@given(st.floats(0, 4e9) | st.integers(0, 4 * 10**9).map(float))
def test_a_line_says_when_to_the_millisecond(at):
    stated = datetime.fromisoformat(logs._moment(at))
    assert abs((stated - datetime.fromtimestamp(at, UTC)).total_seconds()) <= 0.001
    assert logs._moment(at) == stated.isoformat(timespec="milliseconds").replace("+00:00", "Z")
