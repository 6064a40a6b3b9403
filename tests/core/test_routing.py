"""What an answer means for the request that received it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import routing
from gateway.core.routing import (
    BY_STATUS,
    MAX_RETRIES,
    RELAY,
    Verdict,
    judge,
    judge_body,
    judge_event,
    may_retry,
    retry_after,
)
from gateway.errors import TYPES


@pytest.mark.parametrize("status", [100, 200, 201, 204, 299])
def test_answers_are_relayed(status):
    assert judge(status) is RELAY


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 399, 600, 999])
def test_what_is_no_answer_of_the_api_is_neither_followed_nor_asked_for_again(status):
    assert judge(status) is routing.IMPROPER


@pytest.mark.parametrize("status", [400, 405, 408, 409, 413, 415, 418, 422, 451, 499])
def test_a_clients_own_mistake_goes_nowhere_else_and_passes_as_it_came(status):
    rule = judge_body(judge(status), refusal("max_tokens: Field required"))
    assert not may_retry(rule, 0)
    assert rule.hide == 0


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


@pytest.mark.parametrize("status", [403, 404])
def test_what_may_be_missing_on_one_account_alone_is_asked_of_one_other(status):
    rule = judge(status)
    assert [may_retry(rule, retries) for retries in range(3)] == [True, False, False]
    assert rule.hide == 0


def refusal(message: str = "", **details: object) -> bytes:
    error = {"type": "invalid_request_error", "message": message, **({"details": details} if details else {})}
    return json.dumps({"type": "error", "error": error}).encode()


@pytest.mark.parametrize(
    "body",
    [
        refusal("You have reached your specified API usage limits."),
        refusal("Your credit balance is too low to access the API."),
        refusal("any words", error_code="enforced_spend_limit"),
        refusal("any words", error_code="credit_balance_too_low"),
        refusal("any words", error_code="cmek_key_revoked"),
    ],
)
def test_a_400_that_is_about_the_account_moves_the_request_and_is_hidden(body):
    rule = judge_body(judge(400), body)
    assert rule.verdict is Verdict.MOVE
    assert rule.hide == 529


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
    ]
)


@given(BODIES, st.sampled_from([400, 401, 403, 404, 429, 500, 529]))
def test_any_other_body_changes_nothing(body, status):
    assert judge_body(judge(status), body) is judge(status)


@pytest.mark.parametrize("status", [401, 402, 429])
def test_an_accounts_own_trouble_moves_the_request_and_is_hidden(status):
    rule = judge(status)
    assert rule.verdict is Verdict.MOVE
    assert rule.hide in (429, 529)
    assert rule.hide != 401


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
def test_an_upstreams_failure_moves_the_request_and_passes_where_nobody_else_is_left(status):
    assert judge(status).verdict is Verdict.MOVE
    assert judge(status).hide == 0


def test_every_rule_hides_behind_a_status_that_has_an_error_type():
    rules = [*BY_STATUS.values(), *(each for each in vars(routing).values() if isinstance(each, routing.Rule))]
    assert all(rule.hide == 0 or rule.hide in TYPES for rule in rules)


@given(st.integers(100, 999))
def test_every_status_has_a_rule_and_only_errors_move(status):
    rule = judge(status)
    assert isinstance(rule.verdict, Verdict)
    assert (rule is RELAY) == (status < 300)
    assert 400 <= status < 600 or not may_retry(rule, 0)


def test_what_reached_an_upstream_is_repeated_a_bounded_number_of_times():
    assert [may_retry(judge(529), retries) for retries in range(4)] == [n < MAX_RETRIES for n in range(4)]


def test_what_was_never_sent_always_moves_on():
    assert all(may_retry(routing.NEVER_SENT, retries) for retries in range(100))


@pytest.mark.parametrize("rule", [RELAY, routing.AMBIGUOUS, routing.IMPROPER])
def test_what_was_answered_or_may_have_been_served_is_not_repeated(rule):
    assert not may_retry(rule, 0)


def test_an_ambiguous_end_is_repeated_only_where_the_operator_asked_for_it():
    assert not may_retry(routing.AMBIGUOUS, 0)
    assert may_retry(routing.RETRY_AMBIGUOUS, 0)
    assert not may_retry(routing.RETRY_AMBIGUOUS, MAX_RETRIES)


def test_the_client_waits_for_the_account_that_is_back_first():
    assert retry_after([30.0, None, 7.0, 12.0]) == 7
    assert retry_after([]) == 5 == retry_after([None, None])
    assert retry_after([0.0]) == 1
    assert retry_after([-3.0]) == 1
    assert retry_after([3600.0]) == 60


@pytest.mark.parametrize("nonsense", [math.inf, -math.inf, math.nan])
def test_a_wait_that_is_no_number_of_seconds_counts_as_none(nonsense):
    assert retry_after([nonsense]) == 5
    assert retry_after([nonsense, 9.0]) == 9


@given(st.lists(st.none() | st.floats()))
def test_any_waits_make_a_wait_of_one_to_sixty_seconds(values):
    told = retry_after(values)
    assert type(told) is int
    assert 1 <= told <= 60
