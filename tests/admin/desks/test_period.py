"""Spans of time as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.admin.desks.period import period
from gateway.store.ledger.usage import DAY, DAYS_KEPT, HOUR, Span

TODAY = datetime(2026, 11, 22, tzinfo=UTC)
NOW = TODAY.timestamp() + 14 * HOUR + 1234.5


def read(start: str, end: str = "", now: float = NOW) -> tuple[str, str]:
    span = period(start, end, now)
    return tuple(f"{datetime.fromtimestamp(at, UTC):%m-%d %H:%M}" for at in (span.start, span.end))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("start", "end", "since", "until"),
    [
        ("", "", "11-01 00:00", "11-23 00:00"),
        ("2026-11-20", "", "11-20 00:00", "11-23 00:00"),
        ("2026-11-20", "2026-11-21", "11-20 00:00", "11-21 00:00"),
        ("2026-11-20T05:00:00Z", "2026-11-20T07:00:00Z", "11-20 05:00", "11-20 07:00"),
        ("2026-11-20T05:59:59.9Z", "2026-11-20T07:00:01Z", "11-20 05:00", "11-20 08:00"),
        ("2026-11-20T05:00:00+02:00", "2026-11-20T07:00:00-01:30", "11-20 03:00", "11-20 09:00"),
        ("2026-11-20T05:00:00 02:00", "", "11-20 03:00", "11-23 00:00"),
        ("24h", "", "11-21 14:00", "11-23 00:00"),
        ("7d", "0d", "11-15 00:00", "11-22 00:00"),
        ("7d", "1h", "11-15 00:00", "11-22 14:00"),
        ("7d", "0h", "11-15 00:00", "11-23 00:00"),
        ("0d", "2026-11-22T14:00:00Z", "11-22 00:00", "11-22 14:00"),
        ("0d", "2026-11-22T14:00:01Z", "11-22 00:00", "11-23 00:00"),
        ("0d", "2036-01-01", "11-22 00:00", "11-23 00:00"),
        ("2026-11-22T14:20:00Z", "2026-11-22T14:20:00Z", "11-22 14:00", "11-23 00:00"),
    ],
)
def test_times_mean_the_whole_hours_that_cover_them(start: str, end: str, since: str, until: str):
    assert read(start, end) == (since, until)


def test_at_the_first_moment_of_a_month_there_is_something_to_see():
    first = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert read("", "", first) == ("01-01 00:00", "01-02 00:00")
    assert period("", "", first - 1e-3).start == datetime(2026, 12, 1, tzinfo=UTC).timestamp()


def test_nothing_is_looked_for_that_is_no_longer_kept():
    today = int(TODAY.timestamp())
    assert period("1970-01-01", "", NOW) == Span(today - DAYS_KEPT, today + DAY)


@pytest.mark.parametrize(
    "text", ["yesterday", "2026-11-31", "2026-11-20T05:00:00", "1763942400", "-7d", "٧d", "7 d", " "]
)
def test_what_is_no_time_is_refused_by_name(text: str):
    with pytest.raises(ValueError, match=r"^from must be a time"):
        period(text, "", NOW)
    with pytest.raises(ValueError, match=r"^to must be a time"):
        period("", text, NOW)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-11-20", "2026-11-20"),
        ("1d", "2d"),
        ("2026-11-23", ""),
        ("2026-11-22T20:00:00Z", ""),
        ("2036-01-01", "2037-01-01"),
        ("500d", "450d"),
    ],
)
def test_a_span_that_is_empty_is_refused(start: str, end: str):
    with pytest.raises(ValueError, match="from must be before to"):
        period(start, end, NOW)


def test_of_the_more_distant_past_only_whole_days_are_known():
    assert read("2026-10-18T14:00:00Z") == ("10-18 14:00", "11-23 00:00")
    with pytest.raises(
        ValueError, match=r"^from must be the start of a UTC day, for hours are known since 2026-10-19T00:00:00Z"
    ):
        period("2026-10-18T13:00:00Z", "", NOW)
    with pytest.raises(ValueError, match=r"^to must be the start of a UTC day"):
        period("2026-09-01", "2026-10-18T15:00:00Z", NOW)
    assert read("2026-09-01", "2026-10-18") == ("09-01 00:00", "10-18 00:00")
    assert read("2026-09-01", "2026-10-19T15:00:00Z") == ("09-01 00:00", "10-19 15:00")
