"""A stream's short and long way together: however segments fall and its client reads, its bytes come in order."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.wire.short_way import ShortWay
from gateway.core.wire.usage_meter import UsageMeter
from gateway.upstream.connection import Connection
from gateway.worker.head import AnswerHead
from gateway.worker.request.relay import StreamRelay

pytestmark = pytest.mark.anyio
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
START = b'event: message_start\ndata: {"type":"message_start","message":{"model":"m","usage":{"input_tokens":3}}}\n\n'
ENDED = b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n'
BROKEN = b"event: error\ndata: {}\n\n"
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"%b"}}\n\n'
TEXTS = st.sampled_from([b"", b"so", b"good", b"w" * 300, b'say \\"text\\":\\"', b"event: x"])
OTHERS = st.sampled_from([
    b"event: ping\ndata: {}\n\n", b'event: content_block_stop\ndata: {"type":"content_block_stop"}\n\n',
    (DELTA % b"q").replace(b"\n", b"\r\n"), DELTA % (b"x" * 70_000),
])  # fmt: skip
EVENTS = st.lists(st.one_of(TEXTS.map(lambda text: DELTA % text), TEXTS.map(lambda text: DELTA % text), OTHERS))


class Upstream:
    """The transport of a connection to an account, and the pool that has it."""

    origin = SimpleNamespace(host="upstream", port=1)
    timeouts = SimpleNamespace(idle=5.0)

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.busy: set[object] = set()
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...
    def forget(self, connection: object) -> None: ...
    def release(self, connection: object) -> None: ...

    def get_extra_info(self, name: str) -> None: ...

    def is_closing(self) -> bool:
        return False


class Reader:
    """A client that takes what is written, or not now."""

    started, raw, opening, first_byte = True, False, None, 1.0
    way: ShortWay | None = None

    def __init__(self) -> None:
        self.client = self
        self.got = b""
        self.takes = asyncio.Event()
        self.takes.set()

    async def write(self, body: bytes, more: bool) -> None:
        await self.takes.wait()
        self.got += (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")

    def short_way(self) -> ShortWay:
        return ShortWay(self._pass, lambda: False, full=not self.takes.is_set())

    def _pass(self, segment: bytes) -> None:
        assert self.takes.is_set()
        self.got += segment

    def take(self, now: bool) -> None:
        self.takes.set() if now else self.takes.clear()
        if self.way is not None:
            self.way.full = not now


def unframed(text: bytes) -> bytes:
    """What chunks held, of which nothing may follow the last."""
    body, at = b"", 0
    while True:
        line, _, _ = text[at:].partition(b"\r\n")
        at += len(line) + 2
        size = int(line, 16)
        if not size:
            assert text[at:] == b"\r\n"
            return body
        body += text[at : at + size]
        assert text[at + size : at + size + 2] == b"\r\n"
        at += size + 2


def pieces(text: bytes, marks: set[int]) -> list[bytes]:
    ends = [0, *sorted({mark % len(text) for mark in marks} - {0}), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(ends)]


def joined(parts: list[bytes], counts: list[int]) -> list[bytes]:
    """So many of them together, in turn; the rest alone."""
    found, rest = [], list(parts)
    for count in counts:
        found.append(b"".join(rest[:count]))
        del rest[:count]
    return [each for each in [*found, *rest] if each]


MARKS = st.sets(st.integers(0, 4000), max_size=6)


@settings(deadline=None, max_examples=500)
@given(
    events=EVENTS,
    whole=st.booleans(),
    chunk_marks=st.one_of(st.just(set[int]()), MARKS),
    together=st.lists(st.integers(1, 3), max_size=20),
    segment_marks=st.one_of(st.just(set[int]()), MARKS),
    moments=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([None, None, None, True, False])), min_size=1),
)
async def test_whatever_way_it_goes_a_stream_comes_in_order(
    events, whole, chunk_marks, together, segment_marks, moments
):
    parts = [START, DELTA % b"first", *events, *([ENDED, STOP] if whole else [])]
    body = b"".join(parts)
    chunks = pieces(body, chunk_marks) if chunk_marks else parts
    framed = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in joined(chunks, together)]
    framed += [b"0\r\n\r\n"] if whole else []
    segments = pieces(b"".join(framed), segment_marks) if segment_marks else framed

    upstream, reader, meter = Upstream(), Reader(), UsageMeter()
    connection = Connection(cast(Any, upstream))
    connection.connection_made(cast(Any, upstream))
    connection.begin(b"POST", b"", b"x", 60.0)
    asked = asyncio.ensure_future(connection.answered())
    await asyncio.sleep(0)
    connection.data_received(HEAD)
    await asked
    request = SimpleNamespace(endpoint=SimpleNamespace(chat=False), client=reader, threaded=False)
    attempt = SimpleNamespace(meter=meter, sent=False, over_since=0.0, account=None)
    x: Any = SimpleNamespace(request=request, reply=reader, attempt=attempt, outcome="ok", cause="")

    async def own(journey: object, created: object) -> None:
        raise AssertionError(created)

    async def refuse(error: object, headers: object) -> None:
        await reader.write(BROKEN, False)

    x.refuse = refuse
    x.forget_request = lambda: None
    head = AnswerHead(connection.headers)
    relay = StreamRelay(x, connection, head, lambda journey, head: [], None, own, lambda journey: None)

    async def relayed() -> None:
        assert await relay.open() == ""
        await relay.run()

    running = asyncio.ensure_future(relayed())
    for segment, (turns, takes) in zip(segments, itertools.cycle(moments), strict=False):
        if takes is not None:
            reader.take(takes)
        for _ in range(turns):
            await asyncio.sleep(0)
        while upstream.paused:
            reader.take(True)
            await asyncio.sleep(0)
        connection.data_received(segment)
    if not whole:
        connection.eof_received()
    reader.take(True)
    await asyncio.wait_for(running, 10)
    got = unframed(reader.got)
    assert got == body if whole else got == body + BROKEN
    if not whole and not any(len(event) > 60_000 for event in events):
        assert meter.passed_deltas == 1 + sum(b"content_block_delta" in event for event in events)
