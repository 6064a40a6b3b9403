"""`gateway accounts`: see and change the accounts of the running gateway, over its admin listener."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from gateway.commands import completion
from gateway.commands.client import Admin, ConfigOption, JsonOption, TokenFileOption, UrlOption, admin_of, print_json
from gateway.commands.terminal import console, plain_table
from gateway.commands.top_view import headroom, health, number, why
from gateway.config.schema import load_default_path

app = typer.Typer(help="See and change the accounts of the running gateway.", no_args_is_help=True)

AccountId = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="The account's id.", autocompletion=completion.accounts)
]

_COLUMNS = (
    "id", "state", "weight", "health", "in flight", "headroom", "workspace", "organization", "models", "note"
)  # fmt: skip


@app.command("list")
def list_accounts(
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all accounts: how each is and why, and what is left of its limits."""
    accounts = admin_of(config, url, token_file).ask("GET", "accounts")["data"]
    if as_json:
        print_json(accounts)
    else:
        _print_table(accounts)


@app.command()
def drain(
    account: AccountId,
    seconds: Annotated[float | None, typer.Option(min=0, help="How long; 3600 if not given.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="A deadline, 2030-01-31T18:00:00Z.")] = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """No new conversations; those that are warm stay until they are cold, or until the deadline."""
    body: dict[str, Any] = {"state": "draining"}
    if seconds is not None:
        body["drain_seconds"] = seconds
    if until is not None:
        body["drain_until"] = until
    _change(admin_of(config, url, token_file), account, body, as_json)


@app.command()
def enable(
    account: AccountId,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve with it again."""
    _change(admin_of(config, url, token_file), account, {"state": "active"}, as_json)


@app.command()
def disable(
    account: AccountId,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send it nothing more; its conversations move at their next request."""
    _change(admin_of(config, url, token_file), account, {"state": "disabled"}, as_json)


@app.command()
def weight(
    account: AccountId,
    value: Annotated[float | None, typer.Argument(metavar="[WEIGHT]", help="Above 0; the file's if left out.")] = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change its share of new conversations."""
    _change(admin_of(config, url, token_file), account, {"weight": value}, as_json)


def _change(admin: Admin, account: str, body: dict[str, Any], as_json: bool) -> None:
    changed = admin.ask("PATCH", f"accounts/{quote(account, safe='')}", body)
    if as_json:
        print_json(changed)
    else:
        _print_table([changed])


def _print_table(accounts: list[dict[str, Any]]) -> None:
    table = plain_table(*_COLUMNS, keep=("id", "state", "weight"))
    for each in accounts:
        table.add_row(*_row(each))
    console().print(table)


def _row(account: dict[str, Any]) -> list[str]:
    notes = [f"until {account['drain_until']}"] if account["drain_until"] else []
    if account["overridden"]:
        notes.append("overridden: " + ", ".join(sorted(account["overridden"].keys() - {"drain_until"})))
    if not account["in_pool"]:
        notes.append("not in the pool yet: not every gateway holds it")
    if not account["held"]:
        notes.append("held by other gateways only")
    present = ": ".join(part for part in (health(account), why(account)) if part)
    return [
        account["id"], account["state"], f"{account['weight']:g}", present, number(account.get("in_flight")),
        headroom(account), account["workspace"], account["organization"], ",".join(account["models"]), "; ".join(notes),
    ]  # fmt: skip
