"""Real servers on unix sockets (and on ports, where TLS needs one), as small and as short-lived as they can be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
import uvloop

from gateway.store.client.client import StoreClient
from gateway.store.client.topology import Access
from gateway.store.embedded import _follow_parent, servers_of_this_machine, version_problem

BINARY = next((binary for binary in servers_of_this_machine() if version_problem(binary) is None), None)

BOTH: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return BOTH if item.path.name == "test_client.py" else {"asyncio": BOTH["asyncio"]}


class Server:
    """One server process with these options; it can be killed, paused and started again with its data directory."""

    def __init__(self, *options: str) -> None:
        assert BINARY is not None
        self.directory = Path(tempfile.mkdtemp(prefix="gw-", dir="/tmp"))  # a short path: sockets take no long one
        self.socket = self.directory / "s"
        self.options = options
        self.admin = redis.Redis(unix_socket_path=str(self.socket))
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    def start(self, *more: str, ready: bool = True) -> None:
        """Start it, and wait until it answers; with `ready` False until it accepts connections."""
        words = [
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--dir",
            str(self.directory),
            "--save",
            "",
            "--daemonize",
            "no",
        ]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [BINARY or "", *words, *self.options, *more], stdout=log, stderr=log, preexec_fn=_follow_parent()
            )
        deadline = time.monotonic() + 20
        while not self._answers(ready):
            assert self.process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def _answers(self, ready: bool) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return not ready or client.recv(100).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def pause(self) -> None:
        """Stop it as it stands, and return once it is stopped."""
        self.signal(signal.SIGSTOP)
        assert self.process is not None
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; the socket's name goes with it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.admin.connection_pool.disconnect()
        self.socket.unlink(missing_ok=True)

    def remove(self) -> None:
        self.kill()
        self.admin.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Server]:
    if BINARY is None:
        pytest.skip("no Redis or Valkey server on this machine")
    server = Server()
    yield server
    server.remove()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """A running server without data and without scripts, shared by all tests that leave it as it was."""
    shared_server.admin.flushall()
    shared_server.admin.script_flush()
    return shared_server


@pytest.fixture
def own_server() -> Iterator[Callable[..., Server]]:
    """Starts servers for one test: with options, to be killed or paused."""
    if BINARY is None:
        pytest.skip("no Redis or Valkey server on this machine")
    started: list[Server] = []

    def start(*options: str) -> Server:
        started.append(Server(*options))
        return started[-1]

    yield start
    for server in started:
        with contextlib.suppress(ProcessLookupError):
            server.remove()


Connect = Callable[..., StoreClient]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that a busy machine does not use up; tests of the budget set their own."""
    monkeypatch.setattr(Access, "budget", 10.0)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[StoreClient]:
    """A connected client of the shared server."""
    made = StoreClient(server.url)
    assert await made.start()
    yield made
    await made.close()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes clients that are closed with the test."""
    made: list[StoreClient] = []

    def make(url: str, **options) -> StoreClient:
        made.append(StoreClient(url, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()
