"""The tick-batched client against a real server: every reply to its caller, and an absent store is a state."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import select
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis
import trustme

from gateway.log import captured
from gateway.store.client import connection as wire
from gateway.store.client import link
from gateway.store.client.client import StoreClient, StoreDown, redis_url
from gateway.store.client.topology import Access
from gateway.store.scripts import Script


def script(text: str) -> Script:
    return Script("test", text, hashlib.sha1(text.encode()).hexdigest())


ECHO = script("return ARGV[1]")
COUNT = script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
READ = script("return redis.call('GET', KEYS[1])")


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds; `TimeoutError` after twenty seconds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.002)


class Changes:
    """The transitions that a client has told of."""

    def __init__(self) -> None:
        self.states: list[bool] = []
        self.reasons: list[str] = []

    def __call__(self, up: bool, reason: str) -> None:
        self.states.append(up)
        self.reasons.append(reason)


class Recorder:
    """A transport that notes what is written."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


def connection_of(client: StoreClient) -> Any:
    backend: Any = client._backend
    return backend.connection


def record(client: StoreClient) -> Recorder:
    connection = connection_of(client)
    connection.transport = Recorder(connection.transport)
    return connection.transport


async def alive(client: StoreClient) -> bool:
    return bool(await client.call(ECHO, (0, "still here")) == b"still here")


def refuses_at_once(client: StoreClient) -> bool:
    """Whether both kinds of call fail in the very tick."""
    for ask in (client.call, client.post):
        with pytest.raises(StoreDown):
            ask(ECHO, (0, "x"))
    return not client.up


# Replies.


@pytest.mark.parametrize("seed", range(4))
async def test_among_cancelled_calls_no_reply_reaches_another_caller(client, seed):
    rnd = random.Random(seed)
    answered = 0

    async def ask(number: int) -> None:
        nonlocal answered
        for _ in range(rnd.choice((0, 0, 1, 3))):
            await asyncio.sleep(0)
        assert await client.call(ECHO, (0, f"call {number}")) == b"call %d" % number
        answered += 1

    tasks = [asyncio.create_task(ask(number)) for number in range(3500)]
    doomed = rnd.sample(tasks, 2500)  # 10,000 of all seeds
    for index, task in enumerate(doomed):
        if index % 100 == 0:
            await asyncio.sleep(0)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [each for each in results if isinstance(each, Exception)]
    assert not failures
    assert answered == sum(each is None for each in results) >= 1000
    assert await alive(client)


async def test_all_calls_of_one_tick_leave_in_one_write(client):
    recorder = record(client)
    calls = [client.call(ECHO, (0, str(number))) for number in range(50)]
    client.post(COUNT, (1, "{t}:posted", 1))
    assert recorder.writes == []
    assert await asyncio.gather(*calls) == [b"%d" % number for number in range(50)]
    assert len(recorder.writes) == 1
    assert [recorder.writes[0].count(word) for word in (b"EVAL\r\n", b"EVALSHA\r\n")] == [2, 49]  # once each by text
    del recorder.writes[:]
    await asyncio.gather(*(client.call(ECHO, (0, str(number))) for number in range(50)))
    assert len(recorder.writes) == 1
    assert recorder.writes[0].count(b"EVALSHA") == 50


async def test_values_come_back_as_the_server_made_them(client):
    assert await client.call(script("return {1, 'two', {3}, false, {}}"), (0,)) == [1, b"two", [3], None, []]
    assert await client.call(ECHO, (0, b"\x00\r\n\xff")) == b"\x00\r\n\xff"
    assert await client.call(ECHO, (0, "\u00fc")) == "\u00fc".encode()
    assert await client.call(ECHO, (0, "x" * 300_000)) == b"x" * 300_000


async def test_posted_calls_run_in_the_order_of_all_calls(client):
    client.post(COUNT, (1, "{t}:n", 5))
    first = client.call(COUNT, (1, "{t}:n", 1))
    client.post(COUNT, (1, "{t}:n", 10))
    assert await first == 6
    assert await client.call(COUNT, (1, "{t}:n", 0)) == 16


async def test_a_script_that_the_server_has_never_had_runs_before_a_known_one_that_was_called_later(client):
    read = script("return redis.call('GET', KEYS[1])")
    await client.call(read, (1, "{t}:first"))
    client.post(COUNT, (1, "{t}:first", 5))
    assert await client.call(read, (1, "{t}:first")) == b"5"


# Scripts that the server has forgotten.


async def test_a_script_flush_is_invisible(client, server):
    assert await alive(client)
    for _ in range(3):
        server.admin.script_flush()
        calls = [client.call(ECHO, (0, str(number))) for number in range(20)]
        client.post(COUNT, (1, "{t}:posted", 1))
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(20)]
    await client.close()
    assert server.admin.get("{t}:posted") == b"3"


async def test_a_cancelled_call_that_the_server_had_forgotten_disturbs_nobody(client, server):
    doomed = client.call(ECHO, (0, "doomed"))
    other = client.call(ECHO, (0, "other"))
    doomed.cancel()
    assert await other == b"other"
    assert await alive(client)


async def test_a_script_that_cannot_be_compiled_fails_its_call_alone(client):
    with pytest.raises(StoreDown, match="compiling"):
        await client.call(script("not lua"), (0,))
    assert await alive(client)


# Error replies.


async def test_an_error_reply_fails_that_call_alone_and_is_told_loudly_once(client, server):
    server.admin.set("{t}:text", "a string")
    with captured() as logs:
        for _ in range(3):
            wrong = client.call(COUNT, (1, "{t}:text", 1))
            right = client.call(COUNT, (1, "{t}:n", 1))
            with pytest.raises(StoreDown, match="not an integer"):
                await wrong
            await right
    assert client.up
    assert [(line["log_level"], line["script"]) for line in logs] == [("error", "test")]
    assert "not an integer" in logs[0]["error"]


async def test_a_script_that_answers_like_a_server_that_does_not_know_it_is_repeated_once(client):
    liar = script("redis.call('INCR', KEYS[1]); return redis.error_reply('NOSCRIPT again')")
    await client.call(ECHO, (0, "x"))
    with pytest.raises(StoreDown, match="NOSCRIPT again"):
        await client.call(liar, (1, "{t}:n"))
    assert int(await client.call(READ, (1, "{t}:n"))) <= 2


async def test_a_node_of_a_cluster_under_a_plain_url_says_which_url_it_needs(client):
    with pytest.raises(StoreDown, match=r"redis\+cluster://"):
        await client.call(script("return redis.error_reply('MOVED 1 127.0.0.1:1')"), (0,))
    assert client.up


async def test_a_store_that_cannot_take_writes_is_down_for_those_that_write(own_server, connect):
    server = own_server()
    changes = Changes()
    client = connect(server.url, on_change=changes)
    assert await client.start()
    server.admin.config_set("maxmemory", 1)
    with captured() as logs, pytest.raises(StoreDown, match="OOM"):
        await client.call(COUNT, (1, "{t}:n", 1))
    assert await client.call(READ, (1, "{t}:n")) is None
    server.admin.config_set("maxmemory", 0)
    server.admin.config_set("min-replicas-to-write", 1)
    with pytest.raises(StoreDown, match="NOREPLICAS"):
        await client.call(COUNT, (1, "{t}:n", 1))
    server.admin.config_set("min-replicas-to-write", 0)
    assert await client.call(COUNT, (1, "{t}:n", 1)) == 1
    assert changes.states == [True]
    assert logs == []


async def test_a_server_that_has_become_a_replica_is_away_until_it_is_none(own_server, connect):
    server = own_server()
    changes = Changes()
    client = connect(server.url, on_change=changes)
    assert await client.start()
    server.admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreDown, match="READONLY"):
        await client.call(COUNT, (1, "{t}:n", 1))
    await until(lambda: refuses_at_once(client))
    other = connect(server.url, on_change=changes)
    assert not await other.start(wait=0.2)
    assert "replica" in changes.reasons[-1]
    server.admin.execute_command("REPLICAOF", "NO", "ONE")
    await until(lambda: client.up and other.up)
    assert await client.call(COUNT, (1, "{t}:n", 1)) == 1
    assert changes.states == [True, False, False, True, True]


async def test_a_user_that_may_not_ask_for_the_role_is_let_in(own_server, connect):
    server = own_server()
    server.admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-role", "-@dangerous")
    client = connect(f"unix://app:pw@{server.socket}")
    assert await client.start()
    assert await alive(client)


async def test_a_store_that_still_loads_its_file_is_not_up_until_it_has(own_server, connect):
    server = own_server()
    for number in range(150):
        server.admin.set(f"key {number}", "x" * 1000)
    server.admin.save()
    server.kill()
    server.start("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024", ready=False)
    changes = Changes()
    client = connect(server.url, on_change=changes)
    await client.start(wait=0.01)
    assert refuses_at_once(client)
    await until(lambda: client.up)
    assert await client.call(READ, (1, "key 7")) == b"x" * 1000
    assert changes.states == [False, True]
    assert "LOADING" in changes.reasons[0]


# Away and back.


async def test_a_killed_server_fails_what_waits_and_then_every_call_at_once(own_server, connect, monkeypatch):
    monkeypatch.setattr(Access, "budget", 60.0)  # it is the lost connection that ends the wait
    server = own_server()
    changes = Changes()
    client = connect(server.url, on_change=changes)
    assert await client.start()
    server.pause()
    calls = [client.call(ECHO, (0, str(number))) for number in range(100)]
    client.post(ECHO, (0, "posted"))
    await asyncio.sleep(0)
    server.kill()
    async with asyncio.timeout(20):
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in results] == [StoreDown] * 100
    assert "connection lost" in str(results[0])
    assert refuses_at_once(client)
    server.start()
    await until(lambda: client.up)
    assert await alive(client)
    assert changes.states == [True, False, True]


async def test_calls_of_the_tick_in_which_the_connection_is_lost_fail_too(client):
    call = client.call(ECHO, (0, "x"))
    connection_of(client).end("for a test")
    with pytest.raises(StoreDown, match="for a test"):
        await call
    await until(lambda: client.up)
    assert await alive(client)


async def test_a_stopped_server_fails_calls_after_the_budget_then_at_once_until_it_goes_on(
    own_server, connect, monkeypatch
):
    monkeypatch.setattr(Access, "budget", 0.05)
    server = own_server()
    changes = Changes()
    client = connect(server.url, on_change=changes)
    await client.start(wait=10)
    loop = asyncio.get_running_loop()
    for _ in range(2):
        await until(lambda: client.up)
        server.pause()
        began = loop.time()
        calls = [client.call(ECHO, (0, str(number))) for number in range(10)]
        async with asyncio.timeout(20):
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert loop.time() - began >= 0.05
        assert {str(each) for each in results} == {"no reply within 50 ms"}
        assert refuses_at_once(client)
        server.resume()
    await until(lambda: client.up)
    assert changes.states == [True, False, True, False, True]


async def test_a_loop_that_was_busy_itself_does_not_blame_the_store(own_server, connect, monkeypatch):
    server = own_server()
    server.admin.script_load(ECHO.text)
    changes = Changes()
    client = connect(server.url, on_change=changes)
    await client.start(wait=10)
    monkeypatch.setattr(Access, "budget", 0.02)
    connection = connection_of(client)
    for _ in range(3):
        call = client.call(ECHO, (0, "x"))
        connection._flush()
        select.select([connection.transport.get_extra_info("socket").fileno()], [], [], 20)  # the reply has come
        time.sleep(0.05)
        assert await call == b"x"
    assert changes.states == [True]


async def test_an_idle_connection_is_never_judged_late(client, server, monkeypatch):
    server.admin.script_load(ECHO.text)
    monkeypatch.setattr(Access, "budget", 0.1)
    assert await alive(client)
    await asyncio.sleep(0.2)
    assert client.up


async def test_a_server_that_starts_after_its_client_is_found(own_server, connect):
    server = own_server()
    server.kill()
    changes = Changes()
    client = connect(server.url, on_change=changes)
    assert not await client.start(wait=0.01)
    assert refuses_at_once(client)
    await until(lambda: changes.states)
    server.start()
    await until(lambda: client.up)
    assert await alive(client)
    assert changes.states == [False, True]
    assert "cannot connect" in changes.reasons[0]


async def test_a_client_whose_connection_is_killed_comes_back(server, connect):
    changes = Changes()
    client = connect(server.url, on_change=changes)
    assert await client.start()
    server.admin.execute_command("CLIENT", "KILL", "TYPE", "normal")
    await until(lambda: changes.states == [True, False, True])
    assert await alive(client)


class Seen:
    """What a watch was told of one script."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self.failures = 0

    @property
    def answered(self) -> Callable[[float], None]:
        return self.took.append

    def failed(self) -> None:
        self.failures += 1


async def test_each_call_is_told_to_its_watch_once_however_it_ends(own_server, connect, monkeypatch):
    monkeypatch.setattr(wire, "MAX_WAITING", 10)
    monkeypatch.setattr(Access, "budget", 60.0)
    server = own_server()
    watches: dict[str, Seen] = {}
    client = connect(server.url, watch=lambda name: watches.setdefault(name, Seen()))
    assert await client.start()
    await asyncio.gather(*(client.call(ECHO, (0, "x")) for _ in range(8)))
    [seen] = watches.values()
    assert len(seen.took) == 8 and min(seen.took) >= 0.0 and seen.failures == 0
    server.pause()
    waiting, refused = [], 0
    for _ in range(20):
        try:
            waiting.append(client.call(ECHO, (0, "x")))
        except StoreDown:
            refused += 1
    assert seen.failures == refused > 0
    server.resume()
    await asyncio.gather(*waiting)
    assert len(seen.took) == 8 + len(waiting) and seen.failures == refused
    server.kill()
    await until(lambda: not client.up)
    with pytest.raises(StoreDown):
        client.post(ECHO, (0, "x"))
    assert seen.failures == refused + 1


async def test_more_calls_than_may_wait_are_refused(own_server, connect, monkeypatch):
    monkeypatch.setattr(wire, "MAX_WAITING", 10)
    monkeypatch.setattr(Access, "budget", 60.0)
    server = own_server()
    client = connect(server.url)
    assert await client.start()
    server.pause()
    waiting = []
    with pytest.raises(StoreDown, match="overloaded"):
        for _ in range(20):
            waiting.append(client.call(ECHO, (0, "x")))
    assert 10 <= len(waiting) <= 11
    assert client.up
    server.resume()
    assert await asyncio.gather(*waiting) == [b"x"] * len(waiting)
    assert await alive(client)


# Closing.


@pytest.mark.parametrize("known", [True, False])
async def test_closing_delivers_what_was_posted(own_server, known):
    server = own_server()
    client = StoreClient(server.url)
    assert await client.start()
    if known:
        await client.call(COUNT, (1, "{t}:posted", 0))
    for _ in range(5000):
        client.post(COUNT, (1, "{t}:posted", 1))
    await client.close()
    assert refuses_at_once(client)
    assert server.admin.get("{t}:posted") == b"5000"


async def test_closing_a_client_that_never_connected_is_quick(own_server):
    server = own_server()
    server.kill()
    changes = Changes()
    client = StoreClient(server.url, on_change=changes)
    assert not await client.start(wait=0.01)
    await client.close()
    told = len(changes.states)
    server.start()
    for _ in range(100):
        await asyncio.sleep(0)
    assert not client.up
    assert len(changes.states) == told


async def test_closing_does_not_wait_for_a_server_that_hangs(own_server, monkeypatch):
    server = own_server()
    changes = Changes()
    client = StoreClient(server.url, on_change=changes)
    assert await client.start()
    monkeypatch.setattr(link, "PROBE", 0.01)
    server.pause()
    call = client.call(ECHO, (0, "x"))
    async with asyncio.timeout(20):
        await client.close()
        with pytest.raises(StoreDown):
            await call
    assert not client.up


async def test_closing_without_having_started_and_closing_twice_do_no_harm(server):
    client = StoreClient(server.url)
    await client.close()
    other = StoreClient(server.url)
    assert await other.start()
    await other.close()
    await other.close()


# Addresses and credentials.


def test_urls_may_say_valkey():
    assert redis_url("valkey://h:1/2") == "redis://h:1/2"
    assert redis_url("valkeys://h") == "rediss://h"
    assert redis_url("rediss://h") == "rediss://h"
    assert redis_url("unix:///valkey.sock") == "unix:///valkey.sock"


async def test_a_password_and_a_database_are_used(own_server, connect):
    server = own_server("--requirepass", "p@ss word/1")
    for url in (
        f"unix://:p%40ss%20word%2F1@{server.socket}?db=3",
        f"unix://default:p%40ss%20word%2F1@{server.socket}?db=3",
    ):
        client = connect(url)
        assert await client.start()
        await client.call(COUNT, (1, "{t}:n", 1))
    reader = connect(f"unix://:p%40ss%20word%2F1@{server.socket}?db=3")
    assert await reader.start()
    assert await reader.call(READ, (1, "{t}:n")) == b"2"
    other = connect(f"unix://:p%40ss%20word%2F1@{server.socket}")
    assert await other.start()
    assert await other.call(READ, (1, "{t}:n")) is None


@pytest.mark.parametrize(
    ("credentials", "words", "cure"),
    [
        (":hunter2@", "WRONGPASS", ("CONFIG", "SET", "requirepass", "hunter2")),
        ("", "NOAUTH", ("CONFIG", "SET", "requirepass", "")),
        ("nobody:hunter2@", "WRONGPASS", ("ACL", "SETUSER", "nobody", "on", ">hunter2", "~*", "+@all")),
    ],
)
async def test_wrong_credentials_are_told_once_and_tried_until_they_are_right(
    own_server, connect, credentials, words, cure
):
    server = own_server("--requirepass", "secret")
    changes = Changes()
    client = connect(f"unix://{credentials}{server.socket}", on_change=changes)
    assert not await client.start(wait=0.01)
    await until(lambda: changes.states)
    assert refuses_at_once(client)
    assert words in changes.reasons[0]
    assert "hunter2" not in changes.reasons[0]
    with redis.Redis(unix_socket_path=str(server.socket), password="secret") as admin:
        admin.execute_command(*cure)
    await until(lambda: client.up)
    assert await alive(client)
    assert changes.states == [False, True]


async def test_a_database_that_does_not_exist_is_a_store_that_is_away(server, connect):
    changes = Changes()
    client = connect(f"{server.url}?db=999", on_change=changes)
    assert not await client.start(wait=0.01)
    await until(lambda: changes.states)
    assert "out of range" in changes.reasons[0]


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], **where: Any
) -> AsyncIterator[asyncio.Server]:
    """A listener that hands connections to `serve`, on a unix socket or a port; nothing of it is left afterwards."""
    tasks = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                await serve(reader, writer)
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(one(reader, writer)))

    start = asyncio.start_unix_server if "path" in where else asyncio.start_server
    listener = await start(accept, **where)
    try:
        yield listener
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


def bridge(
    server: Any, context: ssl.SSLContext | None = None
) -> contextlib.AbstractAsyncContextManager[asyncio.Server]:
    """A port of the loopback address (with TLS, if so) that leads to the server's socket."""

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(str(server.socket))
        back = asyncio.create_task(pump(far_reader, writer))
        try:
            await pump(reader, far_writer)
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            far_writer.transport.abort()

    return listening(serve, host="127.0.0.1", port=0, ssl=context)


def port_of(listener: asyncio.Server) -> int:
    return int(listener.sockets[0].getsockname()[1])


async def test_a_host_and_port_are_used(server, connect):
    async with bridge(server) as listener:
        for scheme in ("redis", "valkey"):
            client = connect(f"{scheme}://127.0.0.1:{port_of(listener)}/2")
            assert await client.start(wait=10)
            assert await alive(client)
            await client.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("host", "options", "trusted"),
    [
        ("localhost", "ssl_ca_certs={ca}", True),
        ("localhost", "", False),
        ("127.0.0.1", "ssl_ca_certs={ca}", False),
        ("127.0.0.1", "ssl_ca_certs={ca}&ssl_check_hostname=false", True),
        ("127.0.0.1", "ssl_cert_reqs=none", True),
        ("localhost", "ssl_ca_certs=/does/not/exist.pem", False),
    ],
)
async def test_tls_is_verified_as_the_url_says(server, connect, authority, tmp_path, host, options, trusted):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    changes = Changes()
    async with bridge(server, context) as listener:
        query = options.format(ca=tmp_path / "ca.pem")
        client = connect(f"rediss://{host}:{port_of(listener)}/0?{query}", on_change=changes)
        if trusted:
            assert await client.start(wait=10)
            assert await alive(client)
        else:
            await client.start(wait=0.01)
            await until(lambda: changes.states)
            assert refuses_at_once(client)
        assert changes.states == [trusted]
        await client.close()


# Servers that are none.


Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def pretender(directory: Any, answer: Answer) -> AsyncIterator[str]:
    """A socket whose far end answers the handshake and hands everything else to `answer`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if b"PING" in data:
                writer.write(b"+PONG\r\n")
            elif b"ROLE" in data:
                writer.write(b"-ERR unknown command\r\n")
            else:
                await answer(data, writer)

    async with listening(serve, path=str(directory / "s")):
        yield f"unix://{directory / 's'}"


async def test_a_reply_in_pieces_is_one_reply(tmp_path, connect):
    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in b"$5\r\nhello\r\n" * data.count(b"EVAL"):  # and EVALSHA
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with pretender(tmp_path, answer) as url:
        client = connect(url)
        assert await client.start()
        calls = [client.call(ECHO, (0, "x")) for _ in range(3)]
        assert await asyncio.gather(*calls) == [b"hello"] * 3
        await client.close()


@pytest.mark.parametrize(
    "junk", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$1\r\na\r\n$1\r\nb\r\n", b"$abc\r\n", b"*1\r\n$-5\r\n"]
)
async def test_a_server_that_does_not_keep_to_the_protocol_is_left_and_tried_again(tmp_path, connect, junk):
    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(junk)

    changes = Changes()
    async with pretender(tmp_path, answer) as url:
        client = connect(url, on_change=changes)
        assert await client.start()
        with contextlib.suppress(StoreDown):
            assert await client.call(ECHO, (0, "x")) == b"a"  # only where one reply was proper
        await until(lambda: changes.states == [True, False, True])
        await client.close()


async def test_connections_that_end_in_the_handshake_are_told_once(tmp_path, connect):
    accepted = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1

    changes = Changes()
    async with listening(hang_up, path=str(tmp_path / "s")):
        client = connect(f"unix://{tmp_path / 's'}", on_change=changes)
        assert not await client.start(wait=0.01)
        await until(lambda: accepted >= 3)
        assert changes.states == [False]
        await client.close()
