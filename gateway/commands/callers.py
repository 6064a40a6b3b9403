"""`gateway callers`: who calls, over the running gateway's admin listener."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from gateway.commands.client import ConfigOption, JsonOption, TokenFileOption, UrlOption, admin_of, print_json
from gateway.config.file import load_default_path

app = typer.Typer(help="Delete callers that were made at run time.", no_args_is_help=True)


@app.callback()
def callers() -> None:
    """Delete callers that were made at run time."""


@app.command()
def delete(
    caller: Annotated[str, typer.Argument(metavar="CALLER", help="Who is to go: one made at run time.")],
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a caller: its keys end now, on all gateways and for good; what it has used stays in the ledger."""
    gone = admin_of(config, url, token_file).ask("DELETE", f"callers/{quote(caller, safe='')}")
    if as_json:
        print_json(gone)
    else:
        typer.echo(f"{gone['caller']} is deleted, {gone['revoked']} keys with it", err=True)
