"""`gateway usage`: what was used and what it cost, from the ledger of the running gateway."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Annotated, Any

import typer

from gateway.commands import completion
from gateway.commands.client import ConfigOption, JsonOption, TokenFileOption, UrlOption, fail, print_json
from gateway.commands.terminal import console
from gateway.commands.usage_export import Tenant, write_records
from gateway.commands.usage_reconcile import compare
from gateway.commands.usage_source import FromOption, ToOption, read_period, source_of, times
from gateway.config.file import load_default_path
from gateway.store.ledger.usage import GROUPS, Span

app = typer.Typer(help="What was used and what it cost.", invoke_without_command=True)
app.command("reconcile")(compare)

_NANO = 1_000_000_000  # nano-dollars in a dollar
_COUNTS = (
    "requests", "estimated_requests", "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "output_tokens",
)  # fmt: skip
_MONEY = ("cost_usd", "savings_usd")
_HEADS = ("requests", "estimated", "input", "cache read", "cache written", "output")

Names = list[str] | None


@app.callback()
def show(
    context: typer.Context,
    start: FromOption = "",
    end: ToOption = "",
    group_by: Annotated[
        str, typer.Option(metavar="NAMES", help=f"One or more of {', '.join(GROUPS)}, provider, with commas.")
    ] = "key",
    key: Annotated[
        Names,
        typer.Option(metavar="KEY_ID", help="This caller alone; may be repeated.", autocompletion=completion.callers),
    ] = None,
    team: Annotated[
        Names,
        typer.Option(metavar="TEAM", help="This team alone; may be repeated.", autocompletion=completion.teams),
    ] = None,
    model: Annotated[Names, typer.Option(metavar="MODEL", help="This model alone; may be repeated.")] = None,
    account: Annotated[
        Names,
        typer.Option(
            metavar="ACCOUNT", help="This account alone; may be repeated.", autocompletion=completion.accounts
        ),
    ] = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show requests, tokens and dollars of a time, by caller or whatever else."""
    if context.invoked_subcommand is not None:
        sources = [context.get_parameter_source(name) for name in context.params]
        if any(source is not None and source.name == "COMMANDLINE" for source in sources):
            fail(f"options come after the command: gateway usage {context.invoked_subcommand} ...", 2)
        return
    if as_json and as_csv:
        fail("give --json or --csv, not both", 2)
    span = read_period(start, end)
    groups = [name.strip() for name in group_by.split(",") if name.strip()] or ["key"]
    filters = {"key": key, "team": team, "model": model, "account": account}
    answer = source_of(config, url, token_file).get("usage", {"group_by": ",".join(groups), **times(span), **filters})
    if answer.get("unreadable"):
        typer.echo(f"gateway: {answer['unreadable']:,} unreadable totals are missing here", err=True)
    rows = answer["data"]
    if as_json:
        print_json(rows)
    elif as_csv:
        from gateway.admin.desks.usage import dollars  # here, as no other command should wait for what it imports

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([*groups, *_COUNTS, *_MONEY])
        for row in rows:
            money = [dollars(nano(row[name])) for name in _MONEY]
            writer.writerow([*(row[name] for name in (*groups, *_COUNTS)), *money])
    else:
        _print_table(rows, groups, span)


@app.command()
def export(
    out: Annotated[Path, typer.Option(metavar="FILE", help="FILE.jsonl or FILE.parquet.")],
    start: FromOption = "",
    end: ToOption = "",
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Write down every single request, as far back as the ledger keeps them."""
    from gateway.admin.desks.usage import MOST_RECORDS

    source, span = source_of(config, url, token_file), times(read_period(start, end))

    def tenants() -> list[Tenant]:
        rows = source.get("usage", {"group_by": "team,key", **span})["data"]
        return sorted({Tenant("team", row["team"]) if row["team"] else Tenant("key", row["key"]) for row in rows})

    def page(tenant: Tenant, before: str) -> Any:
        query = {tenant.kind: tenant.name, **span, "limit": MOST_RECORDS, "before": before}
        return source.get("usage/records", query)

    try:
        written, unreadable = write_records(out, tenants, page)
    except ValueError as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}", 1)
    missing = f"; {unreadable:,} unreadable ones are missing" if unreadable else ""
    typer.echo(f"{written:,} records in {out}{missing}")


def nano(amount: float) -> int:
    """The nano-dollars of an amount as JSON has it in dollars."""
    return round(amount * _NANO)


# For people.


def _print_table(rows: list[dict[str, Any]], groups: list[str], span: Span) -> None:
    from rich.table import Table
    from rich.text import Text

    until = "now" if span.end > time() else _clock(span.end)
    table = Table(title=Text(f"{_clock(span.start)} to {until}, UTC"), title_justify="left", show_footer=bool(rows))
    total = {name: sum(row[name] for row in rows) for name in _COUNTS}
    money = {name: sum(nano(row[name]) for row in rows) for name in _MONEY}
    footer = _cells(total, money)
    for number, name in enumerate(groups):
        table.add_column(name, footer="" if number else "total", overflow="fold")
    for name, text in zip((*_HEADS, "hit rate", "cost", "saved by caching"), footer, strict=True):
        table.add_column(name, footer=text, justify="right")
    for row in rows:
        names = [Text("-" if row[name] is None else row[name]) for name in groups]
        table.add_row(*names, *_cells(row, {name: nano(row[name]) for name in _MONEY}))
    console().print(table)


def _cells(counts: dict[str, Any], money: dict[str, int]) -> list[str]:
    read = counts["cache_read_input_tokens"]
    total = counts["input_tokens"] + read + counts["cache_creation_input_tokens"]
    rate = f"{read / total:.1%}" if total else "-"
    return [*(f"{counts[name]:,}" for name in _COUNTS), rate, *(_price(money[name]) for name in _MONEY)]


def _price(nano: int) -> str:
    """To the cent, and further where there is not one."""
    digits = 2 if nano == 0 or abs(nano) >= _NANO // 100 else 6
    return f"{'-' if nano < 0 else ''}${abs(nano) / _NANO:,.{digits}f}"


def _clock(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
