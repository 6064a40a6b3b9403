"""`gateway usage reconcile`: the ledger beside Anthropic's own usage report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Annotated, Any

import typer

from gateway.commands import completion
from gateway.commands.client import ConfigOption, JsonOption, TokenFileOption, UrlOption, fail, print_json
from gateway.commands.terminal import console
from gateway.commands.usage_source import Source, source_of, times
from gateway.config.file import load_default_path
from gateway.core.spending.reconcile import DEFAULT, Ours, Report, Row, Scope, read_report, reconcile
from gateway.records import Usage
from gateway.store.ledger.usage import HOUR, HOURS_KEPT, Span

_CAUSES = {"other": "other keys", "batch": "batches", "estimated": "estimates", "edges": "under way at the edges"}
Names = list[str] | None


def compare(
    report: Annotated[
        list[Path], typer.Option(metavar="FILE", help="Its JSON; repeat for its pages. Whole hours or days.")
    ],
    organization: Annotated[
        str | None,
        typer.Option(
            metavar="ORGANIZATION",
            help="The organization of the pool that it is about.",
            autocompletion=completion.organizations,
        ),
    ] = None,
    account: Annotated[
        Names,
        typer.Option(
            metavar="ACCOUNT",
            help="An account that it is about; may be repeated. Default: all.",
            autocompletion=completion.accounts,
        ),
    ] = None,
    workspace: Annotated[
        Names, typer.Option(metavar="OURS=THEIRS", help=f"A workspace of the pool and its id there, or {DEFAULT}.")
    ] = None,
    api_key_id: Annotated[
        Names, typer.Option(metavar="ID", help="A key in it that is the gateway's: others explain differences.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, max=100, help="Percent that may stay unexplained.")] = 0.5,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare with Anthropic's usage report for messages (of its Admin API, grouped by model at least)."""
    source = source_of(config, url, token_file)
    scope = Scope(dict(_pair(each) for each in workspace or ()), frozenset(api_key_id or ()))
    models = source.catalogue()

    def canonical(name: str) -> str:
        found = models.find(name)
        return name if found is None else found.id

    try:
        theirs = read_report([path.read_bytes() for path in report], time())
        organization, places = _places(source, organization, account or [])
        span = Span(theirs.start, theirs.end)
        ours = list(_ours(source, span, places))
        edges = [each for edge in _edges(theirs) for each in _ours(source, edge, places)]
        rows = reconcile(theirs, ours, edges, scope, canonical)
    except OSError as error:
        fail(f"cannot read {error.filename}: {error.strerror}", 2)
    except ValueError as error:
        fail(f"the report is of no use: {error}", 2)
    if as_json:
        print_json([_shown(row, organization) for row in rows])
    else:
        _print_table(rows, span, organization)
    worst = max((row.part for row in rows), default=0.0)
    if worst > tolerance / 100:
        fail(f"up to {worst:.2%} of a class of tokens is not explained; {tolerance:g}% may be", 1)


def _pair(text: str) -> tuple[str, str]:
    """(their id, our name) of OURS=THEIRS."""
    ours, equals, theirs = text.partition("=")
    if not equals or not ours or not theirs:
        fail(f"--workspace must be OURS=THEIRS, such as acme=wrkspc_01 or acme={DEFAULT}, not {text}", 2)
    return theirs, ours


def _places(source: Source, organization: str | None, accounts: list[str]) -> tuple[str, dict[str, str]]:
    """The organization that the report is about, and its accounts: their workspaces by their ids."""
    known = {each["id"]: each for each in source.get("accounts")["data"]}
    unknown = [name for name in accounts if name not in known]
    if unknown:
        fail(f"there is no account of the id {unknown[0]}", 2)
    found = [
        each
        for name, each in known.items()
        if (not accounts or name in accounts) and organization in (None, each["organization"])
    ]
    organizations = sorted({each["organization"] for each in found})
    if not organizations:
        fail("no account is in the organization " + (organization or ""), 2)
    if len(organizations) > 1:
        fail(f"a report is about one organization; give --organization: {', '.join(organizations)}", 2)
    return organizations[0], {each["id"]: each["workspace"] for each in found}


def _ours(source: Source, span: Span, places: dict[str, str]) -> Iterator[Ours]:
    """What the ledger has of these accounts."""
    query = {"group_by": "account,model", "detail": "true", "account": list(places), **times(span)}
    for row in source.get("usage", query)["data"]:
        created = row["cache_creation"]
        usage = Usage(
            row["input_tokens"],
            row["cache_read_input_tokens"],
            created["ephemeral_5m_input_tokens"],
            created["ephemeral_1h_input_tokens"],
            row["output_tokens"],
        )
        yield Ours(places[row["account"]], row["model"], row["requests"], row["estimated_requests"], usage)


def _edges(report: Report) -> Iterator[Span]:
    """The two hours around each end of the report, where hours are still known."""
    for at in (report.start, report.end):
        if at - HOUR > time() - HOURS_KEPT + HOUR:
            yield Span(at - HOUR, at + HOUR)


# For people.


def _shown(row: Row, organization: str) -> dict[str, Any]:
    explained = {name: getattr(row, name) for name in _CAUSES}
    return {
        "organization": organization,
        "workspace": row.workspace,
        "model": row.model,
        "tokens": row.tokens,
        "theirs": row.theirs,
        "ours": row.ours,
        "difference": row.difference,
        "explained": explained,
        "unexplained": row.unexplained,
    }


def _print_table(rows: tuple[Row, ...], span: Span, organization: str) -> None:
    from rich.table import Table
    from rich.text import Text

    since, until = times(span).values()
    title = Text(f"organization {organization}, {since} to {until}")
    table = Table(title=title, title_justify="left")
    for name in ("workspace", "model", "tokens"):
        table.add_column(name, overflow="fold")
    for name in ("theirs", "ours", "difference", "unexplained", ""):
        table.add_column(name, justify="right")
    table.add_column("explained by", overflow="fold")
    for row in rows:
        numbers = (row.theirs, row.ours, row.difference, row.unexplained)
        causes = [f"{words} {getattr(row, name):+,}" for name, words in _CAUSES.items() if getattr(row, name)]
        names = [Text(name) for name in (row.workspace, row.model, row.tokens)]
        table.add_row(*names, *(f"{number:,}" for number in numbers), f"{row.part:.2%}", "; ".join(causes))
    console().print(table)
