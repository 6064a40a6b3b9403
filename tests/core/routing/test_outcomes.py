"""What an answer of an upstream means, and which answers a client may see."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.routing.outcomes import (
    ACCOUNT_CODES,
    ACCOUNT_WORDS,
    BY_ERROR_TYPE,
    BY_STATUS,
    DISPUTED,
    HIDDEN,
    MAX_RETRY_AFTER,
    Outcome,
    judge,
    judge_body,
    judge_event,
    nameless,
    refusal_kind,
    retry_after,
)
from gateway.errors import TYPES


@pytest.mark.parametrize("status", [100, 200, 201, 204, 299])
def test_answers_are_served(status):
    assert judge(status) is Outcome.SERVED


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 399, 600, 999])
def test_what_is_no_answer_of_the_api_is_improper(status):
    assert judge(status) is Outcome.IMPROPER


@pytest.mark.parametrize("status", [400, 405])
def test_what_may_be_a_clients_own_mistake_is_asked_of_another_account_and_not_hidden(status):
    outcome = judge_body(judge(status), refusal("max_tokens: Field required"))
    assert outcome is Outcome.DECLINED and outcome in DISPUTED
    assert outcome not in HIDDEN


def test_a_404_that_is_no_error_of_the_api_is_about_no_model():
    assert judge_body(judge(404), b"<html>Not Found</html>") is Outcome.DECLINED
    assert judge_body(judge(404), refusal("model: claude-x")) is Outcome.DENIED


@pytest.mark.parametrize("status", [408, 409, 413, 415, 418, 422, 451, 499])
def test_a_clients_own_mistake_is_refused_and_passes_as_it_came(status):
    outcome = judge_body(judge(status), refusal("max_tokens: Field required"))
    assert outcome is Outcome.REFUSED
    assert outcome not in HIDDEN


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (401, Outcome.UNAUTHORIZED), (402, Outcome.SPENT), (403, Outcome.DENIED), (404, Outcome.DENIED),
        (429, Outcome.LIMITED), (500, Outcome.FAILED), (502, Outcome.FAILED), (503, Outcome.FAILED),
        (504, Outcome.FAILED), (529, Outcome.OVERLOADED), (599, Outcome.FAILED),
    ],
)  # fmt: skip
def test_an_error_means_what_its_status_says(status, outcome):
    assert judge(status) is outcome


@pytest.mark.parametrize(
    ("error", "like"),
    [
        ("overloaded_error", 529), ("api_error", 500), ("timeout_error", 504), ("anything_else", 500), ("", 500),
        ("rate_limit_error", 429), ("authentication_error", 401), ("billing_error", 402), ("permission_error", 403),
        ("invalid_request_error", 400), ("request_too_large", 413),
    ],
)  # fmt: skip
def test_an_error_as_the_first_event_means_what_its_status_would(error, like):
    assert judge_event(error) is judge(like)


# Money.


def refusal(message: str = "", **details: object) -> bytes:
    error = {"type": "invalid_request_error", "message": message, **({"details": details} if details else {})}
    return json.dumps({"type": "error", "error": error}).encode()


@pytest.mark.parametrize("status", [400, 429])
@pytest.mark.parametrize(
    "body",
    [
        refusal("You have reached your specified API usage limits."),
        refusal("You have reached your specified workspace API usage limits."),
        refusal("Your credit balance is too low to access the API."),
        refusal("any words", error_code="organization_on_hold"),
        refusal("any words", error_code="enforced_spend_limit_reached"),
        refusal("any words", error_code="contract_spend_limit_reached"),
        refusal("any words", error_code="credit_balance_too_low"),
        refusal("any words", error_code="cmek_key_revoked"),
        refusal("Your credit balance is too low", error_code="a_newer_code"),
        b'{"error":{"message":"Your credit balance is too low","details":null}}',
        b'{"error":{"message":"Your credit balance is too low","details":{}}}',
        b'{"error":{"message":"Your credit balance is too low","details":{"error_code":null}}}',
    ],
)
def test_a_400_or_a_429_that_is_about_the_money_is_spent_and_hidden(status, body):
    outcome = judge_body(judge(status), body)
    assert outcome is Outcome.SPENT
    assert HIDDEN[outcome] == 529


@pytest.mark.parametrize("code", ["ramp_limit_exceeded", "rate_limit_reached", "", "x_enforced_spend_limit_reached"])
def test_a_429_of_a_rate_limit_is_no_matter_of_money(code):
    body = refusal("This request would exceed your organization's rate limit", error_code=code)
    assert judge_body(judge(429), body) is Outcome.LIMITED


BODIES = st.binary(max_size=80) | st.sampled_from(
    [
        b"",
        b"null",
        b"{}",
        b'{"error":null}',
        b'{"error":"Your credit balance is too low"}',
        b'{"error":{"message":null}}',
        b'{"error":{"message":"Your credit balance is too low","details":[]}}',
        b'{"error":{"message":"\xff"}}',
        b"[" * 5000,
        refusal("the user wrote: Your credit balance is too low"),
        refusal("x", error_code="invalid_request"),
        refusal("x", error_code=["enforced_spend_limit_reached"]),
    ]
)


@given(BODIES, st.sampled_from([each for each in Outcome if each is not Outcome.DENIED]))
def test_any_other_body_changes_nothing(body, outcome):
    assert judge_body(outcome, body) is outcome


def test_a_refusal_that_passes_names_no_organization():
    told = refusal("This request would exceed your organization's (1f0a-22) rate limit of 30,000 tokens per minute")
    assert nameless(told) == told.replace(b" (1f0a-22)", b"")
    assert nameless(refusal("The long context beta (1m) is not available")) == refusal(
        "The long context beta (1m) is not available"
    )


def test_refusals_that_differ_in_numbers_and_ids_are_of_one_kind():
    one, two = (
        refusal("messages.3.content.17: too long (org 1f0a-22)"),
        refusal("messages.4.content.1: too long (org 9-b3)"),
    )
    assert refusal_kind(400, one) == refusal_kind(400, two) != refusal_kind(404, one)
    assert refusal_kind(400, one) != refusal_kind(400, refusal("max_tokens: Field required"))
    assert refusal_kind(405, b"<html>") == refusal_kind(405, b"") == "405 "


@given(st.sampled_from(ACCOUNT_CODES), st.sampled_from(ACCOUNT_WORDS), st.sampled_from(Outcome))
def test_no_other_outcome_depends_on_its_body(code, words, outcome):
    changed = judge_body(outcome, refusal(words, error_code=code))
    assert changed is (Outcome.SPENT if outcome in (Outcome.DECLINED, Outcome.REFUSED, Outcome.LIMITED) else outcome)


# What a client sees.


def test_what_an_account_suffers_from_is_hidden_behind_what_the_pool_can_do():
    assert HIDDEN == {
        Outcome.UNAUTHORIZED: 529, Outcome.SPENT: 529, Outcome.UNSENT: 529, Outcome.UNABLE: 529, Outcome.LIMITED: 429
    }  # fmt: skip


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422, 500, 502, 503, 504, 529])
def test_what_is_not_about_the_account_alone_passes(status):
    assert judge(status) not in HIDDEN


def test_every_outcome_hides_behind_a_status_that_has_an_error_type():
    assert all(status in TYPES for status in HIDDEN.values())


def test_the_tables_name_errors_alone():
    assert all(400 <= status < 600 for status in BY_STATUS)
    assert {*BY_STATUS.values(), *BY_ERROR_TYPE.values()} <= {*Outcome} - {Outcome.SERVED}


@given(st.integers(100, 999))
def test_every_status_has_an_outcome(status):
    outcome = judge(status)
    assert (outcome is Outcome.SERVED) == (status < 300)
    assert (outcome is Outcome.IMPROPER) == (300 <= status < 400 or status >= 600)
    assert outcome not in (Outcome.UNSENT, Outcome.BROKEN)  # those are no answers


@given(st.text(max_size=20))
def test_every_error_event_has_an_outcome_that_is_an_error(error):
    assert judge_event(error) not in (Outcome.SERVED, Outcome.UNSENT, Outcome.BROKEN, Outcome.IMPROPER)


def test_a_client_is_told_whole_seconds_and_never_none():
    assert retry_after(7.0) == 7
    assert retry_after(7.01) == 8
    assert retry_after(0.0) == 1 == retry_after(-3.0)
    assert retry_after(3600.0) == MAX_RETRY_AFTER == 60
    assert retry_after(None) == 5


@given(st.none() | st.floats())
@example(math.inf)
@example(-math.inf)
@example(math.nan)
def test_any_wait_makes_a_wait_of_one_to_sixty_seconds(value):
    told = retry_after(value)
    assert type(told) is int
    assert 1 <= told <= 60
    if value is None or not math.isfinite(value):
        assert told == 5
