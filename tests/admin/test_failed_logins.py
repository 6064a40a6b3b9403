"""Wrong tokens: who hears of them, and how often."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from gateway.admin.failed_logins import MOST, MOST_OF_ALL, FailedLogins
from gateway.log import captured


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_wrong_tokens_are_said_once_and_their_number_when_the_minute_is_over():
    clock = Clock()
    logins = FailedLogins(clock)
    with captured() as logs:
        for _ in range(5 * MOST):
            logins.add("192.0.2.1")
        logins.add("192.0.2.2")
        said = [(line["event"], line["address"]) for line in logs]
        assert said == [("admin token refused", "192.0.2.1"), ("admin token refused", "192.0.2.2")]
        clock.now += 60
        logins.look()
        logins.look()
    assert {line["log_level"] for line in logs} == {"warning"}
    assert [(line["event"], line["address"], line["times"]) for line in logs[2:]] == [
        ("more admin tokens refused", "192.0.2.1", 5 * MOST - 1)
    ]


def test_who_has_tried_too_often_is_told_how_long_that_holds():
    clock = Clock()
    logins = FailedLogins(clock)
    assert [logins.add("192.0.2.1") for _ in range(MOST)] == [0] * MOST
    clock.now += 12.5
    assert (logins.add("192.0.2.1"), logins.add("192.0.2.2")) == (48, 0)
    clock.now += 47.5
    assert logins.add("192.0.2.1") == 0


def test_tries_from_everywhere_do_not_fill_the_log():
    logins = FailedLogins(Clock())
    with captured() as logs:
        for number in range(4 * MOST_OF_ALL):
            logins.add(f"198.51.{number // 256}.{number % 256}")
    assert len(logs) == MOST_OF_ALL


def test_they_are_counted_for_prometheus_from_nought():
    registry, logins = CollectorRegistry(), FailedLogins(Clock())
    registry.register(logins)
    assert registry.get_sample_value("gateway_admin_refused_total") == 0
    for _ in range(2 * MOST):
        logins.add("192.0.2.1")
    assert registry.get_sample_value("gateway_admin_refused_total") == 2 * MOST
