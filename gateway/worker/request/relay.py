"""The way back: an upstream's answer to the client, whole events at a time, with the usage meter beside it.

A stream that breaks off ends in an `error` event after whole events, or in a broken connection where an event is
already half out: never in something that looks complete. It does not choose accounts and does not retry.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import msgspec

from gateway.core.routing.outcomes import tells_error, without_secret
from gateway.core.wire.chat_meter import matters
from gateway.core.wire.created_ids import CreatedId, hints, in_events, in_message
from gateway.core.wire.decoding import Decoder, decode
from gateway.core.wire.short_way import ShortWay
from gateway.core.wire.sse import EventSplitter, events
from gateway.core.wire.usage_meter import UsageMeter
from gateway.errors import TYPES, ApiError
from gateway.listen.client import HeaderList
from gateway.upstream.provider import Decoder as Translator
from gateway.upstream.transport import FirstByteTimeout, IdleTimeout, Interrupted, Response, TransportError
from gateway.worker.endpoints import COUNT, Endpoint
from gateway.worker.head import AnswerHead
from gateway.worker.request.journey import Journey

MAX_DECODED = 16 * 1024 * 1024  # bytes that an answer may decode to, to be metered
MAX_STREAM = 1024 * 1024 * 1024  # and a stream
HOLD = 1024 * 1024  # bytes of a JSON answer held, so that a broken one can still become a proper error
MAX_OPENING = 64 * 1024  # bytes before the first event at which it counts as begun
_ENDS = 64 * 1024  # bytes kept of either end of a longer one, for its usage
_LINGER = 0.2  # seconds to wait for the end of the framing behind message_stop


_DELTA = b"event: content_block_delta"
_BEFORE = (b"ping", b"message_start")  # events before a stream's first content
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
SILENT_END = "nothing but pings after the model had stopped"  # a timeout, by which a read is interrupted then

# Told of what an answer brings before the client is.
Own = Callable[[Journey, list[CreatedId]], Awaitable[None]]

_WORDS = {
    "timeout": (504, "The upstream did not answer in time."),
    "drain": (529, "The gateway is shutting down."),
    "revoked": (403, "Your access to this gateway has ended."),
    "upstream": (502, "The upstream closed the connection before its answer was complete."),
}


def words_for(cause: str) -> tuple[int, str]:
    """Status and message for a client whose answer broke off for this cause."""
    return _WORDS[cause]


def broken(error: TransportError) -> ApiError:
    """What a client is told of an upstream that broke off."""
    return ApiError(*_WORDS[cause_of(error)])


def cause_of(error: TransportError) -> str:
    """Why an answer broke off: `timeout`, `drain` (this process stops), `revoked` or `upstream`."""
    if isinstance(error, IdleTimeout | FirstByteTimeout):
        return "timeout"
    reason = str(error)
    if reason == SILENT_END:
        return "timeout"
    return reason if reason in _WORDS else "upstream"


class _Plain:
    """A stream that the upstream has encoded although it was asked not to, made plain and then server-sent events."""

    def __init__(self, decoder: Decoder, translator: Translator | None) -> None:
        self._decoder = decoder
        self._translator = translator

    def feed(self, data: bytes) -> bytes:
        try:
            text = self._decoder.feed(data)
        except ApiError:
            raise Interrupted("the upstream's stream is encoded wrongly") from None
        return text if self._translator is None else self._translator.feed(text)

    def end(self) -> bytes:
        return b"" if self._translator is None else self._translator.end()


def decoded_stream(encoding: bytes, translator: Translator | None) -> Translator | None:
    """What makes plain bytes of a stream that the upstream has encoded although it was asked not to; None if it is
    plain. Raises Interrupted where nobody can."""
    if not encoding:
        return translator
    try:
        return _Plain(Decoder(encoding, MAX_STREAM), translator)
    except ApiError:
        raise Interrupted("the upstream's stream is encoded in a way that is not known") from None


class StreamRelay:
    """One event stream on its way back; `headers` makes the client's of its `head`. `opening` holds what came up to the
    first event that is neither a ping nor message_start: until then it is no answer, unless a long silence makes it
    one; `began` is told of message_start.

    Thousands may be open at once: what only their beginning needed is let go of."""

    def __init__(
        self,
        x: Journey,
        response: Response,
        head: AnswerHead,
        headers: Callable[[Journey, AnswerHead], HeaderList],
        translator: Translator | None,
        own: Own,
        began: Callable[[Journey], None],
    ) -> None:
        self.x = x
        self.response = response
        self.opening = b""
        self._head = head
        self._headers = headers
        self._began = began
        self._committed: asyncio.Future[None] | None = None
        self._broken: Interrupted | None = None
        self._own = own
        self._long = b""
        self._matters = matters if x.request.endpoint.chat else UsageMeter.matters
        self._splitter = EventSplitter()
        self._translator = translator

    async def open(self) -> str:
        """Read up to the first content; returns the type of an error that comes before, else "".

        Raises Interrupted where the stream breaks off before.
        """
        x = self.x
        x.reply.opening = self
        try:
            while True:
                ready = self._feed(await self._read())
                if not ready:
                    continue
                self.opening += ready
                if x.attempt.meter.started and not x.reply.first_byte:
                    x.reply.first_byte = perf_counter()
                    self._began(x)
                if self._committed is not None:
                    return ""
                if self._splitter.raw or len(self.opening) > MAX_OPENING or x.attempt.meter.stopped:
                    return ""
                if x.attempt.meter.error and _is_error(self.opening):
                    return x.attempt.meter.error
                if _content_begins(ready):
                    return ""
        except Interrupted as error:
            if self._committed is None:
                raise
            self._broken = error
            return ""
        finally:
            x.reply.opening = None
            if self._committed is not None:
                await self._committed

    async def _read(self) -> bytes:
        data = await self.response.read()
        if not data:
            raise Interrupted("the upstream ended its answer before its first content")
        return data

    async def commit(self) -> None:
        """Send what is held: this stream is the client's answer."""
        if self._committed is None:
            self._committed = asyncio.get_running_loop().create_future()
            ready, self.opening = self.opening, b""
            try:
                if not self.x.reply.started:
                    await self.x.reply.start(200, self._headers(self.x, self._head))
                await self.x.reply.write(ready, more=True)
            finally:
                self._committed.set_result(None)

    async def run(self) -> None:
        """Relay everything, beginning with the opening."""
        x, meter = self.x, self.x.attempt.meter
        headers = [] if x.reply.started else self._headers(x, self._head)
        x.forget_request()
        self._head.forget()
        if not x.reply.started:
            await x.reply.start(200, headers)
        del headers  # thousands of streams would keep theirs
        ready, self.opening = self.opening, b""
        way: ShortWay | None = None
        plain = isinstance(meter, UsageMeter) and self._translator is None and not x.request.threaded
        try:
            if self._broken is not None:
                raise self._broken
            while True:
                if x.request.threaded or not _only_delta(ready):
                    await self._take(ready)
                if meter.stopped:
                    x.attempt.sent = not meter.known
                    if x.attempt.sent and isinstance(meter, UsageMeter):
                        meter.count(ready)
                    await x.reply.write(ready, more=False)
                    if not self.response.complete:
                        x.attempt.response = None
                        _let_end(self.response)
                    return
                if ready:
                    meter.count(ready)
                    if meter.error:
                        ready = error_told(x, self.response, ready, self._translator is None)
                    x.reply.raw = self._splitter.raw
                    await x.reply.write(ready, more=True)
                if meter.error:
                    break
                if plain and way is None:
                    way = x.reply.way = x.request.client.short_way()
                direct = None if way is None or self._splitter.busy or meter.told_end else way.take
                data = await self.response.read(direct)
                if data:
                    ready = self._feed(data)
                    continue
                ready = self._seen(self._rest())
                if not ready:
                    break
        except Interrupted as error:
            if x.attempt.over_since and cause_of(error) == "timeout" and not x.reply.raw:  # all but its last event came
                x.attempt.sent = not meter.known
                await x.reply.write(_STOP, more=False)
                return
            await self._break(cause_of(error), broken(error))
            return
        finally:
            if way is not None:
                way.tell(meter)
        if meter.error:  # the upstream said itself what went wrong
            x.attempt.sent = meter.started
            x.outcome, x.cause = "interrupted", "upstream"
            await x.reply.write(b"", more=False)
            return
        await self._break("upstream", broken(Interrupted("no message_stop")))

    def _rest(self) -> bytes:
        """What is left when the answer has ended."""
        last = b"" if self._translator is None else self._splitter.feed(self._translator.end())
        return last + self._splitter.finish()

    async def _take(self, ready: bytes) -> None:
        """Objects that these events bring, and a longer one that has passed, are somebody's before the client knows."""
        for part in (self._long, ready):
            if self.x.request.threaded or hints(part):
                await self._own(self.x, in_events(part, self.x.request.threaded))
        self._long = b""

    def _feed(self, data: bytes) -> bytes:
        """Whole events out of `data`, seen by the meter, and nothing behind message_stop."""
        splitter, meter = self._splitter, self.x.attempt.meter
        if self._translator is not None:
            data = self._translator.feed(data)
        ready = splitter.feed(data)
        if splitter.long_event is not None:
            if self._matters(splitter.long_event):
                meter.see(splitter.long_event)
            self._long = splitter.long_event
            splitter.long_event = None
        return self._seen(ready)

    def _seen(self, ready: bytes) -> bytes:
        meter = self.x.attempt.meter
        if meter.told_end and ready and _content_begins(ready):
            self.x.attempt.over_since = perf_counter()
        if self._matters(ready):
            size = meter.see(ready)
            if meter.told_end and not self.x.attempt.over_since:
                self.x.attempt.over_since = perf_counter()
            if meter.stopped or meter.error:
                return ready[:size]
        return ready

    async def _break(self, cause: str, error: ApiError) -> None:
        x = self.x
        x.outcome, x.cause = "interrupted", cause
        if x.reply.raw:
            return  # an event is half out: an unfinished answer makes the server cut the connection
        await x.refuse(error, [])


_ending: set[asyncio.Task[None]] = set()  # nobody else holds them


def _let_end(response: Response) -> None:
    """Let the end of the framing arrive, so that the upstream connection can be used again. The request is settled
    meanwhile: what its client has whole must be in the journal, whatever becomes of this process."""
    task = asyncio.get_running_loop().create_task(_end(response))
    _ending.add(task)
    task.add_done_callback(_ending.discard)


async def _end(response: Response) -> None:
    try:
        async with asyncio.timeout(_LINGER):
            await response.read()
    except (TimeoutError, Interrupted):
        pass
    finally:
        response.close()


def _is_error(opening: bytes) -> bool:
    """Whether the first event that is no ping is an error."""
    for name, data, _ in events(opening):
        if data and name not in _BEFORE and b'"ping"' not in data[:40] and b'"message_start"' not in data[:60]:
            return name == b"error" or b'"error"' in data[:200]
    return False


def error_told(x: Journey, response: Response, ready: bytes, plain: bool) -> bytes:
    """Events of which the last one is an error, as the client may see them: Anthropic's, and without what names the
    account; `plain` if they are as the upstream wrote them."""
    account, kind = x.attempt.account, x.attempt.meter.error
    assert account is not None  # noqa: S101 - somebody has answered
    if not plain:
        return without_secret(ready, account.provider.secret)
    begin, last = 0, (b"", 0)
    for _, data, end in events(ready):
        begin, last = last[1], (data, end)
    if not last[0]:  # of a longer one, which has passed
        return ready
    status = next((status for status, each in TYPES.items() if each == kind), 500)
    said = account.provider.refusal(status, response.headers, last[0], x.request.id).body
    if said == last[0] and tells_error(said):
        return ready
    if said is None or not tells_error(said):
        error = ApiError(status, "The upstream ended its stream with an error.", kind=kind)
        return ready[:begin] + x.reply.event_of(error)
    return ready[:begin] + b"event: error\ndata: " + b" ".join(said.splitlines()) + b"\n\n"


def _only_delta(ready: bytes) -> bool:
    """Whether this is one event, a piece of content: most are."""
    return ready.startswith(_DELTA) and ready.rfind(b"event: ") == 0


def _content_begins(opening: bytes) -> bool:
    """Whether there is an event that is neither a ping nor message_start."""
    return any(
        data and name not in _BEFORE and b'"ping"' not in data[:40] and b'"message_start"' not in data[:60]
        for name, data, _ in events(opening)
    )


async def read_whole(response: Response) -> tuple[bytes, bool]:
    """An answer that is no stream, and whether that is all of it: up to HOLD it is held, so that the client gets it in
    one piece or an error. Raises Interrupted."""
    parts: list[bytes] = []
    size = 0
    while size <= HOLD:
        data = await response.read()
        if data:
            parts.append(data)
            size += len(data)
        if not data or response.complete:
            return parts[0] if len(parts) == 1 else b"".join(parts), True
    return b"".join(parts), False


def plain(body: bytes, encoding: bytes) -> bytes | None:
    """The text of an answer that the upstream has encoded though it was asked not to; None if nobody can tell."""
    try:
        return decode(body, encoding, MAX_DECODED)
    except ApiError:
        return None


async def answer_whole(x: Journey, response: Response, headers: HeaderList, body: bytes, text: bytes, own: Own) -> None:
    """Relay a whole answer, which `text` is in plain."""
    x.times.waited += perf_counter() - x.attempt.response_began
    if x.request.threaded or hints(text):
        await own(x, in_message(text, x.request.threaded))
    await x.reply.answer(response.status, headers, body)
    if x.request.endpoint.metered:
        x.attempt.sent = not x.attempt.meter.read_json(text)
        if x.attempt.sent:
            counter_of(x)(text or body)


def counter_of(x: Journey) -> Callable[[bytes], None]:
    """What notes the text of an answer that does not tell its usage."""
    meter = x.attempt.meter
    if isinstance(meter, UsageMeter) and not x.request.endpoint.events:
        return meter.count_completions
    return meter.count


class _Shape(msgspec.Struct):
    type: Any = None
    completion: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()
    input_tokens: msgspec.Raw = msgspec.Raw()


_shape = msgspec.json.Decoder(_Shape).decode


def is_answer(text: bytes, endpoint: Endpoint) -> bool:
    """Whether a body is an object that is no error, and has what answers of this endpoint have: a message, a chat, or
    a count."""
    try:
        shape = _shape(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if endpoint.chat:
        return bool(len(shape.choices))
    if endpoint.metered:
        return shape.type in ("message", "completion") or bool(len(shape.content) or len(shape.completion))
    return bool(shape.type != "error") and (endpoint.name != COUNT or bool(len(shape.input_tokens)))


_BEGUN = re.compile(
    rb'"type"\s*:\s*"(?:message|completion|message_start)"|"object"\s*:\s*"chat\.completion|"usage"\s*:\s*\{'
)


def may_be_billed(body: bytes, endpoint: Endpoint) -> bool:
    """Whether what is no proper answer looks like a part of one, or like one under a wrong name: a model has run."""
    return endpoint.metered and _BEGUN.search(body) is not None


async def relay_long(x: Journey, response: Response, headers: HeaderList, held: bytes) -> None:
    """Relay an answer that is too long to be held, of which this has come."""
    head, tail, meter = held[:_ENDS], held[-_ENDS:], x.attempt.meter
    meter.count(held)

    def see(data: bytes) -> None:
        nonlocal tail
        tail = (tail + data)[-_ENDS:]
        meter.count(data)

    await relay_through(x, response, headers, see, held)
    if x.request.endpoint.metered and x.outcome == "ok":
        x.attempt.sent = not x.attempt.meter.read_ends(head, tail)


async def relay_through(
    x: Journey, response: Response, headers: HeaderList, see: Callable[[bytes], None] | None = None, held: bytes = b""
) -> None:
    """Relay an answer piece by piece, as it comes and as fast as the client takes it; `see` is shown what comes after
    `held`. One that breaks off ends in a broken connection."""
    x.reply.stream = False
    length = next((value for name, value in response.headers if name == b"content-length"), None)
    if length is not None and response.status not in (204, 304):
        headers.append((b"content-length", length))
    await x.reply.start(response.status, headers)
    if length is None and not held:  # a stream, whose client may do something only once it has begun
        await x.request.client.write(b"", True)
    try:
        while data := held or await response.read():
            if see is not None and not held:
                see(data)
            held = b""
            await x.reply.write(data, more=True)
    except Interrupted as error:
        x.outcome, x.cause = "interrupted", cause_of(error)
        x.reply.raw = True
        return
    await x.reply.write(b"", more=False)
