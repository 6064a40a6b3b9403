"""Streams on their way back: whole events, the same bytes, and never an end that only looks like one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.e2e.rig import (
    ALICE,
    MODEL,
    Answer,
    Gateway,
    Simulator,
    Wire,
    accounts_of,
    ask,
    assert_error,
    at_once,
    blunt,
    conversation,
    events,
    eventually,
    free_port,
    message,
    request,
    until,
)

STREAM = message("Tell me everything, naïve café", stream=True)


def plain(stream: bytes) -> bytes:
    """A stream without what differs from answer to answer."""
    return re.sub(rb"(msg|req)_[0-9a-z]+", b"ID", stream)


def names(answer: Answer) -> list[str]:
    return [name for name, _ in answer.events]


async def directly(sim: Simulator, body: Any, fault: str | None = None) -> Answer:
    """What the upstream says to the same request."""
    headers = {"anthropic-version": "2023-06-01"}
    return await ask(sim, body, headers, key=sim.accounts[0]["api_key"], fault=fault)


def assert_interrupted(answer: Answer, kind: str = "api_error") -> list[str]:
    """Whole events, then an error, then the proper end of the framing; returns the names of the events."""
    seen = names(answer)
    assert answer.status == 200 and answer.ended
    assert seen[-1] == "error" and seen.count("error") == 1 and "message_stop" not in seen
    error = answer.events[-1][1]
    assert (error["type"], error["error"]["type"]) == ("error", kind)
    return seen


# -- What arrives whole -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["slice=1", "crlf,slice=1", "trailers", "close_delimited", "interim"])
async def test_a_stream_arrives_as_the_upstream_sent_it(fault: str, gateway: Gateway, sim: Simulator):
    expected = await directly(sim, STREAM, fault)
    answer = await ask(gateway, STREAM, fault=fault)
    assert answer.status == 200 and answer.ended
    assert plain(answer.body) == plain(expected.body)
    assert "text/event-stream" in answer["content-type"]
    if "crlf" not in fault:
        assert (names(answer)[0], names(answer)[-1]) == ("message_start", "message_stop")


@pytest.mark.parametrize("fault", ["slice=1", "trailers", "close_delimited", "interim"])
async def test_a_whole_message_arrives_as_the_upstream_sent_it(fault: str, gateway: Gateway, sim: Simulator):
    expected = await directly(sim, message(), fault)
    answer = await ask(gateway, message(), fault=fault)
    assert answer.status == 200 and answer.ended
    assert plain(answer.body) == plain(expected.body)
    assert answer["content-length"] == str(len(answer.body))


CACHED: list[dict[str, Any]] = [
    {"type": "text", "text": "A long preface. " * 400, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
]


@pytest.mark.parametrize(("fault", "stream"), [(None, False), ("slice=1", True), ("crlf", True)])
async def test_the_usage_in_the_log_is_the_upstreams(fault: str | None, stream: bool, gateway: Gateway, sim: Simulator):
    name = conversation()
    system = [{**CACHED[0], "text": uuid.uuid4().hex + CACHED[0]["text"]}]
    said = ["And this one is shorter. " * 200]
    for turn in range(3):
        body = message(*said, model="claude-opus-5-5", system=system, stream=stream)
        body["messages"][-1]["content"] = [
            {"type": "text", "text": said[-1], "cache_control": {"type": "ephemeral"}},
        ]
        since = sim.mark()
        answer = await ask(gateway, body, name, fault=fault)
        [record] = sim.finished(since)
        usage = record["usage"]
        wanted = {
            "input": usage["input_tokens"],
            "cache_read": usage["cache_read_input_tokens"],
            "cache_write_5m": usage["ephemeral_5m_input_tokens"],
            "cache_write_1h": usage["ephemeral_1h_input_tokens"],
            "output": usage["output_tokens"],
        }
        line = gateway.record(answer.request_id)
        assert line["usage"] == {kind: tokens for kind, tokens in wanted.items() if tokens}
        assert "estimated" not in line
        assert (wanted["cache_read"] > 0) == (turn > 0)
        said += ["Well. " * 10, f"Go on, {turn}. " * 10]


# -- What breaks off --------------------------------------------------------------------------------------------------


async def test_an_error_as_first_event_fails_over_and_the_client_sees_nothing_of_it(gateway: Gateway, sim: Simulator):
    for after in (None, "ping"):
        name = conversation()
        home = (await ask(gateway, STREAM, name)).account
        fault = {"kind": "first_event_error", "account": home, "after": after}
        answer = await ask(gateway, STREAM, name, fault=fault)
        assert answer.status == 200 and answer.ended
        assert names(answer)[0] == "message_start" and names(answer)[-1] == "message_stop"
        assert answer.account != home
        assert (answer["x-gateway-attempts"], answer.route) == ("2", "detour")
        again = await ask(gateway, STREAM, name)
        assert (again.account, again.route) == (home, "bound")


async def test_an_error_as_first_event_everywhere_is_told_after_one_detour(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    answer = await ask(gateway, STREAM, fault="first_event_error")
    assert answer.ended and b"overloaded_error" in answer.body and b"message_start" not in answer.body
    assert len({record["account"] for record in sim.records(since)}) == len(sim.records(since)) == 2


def positions(stream: bytes) -> list[int]:
    """Some twenty places to cut: all over the stream, around ends of events, and inside letters of several bytes."""
    inside = [match.start() + 1 for match in re.finditer(rb"[\xc2-\xf4][\x80-\xbf]+", stream)]
    ends = [match.end() + shift for match in re.finditer(rb"\n\n", stream) for shift in (-1, 0, 1)]
    spread = range(1, len(stream), max(1, len(stream) // 8))
    some = [*spread, *inside[:: max(1, len(inside) // 4)], *ends[:: max(1, len(ends) // 7)], len(stream) - 1]
    return sorted({place for place in some if place < len(stream)})


@pytest.fixture
async def whole(sim: Simulator) -> bytes:
    return (await directly(sim, STREAM)).body


@pytest.mark.parametrize("reset", [False, True])
async def test_a_stream_cut_anywhere_ends_in_an_error_after_whole_events(
    reset: bool, whole: bytes, gateway: Gateway, sim: Simulator
):
    expected = [name for name, _ in events(whole)]
    first = whole.index(b"\n\n", whole.index(b"event: content_block_start")) + 2  # what came before is held

    async def cut(position: int) -> None:
        answer = await ask(gateway, STREAM, fault={"kind": "cut", "value": position, "reset": reset})
        if position < first:
            assert_error(answer, 502, "api_error")
            return
        seen = assert_interrupted(answer)
        assert seen[:-1] == expected[: len(seen) - 1]
        told = plain(answer.body[: answer.body.rindex(b"event: error")])
        assert plain(whole).startswith(told)
        if not reset:  # a reset may overtake what was sent before it
            assert len(seen) - 1 == whole[:position].count(b"\n\n")

    places = positions(whole)
    assert len(places) >= 18
    await at_once(map(cut, places), 8)


async def test_the_sdk_raises_wherever_a_stream_is_cut(whole: bytes, gateway: Gateway, sim: Simulator):
    async with anthropic.AsyncAnthropic(base_url=gateway.base_url, api_key=ALICE, max_retries=0) as client:

        async def cut(position: int) -> None:
            with pytest.raises(anthropic.APIStatusError):
                async with client.messages.stream(
                    model=STREAM["model"],
                    max_tokens=STREAM["max_tokens"],
                    messages=STREAM["messages"],
                    extra_headers={"x-sim-fault": f"cut={position}"},
                ) as stream:
                    await stream.get_final_message()

        await at_once(map(cut, positions(whole)), 8)


async def test_a_polite_end_without_message_stop_is_an_interruption_all_the_same(
    whole: bytes, gateway: Gateway, sim: Simulator
):
    total = len(events(whole))
    content = [name for name, _ in events(whole)].index("content_block_start") + 1  # what came before is held
    answers = await at_once(ask(gateway, STREAM, fault=f"polite_end={count}") for count in range(total))
    for answer in answers[:content]:
        assert_error(answer, 502, "api_error")
    for count, answer in enumerate(answers[content:], content):
        assert len(assert_interrupted(answer)) == count + 1
        line = gateway.record(answer.request_id)
        assert (line["outcome"], line["cause"], line["estimated"]) == ("interrupted", "upstream", True)
    assert names(await ask(gateway, STREAM, fault=f"polite_end={total}"))[-1] == "message_stop"


async def test_an_error_event_of_the_upstream_passes_and_ends_the_stream(gateway: Gateway, sim: Simulator):
    answer = await ask(gateway, STREAM, fault="error_mid_stream=5")
    assert len(assert_interrupted(answer, "overloaded_error")) == 6
    assert gateway.record(answer.request_id)["outcome"] == "interrupted"


async def test_a_stream_that_stalls_ends_in_a_timeout_error_and_frees_the_upstream(tight: Gateway, sim: Simulator):
    since = sim.mark()
    answer = await ask(tight, STREAM, fault="stall=4")
    assert len(assert_interrupted(answer, "timeout_error")) == 5
    [record] = sim.finished(since)
    assert record["aborted"]
    assert tight.record(answer.request_id)["cause"] == "timeout"


async def test_a_message_that_breaks_off_is_a_502(gateway: Gateway, sim: Simulator):
    for fault in ("cut=100", '{"kind":"cut","value":100,"reset":true}', "junk"):
        since = sim.mark()
        assert_error(await ask(gateway, message(), fault=fault), 502, "api_error")
        assert len(sim.records(since)) == 1


# -- Silence ----------------------------------------------------------------------------------------------------------


async def test_a_first_event_that_is_long_in_coming_is_awaited_with_pings(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    quiet = {"kind": "silence", "value": 3}
    faults = [
        [quiet],
        [{**quiet, "after": "head"}],
        [{"kind": "first_event_error"}, quiet],
        [{"kind": "status", "value": 529}, quiet],
        [{"kind": "status", "value": 429}, quiet],
        [{"kind": "html", "value": 502}, quiet],
        [{"kind": "reset"}, quiet],
    ]
    *answers, unstreamed = await at_once(
        [*(ask(gateway, STREAM, fault=fault) for fault in faults), ask(gateway, message(), fault=[quiet])]
    )
    assert [answer.status for answer in answers] == [200] * len(faults)
    for answer in answers:
        assert names(answer)[0] == "ping" and answer.ended
        assert answer.request_id and "text/event-stream" in answer["content-type"]
    for answer in answers[:2]:  # patience is rewarded
        seen = [name for name in names(answer) if name != "ping"]
        assert (seen[0], seen[-1]) == ("message_start", "message_stop")
    for answer in answers[2:]:  # and where nobody has anything else to say, that is an event
        assert names(answer)[-1] == "error" and "message_start" not in names(answer)
        assert b"org-sim" not in answer.body
    assert unstreamed.status == 200 and unstreamed.json()["type"] == "message"  # no ping has its place there
    assert len(sim.records(since)) >= len(faults) + 1


async def test_pings_keep_no_stream_from_being_served_by_another_account(gateway: Gateway, sim: Simulator):
    refusals: list[dict[str, Any]] = [
        {"kind": "first_event_error"},
        {"kind": "status", "value": 429, "retry_after": 30},
    ]
    try:
        for refusal in refusals:
            name = conversation()
            home = (await ask(gateway, message(), name)).account
            since = sim.mark()
            answer = await ask(gateway, STREAM, name, fault=[
                {**refusal, "account": home}, {"kind": "silence", "value": 2, "account": home},
            ])  # fmt: skip
            seen = names(answer)
            assert answer.status == 200 and seen[0] == "ping", refusal
            told = [each for each in seen if each != "ping"]
            assert (told[0], told[-1], "error" in told) == ("message_start", "message_stop", False), refusal
            assert (answer.account, answer["x-gateway-attempts"]) == ("", "")  # nobody knew when the head went out
            served = [record["account"] for record in sim.records(since) if record["path"] == "/v1/messages"]
            assert served[0] == home and len(served) == len(set(served)) == 2
            gateway.mend()
    finally:
        gateway.mend()


async def test_silence_inside_a_stream_is_filled_with_pings_and_no_longer_than_the_client_is_there(
    gateway: Gateway, sim: Simulator
):
    since = sim.mark()
    async with Wire.open(gateway) as wire:
        await wire.send(request(STREAM, fault="stall=4"))
        head = await wire.head()
        seen = await wire.until_events(6)
        assert [name for name, _ in events(seen)][4:6] == ["ping", "ping"]
    assert sim.finished(since)[0]["aborted"]
    assert gateway.record(head.request_id)["outcome"] == "client_gone"


# -- Clients that go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "half"),
    [("stall=4", True), ("silence=60", False), ('{"kind":"silence","value":60,"after":"head"}', True)],
)
async def test_a_client_that_goes_takes_its_upstream_request_with_it(
    fault: str, half: bool, gateway: Gateway, sim: Simulator
):
    since = sim.mark()
    trace = uuid.uuid4().hex
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", **conversation()}
    async with Wire.open(gateway) as wire:
        await wire.send(request(STREAM, headers, fault=fault))
        if fault.startswith("stall"):
            await wire.head()
            await wire.until_events(4)
        await eventually(lambda: sim.records(since), "the upstream request")
        if half:
            wire.writer.write_eof()
            assert await wire.closed()
    record = until(lambda: [one for one in sim.records(since) if one["finished"]], "the end upstream")[0]
    assert record["aborted"] and not record["completed"]
    [line] = until(lambda: [line for line in gateway.lines() if line.get("trace_id") == trace], "the record")
    assert (line["outcome"], line["cause"]) == ("client_gone", "client")
    if fault.startswith("stall"):  # input is known exactly, output as far as it passed
        assert line["estimated"] and line["usage"]["input"] == record["usage"]["input_tokens"]
    async with Wire.open(gateway) as wire:
        assert (await wire.ask(message(), headers)).status == 200


async def test_a_client_that_goes_with_requests_in_the_queue_leaves_nothing_running(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    async with Wire.open(gateway) as wire:
        await wire.send(request(STREAM, fault="stall=4") + request(path="/healthz", key=None) + request(message()))
        await wire.head()
        await wire.until_events(4)
        assert gateway.metrics().total("gateway_requests_in_flight") == 1
    [record] = sim.finished(since)
    assert record["aborted"]
    until(lambda: gateway.metrics().total("gateway_requests_in_flight") == 0, "nothing in flight")


# -- A scripted upstream ----------------------------------------------------------------------------------------------

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
STARTED = (
    b'event: message_start\ndata: {"type":"message_start","message":{"model":"%b","usage":{"input_tokens":7}}}\n\n'
)
START = STARTED % MODEL.encode()
STOP = (
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":9}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def delta(text: bytes) -> bytes:
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"%b"}}\n\n' % text


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture(scope="module")
def scripted(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway before one account whose upstream each test plays itself (`upstream_port` of its configuration)."""
    account = {"id": "scripted", "api_key": "sk-ant-scripted", "base_url": f"http://127.0.0.1:{free_port()}"}
    config = {"accounts": [account], "timeouts": {"write": 2}}
    gateway = Gateway(tmp_path_factory.mktemp("scripted"), config).start()
    yield gateway
    gateway.stop()


@contextlib.asynccontextmanager
async def upstream(gateway: Gateway, script: Script) -> AsyncIterator[list[bytes]]:
    """Plays `script` for each request behind `gateway`; yields the request heads as they come."""
    heads: list[bytes] = []
    serving: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving[asyncio.current_task()] = writer
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                heads.append(head)
                length = re.search(rb"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                await script(reader, writer)
        writer.close()

    port = int(gateway.config["accounts"][0]["base_url"].rpartition(":")[2])
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield heads
    finally:
        server.close()
        for writer in serving.values():
            writer.transport.abort()
        await asyncio.gather(*(task for task in serving if task is not None))


def says(*parts: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return script


async def test_nothing_follows_message_stop(scripted: Gateway):
    stream = START + delta(b"text") + STOP
    behind = delta(b"more") + b'event: error\ndata: {"type":"error","error":{"type":"api_error"}}\n\n'
    for parts in (
        [SSE, chunk(stream + behind), b"0\r\n\r\n"],
        [SSE, chunk(stream), chunk(behind), b"0\r\n\r\n"],
        [SSE, chunk(stream + b": a comment\n\n"), b"0\r\n\r\n"],
        [SSE, chunk(stream[:-1]), chunk(stream[-1:] + b"event: pi")],
    ):
        async with upstream(scripted, says(*parts)):
            answer = await ask(scripted, STREAM)
        assert answer.ended and answer.body == stream


async def test_a_request_is_settled_without_waiting_for_the_end_of_the_framing(scripted: Gateway):
    let = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE + chunk(START + delta(b"text") + STOP))
        await let.wait()
        writer.write(b"0\r\n\r\n")

    async with upstream(scripted, script):
        answer = await ask(scripted, STREAM)
        line = scripted.record(answer.request_id)
        let.set()
    assert answer.ended and line["usage"] == {"input": 7, "output": 9}
    assert line["duration"] < 0.19  # the end is waited for 0.2 seconds, so that the connection can be used again


async def test_an_event_beyond_64_kib_passes_and_the_usage_behind_it_is_read(scripted: Gateway):
    stream = START + delta(b"x" * 300_000) + delta(b"y") + STOP
    async with upstream(scripted, says(SSE, chunk(stream[:100_000]), chunk(stream[100_000:]), b"0\r\n\r\n")):
        answer = await ask(scripted, STREAM)
    assert answer.ended and answer.body == stream
    line = scripted.record(answer.request_id)
    assert (line["usage"], line.get("outcome", "ok")) == ({"input": 7, "output": 9}, "ok")


async def test_a_cut_inside_an_event_beyond_64_kib_breaks_the_connection(scripted: Gateway):
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE + chunk(START + delta(b"x" * 300_000)[:200_000]))
        await writer.drain()
        raise ConnectionError

    async with upstream(scripted, script):
        answer = await ask(scripted, STREAM)
    assert not answer.ended
    assert b"event: error" not in answer.body
    assert scripted.record(answer.request_id)["outcome"] == "interrupted"


LONG = json.dumps({"type": "message", "x": "y" * 3_000_000, "usage": {"input_tokens": 7, "output_tokens": 9}}).encode()
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
FRAMINGS = {
    "with a length": (JSON + b"content-length: %d\r\n\r\n" % len(LONG), LONG, b""),
    "in chunks": (JSON + b"transfer-encoding: chunked\r\n\r\n", chunk(LONG[:99]) + chunk(LONG[99:]), b"0\r\n\r\n"),
}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_message_of_megabytes_passes_and_never_looks_whole_when_it_is_not(framing: str, scripted: Gateway):
    async with upstream(scripted, says(*FRAMINGS[framing])):
        answer = await ask(scripted, message())
    assert answer.ended and answer.body == LONG
    assert scripted.record(answer.request_id)["usage"] == {"input": 7, "output": 9}

    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body, _ = FRAMINGS[framing]
        writer.write(head + body[:2_000_000])
        await writer.drain()
        raise ConnectionError

    async with upstream(scripted, broken):
        answer = await ask(scripted, message())
    assert not answer.ended
    assert scripted.record(answer.request_id)["outcome"] == "interrupted"


async def test_the_simulators_endless_event_passes_as_it_is(gateway: Gateway, sim: Simulator):
    expected = await directly(sim, STREAM, "endless=2")
    answer = await ask(gateway, STREAM, fault="endless=2")
    assert answer.ended
    assert answer.body.startswith(expected.body)
    assert answer.body[len(expected.body) :].startswith(b"event: error\n")


async def test_events_the_gateway_does_not_know_and_comments_pass(scripted: Gateway):
    strange = b": keep-alive\n\nevent: of_tomorrow\nid: 7\nretry: 3\ndata: {not json\ndata: at all}\n\ndata: bare\n\n"
    stream = strange + START + strange + b"\n\n" + STOP
    async with upstream(scripted, says(SSE, chunk(stream), b"0\r\n\r\n")):
        answer = await ask(scripted, STREAM)
    assert answer.ended and answer.body == stream


async def test_a_client_that_does_not_read_stops_the_upstream_and_is_let_go(scripted: Gateway):
    written = 0
    piece = chunk(delta(b"x" * 16_000))

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(SSE + chunk(START))
        while written < 256 << 20:
            writer.write(piece)
            written += len(piece)
            await writer.drain()

    async with upstream(scripted, script):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.connect(("127.0.0.1", scripted.port))
            trace = uuid.uuid4().hex
            client.sendall(request(STREAM, {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}))
            lines = await eventually(
                lambda: [one for one in scripted.lines() if one.get("trace_id") == trace], "the end"
            )
    assert written < 48 << 20  # what the kernel holds on both connections, and no more
    assert lines[0]["outcome"] == "client_gone"


# -- Clients of other kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_of_http_1_0_is_answered_and_its_connection_closed(
    stream: bool, gateway: Gateway, sim: Simulator
):
    body = {**STREAM, "stream": stream}
    data = request(body).replace(b"HTTP/1.1", b"HTTP/1.0")
    head, _, rest = blunt(gateway.port, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and b"transfer-encoding" not in head.lower()
    assert plain(rest) == plain((await directly(sim, body)).body)


async def test_pipelined_requests_are_answered_in_their_order(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    async with Wire.open(gateway) as wire:
        await wire.send(
            request(STREAM, fault="slow=0.02")
            + request(message("second"))
            + request(path="/healthz", key=None)
            + request(message("fourth"), key="wrong")
            + request({**STREAM, "max_tokens": 5})
        )
        answers = [await wire.answer() for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 401, 200]
    assert names(answers[0])[-1] == names(answers[4])[-1] == "message_stop"
    assert answers[1].json()["type"] == "message"
    assert [json.loads(record["body"])["max_tokens"] for record in sim.records(since, bodies=True)] == [64, 64, 5]


async def test_a_hundred_pipelined_requests_get_a_hundred_answers(gateway: Gateway):
    async with Wire.open(gateway) as wire:
        await wire.send(b"".join(request(message(max_tokens=1 + number % 30)) for number in range(100)))
        tokens = [(await wire.answer()).json()["usage"]["output_tokens"] for _ in range(100)]
    assert tokens == [1 + number % 30 for number in range(100)]


async def test_a_client_that_expects_100_continue_gets_it_before_its_body(gateway: Gateway):
    data = request(message(), {"expect": "100-continue"})
    head, body = data[: data.index(b"\r\n\r\n") + 4], data[data.index(b"\r\n\r\n") + 4 :]
    async with Wire.open(gateway) as wire:
        for _ in range(2):
            await wire.send(head)
            assert (await wire.head()).status == 100
            await wire.send(body)
            assert (await wire.answer()).status == 200


async def test_a_client_that_expects_100_continue_with_a_wrong_key_is_told_at_once(gateway: Gateway):
    data = request(message(), {"expect": "100-continue"}, key="wrong")
    async with Wire.open(gateway) as wire:
        await wire.send(data[: data.index(b"\r\n\r\n") + 4])
        assert_error(await wire.answer(), 401, "authentication_error")


async def test_the_warm_up_of_claude_code_is_answered(gateway: Gateway):
    async with Wire.open(gateway) as wire:
        answer = await wire.ask(method="HEAD", path="/api/hello", key=None)
        assert answer.status == 200
        assert (await wire.ask(message())).status == 200  # on the same connection


async def test_a_connection_serves_many_requests(gateway: Gateway, sim: Simulator):
    async with Wire.open(gateway) as wire:
        for number in range(50):
            answer = await wire.ask({**STREAM, "stream": number % 2 == 0})
            assert answer.status == 200 and answer.ended


async def test_a_stream_holds_nothing_of_its_request(launch: Callable[..., Gateway], sim: Simulator):
    gateway = launch(accounts=accounts_of(sim), workers=1)
    large = message("x" * 600_000, stream=True)
    worker = gateway.workers()[0]

    def resident() -> int:
        return int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async with contextlib.AsyncExitStack() as stack:

        async def opened() -> None:
            wire = await stack.enter_async_context(Wire.open(gateway))
            await wire.send(request(large, fault="stall=4"))
            assert (await wire.head()).status == 200
            await wire.until_events(4)

        await opened()
        before = resident()
        for _ in range(40):
            await opened()
        assert resident() - before < 12_000_000  # half of what was sent
