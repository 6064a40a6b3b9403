"""How accounts stand, in words: each cause has its sentence, and says when it may be over."""

from __future__ import annotations

import pytest

from gateway.core.routing.broadcast import Closed, Out
from gateway.core.routing.conduct import FIRST_PAUSE, Fault
from gateway.core.routing.health import TRIAL, Cause
from gateway.core.routing.outcomes import Outcome
from gateway.core.routing.router import Router
from gateway.supervisor.pool.diagnosis import STATES, diagnose, fault, full_in, headroom
from tests.core.routing.routing_kit import HOME, NOW, OTHER, WALL, account, fail, router


def go_out(over: Router, cause: Cause, seconds: float) -> None:
    """The account, or where it is about money its organization: both are called the same."""
    if cause is not Cause.UNREACHABLE:
        over.heard(Out("home", cause, seconds), NOW)
        return
    outage = over.health("home").outage  # as connections show, which is no news
    outage.begin(cause, NOW)
    outage.until = NOW + seconds


def test_an_account_that_serves_says_so():
    told = diagnose(router(), HOME, NOW, WALL)
    assert (told.state, told.reason, told.until) == ("available", "", 0.0)
    assert told.why == "It serves requests."


@pytest.mark.parametrize("cause", list(Cause))
def test_an_outage_says_what_the_upstream_said_and_when_it_is_tried_again(cause):
    over = router()
    go_out(over, cause, 60.0)
    told = diagnose(over, HOME, NOW, WALL)
    assert (told.state, told.reason, told.until) == ("out", cause, NOW + 60.0)
    assert len(told.why) > 20
    assert diagnose(over, OTHER, NOW, WALL).state == "available"


def test_the_cause_that_still_lasts_is_the_one_that_is_named():
    over = router()
    go_out(over, Cause.UNREACHABLE, 10.0)
    over.heard(Out("home", Cause.BILLING, 60.0), NOW)
    assert diagnose(over, HOME, NOW + 30.0, WALL + 30.0).reason == Cause.BILLING


@pytest.mark.parametrize("cause", list(Cause))
def test_an_account_whose_pause_is_over_is_out_until_an_answer_shows_otherwise(cause):
    over = router()
    go_out(over, cause, 60.0)
    during, after = diagnose(over, HOME, NOW + 59.0, WALL), diagnose(over, HOME, NOW + 60.0, WALL)
    assert (after.state, after.reason, after.until) == ("out", cause, 0.0)
    assert "request tries it" in after.why and after.why != during.why
    assert over.state(HOME, "", "", 0.0, True, NOW + 60.0)[0] == "", "it may be tried all the same"
    over.try_again(HOME, NOW + 61.0)
    assert diagnose(over, HOME, NOW + 62.0, WALL).until == NOW + 61.0 + TRIAL
    over.served(HOME, None, NOW + 63.0)
    assert diagnose(over, HOME, NOW + 63.0, WALL).state == "available"


def test_of_two_causes_whose_pauses_are_over_the_later_one_is_named():
    over = router()
    go_out(over, Cause.UNREACHABLE, 10.0)
    over.heard(Out("home", Cause.BILLING, 60.0), NOW)
    assert {diagnose(over, HOME, NOW + at, WALL).reason for at in (5.0, 61.0, 4000.0)} == {Cause.BILLING}


@pytest.mark.parametrize("state", ["disabled", "draining"])
def test_what_an_operator_has_set_is_said_rather_than_an_outage(state):
    entry = account("home", state=state)
    over = router(entry)
    over.heard(Out("home", Cause.BILLING, 60.0), NOW)
    assert {diagnose(over, entry, NOW + at, WALL).state for at in (0.0, 61.0)} == {state}


def test_a_limit_that_is_reached_names_the_models_and_when_the_first_opens():
    over = router()
    over.heard(Closed("home", "opus", 50.0), NOW)
    over.heard(Closed("home", "haiku", 20.0), NOW)
    told = diagnose(over, HOME, NOW, WALL)
    assert (told.state, told.reason, told.until) == ("limited", "opus, haiku", NOW + 20.0)
    assert "haiku and opus" in told.why


def test_a_drain_says_when_it_ends_and_that_it_has():
    entry = account("home", state="draining", drain_until=WALL + 60.0)
    told = diagnose(router(entry), entry, NOW, WALL)
    assert (told.state, told.until) == ("draining", NOW + 60.0)
    over = diagnose(router(entry), entry, NOW + 61.0, WALL + 61.0)
    assert (over.state, over.until) == ("draining", 0.0)
    assert over.why != told.why
    for ago in (0.0, NOW - 1.0, NOW, NOW + 86_400.0):  # also before the clock of this machine began
        long_over = account("home", state="draining", drain_until=WALL - ago)
        assert diagnose(router(long_over), long_over, NOW, WALL) == over
    endless = account("home", state="draining")
    assert diagnose(router(endless), endless, NOW, WALL).until == 0.0


def test_what_is_switched_off_says_so():
    entry = account("home", state="disabled")
    assert diagnose(router(entry), entry, NOW, WALL).state == "disabled"


def test_a_model_that_it_may_not_use_is_named_though_it_serves():
    over = router()
    over.denied(HOME, "claude-opus-9", frozenset(), NOW)
    told = diagnose(over, HOME, NOW, WALL)
    assert told.state == "available"
    assert "claude-opus-9" in told.why


def test_features_that_it_refuses_are_named_with_their_model():
    over = router()
    over.denied(HOME, "claude-opus-9", frozenset({"beta:x", "mcp"}), NOW)
    assert "claude-opus-9 with beta:x and mcp" in diagnose(over, HOME, NOW, WALL).why


def test_an_account_that_fails_says_how_who_judged_and_when_it_is_tried():
    over = router()
    over.failing.process = "gateway-1.1"
    fail(over, "home", fault=Fault.CUT)
    over.failing.said("home", NOW)
    told = diagnose(over, HOME, NOW, WALL)
    assert (told.state, told.reason, told.until) == ("failing", "cuts", NOW + FIRST_PAUSE)
    assert told.faults["cuts"] >= 2 and told.by == "gateway-1.1"
    assert told.why.startswith("It fails where other accounts do not: answers broken off in the middle in ")
    assert told.why.endswith(" New conversations go elsewhere; one of them tries it then. Judged by gateway-1.1.")
    due = diagnose(over, HOME, NOW + FIRST_PAUSE, WALL)
    assert (due.state, due.until) == ("failing", 0.0) and "the next one tries it" in due.why


def test_an_account_whose_faults_are_a_while_ago_failed_and_is_not_known_to_be_well():
    over = router()
    fail(over, "home")
    over.failing.postpone("home", NOW + 100.0)  # its probe went badly
    told = diagnose(over, HOME, NOW + 100.0, WALL)
    assert (told.state, told.reason, told.until) == ("failing", "", NOW + 100.0 + 2 * FIRST_PAUSE)
    assert told.why.startswith("It failed where other accounts did not")


def test_what_is_left_of_limits_says_when_all_of_it_is_back():
    over = router()
    domain = over.domain("home", "haiku")
    domain.observe("requests", 60, 30, NOW)
    domain.observe("input", 1000, 1000, NOW)
    assert headroom(over, "home", NOW, WALL) == [
        {"class": "haiku", "limit": "requests", "remaining": 30, "of": 60, "ratio": 0.5,
         "resets_at": "2023-11-14T22:13:50Z"},
        {"class": "haiku", "limit": "input_tokens", "remaining": 1000, "of": 1000, "ratio": 1.0, "resets_at": None},
    ]  # fmt: skip
    over.learn(HOME, "haiku", Outcome.LIMITED, 90.0, NOW)
    assert {row["resets_at"] for row in headroom(over, "home", NOW, WALL)} == {"2023-11-14T22:14:50Z"}
    assert headroom(over, "other", NOW, WALL) == []


def test_a_limit_is_whole_when_it_has_refilled_and_is_open():
    assert full_in(30.0, 60.0, 0.0) == 30.0
    assert full_in(30.0, 60.0, 45.0) == 45.0
    assert full_in(60.0, 60.0, 0.0) == 0.0


def test_what_an_exchange_says_of_an_account():
    assert [fault(code) for code in ("200", "204", "400", "404", "413", "")] == [None] * 6
    for code in ("401", "403", "429", "500", "529", "503", "302", "not_sent", "timeout", "upstream", "something_new"):
        assert fault(code)
    assert fault("503") == "503: the upstream failed"


def test_all_states_are_known():
    assert {"available", "limited", "out", "failing", "draining", "disabled"} == set(STATES)
