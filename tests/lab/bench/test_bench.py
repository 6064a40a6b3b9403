"""`gateway bench` as a process: everything is started, measured for moments, and gone afterwards. No time is judged."""

import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import msgspec
import pytest
import redis
from rich.console import Console

from gateway.lab.bench import generator, nginx, processes, report, traffic
from gateway.lab.bench.client import BadAnswer, Client
from gateway.lab.bench.jobs import BODY_BYTES, Load, Target
from gateway.lab.bench.measures import WORK
from gateway.lab.bench.plan import MEASURES, Settings, lanes
from gateway.lab.bench.row import Row
from gateway.store.embedded import EmbeddedServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads CPU time from Linux")

COMMAND = [sys.executable, "-m", "gateway", "bench", "--seconds", "0.2", "--rounds", "2"]
ROOT = Path(__file__).parents[3]
OTHERS = {"nginx"} if nginx.find() is not None else set()


@pytest.fixture
def folder():
    """A temporary directory with a short name: paths of sockets in it are bounded."""
    with tempfile.TemporaryDirectory(prefix="b-", ignore_cleanup_errors=True) as name:
        yield name


def run(folder, *arguments):
    """A finished run; what it leaves behind fails the test."""
    environment = {**os.environ, "TMPDIR": folder}
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert os.listdir(folder) == []
    return done


def test_a_whole_run_reports_every_row_of_every_side(folder):
    done = run(folder, "--json", "--rows", "all", "--streams", "20")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["failures"], found["bad"], found["problem"]) == ([], 0, "") and found["good"] > 0
    assert {"cpu", "cores", "kernel", "python", "packages", "store"} <= set(found["machine"])
    rows = {row["title"]: row for row in found["rows"]}
    secure = shutil.which("openssl") is not None
    alone = {"start to ready: CPU", "start to ready", "idle: CPU", "idle: CPU of Redis", "idle: PSS"}
    alone |= {"Redis, one tenant: CPU a request", "Redis, 200 tenants: CPU a request"}
    beyond = "JSON request, signed for AWS: CPU beyond a plain one"
    alone |= {beyond, "event in frames of AWS: CPU by that of a plain one"}
    beside = {"JSON request, 32 connections: CPU", "JSON request, 200 a second: CPU", "SSE event: CPU"}
    beside |= {"body of 2 MB: CPU", "added latency, p50, one connection", "20 open streams: PSS"}
    beside |= {"SSE event, TLS upstream: CPU", "20 open streams, TLS upstream: PSS"} if secure else set()
    assert set(rows) == alone | beside
    for title, row in rows.items():
        sides = {"gateway"} if title in alone else {"gateway", *OTHERS}
        assert set(row["figures"]) == sides
        assert set(row["generator_percent"]) == (set() if title in alone else sides)
        assert set(row["ratios"]) <= sides - {"gateway"}
        for figure in row["figures"].values():
            assert figure["min"] <= figure["median"] <= figure["max"]
            assert len(figure["rounds"]) == (1 if "PSS" in title else 2)
            assert title.startswith(("added", "idle", beyond)) or figure["min"] > 0


class Peer(BaseHTTPRequestHandler):
    """Every second answer is a 529 if the path says so, and each closes its connection if that does."""

    protocol_version = "HTTP/1.1"
    count = itertools.count()

    def do_POST(self):
        assert self.headers["x-api-key"] == "sk-of-the-peer" and self.path.endswith("/v1/messages")
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(529 if next(self.count) % 2 and self.path.startswith("/half-bad/") else 200)
        self.send_header("content-length", "2")
        if self.path.startswith("/once/"):
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


class PeerServer(ThreadingHTTPServer):
    request_queue_size = 128


def serve_peer():
    """As a process of its own: the benchmark keeps it on one CPU, with all that descends from it."""
    with PeerServer(("127.0.0.1", 0), Peer) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


@pytest.fixture
def peer():
    """The port of a peer."""
    program = f"import runpy; runpy.run_path({__file__!r})['serve_peer']()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


def test_bad_answers_of_a_peer_are_counted_and_fail_the_run(folder, peer):
    arguments = ("--rows", "json", "--rounds", "1", "--peer", f"http://127.0.0.1:{peer}/half-bad/")
    told = run(folder, *arguments, "--peer-key", "sk-of-the-peer", "--json")
    shown = run(folder, *arguments, "--peer-key", "sk-of-the-peer", "--markdown")
    found = json.loads(told.stdout)
    assert told.returncode == shown.returncode == 1
    assert found["bad"] > 0 and found["problem"].startswith("peer: HTTP/1.1 529")
    assert found["rows"][0]["figures"]["peer"]["median"] > 0 and found["rows"][0]["ratios"]["peer"]["median"] > 0
    assert "BAD ANSWERS" in told.stderr and "BAD ANSWERS" in shown.stdout
    assert "sk-of-the-peer" not in told.stdout + shown.stdout + told.stderr
    (pid,) = processes.listeners(peer)
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)


def test_a_server_may_close_connections_if_it_says_so(peer):
    target = Target(peer, ["sk-of-the-peer"], "claude-haiku-4-5", path="/once")
    loaded = generator.load(Load(target=target, connections=2, seconds=0.05))
    assert loaded.answers >= 2 and (loaded.bad, loaded.problem) == (0, "")


@pytest.fixture
def store(tmp_path):
    """The URL of a server of its own."""
    server = EmbeddedServer(tmp_path / "store")
    yield server.start()
    server.stop()


def test_a_store_that_holds_keys_is_refused_and_an_empty_one_left_empty(folder, store):
    arguments = ("--rows", "tenants", "--redis", store)
    with redis.Redis.from_url(store) as client:
        done = run(folder, *arguments)
        assert done.returncode == 0, done.stderr
        assert "Redis, 200 tenants: CPU a request" in done.stdout and "≤ 30 µs" in done.stdout
        assert "SSE" not in done.stdout and "measuring tenants" in done.stderr
        assert client.dbsize() == 0
        client.set("mine", "1")
        refused = run(folder, *arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "the given store holds keys" in refused.stderr
        assert client.get("mine") == b"1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_ends_everything_it_started(folder, number):
    process = subprocess.Popen(
        [*COMMAND, "--rows", "json", "--seconds", "60"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": folder},
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
    target = Target(1, ["sk-a", "sk-b"], "claude-haiku-4-5", path="/base")
    for size in (BODY_BYTES, 1_000_000):
        request = traffic.requests(target, stream=True, size=size)[3]
        head, _, body = request.partition(b"\r\n\r\n")
        assert len(body) == size and head.startswith(b"POST /base/v1/messages HTTP/1.1\r\nhost: 127.0.0.1:1\r\n")
        assert b"x-api-key: sk-b\r\n" in head and b"content-length: %d" % size in head
        said = json.loads(body)
        assert said["messages"][0]["role"] == said["messages"][-1]["role"] == "user"
        assert said["messages"][-1]["content"][0]["cache_control"] == {"type": "ephemeral"}
    made = traffic.requests(target, stream=False)
    assert len(set(made)) == len(made) == traffic.CONVERSATIONS


class Pieces:
    """A socket that hands out what a test wants."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def send(self, data):
        return len(data)

    def recv(self, size):
        return self.pieces.pop(0)


def client(*pieces):
    made = object.__new__(Client)
    made.sock = cast(socket.socket, Pieces(*pieces))
    made.ask(b"", 0.0)
    return made


WHOLE = b"HTTP/1.1 200 OK\r\nx: y\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\n\r\n7\r\na: b\n\n\r\n16\r\nevent: message_stop\n\n\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "cut"), [(answer, cut) for answer in (WHOLE, CHUNKED) for cut in range(1, len(answer))]
)
def test_the_end_of_an_answer_is_found_wherever_it_is_cut(answer, cut):
    one = client(answer[:cut], answer[cut:], answer)
    assert [one.answered(0), one.answered(0)] == [False, True]
    one.ask(b"", 0.0)
    assert one.answered(0)


@pytest.mark.parametrize("cut", range(1, len(STREAM)))
def test_events_are_counted_wherever_a_stream_is_cut(cut):
    one = client(STREAM[:cut], STREAM[cut:])
    assert [one.answered(2), one.answered(2), one.events] == [False, True, 2]


@pytest.mark.parametrize(
    ("answer", "events", "problem"),
    [
        (WHOLE.replace(b"200 OK", b"503 no"), 0, "503 no"),
        (b"", 0, "closed"),
        (STREAM, 3, "2 events, 3 due"),
        (STREAM.replace(b"message_stop", b"message_full"), 2, "message_full"),
    ],
)
def test_what_is_no_good_answer_is_an_error(answer, events, problem):
    with pytest.raises(BadAnswer, match=problem):
        client(answer).answered(events)


def test_answers_that_never_come_are_bad(monkeypatch):
    monkeypatch.setattr(generator, "SILENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Target(server.getsockname()[1], ["sk"], "claude-haiku-4-5")
        loaded = generator.load(Load(target=target, connections=3, seconds=0.01))
        assert (loaded.answers, loaded.bad) == (0, 3) and "no answer" in loaded.problem
        assert processes.listeners(target.port) == [os.getpid()]


def test_the_cpu_time_of_children_counts_while_they_run_and_when_they_have_ended():
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        for running in (2, 1):
            process.stdout.readline()
            pids = processes.tree([process.pid])
            assert len(pids) == running and processes.cpu_seconds(pids) >= 0.3
            assert processes.tree([process.pid], without=pids[1:]) == [process.pid]
            assert processes.pss_bytes(pids) > 1_000_000
            process.stdin.write(b"\n")
            process.stdin.flush()


def test_only_the_upstreams_that_are_needed_are_started():
    made = [lane.name for lane in lanes(Settings(measures=("json", "event-tls")), None)]
    assert made == ["plain"]
    every = lanes(Settings(measures=MEASURES), Path("x.pem"))
    assert len({lane.model for lane in every}) == len(every) == 5
    assert set(WORK) == set(MEASURES)


def test_a_ratio_is_that_of_the_same_round_and_decides_with_the_figure_itself():
    row = Row("it", "µs", {"gateway": [10.0, 20.0, 60.0], "nginx": [5.0, 4.0, 20.0]}, ratio=3.0)
    assert (row.ratios("nginx"), row.ratios("peer"), row.met) == ([2.0, 5.0, 3.0], [], True)
    assert msgspec.structs.replace(row, ratio=2.9).met is False
    assert msgspec.structs.replace(row, most=19.0).met is False
    assert msgspec.structs.replace(row, figures={"gateway": [1.0]}).met is None


def test_the_report_shows_neither_the_store_nor_the_peers_key_and_says_who_was_held_back():
    machine = {"cpu": "c", "cores": 1, "usable_cores": 1, "kernel": "k", "python": "p", "load_average": 0}
    made = report.Report(
        version="1",
        machine={**machine, "store": "s", "packages": {}},
        settings=Settings(measures=(), redis="redis://:secret@host", peer_key="secret"),
        seconds=1.0,
        rows=[Row("it", "µs", {"gateway": [1.0, 3.0, 2.0]}, most=2.5, generator={"gateway": 97.0})],
        good=9,
        bad=0,
        problem="",
        notes=["a [note]"],
        failures=[],
    )
    console = Console(width=100, record=True, file=io.StringIO(), markup=False)
    made.show(console)
    shown = console.export_text()
    assert "a [note]" in shown and "it: the load generator, at 97 % of a CPU, held gateway back" in shown
    assert "| it | 2.00 µs (1.00–3.00) | ≤ 2.5 µs | 97 % |" in made.markdown()
    assert b"secret" not in made.json()
    assert list(made.trouble()) == []
