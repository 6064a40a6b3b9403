"""`gateway bench` as a process: everything is started, measured for moments, and gone afterwards. No time is judged."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import msgspec
import pytest
import redis
from rich.console import Console

from gateway.lab.bench import nginx, report, traffic
from gateway.lab.bench.client import Client, LoadError
from gateway.lab.bench.jobs import Target
from gateway.lab.bench.plan import Settings, lanes
from gateway.lab.bench.processes import cpu_seconds
from gateway.store.embedded import EmbeddedServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads CPU time from Linux")

COMMAND = [sys.executable, "-m", "gateway", "bench", "--seconds", "0.3"]
WITH_NGINX = nginx.find() is not None


def run(tmp_path, *arguments):
    """A finished run; what it leaves behind in its temporary directory fails the test."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert list(tmp_path.glob("gateway-bench-*")) == []
    return done


def figures(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def subjects(*, direct):
    return {"gateway", *(["direct"] if direct else []), *(["nginx"] if WITH_NGINX else [])}


def test_a_whole_run_reports_every_measure_of_every_subject(tmp_path):
    found = figures(run(tmp_path, "--json", "--streams", "10", *([] if shutil.which("openssl") else ["--no-tls"])))
    measures = found["measures"]
    assert found["failures"] == []
    assert set(measures) >= {"start", "memory", "json", "latency", "stall", "sse"}
    assert set(measures["json"]) == subjects(direct=True)
    assert set(measures["memory"]) == set(measures["sse"]) == subjects(direct=False)
    for name in subjects(direct=False):
        assert measures["json"][name]["cpu_us_per_request"] > 0
        assert measures["sse"][name]["cpu_us_per_event"] > 0
        assert measures["sse"][name]["events_per_stream"] == 12 + 6
        assert measures["memory"][name]["streams"] > 0
    for part in ("closed_1", "open"):
        assert measures["latency"][part]["direct"]["p50_ms"] > 0
        assert {"added_p50_ms", "added_p99_ms"} <= set(measures["latency"][part]["gateway"])
    assert {"cpu", "cores", "kernel", "python", "packages"} <= set(found["machine"])
    assert {row["title"] for row in found["rows"] if row["target"] is not None} == {
        kind.title for kind in report.KINDS if kind.target is not None
    } - (set() if "sse_tls" in measures else {"SSE event, TLS: CPU"})
    for row in found["rows"]:
        assert set(row) == {"title", "unit", "measured", "target", "nginx", "ratio", "ratio_target", "met"}


@pytest.fixture
def store(tmp_path):
    """The URL of a server of its own."""
    server = EmbeddedServer(tmp_path / "store")
    yield server.start()
    server.stop()


def test_a_store_that_holds_keys_is_refused_and_an_empty_one_left_empty(tmp_path, store):
    arguments = ("--only", "json", "--no-nginx", "--upstream", "simulator", "--redis", store)
    with redis.Redis.from_url(store) as client:
        done = run(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert "JSON request: CPU" in done.stdout and "≤ 190 µs" in done.stdout
        assert "SSE" not in done.stdout and "measuring json" in done.stderr
        assert client.dbsize() == 0
        client.set("mine", "1")
        refused = run(tmp_path, *arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "the given store holds keys" in refused.stderr
        assert client.get("mine") == b"1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_ends_everything_it_started(tmp_path, number):
    process = subprocess.Popen(
        [*COMMAND, "--only", "json", "--seconds", "60"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "measuring" in line:
            break
    started = relatives(process.pid)
    assert len(started) >= 5
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if number is signal.SIGKILL else 130)
    deadline = time.monotonic() + 30
    while (left := [pid for pid in started if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def relatives(pid):
    """All descendants of a process that run now."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def test_bodies_have_the_size_they_should_have_and_are_what_an_sdk_sends():
    target = Target(1, "sk-test", "claude-haiku-4-5")
    for request, size in (
        (traffic.requests(target, stream=True)[7], traffic.BODY_BYTES),
        (traffic.large_request(target, 1_000_000), 1_000_000),
    ):
        head, _, body = request.partition(b"\r\n\r\n")
        assert len(body) == size
        assert b"x-api-key: sk-test" in head and b"content-length: %d" % size in head
        said = json.loads(body)
        assert said["messages"][0]["role"] == said["messages"][-1]["role"] == "user"
        assert said["messages"][-1]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert len(set(traffic.requests(target, stream=False))) == traffic.CONVERSATIONS


class Pieces:
    """A socket that hands out what a test wants."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def recv(self, size):
        return self.pieces.pop(0)


def client(*pieces):
    made = object.__new__(Client)
    made.sock = cast(socket.socket, Pieces(*pieces))
    made.left, made.held, made.events, made.tail = -1, b"", 0, b""
    return made


WHOLE = b"HTTP/1.1 200 OK\r\nx: y\r\nContent-Length: 5\r\n\r\nhello"
STREAM = b"HTTP/1.1 200 OK\r\n\r\n7\r\na: b\n\n\r\n7\r\nc: d\n\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_the_end_of_an_answer_is_found_wherever_it_is_cut(cut):
    one = client(WHOLE[:cut], WHOLE[cut:], WHOLE)
    assert [one.answered(), one.answered(), one.answered()] == [False, True, True]


@pytest.mark.parametrize("cut", range(20, len(STREAM)))
def test_events_are_counted_wherever_a_stream_is_cut(cut):
    one = client(STREAM[:cut], STREAM[cut:])
    assert [one.streamed(), one.streamed()] == [False, True]
    assert one.events == 2


def test_an_answer_other_than_200_and_a_closed_connection_are_errors():
    with pytest.raises(LoadError, match="503"):
        client(b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n").answered()
    with pytest.raises(LoadError, match="closed"):
        client(b"").streamed()


def test_cpu_time_of_another_process_grows_while_it_works():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            deadline = time.monotonic() + 30
            while cpu_seconds(busy.pid) < 0.05 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert cpu_seconds(busy.pid) >= 0.05
        finally:
            busy.kill()


def test_only_the_upstreams_that_are_needed_are_started():
    named = [lane.name for lane in lanes(Settings(only="json"), None)]
    assert named == ["json"]
    secure = lanes(Settings(), Path("x.pem"))
    assert len({lane.model for lane in secure}) == len(secure) == 7


def test_a_row_is_met_only_if_its_ratio_is_too():
    measures = {"json": {"gateway": {"cpu_us_per_request": 100.0}, "nginx": {"cpu_us_per_request": 10.0}}}
    (row,) = report.rows(measures)
    assert (row.ratio, row.met) == (10.0, False)
    del measures["json"]["nginx"]
    (row,) = report.rows(measures)
    assert (row.ratio, row.met) == (None, True)


def test_the_report_never_shows_the_url_of_the_store():
    made = report.Report(
        version="1",
        machine={
            "cpu": "c",
            "cores": 1,
            "usable_cores": 1,
            "kernel": "k",
            "python": "p",
            "load_average": 0,
            "packages": {},
        },
        settings=Settings(redis="redis://:secret@host"),
        seconds=1.0,
        measures={},
        notes=["a [note]"],
        failures=[],
    )
    console = Console(width=100, record=True, file=io.StringIO())
    report.show(made, console)
    assert "a [note]" in console.export_text()
    assert b"secret" not in made.json() and msgspec.json.decode(made.json())["settings"]["redis"] is True
