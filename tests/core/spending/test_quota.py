"""Limits as data: what is asked of the store, what a client is told, and what is reserved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.spending import quota
from gateway.core.spending.pricing import Price
from gateway.core.spending.quota import (
    BUCKET,
    COUNT,
    KINDS,
    LEASE,
    LEASES,
    MESSAGE,
    MONEY,
    SUMS,
    Plan,
    Quota,
    Refused,
    Row,
    estimate_cost,
    labels,
    warm_discount,
)
from gateway.store.ledger.ledger import Entry, sums_of

AT = int(datetime(2026, 11, 22, 14, 30, tzinfo=UTC).timestamp()) * 1000
ALL = Quota(600, 400_000, 80_000, 20, 50 * 10**9, 1000 * 10**9, 200 * 10**9)
PRICE = Price(input=3000, output=15_000, write_5m=3750, write_1h=6000, read=300)


def plan(*quotas: Quota) -> Plan:
    subjects = [("c:alice", quotas[0]), *(("t:research", each) for each in quotas[1:])]
    return Plan("t:research" if len(quotas) > 1 else "c:alice", subjects)


def kinds(plan: Plan, endpoints: str = MESSAGE) -> list[tuple[str, str]]:
    return [(row.subject, row.kind.field) for row in plan.limits(endpoints).rows]


# What is asked.


def test_a_caller_without_limits_asks_for_its_reservation_alone():
    unlimited = plan(Quota(), Quota())
    for endpoints in (MESSAGE, COUNT):
        limits = unlimited.limits(endpoints)
        assert (limits.keys, limits.packed, limits.rows) == (("{t:research}:r",), b"", ())
        assert limits.leases == limits.reserved == ()
        assert limits.headers([], AT) == []
    assert unlimited.debits == (b"", b"")
    assert unlimited.subjects == ("c:alice", "t:research")


def test_every_limit_of_caller_and_team_is_a_row():
    fields = ["month", "week", "day", "requests", "input", "output", "concurrency"]
    assert kinds(plan(ALL, ALL)) == [(who, field) for who in ("c:alice", "t:research") for field in fields]
    assert kinds(plan(Quota(), Quota(concurrency=3))) == [("t:research", "concurrency")]


def test_counting_tokens_has_a_bucket_of_its_own_and_nothing_else():
    assert kinds(plan(ALL, ALL), COUNT) == [("c:alice", "counts"), ("t:research", "counts")]
    assert [row.limit for row in plan(ALL, Quota(requests=7)).count.rows] == [600, 7]
    assert kinds(plan(Quota(input_tokens=5, concurrency=1)), COUNT) == []
    assert plan(ALL).count.leases == plan(ALL).count.reserved == ()


def test_keys_are_in_the_slot_of_the_tenant_and_only_those_of_limited_subjects():
    assert plan(ALL, ALL).message.keys == (
        "{t:research}:r", "{t:research}:q:c:alice", "{t:research}:c:c:alice", "{t:research}:q:t:research",
        "{t:research}:c:t:research",
    )  # fmt: skip
    assert plan(Quota(), ALL).message.keys == (
        "{t:research}:r", "{t:research}:q:t:research", "{t:research}:c:t:research",
    )  # fmt: skip


def test_subjects_are_counted_as_the_plan_has_them_whoever_of_them_is_limited():
    limits = plan(Quota(requests=1), Quota(concurrency=1, day_nano=1)).message
    assert (limits.leases, limits.reserved) == ((2,), (2,))
    limits = plan(Quota(concurrency=1, month_nano=1), ALL).message
    assert (limits.leases, limits.reserved) == ((1, 2), (1, 2))


def test_rows_are_compiled_as_the_script_reads_them():
    packed = msgspec.msgpack.decode(plan(Quota(5, 6, None, 7, 8, 9), Quota(output_tokens=3)).message.packed)
    assert packed == [
        5, MONEY, 4, 9, 0, 0, MONEY, 2, 8, 0, 0, BUCKET, 6, 5, 1, 1, BUCKET, 10, 6, 0, 0, LEASES, 0, 7, LEASE, 0,
        1, BUCKET, 12, 3, 0, 0,
    ]  # fmt: skip


def test_settlement_debits_fresh_input_and_cache_writes_and_output():
    packed, nothing = plan(Quota(5, 6, 7), Quota(requests=1)).debits
    assert msgspec.msgpack.decode(packed) == [10, 6, 3, 5, 6, 0, 12, 7, 7, 0, 0, 0]
    assert nothing == b""
    assert plan(Quota(requests=5, concurrency=1, day_nano=1)).debits == (b"",)


def test_the_places_of_sums_are_those_of_the_ledgers_entries():
    entry = Entry("id", 0, 0, "c", "", "m", "", "e", False, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert sums_of(entry) == (1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert [getattr(entry, name) for name in SUMS] == list(sums_of(entry))


# What a client is told.


def refused(field: str, wait: int, subject: str = "c:alice", at: int = AT) -> Refused:
    limits = plan(ALL, ALL).message
    (number,) = [
        number
        for number, row in enumerate(limits.rows, 1)
        if (row.subject, row.kind.field) == (subject, field)
    ]  # fmt: skip
    return limits.refused(number, wait, at)


@pytest.mark.parametrize(
    ("field", "subject", "message"),
    [
        ("requests", "c:alice", "This request would exceed your limit of 600 requests per minute."),
        ("input", "t:research", "This request would exceed your team's limit of 400,000 input tokens per minute."),
        ("output", "c:alice", "This request would exceed your limit of 80,000 output tokens per minute."),
        ("concurrency", "t:research", "This request would exceed your team's limit of 20 concurrent requests."),
        (
            "day",
            "c:alice",
            "This request would exceed your budget of $50.00 per day, which resets 2026-11-23 00:00 UTC.",
        ),
        (
            "week",
            "t:research",
            "This request would exceed your team's budget of $200.00 per week, which resets 2026-11-23 00:00 UTC.",
        ),
        (
            "month",
            "t:research",
            "This request would exceed your team's budget of $1,000.00 per month, which resets 2026-12-01 00:00 UTC.",
        ),
    ],
)
def test_a_refusal_names_the_limit_and_whose_it_is(field, subject, message):
    assert refused(field, 1, subject).message == message


@pytest.mark.parametrize(("nano", "words"), [(55_500_000, "$0.0555"), (4_000_000, "$0.004"), (0, "$0.00")])
def test_a_budget_is_named_as_it_was_set(nano, words):
    refusal = plan(Quota(day_nano=nano)).message.refused(1, 2000, AT)
    words = f"your budget of {words} per day, which resets 2026-11-23 00:00 UTC."
    assert refusal.message == f"This request would exceed {words}"


def test_a_refusal_ends_with_the_companys_own_words():
    refusal = plan(Quota(week_nano=10**9, message="Ask ml-leads: https://wiki.example/budgets")).message.refused(
        1, -1, AT
    )
    assert refusal.message == (
        "This request would exceed your budget of $1.00 per week, which resets 2026-11-23 00:00 UTC. "
        "Ask ml-leads: https://wiki.example/budgets"
    )
    assert plan(Quota(requests=1, message="Ask.")).message.refused(1, 5, AT).message.endswith("per minute.")


def test_a_boost_raises_every_budget_and_no_other_limit():
    rows = plan(Quota(requests=5, day_nano=10, month_nano=20, boost_nano=3)).message.rows
    assert [(row.kind.field, row.limit) for row in rows] == [("month", 23), ("day", 13), ("requests", 5)]


# Warnings.

SOFT = (0.5, 0.9)


def test_without_a_threshold_the_store_tells_no_money():
    limits = plan(Quota(requests=5, day_nano=10)).message
    assert limits.soft == () and limits.warned([4], AT) is None
    assert msgspec.msgpack.decode(limits.packed)[1:6] == [MONEY, 2, 10, 0, 0]


@pytest.mark.parametrize(("left", "share"), [(501, None), (500, 0.5), (101, 0.5), (100, 0.9), (0, 0.9), (-50, 0.9)])
def test_a_budget_warns_from_the_share_on_that_it_names(left, share):
    warned = plan(Quota(day_nano=1000, soft=SOFT)).message.warned([left], AT)
    assert (warned and warned.share) == share


def test_the_budget_that_is_used_most_warns():
    limits = plan(Quota(requests=5, month_nano=1000, soft=SOFT), Quota(requests=7, week_nano=10**9, soft=SOFT)).message
    warned = limits.warned([400, 3, 10**8, 6], AT)  # in the order of the rows
    assert warned is not None and (warned.row.subject, warned.used, warned.share) == ("t:research", 0.9, 0.9)
    assert warned.words == "90% of your team's budget of $1.00 per week is used; it resets 2026-11-23 00:00 UTC."
    assert dict(limits.headers([400, 3, 10**8, 6], AT))[b"anthropic-ratelimit-requests-remaining"] == b"3"


def test_a_warning_is_a_header_and_claude_code_is_told_in_the_ones_that_it_shows():
    warned = plan(Quota(day_nano=1000, soft=SOFT, message="Bitte fragen: Jürgen")).message.warned([30], AT)
    assert warned is not None
    (plain,) = warned.headers(claude_code=False)
    assert (
        plain[0] == b"x-gateway-budget-warning" and plain[1].startswith(b"97% of your budget") and b"J?rgen" in plain[1]
    )
    shown = dict(warned.headers(claude_code=True))
    prefix = b"anthropic-ratelimit-unified-"
    assert {name.removeprefix(prefix): value for name, value in shown.items() if name.startswith(prefix)} == {
        b"status": b"allowed_warning", b"representative-claim": b"overage", b"reset": b"1795392000",
        b"overage-status": b"allowed_warning", b"overage-reset": b"1795392000", b"overage-utilization": b"0.97",
        b"overage-surpassed-threshold": b"0.9",
    }  # fmt: skip


def test_a_refusal_to_count_tokens_says_so():
    refusal = plan(Quota(requests=30)).count.refused(1, 2000, AT)
    assert refusal.message == "This request would exceed your limit of 30 token counting requests per minute."
    assert (refusal.error_type, refusal.wait) == ("rate_limit_error", 2)


@pytest.mark.parametrize(("wait", "seconds"), [(1, 1), (1000, 1), (1001, 2), (59_999, 60), (600_000, 600), (0, 1)])
def test_a_limit_says_how_long_to_wait_in_whole_seconds_however_many(wait, seconds):
    refusal = refused("input", wait)
    assert (refusal.wait, refusal.budget, refusal.error_type) == (seconds, False, "rate_limit_error")


def test_nobody_knows_when_a_slot_is_free():
    assert refused("concurrency", -1).wait == 1


@pytest.mark.parametrize(
    ("field", "at", "end"),
    [
        ("day", datetime(2026, 11, 22, 14, 30), datetime(2026, 11, 23)),
        ("day", datetime(2026, 12, 31, 23, 59, 59), datetime(2027, 1, 1)),
        ("week", datetime(2026, 11, 22, 14, 30), datetime(2026, 11, 23)),
        ("week", datetime(2026, 11, 23), datetime(2026, 11, 30)),
        ("week", datetime(2026, 12, 31, 5), datetime(2027, 1, 4)),
        ("month", datetime(2026, 11, 22, 14, 30), datetime(2026, 12, 1)),
        ("month", datetime(2026, 12, 31), datetime(2027, 1, 1)),
        ("month", datetime(2028, 2, 29, 1), datetime(2028, 3, 1)),
        ("month", datetime(2027, 1, 31, 5), datetime(2027, 2, 1)),
    ],
)
def test_a_budget_refuses_until_its_period_ends(field, at, end):
    refusal = refused(field, -1, at=int(at.replace(tzinfo=UTC).timestamp()) * 1000)
    assert timedelta(seconds=refusal.wait) == end - at
    assert (refusal.budget, refusal.error_type) == (True, "billing_error")


def test_in_the_last_moment_of_a_period_a_budget_still_asks_for_a_second():
    end = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * 1000
    assert refused("month", -1, at=end - 1).wait == refused("day", -1, at=end - 1).wait == 1


def test_kinds_are_told_apart_by_field_and_fed_to_known_headers():
    assert len({kind.field for kind in KINDS}) == len(KINDS)
    places = [place for kind in KINDS if kind.form != LEASES for place in (kind.place, kind.place + 1)]
    assert len(set(places)) == len(places) and min(places) == 2  # the first is what is reserved
    assert {kind.header for kind in KINDS if kind.form == BUCKET} == {"requests", "input-tokens", "output-tokens"}
    assert {kind.limit for kind in KINDS} == set(Quota.__struct_fields__) - {"boost_nano", "soft", "message", "carried"}


# Headers.


def test_headers_describe_the_callers_buckets():
    headers = dict(plan(Quota(60, 600)).message.headers([45, 600], AT))
    assert headers == {
        b"anthropic-ratelimit-requests-limit": b"60",
        b"anthropic-ratelimit-requests-remaining": b"45",
        b"anthropic-ratelimit-requests-reset": b"2026-11-22T14:30:15Z",
        b"anthropic-ratelimit-input-tokens-limit": b"600",
        b"anthropic-ratelimit-input-tokens-remaining": b"600",
        b"anthropic-ratelimit-input-tokens-reset": b"2026-11-22T14:30:00Z",
    }


def test_where_caller_and_team_limit_the_one_that_has_less_left_speaks():
    limits = plan(Quota(60, None, 600), Quota(600, 60_000)).message  # requests, output; requests, input
    headers = dict(limits.headers([45, 600, 30, 60_000], AT))
    assert headers[b"anthropic-ratelimit-requests-limit"] == b"600"
    assert headers[b"anthropic-ratelimit-requests-remaining"] == b"30"
    assert headers[b"anthropic-ratelimit-requests-reset"] == b"2026-11-22T14:30:57Z"
    assert headers[b"anthropic-ratelimit-output-tokens-limit"] == b"600"
    assert headers[b"anthropic-ratelimit-input-tokens-limit"] == b"60000"
    assert len(headers) == 9


def test_less_than_nothing_is_nothing_left_and_takes_longer_to_fill():
    headers = dict(plan(Quota(input_tokens=600)).message.headers([-1200], AT))
    assert headers[b"anthropic-ratelimit-input-tokens-remaining"] == b"0"
    assert headers[b"anthropic-ratelimit-input-tokens-reset"] == b"2026-11-22T14:33:00Z"


def test_counting_tokens_feeds_the_header_of_requests():
    headers = plan(Quota(60)).count.headers([59], AT)
    assert [name for name, _ in headers] == [
        b"anthropic-ratelimit-requests-limit", b"anthropic-ratelimit-requests-remaining",
        b"anthropic-ratelimit-requests-reset",
    ]  # fmt: skip
    assert headers[2][1] == b"2026-11-22T14:30:01Z"


# Time.


@given(st.integers(0, 4 * 10**12))
def test_labels_are_those_of_the_utc_calendar(at):
    when = datetime.fromtimestamp(at // 1000, UTC)
    assert labels(at).hour == f"{when:%Y%m%d%H}"
    assert (labels(at).day, labels(at).month) == (f"{when:%Y%m%d}", f"{when:%Y%m}")


@given(st.integers(0, 4 * 10**12), st.sampled_from(["day", "week", "month"]))
def test_a_period_ends_when_its_label_changes(at, period):
    end = quota.period_end(period, at)
    assert at < end
    assert getattr(labels(end - 1), period) == getattr(labels(at), period) != getattr(labels(end), period)


# Money.


def test_dollars_are_reserved_for_input_and_some_output():
    assert estimate_cost(PRICE, 1000, 100) == 1000 * 3000 + 100 * 15_000
    assert estimate_cost(PRICE, 0, 128_000) == 8192 * 15_000


def test_what_may_be_written_to_a_cache_is_reserved_as_a_write():
    assert estimate_cost(PRICE, 1000, 0, write_ttl=300) == 1000 * PRICE.write_5m
    assert estimate_cost(PRICE, 1000, 0, write_ttl=3600) == 1000 * PRICE.write_1h


def test_what_is_read_from_a_cache_needs_no_more_than_the_price_of_that():
    for ttl, fresh in ((0, PRICE.input), (300, PRICE.write_5m), (3600, PRICE.write_1h)):
        cold = estimate_cost(PRICE, 1000, 100, write_ttl=ttl)
        assert cold - warm_discount(PRICE, 900, ttl) == 100 * fresh + 900 * PRICE.read + 100 * 15_000


def test_strict_budgets_reserve_all_of_the_output_that_may_come():
    assert estimate_cost(PRICE, 0, 128_000, strict=True) == 128_000 * 15_000
    assert estimate_cost(PRICE, 7, 100, strict=True) == estimate_cost(PRICE, 7, 100)


@given(st.integers(0, 10**7), st.data(), st.integers(0, 10**6), st.sampled_from([0, 300, 3600]))
def test_an_estimate_is_never_negative_and_strict_never_less(tokens, data, most, ttl):
    loose = estimate_cost(PRICE, tokens, most, write_ttl=ttl)
    assert 0 <= loose <= estimate_cost(PRICE, tokens, most, strict=True, write_ttl=ttl)
    assert 0 <= warm_discount(PRICE, data.draw(st.integers(0, tokens)), ttl) <= loose


def test_limits_say_what_they_are():
    assert repr(plan(Quota(requests=5)).message) == "<Limits c:alice 5 requests per minute>"
    assert repr(plan(Quota()).message) == "<Limits none>"
    assert plan(Quota(requests=5)).message.rows == (Row("c:alice", KINDS[3], 5),)
