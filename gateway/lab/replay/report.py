"""The figures of a replay for people: parameters, a table of policies beside the targets, what each event cost."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from gateway.lab.replay.policies import PRODUCTION
from gateway.lab.replay.run import Report


class Kind(msgspec.Struct, frozen=True):
    """A row: its figure, how it is written, and what it should be at least (`low`) or at most (`high`) while all is
    calm, and with limits or events."""

    figure: str
    title: str
    form: str
    low: tuple[float, float] | None = None
    high: tuple[float | None, float] | None = None


KINDS = (
    Kind("R", "cache reads ÷ oracle's (R)", "{:.3f}", low=(0.99, 0.98)),
    Kind("C", "input cost ÷ oracle's (C)", "{:.3f}", high=(None, 1.10)),
    Kind("H", "input read from cache", "{:.1%}"),
    Kind("peak_to_mean", "peak to mean, whole run", "{:.2f}", high=(1.3, 1.5)),
    Kind("window_peak_to_mean", "  p95 of 60 s windows", "{:.2f}"),
    Kind("rate_limited", "429 from upstream", "{:,}"),
    Kind("overloaded", "529 from upstream", "{:,}"),
    Kind("refused", "clients sent away", "{:,}"),
    Kind("switches", "changes of workspace", "{:,}"),
    Kind("warm_switches", "  of them while warm", "{:,}"),
    Kind("wait_p99_s", "added wait, p99", "{:,.1f} s"),
    Kind("wait_max_s", "  longest", "{:,.1f} s"),
)


def show(report: Report, console: Console) -> None:
    """Print everything."""
    for line in _parameters(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print()
    console.print(_table(report))
    first = report.outcomes[0]
    for name, run in first.runs.items():
        if run.moves:
            moves = ", ".join(f"{reason} {count:,}" for reason, count in sorted(run.moves.items()))
            console.print(f"moves of {name}: {moves}", highlight=False, markup=False, soft_wrap=True)
    name = PRODUCTION if PRODUCTION in first.runs else next(iter(first.runs))
    if report.settings.clouds:
        console.print(f"\n{name} by provider:", highlight=False, markup=False)
        accounts = report.parameters()["providers"]
        for provider, found in report.by_provider(name).items():
            console.print(
                f"{provider:>14}  {accounts.get(provider, 0)} accounts  {found['requests']:,} requests  "
                f"{found['cache_read_tokens']:,} tokens read, {found['new_tokens']:,} new",
                highlight=False,
                markup=False,
            )
    after = first.after(name)
    if after:
        console.print(f"\n{name} in the {report.settings.ttl:g} s after each event:", highlight=False, markup=False)
        for each in after:
            what = f"{each.event} {each.account or ''}"
            console.print(
                f"{each.at:9,.0f} s  {what:24} R {each.R:.3f}  C {each.C:.3f}  {each.requests:,} requests",
                highlight=False,
                markup=False,
            )


def _parameters(report: Report) -> list[str]:
    found = report.parameters()
    oracle = report.outcomes[0].yard
    pace = report.settings.pace
    seeds = f"seeds {found['seed']} to {found['seed'] + found['seeds'] - 1}" if found["seeds"] > 1 else ""
    limit = found["limit_tokens_per_minute"]
    lines = [
        f"{found['source']}: {found['requests']:,} requests of {found['conversations']:,} conversations in "
        f"{found['duration_s']:,.0f} s; {found['accounts']} accounts, cache TTL {found['ttl_s']:g} s, "
        f"{seeds or 'seed ' + str(found['seed'])}",
        f"oracle: {oracle.totals.hit_rate:.1%} of {oracle.totals.read + oracle.totals.new:,} input tokens read from "
        f"cache, {oracle.new_per_minute:,.0f} fresh tokens a minute",
        "limits: none"
        if limit is None
        else f"limits: {limit:,} input tokens a minute for each organization ({found['tightness']:g} x the oracle's)",
        f"answers: begin after {pace.first_token:g} s + 1 s for {pace.prefill:,.0f} fresh tokens, then "
        f"{pace.decode:g} tokens a second; a refusal takes {pace.refusal:g} s",
        f"costs: read {found['costs']['read']:g}, written {found['costs']['written']:g}, uncached "
        f"{found['costs']['fresh']:g}; windows: 60 s in which a fair share is at least {oracle.large:,.0f} tokens",
    ]
    if found["agents"] is not None:
        lines.append("agents: " + ", ".join(f"{name} {_plain(value)}" for name, value in found["agents"].items()))
    return lines


def _table(report: Report) -> Table:
    first = report.outcomes[0].figures()
    worst = report.worst() if len(report.outcomes) > 1 else None
    hard = report.settings.tight or bool(report.outcomes[0].events)
    caption = f"seed {report.settings.seed} (worst of {len(report.outcomes)} seeds)" if worst else None
    table = Table(title="gateway replay", title_justify="left", caption=caption, caption_justify="left")
    table.add_column("", no_wrap=True)
    for name in first:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    for kind in KINDS:
        cells = []
        for name, figures in first.items():
            values = [figures[kind.figure], *([worst[name][kind.figure]] if worst else [])]
            text = _written(kind, values[0]) + (f" ({_written(kind, values[1])})" if worst else "")
            met = _met(kind, values[-1], hard) if name == PRODUCTION else None
            cells.append(text if met is None else f"[{'green' if met else 'yellow'}]{text}[/]")
        table.add_row(kind.title, *cells, _target(kind, hard))
    return table


def _written(kind: Kind, value: float | None) -> str:
    return "-" if value is None else kind.form.format(value)


def _bounds(kind: Kind, hard: bool) -> tuple[float | None, float | None]:
    return (kind.low[hard] if kind.low else None), (kind.high[hard] if kind.high else None)


def _met(kind: Kind, value: float | None, hard: bool) -> bool | None:
    low, high = _bounds(kind, hard)
    if value is None or (low is None and high is None):
        return None
    return (low is None or value >= low) and (high is None or value <= high)


def _target(kind: Kind, hard: bool) -> str:
    low, high = _bounds(kind, hard)
    return f"≥ {low:g}" if low is not None else f"≤ {high:g}" if high is not None else ""


def _plain(value: Any) -> str:
    return " ".join(f"{each:g}" for each in value) if isinstance(value, list | tuple) else f"{value:g}"
