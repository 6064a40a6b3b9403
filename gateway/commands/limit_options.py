"""The options by which commands say limits and models, and how those are shown: the same for teams and callers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from gateway.commands.client import fail

RpmOption = Annotated[str | None, typer.Option("--rpm", metavar="N|none", help="Requests a minute.")]
ItpmOption = Annotated[str | None, typer.Option("--itpm", metavar="N|none", help="Uncached input tokens a minute.")]
OtpmOption = Annotated[str | None, typer.Option("--otpm", metavar="N|none", help="Output tokens a minute.")]
ConcurrencyOption = Annotated[str | None, typer.Option(metavar="N|none", help="Requests in flight.")]
DayOption = Annotated[str | None, typer.Option(metavar="USD|none", help="Dollars a day.")]
WeekOption = Annotated[str | None, typer.Option(metavar="USD|none", help="Dollars a week, from Monday.")]
MonthOption = Annotated[str | None, typer.Option(metavar="USD|none", help="Dollars a calendar month.")]
SoftOption = Annotated[
    list[str] | None,
    typer.Option(metavar="SHARE|none", help="Warn at this share of a budget; may be repeated."),
]
MessageOption = Annotated[
    str | None, typer.Option(metavar="TEXT|none", help="What a refusal says at its end, such as whom to ask.")
]
ModelOption = Annotated[list[str] | None, typer.Option(metavar="MODEL", help="Model it may use; may be repeated.")]

SHORT = {  # in the order of the options
    "requests_per_minute": "rpm",
    "input_tokens_per_minute": "itpm",
    "output_tokens_per_minute": "otpm",
    "concurrency": "concurrency",
}


def limits_of(
    rpm: str | None, itpm: str | None, otpm: str | None, concurrency: str | None, day: str | None, week: str | None,
    month: str | None, soft: list[str] | None = None, message: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Limits for a body: those that were given, null for `none`."""
    limits: dict[str, Any] = {
        name: amount(text) for name, text in zip(SHORT, (rpm, itpm, otpm, concurrency), strict=True) if text is not None
    }
    budget: dict[str, Any] = {
        name: amount(text) for name, text in (("day", day), ("week", week), ("month", month)) if text is not None
    }
    if soft:
        budget["soft"] = None if soft == ["none"] else [amount(each) for each in soft]
    if message is not None:
        budget["message"] = None if message == "none" else message
    return {**limits, "budget_usd": budget} if budget else limits


def amount(text: str) -> float | None:
    """A number of an option; None for `none`."""
    if text == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        fail(f"{text} is neither a number nor none", 2)
    return int(value) if value.is_integer() else value


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are there."""
    return {name: value for name, value in fields.items() if value is not None}


def shown_limits(limits: Mapping[str, Any]) -> str:
    """Limits in a line."""
    budget = limits.get("budget_usd", {})
    shown = [f"{limits[name]:,} {short}" for name, short in SHORT.items() if name in limits]
    shown += [f"${budget[period]:,g}/{period}" for period in ("day", "week", "month") if period in budget]
    if budget.get("soft"):
        shown.append("warns at " + " ".join(f"{share:.0%}" for share in budget["soft"]))
    return ", ".join(shown)


def clock(moment: str | None) -> str:
    """A time of the API to the minute, in UTC."""
    return moment[:16].replace("T", " ") + "Z" if moment else ""


def warn(answer: Mapping[str, Any]) -> None:
    """Say on stderr what the gateway warns of."""
    for warning in answer.get("warnings", ()):  # an older gateway gives none
        typer.echo(f"warning: {warning}", err=True)
