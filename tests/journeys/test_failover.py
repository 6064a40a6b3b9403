"""Asking more than one account: how often, whom, within which time, and what is said of it afterwards."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.journeys.driver import Rig
from tests.journeys.http import Answer
from tests.journeys.journey import (
    MODEL,
    Journey,
    Want,
    as_json,
    ask,
    error,
    good,
    guessed,
    journey,
    limited,
    message,
    stream,
    told,
    usage,
    whole_stream,
)

GUESS = guessed(message())
REFUSED = Answer(instead="refused")
FAILED = error(500, "api_error")
OVERLOADED = error(529, "overloaded_error")
SPENT = error(400, "invalid_request_error", "Your credit balance is too low.")
BAD_KEY = error(401, "authentication_error")
DENIED = error(403, "permission_error", "Not this model.")
NO_MODEL = error(404, "not_found_error", "model: claude-sonnet-5")
PAGE = Answer(200, (("content-type", "text/html"),), ((0.0, b"<p>hello"),))
HUNG_UP = Answer(instead="hung up")


def served(account: str, attempts: int, route: str, failover: str = "", **record: Any) -> Want:
    """By this account, and billed once: whatever others did is not."""
    return Want(
        by=account, attempts=attempts, route=route, used=(100, 20), money=200_000,
        record={"failover": failover, "outcome": "ok", "estimated": False, **record},
    )  # fmt: skip


def over(status: int, kind: str, attempts: int, **record: Any) -> Want:
    """Nobody has served it, and nobody bills it."""
    return Want(
        status=status, error=kind, attempts=attempts, used=(0, 0), money=0, record={"outcome": "error", **record}
    )


OUT = dict.fromkeys("abc", "out 60")
CHAINS = [
    journey(
        "what two accounts cannot serve the third does",
        ask(want=served("c", 3, "new", "limited")),
        upstream={"a": [limited(30)], "b": [limited(30)]},
        asked="a b c",
        bound="c",
        accounts={"a": "limited 30", "b": "limited 30"},
    ),
    journey(
        "each account is closed for what it said itself",
        ask(want=served("c", 3, "new", "unauthorized")),
        upstream={"a": [BAD_KEY], "b": [limited(30)]},
        asked="a b c",
        bound="c",
        accounts={"b": "limited 30"},
    ),
    journey(
        "when all are at their limits the client is told the shortest wait",
        ask(want=over(429, "rate_limit_error", 3, throttled="account", limit="rate_limit", failover="limited")),
        upstream={"a": [limited(50)], "b": [limited(20)], "c": [limited(40)]},
        asked="a b c",
        accounts={"a": "limited 50", "b": "limited 20", "c": "limited 40"},
    ),
    journey(
        "while all are at their limits nobody is asked",
        ask(want=over(429, "rate_limit_error", 3)),
        ask(at=5.0, conversation="b c a", want=over(429, "rate_limit_error", 0)),
        upstream={each: [limited(30)] for each in "abc"},
        asked="a b c",
        accounts=dict.fromkeys("abc", "limited 25"),
    ),
    journey(
        "when all are out the client does not learn why",
        ask(want=over(529, "overloaded_error", 3)),
        upstream={each: [BAD_KEY] for each in "abc"},
        asked="a b c",
    ),
    journey(
        "when no organization has money left the client does not learn it",
        ask(want=over(529, "overloaded_error", 3)),
        upstream={each: [SPENT] for each in "abc"},
        asked="a b c",
        accounts=OUT,
    ),
    journey(
        "a wait that nobody told is not the client's to know longer than a minute",
        ask(want=Want(status=429, error="rate_limit_error", headers={"retry-after": "60"})),
        upstream={each: [limited(3000)] for each in "abc"},
        accounts=dict.fromkeys("abc", "limited 3000"),
    ),
    journey(
        "a failure is repeated once, elsewhere",
        ask(want=served("b", 2, "new", "failed")),
        upstream={"a": [FAILED]},
        asked="a b",
        bound="b",
    ),
    journey(
        "a second failure is the answer",
        ask(
            want=Want(
                status=500,
                by="b",
                error="api_error",
                says="Upstream's words.",
                attempts=2,
                used=(0, 0),
                money=0,
                record={"failover": "failed"},
            )
        ),
        upstream={"a": [FAILED], "b": [FAILED]},
        asked="a b",
    ),
    journey(
        "ten requests in ten seconds may be repeated",
        *(ask(at=0.1 * n, conversation=f"a b#{n}", want=served("b", 2, "new", "overloaded")) for n in range(10)),
        ask(at=2.0, conversation="a b#10", want=over(529, "overloaded_error", 1)),
        ask(at=22.0, conversation="a b#11", want=served("b", 2, "new", "overloaded")),
        upstream={"a": [OVERLOADED] * 12},
        pool={"a": {}, "b": {}},
        asked="a b " * 10 + "a a b",
    ),
    journey(
        "of much traffic a fifth may be repeated",
        ask(conversation="b a", want=served("b", 1, "new")),
        *(ask(at=1.0 + n / 10, conversation="b a", want=served("b", 1, "bound")) for n in range(59)),
        *(ask(at=7.0 + n / 10, conversation=f"a b#{n}", want=served("b", 2, "new", "overloaded")) for n in range(15)),
        ask(at=9.0, conversation="a b#15", want=over(529, "overloaded_error", 1)),
        upstream={"a": [OVERLOADED] * 16},
        pool={"a": {}, "b": {}},
        asked="b " * 60 + "a b " * 15 + "a",
    ),
    journey(
        "an overload after a failure is the answer",
        ask(want=Want(status=529, by="b", error="overloaded_error", attempts=2)),
        upstream={"a": [FAILED], "b": [OVERLOADED]},
        asked="a b",
    ),
    journey(
        "a limit after a failure is moved from",
        ask(want=served("c", 3, "new", "failed")),
        upstream={"a": [FAILED], "b": [limited(30)]},
        asked="a b c",
        bound="c",
        accounts={"b": "limited 30"},
    ),
    journey(
        "what was denied twice is the client's to know",
        ask(want=Want(status=403, by="b", error="permission_error", says="Not this model.", attempts=2, used=(0, 0))),
        upstream={"a": [DENIED], "b": [DENIED]},
        asked="a b",
    ),
    journey(
        "what was denied once and then refused for the account's sake shows the denial",
        ask(want=Want(status=403, error="permission_error", says="Not this model.", used=(0, 0))),
        upstream={"a": [DENIED], "b": [BAD_KEY], "c": [BAD_KEY]},
    ),
    *(
        journey(
            f"what one account {one} and another {other} the third serves",
            ask(want=served("c", 3, "new", failover)),
            upstream={"a": [first], "b": [second]},
            asked="a b c",
            bound="c",
            accounts={name: "out 600" for name, each in (("a", first), ("b", second)) if each in (DENIED, NO_MODEL)},
        )
        for one, first, failover in (
            ("denies", DENIED, "denied"),
            ("declines", error(400, "invalid_request_error"), "declined"),
        )
        for other, second in (
            ("fails", FAILED),
            ("declines", error(400, "invalid_request_error")),
            ("declines in other words", error(405, "invalid_request_error")),
            ("denies in other words", NO_MODEL),
            ("is too busy for", OVERLOADED),
        )
        if first.status != second.status
    ),
    *(
        journey(
            f"what one account {what} and another breaks off is told as broken off",
            ask(want=Want(status=502, error="api_error", attempts=2, used=(GUESS, 0), record={"estimated": True})),
            upstream={"a": [first], "b": [HUNG_UP]},
            asked="a b",
        )
        for what, first in (("denies", DENIED), ("declines", error(400, "invalid_request_error")))
    ),
    journey(
        "a mistake of the client's is its own once a second account says so, and is asked once after that",
        ask(
            want=Want(
                status=400,
                by="b",
                error="invalid_request_error",
                says="Upstream's words.",
                attempts=2,
                record={"failover": "declined"},
            )
        ),
        ask(
            at=1.0,
            conversation="c a b",
            want=Want(status=400, by="c", error="invalid_request_error", attempts=1, record={"failover": ""}),
        ),
        upstream={name: [error(400, "invalid_request_error")] for name in "abc"},
        asked="a b c",
        bound="c",
    ),
    journey(
        "what one account refuses and another serves is no mistake of the client's",
        ask(want=served("b", 2, "new", "declined")),
        upstream={"a": [error(400, "invalid_request_error")]},
        asked="a b",
        bound="b",
    ),
    journey(
        "a 429 that says nothing and that two accounts give is about the request",
        ask(want=Want(status=429, by="b", error="rate_limit_error", says="Slow down.", attempts=2)),
        ask(at=1.0, conversation="a b c#2", want=served("a", 1, "new")),
        upstream={"a": [limited()], "b": [limited()]},
        asked="a b a",
    ),
    journey(
        "no connection is no attempt that anybody bills",
        ask(want=served("b", 2, "new", "unsent")),
        upstream={"a": [REFUSED]},
        asked="a b",
        bound="b",
    ),
    journey(
        "a connection that never comes costs five seconds",
        ask(want=Want(by="b", attempts=2, within=(5.0, 5.2))),
        upstream={"a": [Answer(instead="unreachable")]},
        asked="a b",
    ),
    journey(
        "three refused connections put an account out",
        *(ask(at=float(n), conversation=f"a b#{n}", want=Want(attempts=2, route="new")) for n in range(3)),
        ask(at=4.0, conversation="a b#4", want=Want(attempts=1, route="new")),
        upstream={"a": [REFUSED] * 3},
        pool={"a": {}, "b": {}, "c": {}, "d": {}},
        asked="a b a b a [bcd] [bcd]",
        accounts={"a": "out"},
    ),
    journey(
        "what broke off is not asked again",
        ask(
            want=Want(
                status=502,
                by="a",
                error="api_error",
                attempts=1,
                used=(GUESS, 0),
                record={"outcome": "error", "cause": "upstream", "estimated": True, "failover": ""},
            )
        ),
        upstream={"a": [HUNG_UP]},
        asked="a",
        bound="a",
    ),
    journey(
        "what broke off is asked again where the operator allows it",
        ask(want=served("b", 2, "new", "broken")),
        upstream={"a": [HUNG_UP]},
        config={"retry_ambiguous": True},
        asked="a b",
        bound="b",
    ),
    journey(
        "an answer that is no HTTP is one that broke off",
        ask(want=Want(status=502, by="a", error="api_error", attempts=1)),
        upstream={"a": [Answer(instead="rubbish")]},
        asked="a",
    ),
    journey(
        "an answer that breaks off in its middle is one that broke off",
        ask(want=Want(status=502, by="a", error="api_error", attempts=1, record={"estimated": True})),
        upstream={"a": [good(ends="cut")]},
        asked="a",
    ),
    journey(
        "a page of HTML is no answer",
        ask(want=served("b", 2, "new", "improper")),
        upstream={"a": [PAGE]},
        asked="a b",
    ),
    journey(
        "two pages of HTML are none either",
        ask(want=Want(status=502, by="b", error="api_error", attempts=2)),
        upstream={"a": [PAGE], "b": [PAGE]},
        asked="a b",
    ),
    journey(
        "a redirect is not followed",
        ask(want=Want(status=502, by="b", error="api_error", attempts=2)),
        upstream={name: [Answer(302, (("location", "http://b.test/v1/messages"),))] for name in "ab"},
        asked="a b",
    ),
]

SIBLINGS = {"a": {}, "a2": {"workspace": "a", "organization": "a"}, "b": {}}
COUSINS = {"a": {"organization": "one"}, "b": {"organization": "one"}, "c": {}}
KINDRED = [
    journey(
        "another key of the workspace serves, and nothing moves",
        ask(want=Want(attempts=2, route="bound")),
        given=(ask(),),
        upstream={"*": [DENIED, good()]},
        pool=SIBLINGS,
        asked="a a2",
        bound="a",
        accounts={"a": "out 600"},
    ),
    journey(
        "a limit closes every key of its organization",
        ask(want=served("b", 2, "new", "limited")),
        upstream={"a": [limited(30)], "a2": [limited(30)]},
        pool=SIBLINGS,
        asked="(a|a2) b",
        bound="b",
        accounts={"a": "limited 30", "a2": "limited 30"},
    ),
    journey(
        "a limit closes every workspace of its organization",
        ask(want=served("c", 2, "new", "limited")),
        upstream={"a": [limited(30)]},
        pool=COUSINS,
        asked="a c",
        bound="c",
        accounts={"a": "limited 30", "b": "limited 30"},
    ),
    journey(
        "no money closes every workspace of its organization",
        ask(want=served("c", 2, "new", "spent")),
        upstream={"a": [SPENT]},
        pool=COUSINS,
        asked="a c",
        bound="c",
        accounts={"a": "out 60", "b": "out 60"},
    ),
    journey(
        "a bad key closes no other workspace, nor its own before a probe has shown it",
        ask(want=served("b", 2, "new", "unauthorized")),
        upstream={"a": [BAD_KEY]},
        pool=COUSINS,
        asked="a b",
        bound="b",
    ),
    journey(
        "a limit of one model closes no other",
        ask(want=served("b", 2, "new", "limited")),
        ask(at=5.0, model="claude-opus-4-8", want=Want(by="a", attempts=1)),
        upstream={"a": [limited(30)]},
        asked="a b a",
        accounts={"a": "limited 25"},
    ),
    journey(
        "a model that is denied closes no other model",
        ask(want=served("b", 2, "new", "denied")),
        ask(at=5.0, model="claude-opus-4-8", want=Want(by="a", attempts=1)),
        upstream={"a": [DENIED]},
        asked="a b a",
        accounts={"a": "out 595"},
    ),
]

BACK = [
    journey(
        "a limit that has passed is asked again, by whoever is new",
        ask(want=served("b", 2, "new", "limited")),
        ask(at=40.0, conversation="a b c#2", want=served("a", 1, "new")),
        upstream={"a": [limited(30)]},
        asked="a b a",
    ),
    journey(
        "limits that nobody names close once three conversations met them, for five seconds and then ten",
        *(
            ask(at=n / 10, conversation=f"a b c#{n}", want=served("b", 2, "new", "unexplained"))
            for n in (*range(3), *range(60, 63))
        ),
        ask(at=0.5, conversation="a b c#3", want=served("b", 1, "new")),
        ask(at=13.0, conversation="a b c#4", want=served("b", 1, "new")),
        ask(at=17.0, conversation="a b c#5", want=served("a", 1, "new")),
        upstream={"a": [limited()] * 6},
        pool={"a": {}, "b": {}},
        asked="a b a b a b b a b a b a b b a",
    ),
    journey(
        "one request finds out whether there is money again",
        ask(want=served("b", 2, "new", "spent")),
        ask(at=61.0, conversation="a b c#2", want=served("b", 2, "new", "spent")),
        ask(at=62.0, conversation="a b c#3", want=served("b", 1, "new")),
        upstream={"a": [SPENT, SPENT]},
        pool={"a": {}, "b": {}},
        asked="a b a b b",
        accounts={"a": "out 120"},
    ),
    journey(
        "an account that fails two conversations in a pool of two is left, and a third tries it ten seconds later",
        *(ask(at=float(n), conversation=f"a b#{n}", want=served("b", 2, "new", "failed")) for n in range(2)),
        ask(at=3.0, conversation="a b#3", want=served("b", 1, "new")),
        ask(at=12.0, conversation="a b#4", want=served("b", 1, "new")),
        ask(at=13.0, conversation="a b#5", want=served("a", 1, "new")),
        upstream={"a": [FAILED] * 2},
        pool={"a": {}, "b": {}},
        asked="a b a b b a b a",  # by a probe that costs nothing, and then by the next
    ),
    journey(
        "a head that comes too late for a second account is a timeout",
        ask(want=Want(status=504, error="timeout_error", attempts=2, within=(12.0, 13.0))),
        upstream={"a": [error(500, "api_error", after=8.0)], "b": [good(after=30.0)]},
        config={"timeouts": {"first_byte": 10, "total": 12}},
        asked="a b",
    ),
    journey(
        "no wait for a limit goes beyond the time that a request has",
        ask(want=Want(by="b", attempts=2, route="moved", within=(0.0, 1.0))),
        given=(ask(),),
        then={"a": [good(used=usage(20_000))]},
        upstream={"a": [limited(8)]},
        config={"timeouts": {"first_byte": 5, "total": 6}},
        asked="a b",
        bound="b",
        accounts={"a": "limited 8"},
    ),
]

JSON = (("content-type", "application/json"),)
GZIP = (*JSON, ("content-encoding", "gzip"))
EVENTS = (("content-type", "text/event-stream"), ("content-encoding", "gzip"))
REPEATED = (
    ("x-api-key", "key-of-a"), ("authorization", "Bearer key-of-a"), ("x-echo", "key=key-of-a;"), ("x-other", "1"),
)  # fmt: skip
CONFLICT = error(409, "conflict_error", "bad key key-of-a")
NO_ANSWERS = {
    "an empty body": Answer(200, JSON),
    "a body that is no JSON": Answer(200, JSON, ((0.0, b"ok"),)),
    "an error with a good status": Answer(200, JSON, ((0.0, b'{"type":"error","error":{"type":"api_error"}}'),)),
    "an object that is no message": Answer(200, JSON, ((0.0, b'{"hello":"world"}'),)),
}
BODIES = [
    *(
        journey(
            f"{what} is no answer, and another account gives one",
            ask(want=served("b", 2, "new", "improper")),
            upstream={"a": [answer]},
            asked="a b",
        )
        for what, answer in NO_ANSWERS.items()
    ),
    *(
        journey(
            f"an object that is no {what} is no answer, and another account gives one",
            ask(want=Want(by="b", attempts=2, body=json.dumps(proper).encode()), path=path),
            upstream={"a": [Answer(200, JSON, ((0.0, b'{"hello":"world"}'),))], "b": [as_json(200, proper)]},
            asked="a b",
        )
        for what, path, proper in (
            ("chat", "/v1/chat/completions", {"id": "chatcmpl-1", "model": MODEL, "choices": []}),
            ("count", "/v1/messages/count_tokens", {"input_tokens": 9}),
        )
    ),
    journey(
        "an answer that is none on two accounts is the gateway's 502",
        ask(want=Want(status=502, error="api_error", attempts=2, used=(0, 0), money=0)),
        upstream={name: [Answer(200, JSON)] for name in "ab"},
        asked="a b",
    ),
    journey(
        "an answer that was encoded though nobody asked for it passes as it came, and is metered",
        ask(want=Want(by="a", headers={"content-encoding": "gzip"}, used=(100, 20))),
        upstream={"a": [Answer(200, GZIP, ((0.0, gzip.compress(good().pieces[0][1], mtime=0)),))]},
        asked="a",
    ),
    journey(
        "a stream that was encoded though nobody asked for it is decoded, and metered",
        ask(
            stream=True, want=Want(by="a", headers={"content-encoding": None}, content="Good evening.", used=(100, 20))
        ),
        upstream={"a": [Answer(200, EVENTS, ((0.0, gzip.compress(b"".join(whole_stream()), mtime=0)),))]},
        asked="a",
    ),
    journey(
        "an account's key that its upstream repeats is not the client's to see",
        ask(
            want=Want(
                status=409,
                by="a",
                says="bad key [the account's key]",
                headers={"x-api-key": None, "authorization": None, "x-echo": None, "x-other": "1"},
            )
        ),
        upstream={"a": [error(409, "conflict_error", "bad key key-of-a", *REPEATED)]},
        asked="a",
    ),
    journey(
        "nor is it in the head of a good answer",
        ask(want=Want(by="a", headers={"x-api-key": None, "authorization": None, "x-echo": None, "x-other": "1"})),
        upstream={"a": [as_json(200, good().pieces[0][1], *REPEATED)]},
        asked="a",
    ),
    journey(
        "nor in a refusal that was encoded though nobody asked for it",
        ask(want=Want(status=409, by="a", says="bad key [the account's key]", headers={"content-encoding": None})),
        upstream={"a": [Answer(409, GZIP, ((0.0, gzip.compress(CONFLICT.pieces[0][1], mtime=0)),))]},
        asked="a",
    ),
    journey(
        "nor in an error in the middle of a stream",
        ask(
            stream=True,
            want=Want(by="a", error="api_error", says="bad key [the account's key]", record={"outcome": "interrupted"}),
        ),
        upstream={"a": [stream(*whole_stream()[:4], told("api_error", "bad key key-of-a"))]},
        asked="a",
    ),
    journey(
        "a refusal about the organization's money is understood though it was encoded",
        ask(want=served("b", 2, "new", "spent")),
        upstream={"a": [Answer(400, GZIP, ((0.0, gzip.compress(SPENT.pieces[0][1], mtime=0)),))]},
        asked="a b",
        bound="b",
        accounts={"a": "out 60"},
    ),
]

PASSES = [
    journey(
        "the account's own headers are not the client's to see",
        ask(
            want=Want(
                by="a",
                headers={
                    "anthropic-organization-id": None,
                    "anthropic-ratelimit-requests-limit": None,
                    "retry-after": None,
                    "set-cookie": None,
                    "server": None,
                    "x-novelty": "kept",
                    "request-id": "req_upstream",
                },
            )
        ),
        upstream={
            "a": [
                Answer(
                    200,
                    (
                        *good().headers,
                        ("anthropic-organization-id", "org"),
                        ("anthropic-ratelimit-requests-limit", "9"),
                        ("anthropic-ratelimit-requests-remaining", "8"),
                        ("retry-after", "7"),
                        ("set-cookie", "a=b"),
                        ("server", "cloudflare"),
                        ("x-novelty", "kept"),
                    ),
                    good().pieces,
                )
            ]
        },
    ),
    journey(
        "the account is not named where the operator does not want it",
        ask(want=Want(headers={"x-gateway-account": None, "x-gateway-attempts": "1"}, record={"account": "a"})),
        config={"expose_account": False},
    ),
    journey(
        "an upstream's refusal keeps its words and tells when to come again",
        ask(
            want=Want(
                status=409, by="a", headers={"retry-after": "9"}, error="conflict_error", says="Upstream's words."
            )
        ),
        upstream={"a": [error(409, "conflict_error", "Upstream's words.", ("retry-after", "9"))]},
        asked="a",
    ),
    journey(
        "an upstream's refusal that is no JSON is put in Anthropic's words",
        ask(want=Want(status=400, by="b", error="invalid_request_error")),
        upstream={name: [Answer(400, (("content-type", "text/plain"),), ((0.0, b"bad"),))] for name in "ab"},
        asked="a b",
    ),
    journey(
        "a refusal whose body never ends is not waited for",
        ask(want=Want(status=409, by="a", error="conflict_error", within=(2.0, 2.3))),
        upstream={"a": [Answer(409, good().headers, ((0.0, b"{" * 100),), ends="silent")]},
        asked="a",
    ),
    journey(
        "a limit whose body never ends is moved from all the same",
        ask(want=Want(by="b", attempts=2, within=(2.0, 2.3))),
        upstream={"a": [Answer(429, (*good().headers, ("retry-after", "30")), ((0.0, b"{" * 100),), ends="silent")]},
        asked="a b",
        accounts={"a": "limited 30"},
    ),
    journey(
        "an account whose headers say that nothing is left is left alone",
        ask(want=served("a", 1, "new")),
        ask(at=1.0, conversation="a b c#2", want=served("b", 1, "new")),
        upstream={
            "a": [
                Answer(
                    200,
                    (
                        *good().headers,
                        ("anthropic-ratelimit-input-tokens-limit", "1000"),
                        ("anthropic-ratelimit-input-tokens-remaining", "0"),
                    ),
                    good().pieces,
                )
            ]
        },
        asked="a b",
    ),
]


@pytest.mark.parametrize("journey", CHAINS + KINDRED + BACK + BODIES + PASSES, ids=str)
def test_more_than_one_account(journey: Journey, rig: Rig):
    rig.play(journey)
