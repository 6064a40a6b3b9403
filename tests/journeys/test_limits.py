"""What callers and teams may use: taken, refused, given back, and had again once time has passed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.journeys.driver import CALLERS, Rig
from tests.journeys.http import Answer
from tests.journeys.journey import (
    Ask,
    Journey,
    Want,
    as_json,
    ask,
    error,
    good,
    guessed,
    journey,
    message,
    stream,
    usage,
    whole_stream,
)

# What a usual request reserves of a budget: 100 tokens of output, and its body at 4 bytes a token. It uses 200,000.
WHOSE = {"caller": "your", "team": "your team's"}
ONE: dict[str, Any] = {"a": {}}  # where it goes is of no interest here
USES = 200_000


def limits_of(whose: str, limits: dict[str, Any]) -> dict[str, Any]:
    """The configuration in which alice, or the team that she shares with carol, has these limits. Bob has none."""
    if whose == "team":
        return {"teams": [{"id": "research", "limits": limits}]}
    return {"keys": [{**each, "limits": limits} if each["id"] == "alice" else each for each in CALLERS]}


# Kind: the limit, how many requests one after the other it admits, the error, its words, the label in records, and the
# seconds after which it admits again.
KINDS: dict[str, tuple[dict[str, Any], int, str, str, str, int]] = {
    "requests a minute": (
        {"requests_per_minute": 2}, 2, "rate_limit_error", "2 requests per minute", "requests_per_minute", 30,
    ),
    "input tokens a minute": (
        {"input_tokens_per_minute": 60}, 1, "rate_limit_error", "60 input tokens per minute", "input_tokens_per_minute",
        41,
    ),
    "output tokens a minute": (
        {"output_tokens_per_minute": 12}, 1, "rate_limit_error", "12 output tokens per minute",
        "output_tokens_per_minute", 41,
    ),
    "dollars a day": (
        {"budget_usd": {"day": 0.0008}}, 2, "billing_error", "budget of $0.0008 per day", "budget_day", 22_400,
    ),
    "dollars a week": (
        {"budget_usd": {"week": 0.0008}}, 2, "billing_error", "budget of $0.0008 per week", "budget_week", 22_400,
    ),
    "dollars a month": (
        {"budget_usd": {"month": 0.0008}}, 2, "billing_error", "budget of $0.0008 per month", "budget_month", 1_232_000,
    ),
}  # fmt: skip


def refused(words: str, kind: str, label: str, **more: Any) -> Want:
    return Want(
        status=429, error=kind, says=words, attempts=0,
        record={"throttled": "caller", "limit": label, "outcome": "error", "attempts": 0, "account": ""},
        used=(0, 0), money=0, **more,
    )  # fmt: skip


def spaced(asks: list[Ask]) -> list[Ask]:
    """One after the other, two seconds apart."""
    return [replace(each, at=2.0 * number) for number, each in enumerate(asks)]


def used_up(kind: str, whose: str, streamed: bool) -> Journey:
    limits, admits, error_type, words, label, _ = KINDS[kind]
    served = Want(by="a", used=(100, 20), money=USES)
    words = f"{WHOSE[whose]} {'limit of ' if '$' not in words else ''}{words}"
    asks = [ask(stream=streamed, want=served) for _ in range(admits)]
    asks.append(ask(stream=streamed, want=refused(words, error_type, label)))
    # A colleague is refused by what the team has used up; who has nothing to do with it is served.
    shared = refused(words, error_type, label) if whose == "team" else Want(by="a")
    asks.append(ask(stream=streamed, want=shared, caller="carol"))
    asks.append(ask(stream=streamed, want=Want(by="a"), caller="bob"))
    return journey(
        f"{kind} of a {whose} are used up by {'streams' if streamed else 'answers'} and then refuse",
        *spaced(asks),
        pool=ONE,
        config=limits_of(whose, limits),
        asked="a " * (admits + (whose != "team")) + "a",
    )


def had_again(kind: str, whose: str) -> Journey:
    limits, admits, *_, wait = KINDS[kind]
    return journey(
        f"{kind} of a {whose} are had again once time has passed",
        ask(want=Want(by="a", used=(100, 20))),
        pool=ONE,
        config=limits_of(whose, limits),
        given=(ask(),) * admits,
        later=float(wait),
    )


USED = [used_up(kind, whose, streamed) for kind in KINDS for whose in ("caller", "team") for streamed in (False, True)]
AGAIN = [had_again(kind, whose) for kind in KINDS for whose in ("caller", "team")]


@pytest.mark.parametrize("journey", USED + AGAIN, ids=str)
def test_limits_are_taken_and_refused(journey: Journey, rig: Rig):
    rig.play(journey)


def at_once(whose: str, streamed: bool, number: int = 3, slots: int = 2) -> Journey:
    """Of so many requests at once, as many as there are slots are served; the next one too once these have ended."""
    answer = stream(*whole_stream(), gap=0.5) if streamed else good(after=3.0)
    asks = [ask(stream=streamed, want=Want(by="a"), at=0.1 * each) for each in range(slots)]
    words = f"{WHOSE[whose]} limit of {slots} concurrent requests"
    asks += [
        ask(
            stream=streamed,
            at=1.0,
            want=refused(words, "rate_limit_error", "concurrency", headers={"retry-after": "1"}),
        )
        for _ in range(slots, number)
    ]
    asks.append(ask(stream=streamed, want=Want(by="a"), at=6.0))
    return journey(
        f"{slots} slots of a {whose} serve {slots} of {number} {'streams' if streamed else 'requests'} at once",
        *asks,
        pool=ONE,
        upstream={"a": [answer] * (slots + 1)},
        config=limits_of(whose, {"concurrency": slots}),
    )


AT_ONCE = [
    at_once(whose, streamed, number, slots)
    for whose in ("caller", "team")
    for streamed in (False, True)
    for number, slots in ((2, 1), (3, 2))
]


# A slot that nobody keeps lasts 45 seconds.
KEPT = [
    journey(
        f"a slot of a {whose} is kept for as long as its stream runs",
        ask(stream=True, want=Want(record={"account": "a", "outcome": "ok"})),  # pings come first
        *(
            ask(
                at=at,
                want=refused(f"{WHOSE[whose]} limit of 1 concurrent requests", "rate_limit_error", "concurrency"),
            )
            for at in (40.0, 50.0, 100.0, 200.0)
        ),
        ask(at=300.0, want=Want(by="a")),
        pool=ONE,
        upstream={"a": [stream(*whole_stream(), gap=30.0)]},
        config=limits_of(whose, {"concurrency": 1}),
    )
    for whose in ("caller", "team")
]

# How a request ends that holds a slot, reserved money and a request: answer of every account, then what it wants.
ENDS: dict[str, tuple[Answer, Want, dict[str, Any]]] = {
    "is answered": (good(), Want(by="a", money=USES), {}),
    "is refused by the upstream": (
        error(400, "invalid_request_error"), Want(status=400, error="invalid_request_error", money=0), {},
    ),
    "finds no account": (error(401, "authentication_error"), Want(status=529, error="overloaded_error", money=0), {}),
    "finds nobody who takes a connection": (
        Answer(instead="refused"), Want(status=529, error="overloaded_error", money=0), {},
    ),
    "breaks off": (Answer(instead="hung up"), Want(status=502, record={"estimated": True}), {}),
    "is left by its client": (good(after=5.0), Want(status=0, record={"outcome": "client_gone"}), {"gone": 1.0}),
    "is left in the middle of a stream": (
        stream(*whole_stream(), gap=1.0), Want(status=200, record={"outcome": "client_gone"}),
        {"gone": 3.5, "stream": True},
    ),
    "times out": (Answer(instead="silent"), Want(status=504, record={"estimated": True}), {}),
}  # fmt: skip

GIVEN_BACK = [
    journey(
        f"a request that {how} gives back its {whose}'s slot and what it reserved",
        ask(want=want, **more),
        ask(at=90.0, want=Want(status=200)),
        upstream={each: [answer] for each in "abc"},
        config={
            **limits_of(whose, {"concurrency": 1, "budget_usd": {"day": 0.0009}}),
            "timeouts": {"first_byte": 10, "total": 12},
        },
    )
    for how, (answer, want, more) in ENDS.items()
    for whose in ("caller", "team")
]


@pytest.mark.parametrize("journey", AT_ONCE + KEPT + GIVEN_BACK, ids=str)
def test_slots_are_given_back(journey: Journey, rig: Rig):
    rig.play(journey)


# -- What is counted, and what it costs -------------------------------------------------------------------------------


def alone(**limits: Any) -> dict[str, Any]:
    return limits_of("caller", limits)


OVER = Want(status=429, error="rate_limit_error", attempts=0)
BROKE = Want(status=429, error="billing_error", attempts=0, headers={"x-should-retry": "false"})
BATCHED = as_json(200, {"id": "msgbatch_1", "type": "message_batch", "processing_status": "in_progress"})
BATCH = Ask(
    path="/v1/messages/batches", conversation=None, body={"requests": [{"custom_id": "one", "params": message()}]}
)
READS = usage(1, 20, cache_read_input_tokens=100_000)
WRITES = usage(1, 20, cache_creation_input_tokens=1_000)
RATE = "anthropic-ratelimit-"
WARNING = "x-gateway-budget-warning"
SOFT = "20% of your team's budget of $0.002 per week is used; it resets 2030-03-18 00:00 UTC. Ask Ann."
OWN_WORDS = "your team's budget of $0.0001 per day, which resets 2030-03-18 00:00 UTC. Ask Ann."
COUNTED = [
    journey(
        "what is read from a cache is no input",
        *spaced([ask(want=Want(by="a"))] * 3),
        upstream={"a": [good(used=READS)] * 3},
        pool=ONE,
        config=alone(input_tokens_per_minute=300),
    ),
    journey(
        "what is written to a cache is input",
        *spaced([ask(want=Want(by="a")), ask(want=OVER)]),
        upstream={"a": [good(used=WRITES)]},
        pool=ONE,
        config=alone(input_tokens_per_minute=300),
    ),
    journey(
        "a request larger than its limit passes once",
        *spaced([ask(want=Want(by="a", used=(50_000, 20))), ask(want=OVER)]),
        upstream={"a": [good(used=usage(50_000))]},
        pool=ONE,
        config=alone(input_tokens_per_minute=1_000),
    ),
    journey(
        "a budget reserves 8,192 tokens of output at most",
        ask(max_tokens=64_000, want=Want(by="a")),
        ask(max_tokens=64_000, at=0.5, want=BROKE),
        ask(max_tokens=64_000, at=10.0, want=Want(by="a")),
        upstream={"a": [good(after=5.0)]},
        pool=ONE,
        config=alone(budget_usd={"day": 0.05}),
    ),
    journey(
        "a strict budget reserves all that an answer may have",
        ask(max_tokens=64_000, want=BROKE),
        ask(max_tokens=1_000, at=1.0, want=Want(by="a")),
        pool=ONE,
        config={**alone(budget_usd={"day": 0.05}), "budget_mode": "strict"},
    ),
    journey(
        "a budget reserves by the model's price",
        ask(model="claude-opus-4-8", max_tokens=1_000, want=BROKE),
        ask(max_tokens=1_000, at=1.0, want=Want(by="a")),
        pool=ONE,
        config=alone(budget_usd={"day": 0.006}),
    ),
    journey(
        "of twenty requests at once those pass for whom there is money",
        *(ask(at=0.001 * n, conversation=f"a#{n}", want=Want(by="a") if n < 3 else BROKE) for n in range(20)),
        upstream={"a": [good(after=5.0)] * 3},
        pool=ONE,
        config=alone(budget_usd={"day": 0.0017}),
    ),
    journey(
        "money that was reserved and not used is there again",
        *spaced([ask(want=Want(by="a"))] * 6 + [ask(want=BROKE)]),
        pool=ONE,
        config=alone(budget_usd={"day": 0.00165}),
    ),
    journey(
        "a budget warns once more than a share of it is used, and Claude Code in words that it shows",
        ask(want=Want(headers={WARNING: None, RATE + "unified-status": None})),
        ask(at=2.0, want=Want(headers={WARNING: SOFT, RATE + "unified-status": None})),
        ask(
            at=4.0,
            headers=(("user-agent", "claude-cli/2.1.330 (external, cli)"),),
            want=Want(
                headers={
                    WARNING: SOFT.replace("20%", "30%"),
                    RATE + "unified-status": "allowed_warning",
                    RATE + "unified-overage-utilization": "0.30",
                    RATE + "unified-overage-surpassed-threshold": "0.15",
                    RATE + "unified-overage-reset": "1900022400",
                }
            ),
        ),
        pool=ONE,
        config=limits_of("team", {"budget_usd": {"week": 0.002, "soft": [0.9, 0.15], "message": "Ask Ann."}}),
        given=(ask(caller="carol"),),
    ),
    journey(
        "Claude Code is refused for money by a 402, whose words it shows, and warned no more",
        ask(
            headers=(("user-agent", "claude-cli/2.1.330 (external, cli)"),),
            want=Want(
                status=402,
                error="billing_error",
                says=OWN_WORDS.replace("0.0001", "0.0008"),
                attempts=0,
                headers={"x-should-retry": "false", WARNING: None, RATE + "unified-status": None},
                record={"throttled": "caller", "limit": "budget_day", "status": 402},
            ),
        ),
        pool=ONE,
        config=limits_of("team", {"budget_usd": {"day": 0.0008, "message": "Ask Ann.", "soft": [0.1]}}),
        given=(ask(caller="carol"),) * 2,
    ),
    journey(
        "a refusal ends with the company's own words",
        ask(want=refused(OWN_WORDS, "billing_error", "budget_day")),
        pool=ONE,
        config=limits_of("team", {"budget_usd": {"day": 0.0001, "message": "Ask Ann."}}),
    ),
    journey(
        "answers tell callers what is left of their own limits, and of nobody else's",
        ask(
            want=Want(
                headers={
                    RATE + "requests-limit": "50",
                    RATE + "requests-remaining": "49",
                    RATE + "requests-reset": "2030-03-17T17:46:42Z",
                    RATE + "input-tokens-limit": "9000",
                    RATE + "input-tokens-remaining": "9000",
                    RATE + "output-tokens-limit": "8000",
                    RATE + "output-tokens-remaining": "8000",
                    RATE + "tokens-limit": None,
                }
            )
        ),
        ask(at=2.0, want=Want(headers={RATE + "input-tokens-remaining": "9000", RATE + "requests-remaining": "49"})),
        upstream={"a": [Answer(200, (*good().headers, (RATE + "tokens-limit", "7")), good().pieces)]},
        pool=ONE,
        config=alone(requests_per_minute=50, input_tokens_per_minute=9_000, output_tokens_per_minute=8_000),
    ),
    journey(
        "of a caller and its team the tighter limit is told",
        ask(want=Want(headers={RATE + "requests-limit": "20", RATE + "requests-remaining": "19"})),
        pool=ONE,
        config={**alone(requests_per_minute=50), "teams": [{"id": "research", "limits": {"requests_per_minute": 20}}]},
    ),
    journey(
        "who has no limits is told of none",
        ask(want=Want(headers={RATE + "requests-limit": None, RATE + "requests-remaining": None})),
        pool=ONE,
    ),
    journey(
        "a refusal tells what is left, and when a day's money is there again",
        ask(
            want=Want(
                status=429,
                error="billing_error",
                headers={"retry-after": "22400", "x-should-retry": "false", RATE + "requests-remaining": "50"},
            )
        ),
        pool=ONE,
        config=alone(requests_per_minute=50, budget_usd={"day": 0.0001}),
    ),
    journey(
        "what one limit refuses takes nothing of another",
        ask(want=Want(by="a", headers={RATE + "requests-remaining": "4"})),
        *(ask(at=0.5, want=replace(OVER, says="1 concurrent requests")) for _ in range(6)),
        ask(at=10.0, want=Want(by="a", headers={RATE + "requests-remaining": "3"})),
        upstream={"a": [good(after=1.0)]},
        pool=ONE,
        config=alone(requests_per_minute=5, concurrency=1),
    ),
    journey(
        "counting tokens has a bucket of its own",
        *spaced([ask(want=Want(by="a")), ask(want=OVER)]),
        *(
            Ask(want, path="/v1/messages/count_tokens", body=message(), at=at)
            for want, at in ((Want(by="a"), 1.0), (replace(OVER, says="1 token counting requests"), 1.5))
        ),
        pool=ONE,
        config=alone(requests_per_minute=1),
    ),
    journey(
        "a batch is a request, and needs that money is left",
        *spaced([BATCH, replace(BATCH, want=OVER)]),
        upstream={"a": [BATCHED]},
        pool=ONE,
        config=alone(requests_per_minute=1),
    ),
    journey(
        "a request that breaks off costs what it is put at",
        ask(want=Want(status=502, money=1000 * guessed(message()))),
        ask(at=5.0, want=BROKE),
        upstream={"a": [Answer(instead="hung up")]},
        pool=ONE,
        config=alone(budget_usd={"day": 0.000535}),
    ),
]


@pytest.mark.parametrize("journey", COUNTED, ids=str)
def test_what_is_counted(journey: Journey, rig: Rig):
    rig.play(journey)
