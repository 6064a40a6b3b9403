"""The way back: an upstream's answer to the client, whole events at a time, with the usage meter beside it.

A stream that breaks off ends in an `error` event after whole events, or in a broken connection where an event is
already half out: never in something that looks complete. It does not choose accounts and does not retry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

from gateway.core.wire.chat_meter import matters
from gateway.core.wire.created_ids import CreatedId, hints, in_events, in_message
from gateway.core.wire.sse import EventSplitter, events
from gateway.core.wire.usage_meter import UsageMeter
from gateway.errors import ApiError
from gateway.upstream.provider import Translate
from gateway.upstream.transport import FirstByteTimeout, IdleTimeout, Interrupted, Response, TransportError
from gateway.worker.head import HeaderList
from gateway.worker.request.exchange import Exchange

HOLD = 1024 * 1024  # bytes of a JSON answer held, so that a broken one can still become a proper error
MAX_OPENING = 64 * 1024  # bytes before the first event at which it counts as begun
_ENDS = 64 * 1024  # bytes kept of either end of a longer one, for its usage
_LINGER = 0.2  # seconds to wait for the end of the framing behind message_stop


_DELTA = b"event: content_block_delta"

# Told of what an answer brings before the client is.
Own = Callable[[list[CreatedId]], Awaitable[None]]

_WORDS = {
    "timeout": (504, "The upstream did not answer in time."),
    "drain": (529, "The gateway is shutting down."),
    "upstream": (502, "The upstream closed the connection before its answer was complete."),
}


def words_for(cause: str) -> tuple[int, str]:
    """Status and message for a client whose answer broke off for this cause."""
    return _WORDS[cause]


def broken(error: TransportError) -> ApiError:
    """What a client is told of an upstream that broke off."""
    return ApiError(*_WORDS[cause_of(error)])


def cause_of(error: TransportError) -> str:
    """Why an answer broke off: `timeout`, `drain` (this process stops) or `upstream`."""
    if isinstance(error, IdleTimeout | FirstByteTimeout):
        return "timeout"
    reason = str(error)
    return reason if reason in _WORDS else "upstream"


class StreamRelay:
    """One event stream on its way back. `opening` holds what came up to the first event that is no ping."""

    def __init__(self, x: Exchange, response: Response, translate: Translate | None, own: Own) -> None:
        self.x = x
        self.response = response
        self.opening = b""
        self._own = own
        self._long = b""
        self._matters = matters if x.endpoint.chat else UsageMeter.matters
        self._splitter = EventSplitter()
        self._translate = translate

    async def open(self) -> str:
        """Read up to the first event that is no ping; returns its type if it is an error, else "".

        Raises Interrupted where the stream breaks off before.
        """
        while True:
            data = await self.response.read()
            if not data:
                raise Interrupted("the upstream ended its answer before the first event")
            ready = self._feed(data)
            if not ready:
                continue
            self.opening += ready
            if self._splitter.raw or _first_counts(ready) or len(self.opening) > MAX_OPENING:
                return self.x.meter.error if not self.x.meter.started and _is_error(self.opening) else ""

    async def run(self, headers: HeaderList) -> None:
        """Relay everything, beginning with the opening."""
        x, meter = self.x, self.x.meter
        if not x.started:
            await x.start(200, headers)
        ready, self.opening = self.opening, b""
        try:
            while True:
                if x.threaded or not _only_delta(ready):
                    await self._take(ready)
                if meter.stopped:
                    x.sent = not meter.started
                    await x.write(ready, more=False)
                    await self._finish_framing()
                    return
                if ready:
                    meter.count(ready)
                    x.raw = self._splitter.raw
                    await x.write(ready, more=True)
                data = await self.response.read()
                if data:
                    ready = self._feed(data)
                    continue
                ready = self._seen(self._splitter.finish())
                if not ready:
                    break
        except Interrupted as error:
            await self._break(cause_of(error), broken(error))
            return
        if meter.error:  # the upstream said itself what went wrong
            x.sent = meter.started
            x.outcome, x.cause = "interrupted", "upstream"
            await x.write(b"", more=False)
            return
        await self._break("upstream", broken(Interrupted("no message_stop")))

    async def _take(self, ready: bytes) -> None:
        """Objects that these events bring, and a longer one that has passed, are somebody's before the client knows."""
        for part in (self._long, ready):
            if self.x.threaded or hints(part):
                await self._own(in_events(part, self.x.threaded))
        self._long = b""

    def _feed(self, data: bytes) -> bytes:
        """Whole events out of `data`, seen by the meter, and nothing behind message_stop."""
        splitter, meter = self._splitter, self.x.meter
        if self._translate is not None:
            data = self._translate(data)
        ready = splitter.feed(data)
        if splitter.long_event is not None:
            if self._matters(splitter.long_event):
                meter.see(splitter.long_event)
            self._long = splitter.long_event
            splitter.long_event = None
        return self._seen(ready)

    def _seen(self, ready: bytes) -> bytes:
        meter = self.x.meter
        if self._matters(ready):
            size = meter.see(ready)
            if meter.stopped:
                return ready[:size]
        return ready

    async def _break(self, cause: str, error: ApiError) -> None:
        x = self.x
        x.outcome, x.cause = "interrupted", cause
        if x.raw:
            return  # an event is half out: an unfinished answer makes the server cut the connection
        await x.refuse(error, [])

    async def _finish_framing(self) -> None:
        """Let the last chunk of the framing arrive, so that the upstream connection can be used again."""
        if not self.response.complete:
            try:
                async with asyncio.timeout(_LINGER):
                    await self.response.read()
            except (TimeoutError, Interrupted):
                return


def _is_error(opening: bytes) -> bool:
    """Whether the first event that is no ping is an error."""
    for name, data, _ in events(opening):
        if data and name != b"ping" and b'"ping"' not in data[:40]:
            return name == b"error" or b'"error"' in data[:200]
    return False


def _only_delta(ready: bytes) -> bool:
    """Whether this is one event, a piece of content: most are."""
    return ready.startswith(_DELTA) and ready.rfind(b"event: ") == 0


def _first_counts(opening: bytes) -> bool:
    return any(data and name != b"ping" and b'"ping"' not in data[:40] for name, data, _ in events(opening))


async def relay_whole(x: Exchange, response: Response, headers: HeaderList, own: Own) -> None:
    """Relay an answer that is no stream: held whole up to HOLD, so that the client gets it in one piece or an error."""
    x.stream = False  # whatever was asked for: no ping belongs into this answer
    parts: list[bytes] = []
    size = 0
    while size <= HOLD:
        data = await response.read()
        if data:
            parts.append(data)
            size += len(data)
        if not data or response.complete:
            break
    else:
        await _relay_long(x, response, headers, b"".join(parts))
        return
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    x.waited += perf_counter() - x.response_began
    if x.threaded or hints(body):
        await own(in_message(body, x.threaded))
    await x.answer(response.status, headers, body)
    if x.endpoint.metered:
        x.sent = not x.meter.read_json(body)
        if x.sent:
            x.meter.count(body)


async def _relay_long(x: Exchange, response: Response, headers: HeaderList, held: bytes) -> None:
    head, tail = held[:_ENDS], held[-_ENDS:]

    def see(data: bytes) -> None:
        nonlocal tail
        tail = (tail + data)[-_ENDS:]

    await relay_through(x, response, headers, see, held)
    if x.endpoint.metered and x.outcome == "ok":
        x.sent = not x.meter.read_ends(head, tail)


async def relay_through(
    x: Exchange, response: Response, headers: HeaderList, see: Callable[[bytes], None] | None = None, held: bytes = b""
) -> None:
    """Relay an answer piece by piece, as it comes and as fast as the client takes it; `see` is shown what comes after
    `held`. One that breaks off ends in a broken connection."""
    x.stream = False
    length = next((value for name, value in response.headers if name == b"content-length"), None)
    if length is not None and response.status not in (204, 304):
        headers.append((b"content-length", length))
    await x.start(response.status, headers)
    if length is None and not held:  # a stream, whose client may do something only once it has begun
        await x.send({"type": "http.response.body", "body": b"", "more_body": True})
    try:
        while data := held or await response.read():
            if see is not None and not held:
                see(data)
            held = b""
            await x.write(data, more=True)
    except Interrupted as error:
        x.outcome, x.cause = "interrupted", cause_of(error)
        x.raw = True
        return
    await x.write(b"", more=False)
