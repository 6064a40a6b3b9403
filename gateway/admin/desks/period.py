"""Spans of time as people write them for the usage ledger, which counts in whole UTC hours and days."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from gateway.config.rules import moment_text, parse_moment
from gateway.store.ledger.usage import DAY, DAYS_KEPT, HOUR, HOURS_KEPT, Span

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_AGO = re.compile(r"(\d{1,4})([dh])", re.ASCII)
_FORMS = "must be a time such as 2030-01-31T18:00:00Z, a UTC day such as 2030-01-31, or how long ago: 7d or 24h"


def period(start: str, end: str, now: float) -> Span:
    """The whole hours that cover the time from `start` until just before `end`; `now` in Unix seconds.

    Each is an RFC 3339 time, a UTC day (its first moment), `24h` (so many hours ago) or `7d` (the first moment of the
    UTC day so many days ago); "" is the start of this UTC month, and now. An end that is not past takes in all of
    today, and days that are no longer kept are left out. Raises ValueError, whose words begin with the name at fault.
    """
    today, hour = _floor(now, DAY), _floor(now, HOUR)
    month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    since = max(_floor(_moment("from", start, now), HOUR) if start else int(month.timestamp()), today - DAYS_KEPT)
    until = -_floor(-_moment("to", end, now), HOUR) if end else hour + HOUR
    if until > hour:
        until = today + DAY
    if not since < until or since > now:
        raise ValueError("from must be before to, and before now")
    oldest = hour - HOURS_KEPT
    for name, edge, first in (("from", since, since), ("to", until, _floor(until, DAY))):
        if edge % DAY and first < oldest:
            day = moment_text(-_floor(-oldest, DAY))
            raise ValueError(f"{name} must be the start of a UTC day, for hours are known since {day} only")
    return Span(since, until)


def _floor(seconds: float, size: int) -> int:
    return int(seconds // size) * size


def _moment(name: str, text: str, now: float) -> float:
    """Unix seconds."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return _floor(now, DAY) - int(ago[1]) * DAY if ago[2] == "d" else now - int(ago[1]) * HOUR
    if _DATE.fullmatch(text):
        text += "T00:00:00Z"
    elif text[-6:-5] == " ":  # a plus sign in a query that nobody has encoded
        text = f"{text[:-6]}+{text[-5:]}"
    try:
        return parse_moment(text)
    except ValueError:
        raise ValueError(f"{name} {_FORMS}") from None
