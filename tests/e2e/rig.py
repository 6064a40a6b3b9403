"""Real processes for the end-to-end tests, and a client that sees every byte.

Gateways, the simulated upstream and the store run as their users run them: `python -m gateway`, a server binary, on
free ports of the loopback. Nothing here sleeps to be right: whatever takes its time is waited for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.store.embedded import servers_of_this_machine, version_problem

ROOT = Path(__file__).parents[2]
MODEL = "claude-haiku-4-5"
SECRET = "0123456789abcdef0123456789abcdef-secret-of-tests"
ADMIN_TOKEN = "token-of-the-test-operator"
START_SECONDS = 60.0  # a loaded machine may take its time; nothing is judged by it
WAIT_SECONDS = 20.0
Within = Callable[[float, float], None]  # of the fixture `within`

# Keys as they are handed out. Alice and Carol share a team; Alice has two keys.
ALICE = "sk-" + "A1ice" * 9 + "one"
ALICE_TOO = "sk-" + "A1ice" * 9 + "two"
BOB = "sk-" + "B0b42" * 9 + "one"
CAROL = "sk-" + "Car0l" * 9 + "one"
KEYS = (ALICE, ALICE_TOO, BOB, CAROL)
CALLERS = [
    {"id": "alice", "key": [ALICE, ALICE_TOO], "team": "research"},
    {"id": "bob", "key": BOB},
    {"id": "carol", "key": CAROL, "team": "research"},
]


def until(condition: Callable[[], Any], what: str = "", seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of `condition`; `AssertionError` if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.01)
    return value


async def eventually(condition: Callable[[], Any], what: str = "", seconds: float = WAIT_SECONDS) -> Any:
    """As `until`, where the test's own event loop has work to do meanwhile."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        await asyncio.sleep(0.01)
    return value


def _own_ports() -> Iterator[int]:
    """Those of this process of the tests, each but once in a long time."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw15")[2:]) % 16
    ports = list(range(12_000 + worker, 32_000, 16))
    random.shuffle(ports)
    return itertools.cycle(ports)


_PORTS = _own_ports()


def free_port() -> int:
    """A port that nobody listens on, below those that the kernel gives to outgoing connections."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


# -- Processes --------------------------------------------------------------------------------------------------------


def runs(pid: int) -> bool:
    """Whether a process lives; one that has ended and was not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _die_with_the_tests() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, signal.SIGTERM, 0, 0, 0)


class Program:
    """A process of ours: its command, its output in `folder`, its end."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.out = folder / f"{name}.out"
        self.err = folder / f"{name}.err"
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str | Path], stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        env = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "1",
        }
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdin=stdin, stdout=out, stderr=err, preexec_fn=_die_with_the_tests()
            )
        return self.process

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def end(self, number: int = signal.SIGTERM, seconds: float = WAIT_SECONDS) -> int:
        """Signal it, wait for it and for all it started; returns its exit code."""
        process = self.process
        assert process is not None
        kin = family(process.pid)
        process.send_signal(number)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in kin:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            raise AssertionError(f"{self.out.name}: still there {seconds:g} s after signal {number}") from None
        finally:
            self.process = None
            if process.stdin is not None:
                process.stdin.close()
        until(lambda: not [pid for pid in kin if runs(pid)], f"the end of processes {kin} of {self.out.name}")
        return code


class Simulator(Program):
    """The simulated upstream as a process, and its control plane."""

    def __init__(self, folder: Path, accounts: int = 6, *options: str | Path, ca_file: Path | None = None) -> None:
        super().__init__(folder, "simulator")
        self._tls = None if ca_file is None else ssl.create_default_context(cafile=str(ca_file))
        command = [sys.executable, "-m", "gateway", "simulate", "--listen", "127.0.0.1:0", "--json", "--parent-watch"]
        self.run([*command, "--accounts", str(accounts), *options], stdin=subprocess.PIPE)
        try:
            until(lambda: self.out.read_bytes().endswith(b"\n") or not self.alive(), "its start", START_SECONDS)
            assert self.alive(), f"the simulator did not start: {self.err.read_text()}"
        except AssertionError:
            self.end(signal.SIGKILL)
            raise
        said = json.loads(self.out.read_text())
        self.base_url: str = said["base_url"]
        self.port = int(self.base_url.rpartition(":")[2])
        self.accounts: list[dict[str, Any]] = said["accounts"]
        self.seen = 0  # number of the latest record

    def control(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        if self._tls is not None:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS, context=self._tls)
        try:
            connection.request(method, f"/_sim/{path}", None if body is None else json.dumps(body))
            response = connection.getresponse()
            data = response.read()
            assert response.status == 200, data
            return json.loads(data)
        finally:
            connection.close()

    def mark(self) -> int:
        """The number of the latest request so far, for `records`."""
        self.records(self.seen)
        return self.seen

    def records(self, since: int, bodies: bool = False) -> list[dict[str, Any]]:
        """What it was asked after request number `since`, oldest first; `headers` is a list of pairs."""
        found: list[dict[str, Any]] = self.control("GET", f"requests?since={since}&bodies={int(bodies)}")
        if found:
            self.seen = max(self.seen, found[-1]["n"])
        for record in found:
            if record.get("body") is not None:
                record["body"] = base64.b64decode(record["body"])
        return found

    def finished(self, since: int, count: int = 1) -> list[dict[str, Any]]:
        """As `records`, once there are `count` of them and all have ended."""

        def all_finished() -> list[dict[str, Any]]:
            found = self.records(since)
            return found if len(found) >= count and all(record["finished"] for record in found) else []

        found: list[dict[str, Any]] = until(all_finished, f"{count} finished records")
        return found

    def fault(self, kind: str, value: Any = None, **fields: Any) -> None:
        """Set a fault for all requests that fit; prefer the header of a single request."""
        self.control("POST", "faults", {"kind": kind, "value": value, **fields})

    def clear(self) -> None:
        self.control("DELETE", "faults")

    def open_connections(self) -> int:
        """Besides the one that asks."""
        return int(self.control("GET", "connections")["open"]) - 1


class Store(Program):
    """A Redis or Valkey server of our own; `url` is what the configuration says. `{port}` stands for a free port."""

    def __init__(self, folder: Path, *options: str, url: str | None = None) -> None:
        super().__init__(folder, "store")
        binary = next((each for each in servers_of_this_machine() if version_problem(each) is None), None)
        if binary is None:
            pytest.skip("no Redis or Valkey server on this machine")
        self.port = free_port()
        self.url = (url or "redis://127.0.0.1:{port}").format(port=self.port)
        place = [each.format(port=self.port) for each in options or ("--port", "{port}", "--bind", "127.0.0.1")]
        self._command = [binary, *place, "--dir", str(folder), "--appendonly", "yes", "--save", ""]

    def start(self) -> Self:
        self.run(self._command)
        until(self._answers, f"the store's start: {self.out}", START_SECONDS)
        return self

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=WAIT_SECONDS)

    def _answers(self) -> bool:
        with (
            contextlib.suppress(redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError),
            self.client() as it,
        ):
            return bool(it.ping())
        assert self.alive(), self.out.read_text()[-2000:]
        return False


@contextlib.contextmanager
def nginx(folder: Path, port: int, servers: str) -> Iterator[None]:
    """nginx with these `server` blocks, of which one listens on `port`; the test is skipped where there is none."""
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None:
        pytest.skip("nginx is not installed")
    temporary = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{servers}\n}}\n"
    )
    program = Program(folder, "nginx")
    program.run([binary, "-e", folder / "error.log", "-c", folder / "nginx.conf"])

    def answers() -> bool:
        assert program.alive(), (folder / "error.log").read_text() + program.err.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers, "nginx")
        yield
    finally:
        if program.alive():
            program.end()


class Series(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Samples of one scrape; `families` are the declared ones."""

    families: dict[str, str]

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with these labels."""
        wanted = set(labels.items())
        return sum(value for (found, having), value in self.items() if found == name and wanted <= having)


class Gateway(Program):
    """One gateway: its file, its processes, its log. `config` may be changed between a stop and a start."""

    api_key = ALICE
    prefix: tuple[str, ...] = ()  # a command that runs the gateway

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        super().__init__(folder, "gateway")
        self.config: dict[str, Any] = {
            "listen": f"127.0.0.1:{free_port()}",
            "admin": {"listen": f"127.0.0.1:{free_port()}", "token": ADMIN_TOKEN},
            "data_dir": str(folder / "data"),
            "secret": SECRET,
            "keys": CALLERS,
            **config,
        }
        self.port = int(self.config["listen"].rpartition(":")[2])
        self.admin_port = int(self.config["admin"]["listen"].rpartition(":")[2])
        # A gateway that waits for its processor is not to take the store for slow.
        self.config["timeouts"] = {"drain": 10, "drain_delay": 0, "store": 10, **config.get("timeouts", {})}

    def __repr__(self) -> str:
        return f"<Gateway {self.base_url}>"

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> Self:
        """Begin to start; `ready` follows."""
        self.run([*self.prefix, sys.executable, "-m", "gateway", "serve", "--config", self.write()])
        return self

    def write(self) -> Path:
        """Its file, as `config` has it by now."""
        path = self.folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        path.chmod(0o600)
        return path

    def ready(self) -> Self:
        def answers() -> bool:
            assert self.alive(), f"the gateway ended at its start: {self.err.read_text()}{self.text()[-2000:]}"
            with contextlib.suppress(OSError):
                return self.get("/readyz").status == 200 and self.get("/readyz", admin=True).status == 200
            return False

        until(answers, "the gateway's start", START_SECONDS)
        return self

    def start(self) -> Self:
        return self.launch().ready()

    def mend(self) -> None:
        """Say as an operator that every account is in order, so that nothing is held against one."""
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        for account in self.config["accounts"]:
            path = f"/admin/v1/accounts/{account['id']}"
            answer = self.get(path, admin=True, headers=headers, method="PATCH", body=b'{"state": "active"}')
            assert answer.status == 200, answer.body

    def stop(self) -> None:
        """End it as a service manager does, and see that it goes in good order."""
        assert self.alive(), f"the gateway ended by itself: {self.err.read_text()}"
        code = self.end()
        assert code == 0, f"exit code {code}: {self.err.read_text()}"
        assert self.err.read_text() == ""
        unhandled = [line for line in self.lines() if "exception" in line]
        assert not unhandled, unhandled

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        found = []
        for pid in family(self.pid)[1:]:
            with contextlib.suppress(OSError):
                if b"gateway.worker.process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    # What an operator reads.

    def get(
        self,
        path: str,
        admin: bool = False,
        headers: Mapping[str, str] = {},
        method: str = "GET",
        body: bytes | None = None,
    ) -> Answer:
        """One plain request, by default to the data listener."""
        port = self.admin_port if admin else self.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
        try:
            connection.request(method, path, body, headers=dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read(), True)
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def metrics(self) -> Series:
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}", "cache-control": "no-cache"}
        answer = self.get("/metrics", admin=True, headers=headers)
        assert answer.status == 200
        series = Series()
        series.families = {}
        for found in text_string_to_metric_families(answer.body.decode()):
            series.families[found.name] = found.type
            for sample in found.samples:
                series[sample.name, frozenset(sample.labels.items())] = sample.value
        return series

    def text(self) -> str:
        return self.out.read_text() if self.out.exists() else ""

    def lines(self) -> list[dict[str, Any]]:
        """Whole log lines so far."""
        return [json.loads(line) for line in self.text().splitlines(keepends=True) if line.endswith("\n")]

    def line(self, event: str) -> dict[str, Any]:
        """The latest line of that event, once there is one."""
        found: list[dict[str, Any]] = until(
            lambda: [line for line in self.lines() if line["event"] == event], f"the log line {event!r}"
        )
        return found[-1]

    def record(self, request_id: str) -> dict[str, Any]:
        """The one log line of a request, once it is there."""
        tag = f'"request_id":"{request_id}"'
        found = until(
            lambda: [line for line in self.text().splitlines(True) if tag in line], f"the line of {request_id}"
        )
        assert len(found) == 1
        record: dict[str, Any] = json.loads(found[0])
        return record


def accounts_of(simulator: Simulator, count: int | None = None, **changes: Any) -> list[dict[str, Any]]:
    """The `accounts` section for the first `count` accounts of a simulator."""
    return [
        {
            "id": account["id"],
            "base_url": simulator.base_url,
            "api_key": account["api_key"],
            "workspace": account["workspace"],
            "organization": account["organization"],
            **changes,
        }
        for account in simulator.accounts[:count]
    ]


# -- The client -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """`ended` says whether the body came to the end that its framing promised."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    ended: bool

    def __getitem__(self, name: str) -> str:
        """The first header of that name, "" where there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    def but(self, **changes: Any) -> Answer:
        return replace(self, **changes)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def account(self) -> str:
        return self["x-gateway-account"]

    @property
    def route(self) -> str:
        return self["x-gateway-route"]

    @property
    def request_id(self) -> str:
        return self["x-gateway-request-id"]

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Server-sent events as (name, data)."""
        return events(self.body)


def events(stream: bytes) -> list[tuple[str, Any]]:
    """Server-sent events as (name, data); a tail that is no whole event fails."""
    text = stream.decode().replace("\r\n", "\n")
    assert not text or text.endswith("\n\n"), f"half an event at the end: {text[-200:]!r}"
    found = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def assert_error(answer: Answer, status: int, kind: str) -> str:
    """That it is an error as Anthropic's are; returns its message."""
    assert answer.status == status, (answer.status, answer.body[:500])
    assert answer["content-type"].startswith("application/json")
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] and answer["request-id"] == body["request_id"]
    assert answer.ended
    message: str = body["error"]["message"]
    assert message
    return message


Headers = Mapping[str, str] | Iterable[tuple[str, str]]


def message(*turns: str, model: str = MODEL, max_tokens: int = 64, **fields: Any) -> dict[str, Any]:
    """A Messages body; `turns` alternate between user and assistant."""
    roles = ("user", "assistant")
    said = [{"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns or ("Hello there",))]
    return {"model": model, "max_tokens": max_tokens, "messages": said, **fields}


def conversation() -> dict[str, str]:
    """The header of a conversation that nobody has seen yet."""
    return {"X-Conversation-Id": uuid.uuid4().hex}


def request(
    body: Any = None,
    headers: Headers = (),
    *,
    key: str | None = ALICE,
    path: str = "/v1/messages",
    method: str | None = None,
    fault: str | list[dict[str, Any]] | dict[str, Any] | None = None,
) -> bytes:
    """The bytes of one request. `body` is JSON if it is no bytes; `fault` is the simulator's in-band one."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    if key is not None:
        pairs.insert(0, ("x-api-key", key))
    if fault is not None:
        pairs.append(("x-sim-fault", fault if isinstance(fault, str) else json.dumps(fault)))
    if body is not None:
        pairs += [("content-type", "application/json"), ("content-length", str(len(data)))]
    head = f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1\r\nhost: gateway.test\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in pairs)
    return head.encode() + b"\r\n" + data


class Wire:
    """One client connection, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._rest: int | str = 0  # of the present body: bytes, "chunked" or "close"

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, to: Gateway | Simulator | int) -> AsyncIterator[Wire]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", to if isinstance(to, int) else to.port, limit=1 << 26
        )
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, body: Any = None, headers: Headers = (), **options: Any) -> Answer:
        await self.send(request(body, headers, **options))
        return await self.answer(head_only=options.get("method") == "HEAD")

    async def head(self) -> Answer:
        """The next response head; `piece` then reads its body."""
        async with asyncio.timeout(WAIT_SECONDS):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:-2])]
        answer = Answer(int(lines[0].split()[1]), pairs, b"", False)
        if answer.status < 200 or answer.status in (204, 304):
            self._rest = 0
        elif answer["transfer-encoding"] == "chunked":
            self._rest = "chunked"
        else:
            self._rest = int(answer["content-length"]) if answer["content-length"] else "close"
        return answer

    async def piece(self) -> bytes:
        """The next bytes of the body (one chunk, where it is chunked), b"" at its proper end.

        `IncompleteReadError` or `ConnectionError` where it breaks off."""
        async with asyncio.timeout(WAIT_SECONDS):
            if self._rest == "chunked":
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                if size == 0:
                    while await self.reader.readuntil(b"\r\n") != b"\r\n":
                        pass  # a trailer
                    return b""
                data = await self.reader.readexactly(size + 2)
                assert data.endswith(b"\r\n")
                return data[:-2]
            if self._rest == "close":
                return await self.reader.read(65536)
            assert isinstance(self._rest, int)
            data = await self.reader.read(min(self._rest, 1 << 20))
            if self._rest and not data:
                raise asyncio.IncompleteReadError(b"", self._rest)
            self._rest -= len(data)
            return data

    async def rest(self, answer: Answer) -> Answer:
        """The answer with its body, as far as it comes."""
        parts = [answer.body]
        ended = False
        try:
            while not ended:
                parts.append(await self.piece())
                ended = not parts[-1]
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        return answer.but(body=b"".join(parts), ended=ended)

    async def answer(self, head_only: bool = False) -> Answer:
        """The next whole answer; interim ones are passed over."""
        while (head := await self.head()).status < 200:
            pass
        return head.but(ended=True) if head_only else await self.rest(head)

    async def until_events(self, count: int) -> bytes:
        """Body bytes until at least `count` events have come."""
        seen = b""
        while seen.count(b"\n\n") < count:
            piece = await self.piece()
            assert piece, f"the stream ended after {seen!r}"
            seen += piece
        return seen

    async def closed(self) -> bool:
        """Wait until the other side closes; whatever still comes is read away."""
        async with asyncio.timeout(WAIT_SECONDS):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass
        return True


async def ask(to: Gateway | Simulator | int, body: Any = None, headers: Headers = (), **options: Any) -> Answer:
    """One request on a connection of its own."""
    async with Wire.open(to) as wire:
        return await wire.ask(body, headers, **options)


async def at_once(work: Iterable[Any], limit: int = 16) -> list[Any]:
    """Run awaitables, at most `limit` at a time; results in order."""
    turn = asyncio.Semaphore(limit)

    async def one(each: Any) -> Any:
        async with turn:
            return await each

    return list(await asyncio.gather(*(one(each) for each in work)))


def blunt(port: int, data: bytes, seconds: float = WAIT_SECONDS) -> bytes:
    """Send bytes as they are and read until the other side closes; "" where it never said anything.

    By a plain socket: what came before a reset is still read, and a closed door while sending is no error."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        with contextlib.suppress(OSError):
            client.sendall(data)
        seen = b""
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(65536):
                seen += piece
        return seen


def parsed(data: bytes) -> Answer:
    """The first answer in `data`, which must hold it whole."""
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
    answer = Answer(int(lines[0].split()[1]), pairs, rest, False)
    length = int(answer["content-length"])
    return answer.but(body=rest[:length], ended=len(rest) >= length)
