"""`gateway accounts`: see and change the accounts of the running gateway, over its admin listener."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from gateway.commands import completion
from gateway.commands.client import Admin, ConfigOption, JsonOption, TokenFileOption, UrlOption, admin_of, print_json
from gateway.commands.terminal import PAGE, duration, print_rows
from gateway.commands.top_view import health, number, scarcest, sick_first, why
from gateway.config.file import load_default_path

app = typer.Typer(help="See and change the accounts of the running gateway.", no_args_is_help=True)

AccountId = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="The account's id.", autocompletion=completion.accounts)
]

_COLUMNS = {
    "ID": 0, "STATE": 0, "WEIGHT": 0, "HEALTH": 0, "IN FLIGHT": 0, "HEADROOM": 16, "WORKSPACE": 9, "ORGANIZATION": 12,
}  # fmt: skip


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
    seconds: Annotated[
        float | None,
        typer.Option(parser=duration, metavar="TIME", help="How long: 90, 30m, 24h; an hour if not given."),
    ] = None,
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
    rows = sick_first(accounts)
    print_rows(_COLUMNS, [_row(each) for each in rows], [_note(each) for each in rows], PAGE)


def _row(account: dict[str, Any]) -> list[str]:
    return [
        account["id"], account["state"], f"{account['weight']:g}", health(account), number(account.get("in_flight")),
        scarcest(account), account["workspace"], account["organization"],
    ]  # fmt: skip


def _note(account: dict[str, Any]) -> str:
    """Why it is as it is, and what else is to say of it; "" where all is as the file says."""
    notes = [why(account)]
    notes += [f"{gateway} cannot reach it" for gateway in (account.get("health") or {}).get("unreachable_from") or ()]
    if account["drain_until"]:
        notes.append(f"until {account['drain_until']}")
    if account["overridden"]:
        notes.append("overridden: " + ", ".join(sorted(account["overridden"].keys() - {"drain_until"})))
    if not account["in_pool"]:
        notes.append("not in the pool yet: not every gateway holds it")
    if not account["held"]:
        notes.append("held by other gateways only")
    return "; ".join(filter(None, notes))
