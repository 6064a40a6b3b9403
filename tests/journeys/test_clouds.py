"""Accounts on clouds beside Anthropic's: the same answers, errors that are no client's, and what is served where."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.upstream.credential import Fixed, NotReady
from gateway.upstream.providers import PROVIDERS
from tests.journeys.clouds import (
    BEDROCK,
    FOUNDRY,
    MANTLE,
    PLATFORM,
    VERTEX,
    aws,
    corrupt,
    fails,
    framed,
    frames,
    google,
)
from tests.journeys.driver import Rig
from tests.journeys.http import Answer
from tests.journeys.journey import (
    BLOCK,
    MODEL,
    PING,
    THINKER,
    Ask,
    Journey,
    Want,
    as_json,
    ask,
    delta,
    error,
    good,
    journey,
    message,
    started,
    stream,
    usage,
    whole_stream,
)

EVERY = {"bedrock": BEDROCK, "mantle": MANTLE, "vertex": VERTEX, "foundry": FOUNDRY, "platform": PLATFORM}
EVENTS = whole_stream("Good ", "evening", ", all.")
NAMES = [each.split(b"\n")[0].decode().removeprefix("event: ") for each in EVENTS]
ARN = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.x"


# Of 200,000 nano-dollars: what a profile of a geography costs more, which is Bedrock's default.
COSTS = {"bedrock": 220_000, "mantle": 220_000}


def on(cloud: str, *others: str, **more: Any) -> dict[str, Any]:
    """A pool whose account a is on a cloud, as are others that are named so; b and c are Anthropic's."""
    pool: dict[str, Any] = {"a": EVERY[cloud], "b": {}, "c": {}}
    pool |= dict.fromkeys(others, EVERY[cloud]) | more
    return {name: {"workspace": name, "organization": name, **each} for name, each in pool.items()}


def served(by: str = "a", attempts: int = 1, **more: Any) -> Want:
    return Want(by=by, attempts=attempts, used=(100, 20), **{"money": 200_000, **more})


def at_its_price(cloud: str) -> dict[str, Any]:
    pool = on(cloud)
    pool["a"].pop("price_factor", None)
    return pool


WELL = [
    each
    for cloud in EVERY
    for each in (
        journey(
            f"{cloud} answers in JSON",
            ask(want=served(route="new", content="Good evening.", money=COSTS.get(cloud, 200_000))),
            pool=at_its_price(cloud),
            asked="a",
            bound="a",
        ),
        journey(
            f"{cloud} answers in events",
            ask(
                stream=True,
                want=served(
                    events=" ".join(NAMES[:4] + NAMES[5:]), content="Good evening.", money=COSTS.get(cloud, 200_000)
                ),
            ),
            pool=at_its_price(cloud),
            asked="a",
            bound="a",
        ),
    )
]


@pytest.mark.parametrize("journey", WELL, ids=str)
def test_clouds_answer_as_anthropic_does(journey: Journey, rig: Rig):
    rig.play(journey)


def broken(count: int, tail: bytes, ends: str, why: str) -> Journey:
    """A stream of Bedrock's of which so many events come whole, and then this."""
    if count > 1:
        want = Want(
            by="a", attempts=1, events=" ".join([*NAMES[:count], "error"]),
            record={"outcome": "interrupted", "estimated": True, "stream": True},
        )  # fmt: skip
    else:
        want = Want(status=502, by="a", attempts=1, error="api_error", record={"outcome": "error", "estimated": True})
    return journey(
        f"a stream of Bedrock's that {why} after {count} events ends in one error event",
        ask(stream=True, want=want),
        pool=on("bedrock"),
        upstream={"a": [frames(*EVENTS[:count], *((tail,) if tail else ()), ends=ends)]},
        asked="a",
    )


CUT = [
    *(broken(count, framed(EVENTS[count])[:17], "cut", "is cut") for count in range(len(EVENTS))),
    *(broken(count, b"", "whole", "ends without its last event") for count in range(len(EVENTS))),
    *(broken(count, corrupt(), "silent", "has a wrong checksum") for count in range(len(EVENTS))),
    *(broken(count, fails("throttlingException", f"{ARN} is slow"), "whole", "fails") for count in range(2, 8)),
]


@pytest.mark.parametrize("journey", CUT, ids=str)
def test_a_broken_stream_of_bedrock_never_looks_complete(journey: Journey, rig: Rig):
    rig.play(journey)


def first(name: str, asked: str, status: int | None = None, kind: str | None = None) -> Journey:
    """An exception is the first frame of a stream."""
    want = served("b", 2, content="Good evening.") if kind is None else Want(error=kind, record={"outcome": "error"})
    return journey(
        f"{name} as the first frame is no answer",
        ask(stream=True, want=want),
        pool=on("bedrock"),
        upstream={"a": [frames(fails(name, f"not {ARN}"))]},
        asked=asked,
        accounts={"a": "limited 5" if name == "throttlingException" else "open"},
    )


@pytest.mark.parametrize(
    "journey",
    [
        first("throttlingException", "a b"),
        first("internalServerException", "a b"),
        first("modelStreamErrorException", "a b"),
        first("serviceUnavailableException", "a b"),
        first("validationException", "a b"),
        first("modelTimeoutException", "a b"),
    ],
    ids=str,
)
def test_an_exception_before_the_first_content_moves_on(journey: Journey, rig: Rig):
    rig.play(journey)


# How the account stands afterwards: open, unless it is said here.
STATES = {
    "is throttled": "limited 5",
    "has used up its day": "limited 3600",
    "is over a quota, which": "limited 5",
    "has no access": "out 600",
    "needs a profile": "out 600",
    "has no such": "out 600",
    "lacks a form": "out 600",
    "is over a quota": "limited 5",
    "is over a quota, in": "limited 5",
    "denies": "out 600",
    "may not use": "out 600",
    "is a page": "out 600",
    "is limited": "limited 30",
}
ELSEWHERE: list[tuple[str, str, Answer]] = [
    ("bedrock", "is throttled", aws(429, "ThrottlingException", "Too many requests, please wait.")),
    ("bedrock", "has used up its day", aws(429, "ThrottlingException", "Too many tokens per day.")),
    ("bedrock", "is over a quota, which is no mistake", aws(400, "ServiceQuotaExceededException", "over")),
    ("bedrock", "has no model ready", aws(429, "ModelNotReadyException", "not ready")),
    ("bedrock", "is unavailable", aws(503, "ServiceUnavailableException", "Too many connections")),
    ("bedrock", "has no access to the model", aws(403, "AccessDeniedException", f"not authorized on {ARN}")),
    ("bedrock", "has an expired token", aws(403, "ExpiredTokenException", "The security token is expired")),
    ("bedrock", "has a wrong key", aws(403, "UnrecognizedClientException", "The security token is invalid.")),
    ("bedrock", "needs a profile", aws(400, "ValidationException", "on-demand throughput isn't supported")),
    ("bedrock", "fails", aws(500, "InternalServerException", "oh")),
    ("bedrock", "fails in the model", aws(424, "ModelErrorException", "oh")),
    ("bedrock", "is late", aws(408, "ModelTimeoutException", "oh")),
    ("bedrock", "has no such model", aws(404, "ResourceNotFoundException", f"no {ARN}")),
    ("bedrock", "lacks a form", aws(404, "FTUFormNotFilled", "fill it in")),
    ("mantle", "is throttled", error(429, "rate_limit_error")),
    ("mantle", "refuses its key", aws(403, "AccessDeniedException", "Invalid API Key format: bearer token")),
    ("vertex", "is over a quota", google(429, "RESOURCE_EXHAUSTED", "Quota exceeded for base_model")),
    ("vertex", "is over a quota, in a list", google(429, "RESOURCE_EXHAUSTED", "Quota exceeded", True)),
    ("vertex", "refuses its token", google(401, "UNAUTHENTICATED", "expired")),
    ("vertex", "denies", google(403, "PERMISSION_DENIED", "Permission denied on projects/secret-project")),
    ("vertex", "may not use the model", google(400, "FAILED_PRECONDITION", "not allowed to use Publisher Model")),
    ("vertex", "has no such model", google(404, "NOT_FOUND", "Publisher Model `projects/secret-project/x`")),
    ("vertex", "is a page", Answer(404, (("content-type", "text/html"),), ((0.0, b"<html>no</html>"),))),
    ("vertex", "is unavailable", google(503, "UNAVAILABLE", "later")),
    ("foundry", "has no such deployment", Answer(404, (("content-type", "application/json"),), (
        (0.0, b'{"error":{"code":"DeploymentNotFound","message":"The API deployment does not exist"}}'),))),
    ("foundry", "refuses its key", Answer(401, (("content-type", "application/json"),), (
        (0.0, b'{"error":{"code":"401","message":"Access denied due to invalid subscription key"}}'),))),
    ("platform", "is not signed well", aws(403, "InvalidSignatureException", f"{ARN} does not match")),
    ("platform", "is limited", error(429, "rate_limit_error", "Slow down.", ("retry-after", "30"))),
]  # fmt: skip


@pytest.mark.parametrize(
    "journey",
    [
        journey(
            f"{cloud} {why}, and another account serves",
            ask(want=served("b", 2, content="Good evening.")),
            pool=on(cloud),
            upstream={"a": [answer]},
            asked="a b",
            accounts={"a": next((state for words, state in STATES.items() if why.startswith(words)), "open")},
        )
        for cloud, why, answer in ELSEWHERE
    ],
    ids=str,
)
def test_what_is_about_the_account_no_client_sees(journey: Journey, rig: Rig):
    rig.play(journey)


def told(cloud: str, answer: Answer, status: int, kind: str, says: str) -> Journey:
    """Every account of a pool refuses alike, so that the client sees it."""
    return journey(
        f"of {kind} on {cloud} a client sees {says!r}",
        ask(want=Want(status=status, error=kind, says=says, record={"outcome": "error"})),
        pool=on(cloud, "b", "c"),
        upstream={"*": [answer] * 3},
        model="claude-haiku-4-5",
    )  # fmt: skip


TOLD = [
    told("bedrock", aws(400, "ValidationException", "Input is too long for requested model."), 400,
         "invalid_request_error", "prompt is too long"),
    told("bedrock", aws(400, "ValidationException", f"messages.1: bad at {ARN}"), 400, "invalid_request_error",
         "messages.1: bad at …"),
    told("bedrock", aws(400, "ValidationException", "The model returned the following errors: thinking.type: adaptive"),
         400, "invalid_request_error", "thinking.type: adaptive"),
    told("bedrock", aws(403, "AccessDeniedException", f"User: {ARN} is not authorized"), 403, "permission_error",
         "The account may not use this model."),
    told("vertex", google(400, "INVALID_ARGUMENT", "projects/secret-project: thinking.type: enabled"), 400,
         "invalid_request_error", "… thinking.type: enabled"),
    told("foundry", error(400, "invalid_request_error", "prompt is too long: 7 tokens"), 400, "invalid_request_error",
         "prompt is too long"),
]  # fmt: skip


@pytest.mark.parametrize("journey", TOLD, ids=str)
def test_what_a_client_may_mend_it_sees_without_names(journey: Journey, rig: Rig):
    rig.play(journey)


def count(want: Want, **more: Any) -> Ask:
    body = message()
    del body["max_tokens"]
    return Ask(want=want, path="/v1/messages/count_tokens", body={**body, **more})


COUNTED = [
    journey(
        f"{cloud} counts tokens in its own form",
        count(Want(by="a", body=b'{"input_tokens":7}' if cloud == "bedrock" else b'{"input_tokens": 7}')),
        pool=on(cloud),
        asked="a",
    )
    for cloud in EVERY
] + [
    journey(
        "an account that cannot count is not asked, and its conversation stays",
        count(Want(by="b"), model="claude-opus-4-8"),
        ask(stream=False, want=Want(by="a", route="bound"), at=1.0, model="claude-opus-4-8"),
        given=(ask(want=Want(by="a", route="new"), model="claude-opus-4-8"),),
        pool=on("bedrock"),
        asked="b a",
        bound="a",
        model="claude-opus-4-8",
    ),
    journey(
        "where nobody can count nobody is asked",
        count(Want(status=404, error="not_found_error"), model="claude-opus-4-8"),
        pool=on("bedrock", "b", "c"),
        asked="",
        model="claude-opus-4-8",
    ),
    journey(
        "chats go where they are served",
        Ask(want=Want(by="b"), path="/v1/chat/completions", body=message()),
        pool=on("bedrock"),
        upstream={"b": [as_json(200, {"id": "chatcmpl-1", "model": MODEL, "choices": []})]},
        asked="b",
    ),
    journey(
        "objects are created where there are any",
        Ask(want=Want(by="b"), path="/v1/agents", body={"name": "x"}, conversation=None),
        pool={"a": BEDROCK, "b": {}},
        asked="b",
    ),
    journey(
        "where no account has objects there are none",
        Ask(
            want=Want(status=404, error="not_found_error"), path="/v1/agents", body={"name": "x"}, conversation=None
        ),
        pool={"a": BEDROCK, "b": VERTEX},
        asked="",
    ),
]  # fmt: skip


@pytest.mark.parametrize("journey", COUNTED, ids=str)
def test_what_a_provider_does_not_serve_it_is_not_asked(journey: Journey, rig: Rig):
    rig.play(journey)


def test_a_silent_stream_of_bedrock_has_pings_of_ours(rig: Rig):
    rig.play(
        journey(
            "a silent stream of Bedrock's",
            ask(stream=True, want=served(events=f"{' '.join(NAMES[:3])} ping {' '.join(NAMES[3:])}")),
            pool=on("bedrock"),
            upstream={
                "a": [
                    Answer(
                        200,
                        frames().headers,
                        tuple((20.0 if n == 3 else 0.1, framed(each)) for n, each in enumerate(EVENTS)),
                        chunked=True,
                    )
                ]
            },
            config={"timeouts": {"ping": 15}},
            asked="a",
        )
    )


def test_a_client_never_learns_whose_account_it_was(rig: Rig):
    hidden = dict.fromkeys(("x-amzn-requestid", "x-amzn-bedrock-input-token-count", "x-amzn-errortype", "server"))
    answer = good()
    headers = (*answer.headers[:1], ("x-amzn-requestid", "aws-1"), ("x-amzn-bedrock-input-token-count", "7"))
    rig.play(
        journey(
            "headers of Bedrock's stay",
            ask(want=Want(by="a", headers={**hidden, "request-id": "aws-1"})),
            pool=on("bedrock"),
            upstream={"a": [Answer(200, headers, answer.pieces)]},
        )
    )


def test_a_conversation_stays_on_its_cloud(rig: Rig):
    rig.play(
        journey(
            "a conversation on Bedrock",
            *(ask(stream=n % 2 == 1, want=Want(by="a", route="bound", attempts=1), at=n * 1.0) for n in range(4)),
            given=(ask(want=Want(by="a", route="new")),),
            pool=on("bedrock"),
            asked="a a a a",
            bound="a",
        )
    )


def test_what_is_metered_is_the_message_s_own_usage(rig: Rig):
    used = usage(10, 5, cache_read_input_tokens=200, cache_creation_input_tokens=0)
    rig.play(
        journey(
            "usage of Bedrock's",
            ask(stream=True, want=Want(by="a", used=(10, 200, 0, 0, 5))),
            pool=on("bedrock"),
            upstream={"a": [frames(*whole_stream("x", used=used))]},
        )
    )


def test_a_body_goes_to_bedrock_without_model_and_stream_and_with_its_betas(rig: Rig):
    asks = ask(
        stream=True,
        want=Want(by="a"),
        headers=(("anthropic-beta", "interleaved-thinking-2025-05-14, oauth-2025-04-20"), ("x-amz-date", "no")),
    )
    play = journey("betas", asks, pool=on("bedrock"), heard={"anthropic-beta": None, "x-amz-date": None})
    rig.play(play)
    assert json.loads(asks.payload)["stream"] is True
    _ = (BLOCK, PING, delta, started, stream)


# What a request needs and an account lacks.

SEARCH = [{"type": "web_search_20250305", "name": "web_search"}]
FLAGS = (("anthropic-beta", "claude-code-20250219, of-next-month-2026-12-01"),)
UNKNOWN_FLAG = aws(400, "ValidationException", "invalid beta flag")
LACKING = [
    journey(
        "a tool that the home lacks makes a detour, and the conversation stays",
        ask(
            want=Want(by="b", route="detour", attempts=1, record={"lacking": ("tool:web_search_20250305",)}),
            tools=SEARCH,
        ),
        ask(want=Want(by="a", route="bound"), at=1.0),
        given=(ask(want=Want(by="a", route="new")),),
        pool=on("bedrock"),
        asked="b a",
        bound="a",
    ),
    journey(
        "a new conversation lives where its tools are served",
        ask(want=Want(by="b", route="new", attempts=1), tools=SEARCH),
        pool=on("bedrock"),
        asked="b",
        bound="b",
    ),
    journey(
        "what one cloud lacks another one has",
        ask(want=Want(by="b", attempts=1), tools=SEARCH),
        pool=on("bedrock", b=VERTEX, c=MANTLE),
        asked="b",
    ),
    journey(
        "what nobody has is refused in Anthropic's words before anybody is asked",
        ask(want=Want(status=400, error="invalid_request_error", says="web_search_20250305"), tools=SEARCH),
        pool=on("bedrock", "b", "c"),
        asked="",
    ),
    journey(
        "a flag that nobody knows is tried, left out once it is refused, and not sent again",
        ask(want=served("a", 2, content="Good evening."), headers=FLAGS),
        ask(want=served("a", 1, content="Good evening."), headers=FLAGS, at=1.0),
        pool=on("bedrock"),
        upstream={"a": [UNKNOWN_FLAG]},
        asked="a a a",
        bound="a",
    ),
    journey(
        "a refused flag is not left out where a member may belong to it",
        ask(want=served("b", 2, content="Good evening."), headers=FLAGS, novelty={}),
        ask(want=served("b", 1, route="detour"), headers=FLAGS, novelty={}, at=1.0),
        ask(want=served("a", 1, route="bound"), at=2.0),
        given=(ask(want=Want(by="a", route="new")),),
        pool=on("bedrock"),
        upstream={"a": [UNKNOWN_FLAG]},
        asked="a b b a",
        bound="a",
    ),
    journey(
        "a strict account is not asked to do without",
        ask(want=served("b", 2, content="Good evening."), headers=FLAGS),
        pool=on("bedrock", a={**BEDROCK, "betas": "strict"}),
        upstream={"a": [UNKNOWN_FLAG]},
        asked="a b",
    ),
    journey(
        "the operator knows better",
        ask(want=served("a", 1), tools=SEARCH),
        pool=on("bedrock", a={**BEDROCK, "capabilities": {"tool:web_search_*": "ok"}}),
        asked="a",
    ),
    journey(
        "every replica knows what one has learned",
        ask(want=served("a", 2), headers=FLAGS),
        ask(want=served("a", 1), headers=FLAGS, at=1.0, replica=1),
        pool=on("bedrock"),
        upstream={"a": [UNKNOWN_FLAG]},
        asked="a a a",
        replicas=2,
    ),
]


@pytest.mark.parametrize("journey", LACKING, ids=str)
def test_what_an_account_lacks_it_is_not_asked(journey: Journey, rig: Rig):
    rig.play(journey)


@pytest.mark.parametrize("provider", ["anthropic", "bedrock"])
def test_an_account_costs_what_its_operator_says(rig: Rig, provider: str):
    pool = on("bedrock") if provider == "bedrock" else {"a": {}, "b": {}, "c": {}}
    pool["a"] = {**pool["a"], "price_factor": 0.85}
    rig.play(journey("a discount", ask(want=served(money=170_000)), pool=pool))


class Lacking(Fixed):
    """A credential that cannot be had."""

    trouble = "the role may not be assumed"

    def lines(self, method: bytes, host: bytes, path: bytes, body: bytes) -> bytes:
        raise NotReady(self.trouble)


def test_an_account_without_a_credential_is_passed_over_and_is_not_to_blame(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    row = msgspec.structs.replace(PROVIDERS["bedrock"], credential=lambda settings: Lacking("x", "y"))
    monkeypatch.setitem(PROVIDERS, "bedrock", row)
    rig.play(
        journey(
            "no credential",
            *(ask(want=Want(attempts=2), at=n * 1.0, conversation=f"a b c#{n}") for n in range(5)),
            pool=on("bedrock"),
            asked="[bc]( [bc]){4}",
        )
    )


MUCH = 600  # tokens of output that a request may have


def limits(row: dict[str, Any]) -> dict[str, Any]:
    """A pool of two whose account a, on Bedrock, states limits."""
    pool = on("bedrock")
    return {"a": {**pool["a"], "limits": [row]}, "b": pool["b"]}


def nth(n: int, by: str, at: float, **more: Any) -> Ask:
    """The first request of another conversation."""
    return ask(want=more.pop("want", None) or Want(by=by, attempts=1), at=at, conversation=f"a b c#{n}", **more)


STATED = [
    journey(
        "requests of a minute",
        *(nth(n, by, n * 1.0) for n, by in enumerate("aabb")),
        pool=limits({"models": ["claude-haiku-*"], "requests_per_minute": 2}),
        asked="a a b b",
        accounts={"a": "limited"},
    ),
    journey(
        "tokens of a day",
        *(nth(n, by, n * 60.0) for n, by in enumerate("aab")),
        pool=limits({"models": ["claude-haiku-*"], "tokens_per_day": 300}),
        asked="a a b",
    ),
    journey(
        "requests of a minute that all models share",
        nth(1, "a", 0.0),
        nth(2, "a", 1.0, model=THINKER),
        nth(3, "b", 2.0),
        nth(4, "b", 3.0, model=THINKER),
        pool=limits({"models": ["claude-*"], "requests_per_minute": 2, "shared": True}),
        asked="a a b b",
        accounts={"a": "limited"},
    ),
    journey(
        "what is reserved for output is there again when the answer has ended",
        nth(0, "a", 0.0),
        nth(1, "a", 1.0, max_tokens=MUCH),
        nth(2, "b", 2.0, max_tokens=MUCH),
        nth(3, "a", 10.0, max_tokens=MUCH),
        pool=limits({"models": ["claude-haiku-*"], "tokens_per_minute": 1000}),
        upstream={"a": [good(), good(after=5.0)]},
        asked="a a b a",
    ),
    journey(
        "what is reserved for output is given back by a client that hangs up",
        nth(1, "a", 0.0, max_tokens=MUCH, gone=1.0, want=Want(status=0)),
        nth(2, "a", 2.0, max_tokens=MUCH),
        pool=limits({"models": ["claude-haiku-*"], "tokens_per_minute": 1000}),
        upstream={"a": [good(after=60.0)]},
        asked="a a",
    ),
    journey(
        "what is reserved for output is given back by an account that fails",
        nth(1, "b", 0.0, max_tokens=MUCH, want=Want(by="b", attempts=2)),
        nth(2, "a", 1.0, max_tokens=MUCH),
        pool=limits({"models": ["claude-haiku-*"], "tokens_per_minute": 1000}),
        upstream={"a": [error(500, "api_error")]},
        asked="a b a",
    ),
]


@pytest.mark.parametrize("journey", STATED, ids=str)
def test_a_stated_limit_steers_before_a_429(journey: Journey, rig: Rig):
    rig.play(journey)
