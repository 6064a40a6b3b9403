"""What passes from client to account and back: headers, bodies of any size, at the pace of whoever is slower."""

from __future__ import annotations

from typing import Any

import pytest

from tests.journeys.driver import CALLERS, KEYS, Rig
from tests.journeys.http import Answer
from tests.journeys.journey import (
    BLOCK,
    BLOCK_STOP,
    STOP,
    Ask,
    Journey,
    Want,
    as_json,
    ask,
    delta,
    ended,
    good,
    journey,
    started,
    stream,
    whole_stream,
)

SERVED = Want(by="a", attempts=1, used=(100, 20))
ACCOUNT_KEY = "key-of-a"


def said(name: str, value: str, heard: str | None = "same", **more: Any) -> Journey:
    """A header of the client's, and what the account hears of it."""
    expected = value if heard == "same" else heard
    verb = "passes" if heard == "same" else "is kept back" if heard is None else "is replaced"
    return journey(f"{name} {verb}", ask(want=SERVED, headers=((name, value),)), heard={name: expected}, **more)


HEADERS = [
    *(
        said(name, value)
        for name, value in (
            ("anthropic-version", "2023-01-01"),
            ("anthropic-beta", "prompt-caching-2024-07-31,novelty-2030-01-01"),
            ("anthropic-dangerous-direct-browser-access", "true"),
            ("user-agent", "novelty/1.0"),
            ("x-stainless-lang", "python"),
            ("x-app", "cli"),
            ("x-novelty", "any"),
            ("accept", "application/json"),
        )
    ),
    *(
        said(name, value, None)
        for name, value in (
            ("cookie", "a=b"),
            ("forwarded", "for=192.0.2.1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "elsewhere.test"),
            ("x-real-ip", "192.0.2.1"),
            ("via", "1.1 proxy"),
            ("x-gateway-account", "b"),
            ("proxy-authorization", "Basic abc"),
            ("te", "trailers"),
            ("keep-alive", "timeout=5"),
            ("anthropic-workspace-id", "wrkspc_1"),
        )
    ),
    said("accept-encoding", "gzip", "identity"),
    journey(
        "a version is added where the client says none", ask(want=SERVED), heard={"anthropic-version": "2023-06-01"}
    ),
    journey(
        "the account's key takes the place of the caller's",
        ask(want=SERVED),
        heard={"x-api-key": ACCOUNT_KEY, "authorization": None},
    ),
    journey(
        "the account's key takes the place of the caller's bearer token",
        ask(want=SERVED, headers=(("authorization", f"Bearer {KEYS['alice']}"),)),
        heard={"x-api-key": ACCOUNT_KEY, "authorization": None},
    ),
    journey(
        "a header that connection names is kept back",
        ask(want=SERVED, headers=(("connection", "x-mine"), ("x-mine", "1"))),
        heard={"x-mine": None, "connection": None},
    ),
    journey(
        "a trace goes on",
        ask(want=SERVED, headers=(("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),)),
        heard={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
    ),
    journey(
        "a trace that is none is not told to the account",
        ask(want=SERVED, headers=(("traceparent", "nonsense"), ("tracestate", "a=1"))),
        heard={"tracestate": None},
    ),
    journey("the query passes", Ask(SERVED, path="/v1/messages?beta=true", body=ask().body)),
]

# -- Pace -------------------------------------------------------------------------------------------------------------

MUCH = (started(), BLOCK, *(delta("x" * 10_000) for _ in range(80)), BLOCK_STOP, ended(), STOP)
PACE = [
    journey(
        "a stream waits for a client that reads nothing for a while",
        ask(stream=True, deaf=20.0, want=Want(by="a", body=b"".join(MUCH), used=(100, 20), record={"outcome": "ok"})),
        upstream={"a": [stream(*MUCH, gap=0.01)]},
    ),
    journey(
        "a client that reads nothing for a minute is let go",
        ask(
            stream=True,
            deaf=200.0,
            want=Want(status=None, ended="cut", record={"outcome": "client_gone", "estimated": True}),
        ),
        upstream={"a": [stream(*MUCH, gap=0.01)]},
        wire=True,
    ),
    journey(
        "an answer of more than a megabyte passes",
        ask(want=Want(by="a", used=(100, 20), record={"outcome": "ok"}, content="x" * 2_000_000)),
        upstream={"a": [good("x" * 2_000_000)]},
    ),
    journey(
        "an answer of more than a megabyte waits for its client",
        ask(deaf=20.0, want=Want(by="a", used=(100, 20), record={"outcome": "ok"}, content="x" * 2_000_000)),
        upstream={"a": [good("x" * 2_000_000)]},
    ),
    journey(
        "an answer of more than a megabyte that breaks off breaks the connection",
        ask(
            want=Want(
                status=200, ended="cut", record={"outcome": "interrupted", "cause": "upstream", "estimated": True}
            )
        ),
        upstream={"a": [good("x" * 4_000_000, ends="cut")]},
    ),
    journey(
        "an answer in many pieces is given in one",
        ask(want=Want(by="a", used=(100, 20), content="Good evening.", within=(2.0, 2.2))),
        upstream={
            "a": [
                Answer(
                    200,
                    good().headers,
                    (
                        *tuple((0.1, bytes([each])) for each in good().pieces[0][1][:20]),
                        (0.0, good().pieces[0][1][20:]),
                    ),
                    chunked=True,
                )
            ]
        },
    ),
]

# -- Uploads ----------------------------------------------------------------------------------------------------------

MEGABYTE = b"x" * 1_048_576
FILE = as_json(200, {"type": "file", "id": "file_1"})
OCTETS = ("content-type", "application/octet-stream")


def upload(want: Want, *pieces: tuple[float, bytes], size: int | None = None, **more: Any) -> Ask:
    """A file of several megabytes, in pieces."""
    total = sum(len(data) for _, data in pieces) if size is None else size
    return Ask(
        want,
        path="/v1/files",
        headers=(OCTETS, ("content-length", str(total))),
        pieces=pieces,
        conversation=None,
        **more,
    )


THREE = ((0.0, MEGABYTE), (0.5, MEGABYTE), (0.5, MEGABYTE))
FREE: dict[str, Any] = {"used": (0, 0), "money": 0}
UPLOADS = [
    journey(
        "a file of three megabytes passes as it comes",
        upload(Want(by="a", attempts=1, **FREE), *THREE),
        upstream={"a": [FILE]},
        asked="a",
    ),
    journey(
        "an upload is not begun twice",
        upload(Want(status=502, by="a", attempts=1, error="api_error", **FREE), *THREE),
        upstream={"a": [Answer(instead="hung up")]},
        asked="a",
    ),
    journey(
        "an upload whose client goes leaves nothing behind",
        upload(Want(status=0, record={"outcome": "client_gone"}, **FREE), *THREE[:2], size=9_000_000, gone=3.0),
        upstream={"a": [FILE]},
        asked="a",
    ),
    journey(
        "an upload that falls silent is not waited for",
        upload(Want(status=408, error="timeout_error", within=(30.0, 33.0)), *THREE[:2], size=9_000_000),
        upstream={"a": [FILE]},
        asked="a",
    ),
    journey(
        "an upload that is larger than allowed is refused before it is sent",
        upload(Want(status=413, error="request_too_large", attempts=0), (0.0, MEGABYTE), size=2_000_000_000),
        asked="",
    ),
    journey(
        "an upload waits for a limit before it has begun",
        upload(Want(by="a", attempts=1, within=(2.0, 3.0)), *THREE),
        does=((0.0, "hear", "Closed", "a", "files", 2.0),),
        upstream={"a": [FILE]},
        asked="a",
    ),
    journey(
        "an upload finds no account while all are out",
        upload(Want(status=529, error="overloaded_error", attempts=1, **FREE), *THREE),
        upstream={"a": [Answer(instead="refused")]},
        asked="a",
    ),
]

# -- While the configuration changes ----------------------------------------------------------------------------------


def keys(**limits: Any) -> dict[str, Any]:
    return {"keys": [{**each, "limits": limits} for each in CALLERS]}


RELOADED = [
    journey(
        "a stream goes on while the configuration changes",
        ask(stream=True, want=Want(by="a", body=b"".join(whole_stream()), used=(100, 20), record={"outcome": "ok"})),
        upstream={"a": [stream(*whole_stream(), gap=1.0)]},
        does=((3.5, "reload", keys(requests_per_minute=1)),),
    ),
    journey(
        "a caller's new limits hold from the next request on",
        ask(want=Want(by="a")),
        ask(at=2.0, want=Want(by="a")),
        ask(at=3.0, want=Want(status=429)),
        does=((1.0, "reload", keys(requests_per_minute=1)),),
    ),
    journey(
        "a key that is taken away is refused from the next request on",
        ask(want=Want(by="a")),
        ask(at=2.0, want=Want(status=401, record={"caller": ""})),
        does=((1.0, "reload", {"keys": CALLERS[1:]}),),
    ),
    journey(
        "a request whose caller is taken away meanwhile is settled all the same",
        ask(want=Want(by="a", used=(100, 20), record={"caller": "alice"})),
        upstream={"a": [good(after=5.0)]},
        does=((1.0, "reload", {"keys": CALLERS[1:]}),),
    ),
    journey(
        "a request of an account that is taken away meanwhile ends on it",
        ask(want=Want(by="a", used=(100, 20))),
        ask(at=10.0, want=Want(by="b", route="moved")),
        upstream={"a": [good(after=5.0)]},
        asked="a b",
        bound="b",
        accounts={"a": "gone"},
        does=((1.0, "reload", {"accounts": [{"id": "b", "base_url": "http://b.test", "api_key": "key-of-b"}]}),),
        pool={"a": {}, "b": {}},
    ),
    journey(
        "another header for conversations holds from the next request on",
        ask(conversation=None, headers=(("x-mine", "one"),), want=Want(route="new")),
        ask(conversation=None, headers=(("x-mine", "one"),), system="Other.", at=2.0, want=Want(route="new")),
        ask(conversation=None, headers=(("x-mine", "one"),), system="Another.", at=3.0, want=Want(route="bound")),
        does=((1.0, "reload", {"affinity": {"header": "X-Mine"}}),),
    ),
]

# A slot comes free in the very moment in which the client that waits for it goes.
MOMENT = [
    journey(
        f"a slot that comes free as its client goes is not lost ({how}, {later:g} s)",
        ask(conversation="a#1", want=Want(by="a")),
        ask(
            conversation="a#2",
            at=0.5,
            gone=0.55 + later,
            how=how,
            want=Want(status=None, record={"outcome": "client_gone"}, ended="gone"),
        ),
        ask(conversation="a#3", at=10.0, want=Want(by="a", within=(0.0, 0.1))),
        upstream={"a": [good(after=1.05)]},
        pool={"a": {"max_concurrency": 1}},
    )
    for how in ("close", "reset")
    for later in (-0.001, 0.0, 0.001)
]


@pytest.mark.parametrize("journey", HEADERS + PACE + UPLOADS + RELOADED + MOMENT, ids=str)
def test_what_passes(journey: Journey, rig: Rig):
    rig.play(journey)
