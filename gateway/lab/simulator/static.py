"""Canned answers at the lowest cost a Python server can have, for load tests: nothing is read, checked or recorded."""

import asyncio
from typing import cast

import httptools
import msgspec

from gateway.lab.simulator import answer
from gateway.lab.simulator.answer import Step
from gateway.lab.simulator.cache import CachePlan
from gateway.lab.simulator.clouds.bedrock import in_frames
from gateway.lab.simulator.prompt import Body, Prompt
from gateway.lab.simulator.reply import JSON, SSE, Reply, wire
from gateway.lab.simulator.settings import Settings

__all__ = ["StaticAnswers", "StaticProtocol"]

_ANSWER_HEADERS = (
    b"request-id: req_sim_static\r\nanthropic-organization-id: org-sim-1\r\nanthropic-workspace-id: wrkspc_sim_1\r\n"
)


class StaticAnswers:
    """One JSON answer and one stream of `static_events` deltas, made once; `framed` is that stream in Bedrock's way."""

    def __init__(self, settings: Settings) -> None:
        words = max(1, settings.static_events) * max(1, settings.tokens_per_event)
        body = msgspec.json.decode(
            b'{"model":"claude-sonnet-4-5","max_tokens":%d,"messages":[{"role":"user","content":"static"}]}' % words,
            type=Body,
        )
        long = answer.compose(Prompt(body, 500, b""), msgspec.structs.replace(settings, answer_tokens=words))
        short = answer.compose(Prompt(body, 500, b""), msgspec.structs.replace(settings, answer_tokens=32))
        plan = CachePlan(500)
        reply = Reply.of(200, answer.message(short, "msg_sim_static", plan, body), JSON + _ANSWER_HEADERS)
        self.json = b"".join(data for _, data, _ in wire(reply, keep_alive=True))
        stream = Reply(200, SSE + _ANSWER_HEADERS, answer.events(long, "msg_sim_static", plan, body, settings))
        framed = Reply(200, SSE + _ANSWER_HEADERS, stream.steps, plan=plan)
        in_frames(framed)
        self.stream = _played(stream, settings)
        self.framed = _played(framed, settings)


def _played(reply: Reply, settings: Settings) -> list[Step]:
    """What is written, and when: all at once where there is no pace."""
    steps: list[Step] = list(wire(reply, keep_alive=True))
    steps[0] = (settings.ttft, steps[0][1], 0)
    if settings.ttft or settings.tokens_per_second:
        return [step for step in steps if step[0] or step[1]]
    return [(0.0, b"".join(data for _, data, _ in steps), 0)]


class StaticProtocol(asyncio.Protocol):
    """Answers every request with 200; streams where the body says `"stream":true`, and frames where the path does."""

    def __init__(self, answers: StaticAnswers) -> None:
        self._answers = answers
        self._transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpRequestParser(self)
        self._stream: list[Step] | None = None
        self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._stream = None

    def on_url(self, url: bytes) -> None:
        if url.endswith(b"/invoke-with-response-stream"):
            self._stream = self._answers.framed

    def on_body(self, body: bytes) -> None:
        if b'"stream":true' in body or b'"stream": true' in body:
            self._stream = self._answers.stream

    def on_message_complete(self) -> None:
        if self._stream is None:
            self._transport.write(self._answers.json)
        else:
            self._play(self._stream, 0)

    def _play(self, steps: list[Step], index: int) -> None:
        """Writes steps of a stream from `index` to the next wait."""
        while index < len(steps) and not self._gone:
            self._transport.write(steps[index][1])
            index += 1
            if index < len(steps) and steps[index][0] > 0:
                asyncio.get_running_loop().call_later(steps[index][0], self._play, steps, index)
                return
