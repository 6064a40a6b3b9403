"""Connections as networks treat them: forgotten when silent, cut when slow, reset at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.rig import (
    Gateway,
    Wire,
    ask,
    at_once,
    events,
    eventually,
    family,
    free_port,
    message,
    nginx,
    request,
)
from tests.e2e.upstream import EVENTS, SSE, Pieces, Reply, Request, Upstream, served

Launch = Callable[..., Gateway]
STREAM = message(stream=True)
WHOLE = b"".join(EVENTS)


# -- Keep-alives ------------------------------------------------------------------------------------------------------


def connections(near: int | None, far: int | None) -> list[list[str]]:
    """What the kernel says of those from port `near` to `far` (None: any): rows of /proc/net/tcp."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        row = line.split()
        ports = [int(end.rpartition(":")[2], 16) for end in row[1:3]]
        if row[3] == "01" and near in (None, ports[0]) and far in (None, ports[1]):
            found.append(row)
    return found


def silence(near: int | None, far: int | None) -> list[float]:
    """Seconds until the kernel breaks the silence of each; 0 where it will not."""
    timers = [row[5].split(":") for row in connections(near, far)]
    return [int(ticks, 16) / os.sysconf("SC_CLK_TCK") if kind == "02" else 0.0 for kind, ticks in timers]


@pytest.mark.parametrize("through", ["our own pool", "httpx"])
async def test_connections_to_accounts_and_clients_are_never_silent_for_a_minute(through: str, launch: Launch):
    """What forgets silent connections (address translation, load balancers) tells nobody."""
    async with Upstream(lambda request: served()).serve() as upstream:
        upstream.probes = lambda request: served()  # a proxy is asked by whole URLs
        gateway = launch(accounts=upstream.accounts(1, **({"proxy": upstream.url} if through == "httpx" else {})))
        async with Wire.open(gateway) as wire:
            assert (await wire.ask(message())).status == 200
            client = wire.writer.get_extra_info("sockname")[1]

            def both() -> list[float]:
                found = [*silence(gateway.port, client), *silence(None, upstream.port)]
                return found if len(found) >= 2 and all(found) else []  # until what was sent is acknowledged

            assert max(await eventually(both, "keep-alives of both")) <= 60


# -- Resets -----------------------------------------------------------------------------------------------------------


def unread(row: list[str]) -> bool:
    return not row[4].endswith(":00000000")


def pause(gateway: Gateway, number: int) -> None:
    """Stop or continue all of a gateway's processes."""
    for pid in family(gateway.pid):
        os.kill(pid, number)


@pytest.mark.parametrize("stream", [False, True], ids=["message", "stream"])
@pytest.mark.parametrize("more", [b"", b"\x16\x03\x01 rubbish\r\n\r\n"], ids=["alone", "before rubbish"])
async def test_an_answer_whose_client_resets_the_connection_as_it_comes_is_settled(
    stream: bool, more: bytes, launch: Launch
):
    """The gateway finds answer and reset at the same moment, the answer first."""
    reply = served() if not stream else (200, SSE, ((0.0, WHOLE),))
    async with Upstream(lambda request: reply).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1), workers=1)
        upstream.gate.clear()
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(request(message(stream=stream)) + more)
            await eventually(lambda: upstream.seen, "the request at the account")
            pause(gateway, signal.SIGSTOP)
            upstream.gate.set()
            await eventually(lambda: any(unread(row) for row in connections(None, upstream.port)), "the answer")
        pause(gateway, signal.SIGCONT)
        [line] = await eventually(
            lambda: [line for line in gateway.lines() if line["event"] == "request"], "its record"
        )
        assert line["usage"] == {"input": 20, "output": 5}
        assert not gateway.err.read_text() and "unhandled" not in gateway.text()


async def test_what_an_upstream_sends_behind_the_end_of_its_stream_reaches_nobody(launch: Launch):
    """Neither the client of that stream, nor as the beginning of the next answer on its connection."""
    late = tuple((0.03, EVENTS[2]) for _ in range(3))
    pieces = (*((0.03, event) for event in EVENTS[:4]), (0.03, EVENTS[4] + EVENTS[5]), *late)
    async with Upstream(lambda request: (200, SSE, pieces)).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1), workers=1)
        async with Wire.open(gateway) as wire:
            for _ in range(2):
                answer = await wire.ask(message(stream=True))
                assert answer.status == 200 and answer.ended, answer
                assert [name for name, _ in answer.events] == [name for name, _ in events(WHOLE)]
            await asyncio.sleep(0.3)
            assert (await wire.ask(message(stream=True))).status == 200


# -- Silence ----------------------------------------------------------------------------------------------------------

# nginx cuts after a minute of silence and a gateway pings after 15 s; here both are as many fifteenths of that.
CUT_AFTER, PING_AFTER, SILENT = 4, 1, 6.0


def silent_before(number: int) -> Pieces:
    """A stream that says nothing for a while before that event."""
    return tuple((SILENT if index == number else 0.0, event) for index, event in enumerate(EVENTS))


async def test_a_stream_that_trickles_is_neither_silent_nor_ended(launch: Launch):
    """Its pieces of content go the short way, where nobody reads a clock."""
    pieces = tuple((0.4, event) for event in (*EVENTS[:2], *[EVENTS[2]] * 12, *EVENTS[3:]))
    async with Upstream(lambda request: (200, SSE, pieces)).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1), timeouts={"ping": 3.0, "idle": 3.0})
        answer = await ask(gateway, message(stream=True))
    assert answer.status == 200 and answer.ended, answer
    names = [name for name, _ in answer.events]
    assert names == [name for name, _ in events(b"".join(event for _, event in pieces))]


async def test_a_stream_that_falls_silent_after_its_content_is_ended(launch: Launch):
    pieces = (*((0.1, event) for event in (*EVENTS[:2], *[EVENTS[2]] * 4)), (60.0, EVENTS[3]))
    async with Upstream(lambda request: (200, SSE, pieces)).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1), timeouts={"idle": 2.0})
        answer = await asyncio.wait_for(ask(gateway, message(stream=True)), 30)
    assert answer.status == 200 and answer.ended, answer
    assert [name for name, _ in answer.events][-2:] == ["content_block_delta", "error"]


async def test_behind_nginx_with_its_defaults_no_silence_cuts_an_answer(launch: Launch, tmp_path: Path):
    """A stream may be silent anywhere for longer than nginx waits; a message, which nobody can ping, for less."""
    pieces = {"the head": tuple((0.0, event) for event in EVENTS)}
    pieces |= {f"event {number}": silent_before(number) for number in range(len(EVENTS))}

    async def answers(request: Request) -> Reply:
        body = json.loads(request.body)
        said = body["messages"][0]["content"]
        if not body.get("stream"):
            await asyncio.sleep(CUT_AFTER * 0.6)
            return served()
        await asyncio.sleep(SILENT if said == "the head" else 0.0)
        return 200, SSE, pieces[said]

    port = free_port()
    async with Upstream(answers).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1), timeouts={"ping": PING_AFTER})
        place = f"location / {{ proxy_pass http://127.0.0.1:{gateway.port}; proxy_read_timeout {CUT_AFTER}s; }}"
        with nginx(tmp_path, port, f"server {{ listen 127.0.0.1:{port}; {place} }}"):
            whole, *streams = await at_once(
                [ask(port, message("any")), *(ask(port, message(said, stream=True)) for said in pieces)]
            )
    assert whole.status == 200 and whole.ended and whole.json()["type"] == "message"
    for said, answer in zip(pieces, streams, strict=True):
        assert answer.status == 200 and answer.ended, (said, answer)
        names = [name for name, _ in answer.events]
        assert [name for name in names if name != "ping"] == [name for name, _ in events(WHOLE)], said
        assert names.count("ping") >= 2, (said, names)
