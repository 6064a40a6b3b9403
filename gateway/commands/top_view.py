"""How `gateway top` looks: a picture of the gateway in, something that rich prints out. It asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions, RenderableType
    from rich.table import Table

    from gateway.telemetry.metric_table import Measure

Row = dict[str, Any]
SICK = ("out", "failing", "limited", "draining", "disabled")  # states, those that need somebody first
_COLOURS = {
    "available": "green", "limited": "yellow", "draining": "cyan", "disabled": "dim", "failing": "red",
    "out": "bold red",
}  # fmt: skip
_UNTIL = {"out": "tried again at", "failing": "tried again at"}  # what comes at the end of a state; else "until"
_BARS = "▁▂▃▄▅▆▇█"
_HEAD = 8  # lines above the accounts
_FEWEST = 4  # requests that are shown on a low terminal, where there is room at all
_SPARKS = 40
_ID_WIDTH = 24  # characters of an account's id that are always shown
_HEADROOM = 32  # characters of it that a terminal shows
_WIDE = 110  # columns that all of a request take
# Head, where it stands, and whether a narrow terminal shows it.
_ROWS: tuple[tuple[str, Literal["left", "right"], bool, Callable[[Row], str]], ...] = (
    ("at", "left", True, lambda each: clock(each.get("at"))),
    ("key", "left", True, lambda each: str(each.get("key") or "-")),
    ("model", "left", True, lambda each: str(each.get("model") or "-")),
    ("account", "left", True, lambda each: str(each.get("account") or "-")),
    ("route", "left", False, lambda each: str(each.get("route") or "-")),
    ("status", "left", True, lambda each: str(each.get("status") or "-")),
    ("input", "right", False, lambda each: number((each.get("tokens") or {}).get("input"))),
    ("read", "right", False, lambda each: number((each.get("tokens") or {}).get("cache_read"))),
    ("written", "right", False, lambda each: number((each.get("tokens") or {}).get("cache_write"))),
    ("output", "right", False, lambda each: number((each.get("tokens") or {}).get("output"))),
    ("cost", "right", False, lambda each: dollars(each.get("cost_usd"))),
    ("ttft", "right", False, lambda each: seconds(each.get("ttft_seconds"))),
    ("took", "right", True, lambda each: seconds(each.get("duration_seconds"))),
)


class Picture(msgspec.Struct, frozen=True):
    """What the admin API said last: the bodies of overview, accounts and requests. `trouble` is why there is nothing
    newer, "" where all is well."""

    overview: Row = {}
    accounts: list[Row] = []
    requests: list[Row] = []
    trouble: str = ""

    def troubled(self, trouble: str) -> Picture:
        """The same, but no longer true for sure."""
        return msgspec.structs.replace(self, trouble=trouble)


def view(picture: Picture, base: str, size: ConsoleDimensions | None) -> RenderableType:
    """All of it for a terminal of that size; for None everything there is, as `--once` prints it."""
    from rich.console import Group
    from rich.text import Text

    accounts, requests = picture.accounts, picture.requests[:20]
    if size is not None:
        room = max(0, size.height - _HEAD - 4)
        kept = max(1, min(len(accounts), room - min(_FEWEST, len(picture.requests))))
        hidden = len(accounts) - kept
        # Those that need somebody first, as the rest may not fit.
        accounts = sick_first(accounts)[:kept]
        requests = picture.requests[: max(0, room - kept - (hidden > 0))]
    else:
        hidden = 0
    parts: list[RenderableType] = [_title(picture, base)]
    if picture.overview:
        parts += [*_figures(picture.overview), Text(), accounts_table(accounts, narrow=size is not None)]
        if hidden > 0:
            parts.append(Text(f"and {hidden} more accounts", "dim"))
        parts += [Text(), _requests(requests, size is None or size.width >= _WIDE)]
    return Group(*parts)


def sick_first(accounts: Iterable[Row]) -> list[Row]:
    """Accounts that need somebody before the others, else by id."""

    def rank(account: Row) -> int:
        state = health(account)
        return SICK.index(state) if state in SICK else len(SICK) if state == "available" else -1

    return sorted(accounts, key=lambda each: (rank(each), each["id"]))


def _title(picture: Picture, base: str) -> RenderableType:
    from rich.text import Text

    overview = picture.overview
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append("gateway ", "bold")
    text.append(base)
    if overview:
        workers = overview.get("workers") or {}
        text.append(f"   up {span(overview.get('uptime_seconds'))}")
        alive, wanted = workers.get("alive"), workers.get("configured")
        text.append(f"   workers {alive}/{wanted}", "bold red" if alive != wanted else "")
        if overview.get("degraded"):
            text.append(f"   degraded: {', '.join(overview['degraded'])}", "bold red")
    if picture.trouble:
        text.append(f"\n{picture.trouble}; trying again", "bold red")
    return text


def _figures(overview: Row) -> Iterable[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    from gateway.telemetry.metric_table import OVERHEAD, TTFT

    ttft, overhead = overview.get("ttft_seconds") or {}, overview.get("overhead_seconds") or {}
    tokens, spent = overview.get("tokens_per_second") or {}, overview.get("spent") or {}
    grid = Table.grid(padding=(0, 3))
    for _ in range(4):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_row(
        f"requests/s {number(overview.get('requests_per_second'))}",
        f"errors/s {number(overview.get('errors_per_second'))}",
        f"in flight {number(overview.get('in_flight'))}",
        f"cache hit rate {percent(overview.get('cache_hit_rate'))}",
    )
    grid.add_row(
        f"first token p50 {percentile(ttft.get('p50'), TTFT)}",
        f"p95 {percentile(ttft.get('p95'), TTFT)}",
        f"overhead p50 {percentile(overhead.get('p50'), OVERHEAD)}",
        f"p99 {percentile(overhead.get('p99'), OVERHEAD)}",
    )
    grid.add_row(
        f"tokens/s input {number(tokens.get('input'))}",
        f"cache read {number(tokens.get('cache_read'))}",
        f"cache written {number(tokens.get('cache_write'))}",
        f"output {number(tokens.get('output'))}",
    )
    grid.add_row(
        f"today {dollars(spent.get('today_usd'))}",
        f"saved by caching {dollars(spent.get('saved_today_usd'))}",
        f"month {dollars(spent.get('month_usd'))}",
        f"saved {dollars(spent.get('saved_month_usd'))}",
    )
    yield grid
    points = [point.get("requests_per_second") for point in overview.get("history") or []][-_SPARKS:]
    yield Text(f"requests/s {sparks(points)}" if points else "", "dim", no_wrap=True)


def accounts_table(accounts: Sequence[Row], narrow: bool = False) -> Table:
    """Accounts as an operator wants to see them: how each is, why, and what is left of its limits."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, expand=narrow)
    fold: Literal["ellipsis", "fold"] = "ellipsis" if narrow else "fold"
    longest = min(_ID_WIDTH, max((len(each["id"]) for each in accounts), default=0))
    for name, least in (("account", longest), ("state", len("available"))):
        table.add_column(name.upper(), overflow=fold, no_wrap=True, min_width=least)
    for name in ("in flight", "bindings"):
        table.add_column(name.upper(), justify="right", no_wrap=True, min_width=len(name))
    table.add_column("HEADROOM", overflow=fold, no_wrap=narrow, max_width=_HEADROOM if narrow else None)
    table.add_column("WHY", overflow=fold, no_wrap=narrow, ratio=1 if narrow else None)
    for each in accounts:
        state = health(each)
        numbers = (number(each.get("in_flight")), number(each.get("bindings")))
        table.add_row(each["id"], Text(state, _COLOURS.get(state, "")), *numbers, headroom(each), why(each))
    return table


def _requests(requests: Sequence[Row], wide: bool) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not requests:
        return Text("no requests yet", "dim")
    shown = [row for row in _ROWS if wide or row[2]]
    table = Table(box=None, pad_edge=False)
    for name, side, _, _ in shown:
        table.add_column(name.upper(), justify=side, overflow="ellipsis", no_wrap=True)
    for each in requests:
        bad = isinstance(each.get("status"), int) and each["status"] >= 400
        table.add_row(*(Text(read(each), "red" if bad and name == "status" else "") for name, _, _, read in shown))
    return table


# What single values look like.


def health(account: Row) -> str:
    """The state that an account is in, which may be another than the one configured."""
    return str((account.get("health") or {}).get("state") or account.get("state") or "unknown")


def why(account: Row) -> str:
    """In a sentence, why its state is so, and until when, or when it is tried again; "" where nothing is to say."""
    found = account.get("health") or {}
    if health(account) == "available":
        return ""
    words = str(found.get("why") or found.get("reason") or "").rstrip(".")
    until = found.get("until")
    return f"{words} ({_UNTIL.get(health(account), 'until')} {upcoming(until)})" if until and words else words


def headroom(account: Row) -> str:
    """The scarcest limit of each class of models, fullest last: `claude-haiku 12% input_tokens`."""
    rows = _scarce(account)
    return ", ".join(f"{each['class']} {percent(each['ratio'])} {each['limit']}" for each in rows) or "-"


def scarcest(account: Row) -> str:
    """The one that ends first: `12% input_tokens claude-haiku`."""
    rows = _scarce(account)
    return f"{percent(rows[0]['ratio'])} {rows[0]['limit']} {rows[0]['class']}" if rows else "-"


def _scarce(account: Row) -> list[Row]:
    least: dict[str, Row] = {}
    for each in account.get("headroom") or ():
        if each.get("ratio") is not None:
            known = least.get(each["class"])
            if known is None or each["ratio"] < known["ratio"]:
                least[each["class"]] = each
    return sorted(least.values(), key=lambda each: (each["ratio"], each["class"]))


def sparks(values: Sequence[float | None]) -> str:
    """A line of bars, the highest as high as the largest value; gaps where nothing is known."""
    most = max((value for value in values if value is not None), default=0.0) or 1.0
    top = len(_BARS) - 1
    return "".join(" " if value is None else _BARS[min(top, round(value / most * top))] for value in values)


def number(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) or value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 1 else f"{value:.1f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.1f} ms" if value < 0.1 else f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def percentile(value: float | None, of: Measure) -> str:
    """Seconds, as far as the buckets tell: where in the first one they lie is not known."""
    first = of.buckets[0]
    return f"< {first * 1000:g} ms" if value is not None and value < first else seconds(value)


def dollars(value: float | None) -> str:
    if value is None:
        return "-"
    return f"${value:,.2f}" if value == 0 or value >= 0.01 else f"${value:.6f}"


def span(value: float | None) -> str:
    """A length of time, its two largest units."""
    if value is None:
        return "-"
    left = int(value)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def clock(moment: str | None) -> str:
    """A time of the API as the clock here shows it."""
    return _shown(moment, lambda here: f"{here:%H:%M:%S}")


def upcoming(moment: str | None) -> str:
    """As `clock`, with the date where it is not today."""
    today = datetime.now().astimezone().date()
    return _shown(moment, lambda here: f"{here:%H:%M:%S}" if here.date() == today else f"{here:%Y-%m-%d %H:%M:%S}")


def _shown(moment: str | None, here: Callable[[datetime], str]) -> str:
    try:
        return here(datetime.fromisoformat(moment or "").astimezone())
    except ValueError:
        return moment or "-"
