"""What a journey is: what client, upstream, store and clock do, and what must have come of it.

Data and the words to write it with. Nothing here knows how the gateway is made; `driver` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.journeys.http import Answer, Asked, Piece

MODEL = "claude-haiku-4-5"  # an input token costs 1,000 nano-dollars, one of output 5,000
THINKER = "claude-sonnet-5-5"  # whose thinking only the account reads that produced it: 2,000 and 10,000
Json = dict[str, Any]


@dataclass(frozen=True)
class Want:
    """What a client must have got, and what the record of its request must say. What is None is not looked at.

    `status` 0: no answer. `by`, `attempts` and `route` are what the x-gateway headers say. `error` is the type of the
    error, in JSON or in the last event, `says` a part of its message. `events` are the names of a stream's events,
    `content` what its deltas say. `ended`: `whole`, `cut` or `gone` (by default whole, or gone where
    the client hangs up). `within`: seconds from the request to the head of
    the answer, at least and at most. `record` are fields of its record; None: there is none. `used`: tokens of the
    record, as (input, output) or (input, cache read, written for 5 minutes, for an hour, output). `money`: its cost in
    nano-dollars."""

    status: int | None = 200
    by: str | None = None
    attempts: int | None = None
    route: str | None = None
    error: str | None = None
    says: str = ""
    body: bytes | None = None
    events: str | None = None
    content: str | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    ended: str | None = ""
    within: tuple[float, float] | None = None
    record: Mapping[str, Any] | None = field(default_factory=dict)
    used: tuple[int, ...] | None = None
    money: int | None = None


@dataclass(frozen=True)
class Ask:
    """A request, `at` seconds after the journey has begun. `conversation` names the one that has its home on these
    accounts, by rank: `a b` is at home on a, then on b; None: it names none. `gone`: the client hangs up so many
    seconds after it asked (`how`: close or reset). `pieces`: the body comes so, instead of at once. `raw`: these bytes
    are sent instead of a proper request. `deaf`: the client takes nothing for so many seconds. `sent`: the body as an
    account must get it, where that is not the client's own. `replica`: which one it asks."""

    want: Want = field(default_factory=Want)
    at: float = 0.0
    caller: str = "alice"
    conversation: str | None = "a b c"
    method: str = "POST"
    path: str = "/v1/messages"
    body: Json | bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    pieces: tuple[Piece, ...] = ()
    raw: bytes = b""
    deaf: float = 0.0
    sent: Json | None = None
    replica: int = 0
    gone: float | None = None
    how: str = "close"

    @property
    def payload(self) -> bytes:
        """The bytes of its body."""
        if isinstance(self.body, bytes):
            return self.body
        return b"" if self.body is None else json.dumps(self.body).encode()

    @property
    def on_its_way(self) -> bytes:
        """Its body as an account must get it."""
        if self.sent is not None:
            return json.dumps(self.sent).encode()
        return self.payload or b"".join(data for _, data in self.pieces)

    @property
    def chunked(self) -> bool:
        """Whether its pieces are in a framing of their own."""
        return ("transfer-encoding", "chunked") in self.headers


@dataclass(frozen=True)
class Journey:
    """`pool`: the accounts, and what is unusual about them. `config` is put over the usual one. `given` are requests
    that came before, one after the other, each with a good answer unless `then` says otherwise; `later` seconds pass
    after them. `does`: what else happens, as (seconds, what, argument ...): see `driver.ACTIONS`. `breaks`: which part
    of the gateway raises an exception: see `driver.PARTS`.

    `upstream` and `then`: what the accounts answer, in their order; `*` is any that has no more orders of its own.

    `wire`: only the gateway's own listener can do this; another ASGI server has bounds of its own.

    `replicas` serve it, over one store. `model`: the one for which accounts are judged.

    Afterwards: `asked`, the accounts in the order in which they were tried (a regular expression); `accounts`, how they
    stand (those that are not named are open, and `a@1` is how the second replica sees a); `bound`, where the
    conversation of the last request lives (None: wherever, "": nowhere); `errors`: what is logged as an error;
    `heard`: headers as the first account has seen them; `failures`: how many requests at most are not answered well."""

    name: str
    asks: tuple[Ask, ...]
    upstream: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    pool: Mapping[str, Json] = field(default_factory=lambda: {"a": {}, "b": {}, "c": {}})
    config: Json = field(default_factory=dict)
    given: tuple[Ask, ...] = ()
    then: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    later: float = 1.0
    does: tuple[tuple[Any, ...], ...] = ()
    breaks: str = ""
    asked: str | None = None
    accounts: Mapping[str, str] = field(default_factory=dict)
    bound: str | None = None
    model: str = MODEL
    failures: int | None = None
    replicas: int = 1
    errors: tuple[str, ...] = ()
    heard: Mapping[str, str | None] = field(default_factory=dict)
    wire: bool = False

    def __str__(self) -> str:
        return self.name


def journey(name: str, *asks: Ask, **more: Any) -> Journey:
    """A journey whose name is a sentence."""
    return Journey(name, asks, **more)


# What clients send.


def message(model: str = MODEL, stream: bool = False, **more: Any) -> Json:
    """The body of a Messages request."""
    body: Json = {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "Good morning."}], **more}
    return {**body, "stream": True} if stream else body


def ask(stream: bool = False, want: Want | None = None, **more: Any) -> Ask:
    """A Messages request."""
    fields = {name: more.pop(name) for name in list(more) if name in Ask.__dataclass_fields__}
    fields.setdefault("body", message(stream=stream, **more))
    return Ask(want=want or Want(), **fields)


def guessed(body: Json) -> int:
    """Tokens of input that are put at a request of which nobody says how many it used: four bytes are one."""
    return len(json.dumps(body)) // 4


# What upstreams answer.


def usage(input: int = 100, output: int = 20, **more: Any) -> Json:
    return {"input_tokens": input, "output_tokens": output, **more}


def good(text: str = "Good evening.", model: str = MODEL, used: Json | None = None, **more: Any) -> Answer:
    """A whole answer in JSON."""
    body = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_reason": "end_turn",
        "content": [{"type": "text", "text": text}], "usage": used or usage(),
    }  # fmt: skip
    return as_json(200, body, **more)


def as_json(status: int, body: Any, *headers: tuple[str, str], **more: Any) -> Answer:
    """Any answer in JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    said = (("content-type", "application/json"), ("request-id", "req_upstream"), *headers)
    return Answer(status, said, ((0.0, data),), **more)


def error(status: int, kind: str, message: str = "Upstream's words.", *headers: tuple[str, str], **more: Any) -> Answer:
    """An upstream's error."""
    details = more.pop("details", {})
    body = {"type": "error", "error": {"type": kind, "message": message, **details}, "request_id": "req_upstream"}
    return as_json(status, body, *headers, **more)


def limited(retry_after: float | None = None, *headers: tuple[str, str], message: str = "Slow down.") -> Answer:
    """A 429."""
    wait = () if retry_after is None else (("retry-after", f"{retry_after:g}"),)
    return error(429, "rate_limit_error", message, *wait, *headers)


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


def started(model: str = MODEL, used: Json | None = None) -> bytes:
    used = used or usage()
    first = {**used, "output_tokens": 1}
    told = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [], "usage": first}
    return event("message_start", message=told)


def delta(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
BLOCK_STOP = event("content_block_stop", index=0)
STOP = event("message_stop")
PING = event("ping")


def ended(used: Json | None = None) -> bytes:
    used = used or usage()
    return event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": used["output_tokens"]})


def whole_stream(*texts: str, model: str = MODEL, used: Json | None = None) -> tuple[bytes, ...]:
    """The events of a good stream."""
    deltas = [delta(text) for text in texts or ("Good ", "evening.")]
    return (started(model, used), BLOCK, *deltas, BLOCK_STOP, ended(used), STOP)


def paced(*pieces: Piece, **more: Any) -> Answer:
    """A stream that comes in these pieces."""
    said = (("content-type", "text/event-stream; charset=utf-8"), ("request-id", "req_upstream"))
    return Answer(200, said, pieces, chunked=True, **more)


def stream(*events: bytes, gap: float = 0.1, **more: Any) -> Answer:
    """A stream of these events, each by itself and `gap` seconds apart."""
    return paced(*((gap, each) for each in events), **more)


def told(kind: str = "overloaded_error", message: str = "Upstream's words.") -> bytes:
    """An error event."""
    return event("error", error={"type": kind, "message": message})


def usual(asked: Asked) -> Answer:
    """What an account answers that has no other orders."""
    try:
        body = json.loads(asked.body)
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    model = body.get("model", MODEL)
    if asked.path.startswith("/v1/messages/count_tokens"):
        return as_json(200, {"input_tokens": 7})
    return stream(*whole_stream(model=model)) if body.get("stream") is True else good(model=model)
