"""Clients at their worst moments, and accounts at theirs: whoever misbehaves is let go, and nobody else pays for it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rig import (
    ALICE,
    WAIT_SECONDS,
    Gateway,
    Simulator,
    Store,
    Wire,
    accounts_of,
    ask,
    assert_error,
    conversation,
    eventually,
    message,
    parsed,
    request,
    until,
)

Launch = Callable[..., Gateway]
STREAM = message("Tell me everything", stream=True)
KNOWN = f"x-api-key: {ALICE}\r\n".encode()
UNKNOWN = b"x-api-key: sk-nobody\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"


def post(*fields: bytes) -> bytes:
    """The head of a request with a body to come; `fields` are whole lines."""
    return b"POST /v1/messages HTTP/1.1\r\nhost: gateway.test\r\n" + b"".join(fields) + b"\r\n"


def in_flight(gateway: Gateway) -> float:
    return gateway.metrics().total("gateway_requests_in_flight")


def connect(gateway: Gateway) -> socket.socket:
    """A client whose kernel takes little on its behalf, and that waits for nothing forever."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    client.settimeout(WAIT_SECONDS)
    client.connect(("127.0.0.1", gateway.port))
    return client


def rest(client: socket.socket) -> bytes:
    """All that still comes until the other side closes; a reset after it is an end too."""
    seen = b""
    try:
        while piece := client.recv(65536):
            seen += piece
    except ConnectionError:
        pass
    return seen


# -- Clients that do not read, do not send on, or go ------------------------------------------------------------------


def holds(gateway: Gateway, client: socket.socket) -> bool:
    """Whether a process still owns the gateway's end of this connection, whatever the kernel has left to send."""
    ends = [f"0100007F:{port:04X}" for port in (gateway.port, client.getsockname()[1])]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(row[1:3] == ends and row[9] != "0" for row in rows)


@pytest.mark.parametrize("blocked", [False, True], ids=["at its first byte", "when no more of it fits"])
def test_a_client_that_half_closes_without_reading_a_large_answer_is_let_go(
    blocked: bool, launch: Launch, store: Store, sim: Simulator
):
    gateway = launch(redis=f"{store.url}/4", accounts=accounts_of(sim, 2), timeouts={"write": 3})
    since = sim.mark()
    with connect(gateway) as client:
        client.sendall(request(STREAM, fault="endless=64"))
        assert client.recv(1, socket.MSG_PEEK) == b"H"
        if blocked:
            came = [-1, 0]

            def stands_still() -> bool:
                time.sleep(0.1)
                came[:] = came[1], len(client.recv(1 << 20, socket.MSG_PEEK))
                return came[0] == came[1]

            until(stands_still, "a full connection")
        assert in_flight(gateway) == 1
        assert not sim.records(since)[0]["finished"]
        client.shutdown(socket.SHUT_WR)
        [record] = until(lambda: [one for one in sim.records(since) if one["finished"]], "the end upstream", 3)
        assert record["aborted"] and not record["completed"]
        until(lambda: in_flight(gateway) == 0, "nothing in flight", 3)
        until(lambda: not holds(gateway, client), "the end of its connection", 5)


@pytest.mark.parametrize("sent", [2, 700_000])  # however much came before
def test_a_stalled_upload_does_not_hold_up_a_drain(sent: int, launch: Launch, store: Store, sim: Simulator):
    timeouts = {"client_body": 1, "drain": 30}
    gateway = launch(redis=f"{store.url}/4", accounts=accounts_of(sim, 2), timeouts=timeouts)
    since = sim.mark()
    with connect(gateway) as client:
        client.sendall(post(KNOWN, b"content-length: 800000\r\n") + b" " * sent)
        until(lambda: in_flight(gateway) == 1, "the request's beginning")
        assert gateway.process is not None
        os.kill(gateway.pid, signal.SIGTERM)
        assert gateway.process.wait(6) == 0
        gateway.process = None
        assert_error(parsed(rest(client)), 408, "timeout_error")
    assert gateway.err.read_text() == ""
    assert sim.records(since) == []


@pytest.mark.parametrize("length", [200, 60_000])
def test_who_is_not_let_in_hears_of_it_though_the_body_does_not_come(length: int, gateway: Gateway, sim: Simulator):
    since = sim.mark()
    with connect(gateway) as client, connect(gateway) as let_in:
        for each, key in ((client, UNKNOWN), (let_in, KNOWN)):
            each.sendall(post(key, b"content-length: %d\r\n" % length) + b"{")
        assert_error(parsed(client.recv(65_536)), 401, "authentication_error")
        body = json.dumps(message()).encode()
        let_in.sendall(body[1:].ljust(length - 1))  # a slow client is still waited for
        assert b"HTTP/1.1 200 " in let_in.recv(65_536)
    assert len(sim.records(since)) == 1


@pytest.mark.parametrize("size", [10, 400_000], ids=["small", "large"])
async def test_a_client_that_goes_before_its_first_pipelined_answer_has_that_call_aborted_and_no_other_made(
    size: int, launch: Launch, store: Store, sim: Simulator
):
    gateway = launch(redis=f"{store.url}/4", accounts=accounts_of(sim, 2), timeouts={"drain": 1})
    since = sim.mark()
    second = request(message("x" * size))
    async with Wire.open(gateway) as wire:
        wire.writer.write(request(message(), fault="silence=60") + second)
        await eventually(lambda: sim.records(since), "the first upstream request")
        assert in_flight(gateway) == 1
    [record] = until(lambda: [one for one in sim.records(since) if one["finished"]], "the end upstream", 4)
    assert record["aborted"] and not record["completed"]
    until(lambda: in_flight(gateway) == 0, "nothing in flight", 4)
    assert len(sim.records(since)) == 1


async def test_a_client_that_goes_during_its_second_pipelined_answer_has_that_call_aborted(
    gateway: Gateway, sim: Simulator
):
    since = sim.mark()
    async with Wire.open(gateway) as wire:
        await wire.send(request(message()) + request(STREAM, fault="stall=4"))
        assert (await wire.answer()).status == 200
        await wire.head()
        await wire.until_events(4)
    found = until(lambda: all(one["finished"] for one in sim.records(since)) and sim.records(since), "both ends", 5)
    assert [(record["completed"], record["aborted"]) for record in found] == [(True, False), (False, True)]
    until(lambda: in_flight(gateway) == 0, "nothing in flight", 5)


# -- Clients that send what nobody asked for --------------------------------------------------------------------------

GARBAGE = {
    "words": b"garbage and more of it\r\n\r\n",
    "zeros": b"\0" * 1000,
    "a greeting of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x55" * 500,
    "a broken request": b"GET /v1/models HTTP/1.1\r\nhost gateway.test\r\n\r\n",
    "one more body": request(message())[-40:],
    "a megabyte": b"?" * (1 << 20),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_request_followed_by_garbage_is_answered_once_and_its_connection_closed(
    kind: str, gateway: Gateway, sim: Simulator
):
    since = sim.mark()
    with connect(gateway) as client:
        client.sendall(request(message()) + GARBAGE[kind])
        said = rest(client)
    answer = parsed(said)
    assert (answer.status, answer.ended, answer.json()["type"]) == (200, True, "message")
    assert said.count(b"HTTP/1.1 ") == 1 and said.endswith(answer.body)
    assert [record["completed"] for record in sim.finished(since)] == [True]


def test_a_large_upload_that_is_refused_early_reads_the_whole_refusal(launch: Launch, store: Store, sim: Simulator):
    gateway = launch(redis=f"{store.url}/4", accounts=accounts_of(sim, 2), limits={"max_body_mb": 1})
    since = sim.mark()
    data = b" " * (8 << 20)
    length = b"content-length: %d\r\n" % len(data)
    pieces = b"".join(b"10000\r\n%b\r\n" % data[:65536] for _ in range(128)) + b"0\r\n\r\n"
    for framing, body in ((length, data), (CHUNKED, pieces)):
        for key, status, kind in ((UNKNOWN, 401, "authentication_error"), (KNOWN, 413, "request_too_large")):
            with connect(gateway) as client:
                client.sendall(post(key, b"connection: close\r\n", framing) + body)  # all of it: no reset on the way
                said = b""
                while piece := client.recv(65536):  # nor behind the answer
                    said += piece
            answer = parsed(said)
            assert_error(answer, status, kind)
            assert answer["connection"] == "close"
            assert said.count(b"HTTP/1.1 ") == 1 and said.endswith(answer.body)
    assert sim.records(since) == []


def flood(client: socket.socket, opening: bytes, piece: bytes, bound: int = 16 << 20) -> int:
    """Send `piece` again and again until the other side closes; returns how many bytes it took.

    A side that neither reads nor closes fails by timeout, and one that reads beyond `bound` too."""
    sent = 0
    client.sendall(opening)
    try:
        while sent < bound:
            client.sendall(piece)
            sent += len(piece)
    except ConnectionError:
        return sent
    raise AssertionError(f"{sent} bytes were taken, and the connection is still open")


ENDLESS = {"fields": b"x-more: and more\r\n" * 1000, "one field": b"x" * 16_000}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("key", [KNOWN, UNKNOWN], ids=["with a key", "without a key"])
def test_an_endless_trailer_is_cut_off(key: bytes, kind: str, gateway: Gateway, sim: Simulator):
    since = sim.mark()
    with connect(gateway) as client:
        flood(client, post(key, CHUNKED) + b"2\r\n{}\r\n0\r\nx-trailer: ", ENDLESS[kind])
        said = rest(client)
    if key == KNOWN:
        assert_error(parsed(said), 431, "request_too_large")
    else:
        assert_error(parsed(said), 401, "authentication_error")
    assert said.count(b"HTTP/1.1 ") == 1
    assert sim.records(since) == []
    until(lambda: in_flight(gateway) == 0, "nothing in flight", 5)


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("fault", [None, "silence=60"], ids=["answered", "unanswered"])
def test_an_endless_head_of_a_second_pipelined_request_is_cut_off(
    fault: str | None, kind: str, gateway: Gateway, sim: Simulator
):
    since = sim.mark()
    with connect(gateway) as client:
        flood(client, request(message(), fault=fault) + post(KNOWN)[:-2] + b"x-endless: ", ENDLESS[kind])
        said = rest(client)
    assert said.count(b"HTTP/1.1 200 ") <= (fault is None)
    assert len(sim.records(since)) <= 1  # the first, if it came so far before the second cost it its connection
    until(lambda: all(record["finished"] for record in sim.records(since)), "the end upstream", 5)
    until(lambda: in_flight(gateway) == 0, "nothing in flight", 5)


async def test_thousands_of_tiny_chunks_from_clients_without_a_key_stall_nobody(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    tiny = post(UNKNOWN, CHUNKED) + b"1\r\n \r\n" * 20_000 + b"0\r\n\r\n"

    async def hostile() -> None:
        async with Wire.open(gateway) as wire:
            await wire.send(tiny)
            assert_error(await wire.answer(), 401, "authentication_error")

    attack = asyncio.gather(*(hostile() for _ in range(4)))
    answered = 0
    while not attack.done() or not answered:
        async with asyncio.timeout(5):
            assert (await ask(gateway, path="/healthz", key=None)).status == 200
        answered += 1
    await attack
    assert sim.records(since) == []


# -- Accounts in trouble, each in its own way -------------------------------------------------------------------------


def on(account: str, status: int, **fields: Any) -> dict[str, Any]:
    return {"kind": "status", "value": status, "account": account, **fields}


@pytest.mark.parametrize("stream", [False, True])
async def test_behind_two_dead_accounts_and_a_limited_one_the_fourth_serves(
    stream: bool, launch: Launch, store: Store, sim: Simulator
):
    gateway = launch(redis=f"{store.url}/4", accounts=accounts_of(sim, 4))
    name = conversation()
    home = (await ask(gateway, message(), name)).account
    dead, limited, living = [account["id"] for account in sim.accounts[:4] if account["id"] != home]
    since = sim.mark()
    fault = [on(home, 401), on(dead, 401), on(limited, 429, retry_after=30)]
    answer = await ask(gateway, message(stream=stream), name, fault=fault)
    assert (answer.status, answer.ended, answer.account, answer.route) == (200, True, living, "moved")
    asked = [record["account"] for record in sim.records(since) if record["path"] == "/v1/messages"]
    assert asked[0] == home and asked[-1] == living and len(set(asked)) == len(asked)
    again = await ask(gateway, message(stream=stream), name)
    assert (again.account, again.route) == (living, "bound")


@pytest.mark.parametrize("stream", [False, True])
async def test_behind_two_limited_accounts_dead_ones_make_it_no_other_answer_than_429(
    stream: bool, gateway: Gateway, sim: Simulator
):
    ids = [account["id"] for account in sim.accounts[:4]]
    since = sim.mark()
    fault = [on(ids[0], 429, retry_after=9), on(ids[1], 429, retry_after=7), on(ids[2], 401), on(ids[3], 401)]
    answer = await ask(gateway, message(stream=stream), conversation(), fault=fault)
    assert_error(answer, 429, "rate_limit_error")
    assert answer["retry-after"] == "7"
    asked = [record["account"] for record in sim.records(since) if record["path"] == "/v1/messages"]
    assert sorted(asked) == ids
