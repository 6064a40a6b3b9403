"""Everything beside Messages: chats, completions, tokens counted, models, objects of accounts, odd paths."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from gateway.records import Finished
from gateway.worker.callers.limits import Accounting
from tests.journeys.driver import CALLERS, KEYS, Rig
from tests.journeys.http import Answer
from tests.journeys.journey import (
    MODEL,
    Ask,
    Journey,
    Want,
    as_json,
    ask,
    error,
    journey,
    limited,
    message,
)

# -- Other shapes of inference ----------------------------------------------------------------------------------------

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Good morning."}]}
CHAT_USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
CHATTED = as_json(200, {"id": "chatcmpl-1", "model": MODEL, "choices": [], "usage": CHAT_USAGE})
COMPLETED = as_json(200, {"type": "completion", "completion": " Good evening.", "model": MODEL,
                          "usage": {"input_tokens": 100, "output_tokens": 20}})  # fmt: skip


def chunk(text: str = "", **more: Any) -> bytes:
    told = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": MODEL,
            "choices": [{"index": 0, "delta": {"content": text}}], **more}  # fmt: skip
    return b"data: " + json.dumps(told).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
CHUNKS = (chunk("Good "), chunk("evening."), chunk(usage=CHAT_USAGE, choices=[]), DONE)


def chunks(*events: bytes, **more: Any) -> Answer:
    said = (("content-type", "text/event-stream"), ("request-id", "req_upstream"))
    return Answer(200, said, tuple((0.1, each) for each in events), chunked=True, **more)


def chat(want: Want, stream: bool = False, **more: Any) -> Ask:
    return Ask(want, path="/v1/chat/completions", body={**CHAT, "stream": True} if stream else CHAT, **more)


def complete(want: Want, **more: Any) -> Ask:
    body = {"model": MODEL, "prompt": "\n\nHuman: Good morning.\n\nAssistant:", "max_tokens_to_sample": 100}
    return Ask(want, path="/v1/complete", body=body, **more)


def counting(want: Want, **more: Any) -> Ask:
    return Ask(want, path="/v1/messages/count_tokens", body=message(), **more)


SERVED = Want(by="a", attempts=1, route="new", used=(100, 20), money=200_000)
ELSEWHERE = Want(by="b", attempts=2, route="new", used=(100, 20), money=200_000)
FREE: dict[str, Any] = {"used": (0, 0), "money": 0}
OTHER_SHAPES = [
    journey("a chat is served and metered", chat(SERVED), upstream={"a": [CHATTED]}, asked="a", bound="a"),
    journey(
        "a chat as a stream passes byte for byte, and is metered",
        chat(Want(by="a", body=b"".join(CHUNKS), used=(100, 20), money=200_000), stream=True),
        upstream={"a": [chunks(*CHUNKS)]},
    ),
    journey(
        "a chat's key goes out as a bearer token",
        chat(SERVED),
        upstream={"a": [CHATTED]},
    ),
    journey(
        "a chat that is cut ends in an error",
        chat(
            Want(by="a", events="- - -", error="api_error", record={"outcome": "interrupted", "estimated": True}),
            stream=True,
        ),
        upstream={"a": [chunks(*CHUNKS[:2], ends="cut")]},
    ),
    journey(
        "a chat whose stream ends without its last word is an error",
        chat(
            Want(by="a", events="- - -", error="api_error", record={"outcome": "interrupted", "estimated": True}),
            stream=True,
        ),
        upstream={"a": [chunks(*CHUNKS[:2])]},
    ),
    journey(
        "a chat that tells no usage is put at what passed",
        chat(Want(by="a", record={"estimated": True, "outcome": "ok"}), stream=True),
        upstream={"a": [chunks(*CHUNKS[:2], DONE)]},
    ),
    journey(
        "a chat moves off a closed account",
        chat(ELSEWHERE),
        upstream={"a": [limited(30)], "b": [CHATTED]},
        asked="a b",
        bound="b",
        accounts={"a": "limited 30"},
    ),
    journey(
        "a completion is served and metered, without a conversation",
        complete(
            Want(by="a", attempts=1, route="none", used=(100, 20), money=200_000), conversation=None, caller="dora"
        ),
        upstream={"a": [COMPLETED]},
        asked="a",
    ),
    journey(
        "a completion moves off a closed account",
        complete(Want(by="b", attempts=2, route="none", used=(100, 20)), conversation=None, caller="dora"),
        upstream={"a": [limited(30)], "b": [COMPLETED]},
        asked="a b",
        accounts={"a": "limited 30"},
    ),
    journey(
        "tokens are counted where the conversation lives, for nothing",
        counting(Want(by="a", attempts=1, route="new", body=b'{"input_tokens": 7}', **FREE)),
        asked="a",
        bound="a",
    ),
    journey(
        "counting tokens elsewhere moves no conversation",
        counting(Want(by="b", attempts=2, route="detour", **FREE)),
        given=(ask(),),
        upstream={"a": [limited(30)]},
        asked="a b",
        bound="a",
    ),
    journey(
        "a 429 for counting tokens closes nothing for messages",
        counting(Want(by="b", attempts=2, **FREE)),
        ask(at=5.0, want=Want(by="a", attempts=1)),
        given=(ask(),),
        upstream={"a": [limited(30)]},
        asked="a b a",
        bound="a",
    ),
    journey(
        "a count that breaks off is no estimate of tokens",
        counting(Want(status=502, by="a", error="api_error", **FREE, record={"estimated": False})),
        upstream={"a": [Answer(instead="hung up")]},
        asked="a",
    ),
    journey(
        "an upstream's error passes in the words of the client's dialect",
        chat(Want(status=400, by="b", body=b'{"error":{"message":"no"}}', record={"outcome": "error"})),
        upstream={name: [as_json(400, b'{"error":{"message":"no"}}')] for name in "ab"},
        asked="a b",
    ),
]


@pytest.mark.parametrize("journey", OTHER_SHAPES, ids=str)
def test_other_shapes_of_inference(journey: Journey, rig: Rig):
    rig.play(journey)


# -- What the gateway answers itself ----------------------------------------------------------------------------------

OTHER = "claude-opus-4-7"
ANTHROPIC = {"content-type": "application/json"}


def get(path: str, want: Want, **more: Any) -> Ask:
    more.setdefault("conversation", None)
    return Ask(want, method=more.pop("method", "GET"), path=path, **more)


OWN = [
    journey(
        "models are listed without asking anybody",
        get("/v1/models", Want(headers=ANTHROPIC, route="none", attempts=0, record={"endpoint": "models"})),
        asked="",
    ),
    journey("one model is described", get(f"/v1/models/{MODEL}", Want(record={"endpoint": "models"})), asked=""),
    journey(
        "a model that nobody has is not found",
        get("/v1/models/nobody-1", Want(status=404, error="not_found_error", record={"outcome": "error"})),
        asked="",
    ),
    journey("the gateway is alive", get("/healthz", Want(record=None)), asked=""),
    journey("the gateway is ready", get("/readyz", Want(record=None)), asked=""),
    journey(
        "a page that is none is not found",
        get("/nothing", Want(status=404, error="not_found_error", record=None)),
        asked="",
    ),
    *(
        journey(
            f"a path such as {path} leads nowhere",
            get(path, Want(status=404, error="not_found_error", record=None)),
            asked="",
        )
        for path in (
            "/v1/../admin",
            "/v1//messages",
            "/v1/messages/%2e%2e/files",
            "/v1/v1/messages",
            "/V1/messages",
            "/v1/",
        )
    ),
    *(
        journey(
            f"{path} is the company's",
            get(path, Want(status=403, error="permission_error", attempts=0, record={"outcome": "error"})),
            asked="",
        )
        for path in ("/v1/organizations/users", "/v1/organizations", "/v1/oauth/token")
    ),
    *(
        journey(
            f"{method} is not how to ask {path}",
            get(path, Want(status=405, error="invalid_request_error", record={"attempts": 0}), method=method),
            asked="",
        )
        for method, path in (("GET", "/v1/messages"), ("PUT", "/v1/messages/count_tokens"), ("DELETE", "/v1/models"))
    ),
]

NOBODY = Want(status=401, error="authentication_error", attempts=0, record={"caller": "", "outcome": "error"})
CALLED = [
    journey(
        "a request without a key is nobody's", ask(want=NOBODY, headers=(("authorization", "Basic abc"),)), asked=""
    ),
    journey("a key that is none is refused", ask(want=NOBODY, headers=(("x-api-key", "sk-none"),)), asked=""),
    journey(
        "a bearer token that is none is refused",
        ask(want=NOBODY, headers=(("authorization", "Bearer sk-none"),)),
        asked="",
    ),
    journey(
        "a key as a bearer token will do",
        ask(want=Want(by="a", record={"caller": "alice"}), headers=(("authorization", f"Bearer {KEYS['alice']}"),)),
    ),
    journey(
        "a model that is not the caller's is refused",
        ask(want=Want(status=403, error="permission_error", attempts=0, record={"account": ""})),
        config={"keys": [{**each, "models": ["claude-opus-*"]} for each in CALLERS]},
        asked="",
    ),
    journey(
        "no large number hides a model that is not the caller's",
        ask(
            body=message(fallbacks=[{"model": OTHER}, {"model": MODEL, "n": 10**400}]),
            want=Want(status=403, error="permission_error", attempts=0, record={"account": ""}),
        ),
        config={"keys": [{**each, "models": [MODEL]} for each in CALLERS]},
        asked="",
    ),
    journey(
        "a model that no account has is not found",
        ask(want=Want(status=404, error="not_found_error", attempts=0, record={"account": ""})),
        pool={"a": {"models": ["claude-opus-*"]}},
        asked="",
        accounts={"a": "model"},
    ),
    journey(
        "a model that one account alone has is served there",
        ask(want=Want(by="b", attempts=1, route="new")),
        pool={"a": {"models": ["claude-opus-*"]}, "b": {}, "c": {"models": ["claude-opus-*"]}},
        asked="b",
        accounts={"a": "model", "c": "model"},
    ),
    journey(
        "an alias is sent as what it stands for",
        ask(model="fast", sent=message(), want=Want(by="a", record={"model": MODEL})),
        config={"models": {"aliases": {"fast": MODEL}}},
    ),
    journey(
        "an alias to fall back to is refused",
        ask(
            body=message(fallbacks=[{"model": "fast"}]),
            want=Want(status=400, error="invalid_request_error", says="fast is an alias", attempts=0),
        ),
        config={"models": {"aliases": {"fast": MODEL}}},
        asked="",
    ),
]


@pytest.mark.parametrize("journey", OWN + CALLED, ids=str)
def test_what_the_gateway_answers_itself(journey: Journey, rig: Rig):
    rig.play(journey)


# -- Objects of accounts: alice's live on a ---------------------------------------------------------------------------

FILE = {"type": "file", "id": "file_1", "filename": "a.txt"}
MADE = as_json(200, FILE)
PAGE = as_json(200, {"data": [FILE, {**FILE, "id": "file_strange"}], "has_more": False, "first_id": "file_1",
                     "last_id": "file_strange"})  # fmt: skip
DELETED = as_json(200, {"id": "file_1", "type": "file_deleted"})
PLAIN = {"content-encoding": None}
LISTED = (
    b'{"data":[{"type": "file", "id": "file_1", "filename": "a.txt"}],'
    b'"has_more":false,"first_id":"file_1","last_id":"file_1"}'
)
UNKNOWN = Want(status=404, error="not_found_error", says="Not found", attempts=0, record={"account": ""})
OCTETS = (("content-type", "application/octet-stream"),)


def in_gzip(answer: Answer) -> Answer:
    """The same from an upstream that compresses it."""
    body = gzip.compress(b"".join(piece for _, piece in answer.pieces), mtime=0)
    return Answer(answer.status, (*answer.headers, ("content-encoding", "gzip")), ((0.0, body),))


def create(want: Want | None = None, **more: Any) -> Ask:
    """Make a file."""
    return Ask(want or Want(), path="/v1/files", body=b"Good morning.", headers=OCTETS, conversation=None, **more)


def with_file(name: str = "file_1") -> dict[str, Any]:
    """A message that names a file."""
    document = {"type": "document", "source": {"type": "file", "file_id": name}}
    return message(messages=[{"role": "user", "content": [document]}])


HAS_FILE: dict[str, Any] = {"given": (create(),), "then": {"a": [MADE]}}
# Who may have what was made, by path, method and what its account says.
FILE_CALLS = {
    "read": ("GET", "/v1/files/file_1", MADE),
    "its contents read": ("GET", "/v1/files/file_1/content", as_json(200, b'"Good morning."')),
    "delete": ("DELETE", "/v1/files/file_1", DELETED),
}
OBJECTS = [
    journey(
        "a file is made at its caller's home",
        create(Want(by="a", attempts=1, route="none", body=MADE.pieces[0][1], **FREE)),
        upstream={"a": [MADE]},
        asked="a",
    ),
    *(
        journey(
            f"a file can be {what} by who made it",
            get(path, Want(by="a", attempts=1, route="pinned", body=answer.pieces[0][1], **FREE), method=method),
            **HAS_FILE,
            upstream={"a": [answer]},
            asked="a",
        )
        for what, (method, path, answer) in FILE_CALLS.items()
    ),
    *(
        journey(
            f"a file of alice's cannot be {what} by {caller}",
            get(path, UNKNOWN, method=method, caller=caller),
            **HAS_FILE,
            asked="",
        )
        for what, (method, path, _) in FILE_CALLS.items()
        for caller in ("bob", "carol")
    ),
    *(
        journey(f"a file that is nobody's cannot be {what}", get(path, UNKNOWN, method=method), asked="")
        for what, (method, path, answer) in FILE_CALLS.items()
    ),
    journey(
        "a team that shares has its members' files",
        get("/v1/files/file_1", Want(route="pinned", attempts=1), caller="carol"),
        config={"share": "team"},
        given=(create(),),
        then={"*": [MADE]},
        upstream={"*": [MADE]},
    ),
    journey(
        "a deleted file is nobody's",
        get("/v1/files/file_1", Want(by="a"), method="DELETE"),
        get("/v1/files/file_1", UNKNOWN, at=5.0),
        **HAS_FILE,
        upstream={"a": [DELETED]},
        asked="a",
    ),
    journey(
        "a file that could not be deleted is still there",
        get("/v1/files/file_1", Want(status=502, by="a", error="api_error"), method="DELETE"),
        get("/v1/files/file_1", Want(by="a"), at=5.0),
        **HAS_FILE,
        upstream={"a": [Answer(instead="hung up"), MADE]},
        asked="a a",
    ),
    journey(
        "a list shows the caller's own alone",
        get("/v1/files", Want(by="a", record={"endpoint": "files"})),
        **HAS_FILE,
        upstream={"a": [PAGE]},
        asked="a",
    ),
    journey(
        "a list in gzip shows the caller's own alone, of what was told in gzip",
        get("/v1/files", Want(by="a", body=LISTED, headers=PLAIN)),
        given=(create(),),
        then={"a": [in_gzip(MADE)]},
        upstream={"a": [in_gzip(PAGE)]},
        asked="a",
    ),
    journey(
        "a list of one who has made nothing is empty, and nobody is asked",
        get(
            "/v1/files",
            Want(body=b'{"data":[],"has_more":false,"first_id":null,"last_id":null,"next_page":null}'),
            caller="bob",
        ),
        **HAS_FILE,
        asked="",
    ),
    journey(
        "a list that is no list is no answer",
        get("/v1/files", Want(status=502, error="api_error")),
        **HAS_FILE,
        upstream={"a": [Answer(200, (("content-type", "text/html"),), ((0.0, b"<p>"),))]},
        asked="a",
    ),
    journey(
        "a message that names a file goes where it lives",
        ask(body=with_file(), conversation="b c a", want=Want(by="a", attempts=1, route="pinned", used=(100, 20))),
        **HAS_FILE,
        asked="a",
        bound="a",
    ),
    journey(
        "a message that names a stranger's file is not found",
        ask(body=with_file(), caller="bob", want=UNKNOWN),
        **HAS_FILE,
        asked="",
    ),
    journey("a message that names no file of anybody's is not found", ask(body=with_file(), want=UNKNOWN), asked=""),
    journey(
        "a create is not repeated when it breaks off",
        create(Want(status=502, by="a", attempts=1, error="api_error", **FREE)),
        upstream={"a": [Answer(instead="hung up")]},
        asked="a",
    ),
    journey(
        "a create is not repeated when it fails",
        create(Want(status=500, by="a", attempts=1, error="api_error", says="Upstream's words.")),
        upstream={"a": [error(500, "api_error")]},
        asked="a",
    ),
    journey(
        "an object whose account is overloaded is asked for once more, and nowhere else",
        get("/v1/files/file_1", Want(by="a", attempts=2, within=(0.5, 2.2))),
        **HAS_FILE,
        upstream={"a": [error(529, "overloaded_error"), MADE]},
        asked="a a",
    ),
    journey(
        "an object whose account stays overloaded is not to be had",
        get("/v1/files/file_1", Want(status=529, by="a", attempts=2, error="overloaded_error")),
        **HAS_FILE,
        upstream={"a": [error(529, "overloaded_error")] * 2},
        asked="a a",
    ),
    journey(
        "an object of a closed account waits as long as a request may",
        get("/v1/files/file_1", Want(by="a", attempts=2, route="pinned", within=(2.0, 4.0))),
        **HAS_FILE,
        upstream={"a": [limited(2), MADE]},
        asked="a a",
    ),
    journey(
        "an object of an account that is closed for long is not waited for",
        get("/v1/files/file_1", Want(status=429, error="rate_limit_error", headers={"retry-after": "40"})),
        **HAS_FILE,
        upstream={"a": [limited(40)]},
        asked="a",
    ),
    journey(
        "an endpoint of next month goes to the caller's home",
        Ask(
            Want(by="a", attempts=1, body=b'{"id": "nov_1"}', record={"endpoint": "other"}, **FREE),
            path="/v1/novelties",
            conversation=None,
            body={},
        ),
        upstream={"a": [as_json(200, {"id": "nov_1"})]},
        asked="a",
    ),
    journey(
        "what a client that goes has asked to be made is its own",
        create(Want(status=0, record={"outcome": "client_gone"}), gone=1.0),
        get("/v1/files/file_1", Want(by="a"), at=20.0),
        upstream={"a": [as_json(200, FILE, after=5.0), MADE]},
        asked="a a",
    ),
]

BATCH = {"id": "msgbatch_1", "type": "message_batch", "processing_status": "ended",
         "results_url": "https://api.anthropic.com/v1/messages/batches/msgbatch_1/results"}  # fmt: skip
LINES = b"".join(
    json.dumps({"custom_id": f"item-{n}", "result": {"type": "succeeded", "message": {
        "model": MODEL, "usage": {"input_tokens": 100, "output_tokens": 20}}}}).encode() + b"\n"
    for n in range(3)
)  # fmt: skip
RESULTS = Answer(200, (("content-type", "application/binary"),), ((0.1, LINES[:150]), (0.1, LINES[150:])), chunked=True)
REQUESTS = {"requests": [{"custom_id": "item-0", "params": message()}]}


HERE = json.dumps(BATCH).replace("api.anthropic.com", "llm.acme.test").encode()
PICKED = {"type": "tool_use", "id": "toolu_1", "name": "pick", "input": {"model": "fast", "other": {"model": OTHER}}}


def batch(want: Want, **more: Any) -> Ask:
    body = (
        {"requests": [{"custom_id": "item-0", "params": message(**more.pop("params"))}]} if "params" in more else None
    )
    return Ask(want, path="/v1/messages/batches", body=body or REQUESTS, conversation=None, **more)


ITS_MODELS = {
    "keys": [{**each, "models": [MODEL]} for each in CALLERS],
    "models": {"aliases": {"fast": MODEL}},
}
HAS_BATCH: dict[str, Any] = {"given": (batch(Want()),), "then": {"a": [as_json(200, BATCH)]}}
BATCHES = [
    journey(
        "a batch is made at its caller's home, and costs nothing yet",
        batch(Want(by="a", attempts=1, **FREE)),
        upstream={"a": [as_json(200, BATCH)]},
        asked="a",
    ),
    journey(
        "what a tool of a batch is given may be called a model",
        batch(Want(by="a", attempts=1), params={"messages": [{"role": "assistant", "content": [PICKED]}]}),
        config=ITS_MODELS,
        upstream={"a": [as_json(200, BATCH)]},
        asked="a",
    ),
    *(
        journey(
            f"a batch is refused {why}",
            batch(Want(status=status, error=error, attempts=0), params=params),
            config=ITS_MODELS,
            asked="",
        )
        for why, params, status, error in (
            ("for its model", {"model": OTHER}, 403, "permission_error"),
            ("for a model to fall back to", {"fallbacks": [{"model": OTHER}]}, 403, "permission_error"),
            ("for models of Anthropic's choice", {"fallbacks": "default"}, 403, "permission_error"),
            ("for its advisor", {"tools": [{"type": "advisor_20260301", "model": OTHER}]}, 403, "permission_error"),
            ("for a model that nobody knows", {"model": "next-1"}, 403, "permission_error"),
            ("for an alias", {"model": "fast"}, 400, "invalid_request_error"),
            ("for an alias to fall back to", {"fallbacks": [{"model": "fast"}]}, 400, "invalid_request_error"),
        )
    ),
    journey(
        "results of a batch are metered when they are read, at half the price",
        get("/v1/messages/batches/msgbatch_1/results", Want(by="a", route="pinned", body=LINES, **FREE)),
        **HAS_BATCH,
        upstream={"a": [RESULTS]},
        asked="a",
    ),
    journey(
        "results that are read twice are metered once",
        get("/v1/messages/batches/msgbatch_1/results", Want(by="a", body=LINES)),
        get("/v1/messages/batches/msgbatch_1/results", Want(by="a", body=LINES), at=5.0),
        **HAS_BATCH,
        upstream={"a": [RESULTS, RESULTS]},
        asked="a a",
    ),
    journey(
        "results that break off are metered as far as they came",
        get("/v1/messages/batches/msgbatch_1/results", Want(by="a", ended="cut", record={"outcome": "interrupted"})),
        **HAS_BATCH,
        upstream={"a": [Answer(200, RESULTS.headers, RESULTS.pieces, chunked=True, ends="cut")]},
        asked="a",
    ),
    journey(
        "a stranger's batch is not found",
        get("/v1/messages/batches/msgbatch_1", UNKNOWN, caller="bob"),
        **HAS_BATCH,
        asked="",
    ),
    journey(
        "a batch of which the upstream tells in gzip is its maker's, and its results are here",
        get("/v1/messages/batches/msgbatch_1", Want(by="a", route="pinned", body=HERE, headers=PLAIN)),
        given=(batch(Want(body=HERE, headers=PLAIN)),),
        then={"a": [in_gzip(as_json(200, BATCH))]},
        upstream={"a": [in_gzip(as_json(200, BATCH))]},
        config={"public_url": "https://llm.acme.test"},
        asked="a",
    ),
    *(
        journey(
            f"{what} of which the upstream tells in {coding} passes as it came",
            get("/v1/messages/batches/msgbatch_1", Want(by="a", body=b"???", headers={"content-encoding": coding})),
            **HAS_BATCH,
            upstream={"a": [as_json(200, b"???", ("content-encoding", coding))]},
            asked="a",
        )
        for what, coding in (("a batch", "br"), ("a broken batch", "gzip"))
    ),
    journey(
        "a batch is cancelled where it lives",
        Ask(Want(by="a", attempts=1, route="pinned"), path="/v1/messages/batches/msgbatch_1/cancel", conversation=None),
        **HAS_BATCH,
        upstream={"a": [as_json(200, BATCH)]},
        asked="a",
    ),
]


@pytest.mark.parametrize("journey", OBJECTS + BATCHES, ids=str)
def test_objects_of_accounts(journey: Journey, rig: Rig):
    rig.play(journey)


IN_GZIP = journey(
    "results in gzip pass as they came, and are metered",
    get(
        "/v1/messages/batches/msgbatch_1/results",
        Want(by="a", body=in_gzip(RESULTS).pieces[0][1], headers={"content-encoding": "gzip"}, **FREE),
    ),
    **HAS_BATCH,
    upstream={"a": [in_gzip(RESULTS)]},
    asked="a",
)


def test_results_that_the_upstream_compresses_are_metered(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    items: list[Finished] = []
    told = Accounting.items

    def note(accounting: Accounting, record: Finished) -> None:
        items.append(record)
        told(accounting, record)

    monkeypatch.setattr(Accounting, "items", note)
    rig.play(IN_GZIP)
    assert [(record.usage.input, record.usage.output) for record in items] == [(300, 60)]
