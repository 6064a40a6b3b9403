"""`gateway accounts`: see and change the accounts of the running gateway, over its admin listener.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed (it does not run, or the store is away), 2 wrong
use or configuration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

import typer

from gateway.config import Config, ConfigError, load, load_default_path, parse_listen

app = typer.Typer(help="See and change the accounts of the running gateway.", no_args_is_help=True)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Its configuration file.", metavar="FILE")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AccountId = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")]

_TIMEOUT = 10.0  # seconds
_COLUMNS = ("id", "state", "weight", "workspace", "organization", "models", "note")


@app.command("list")
def list_accounts(config: ConfigOption = load_default_path, as_json: JsonOption = False) -> None:
    """Show all accounts."""
    accounts = _ask(config, "GET", "")["data"]
    if as_json:
        _print_json(accounts)
    else:
        _print_table(accounts)


@app.command()
def drain(
    account: AccountId,
    seconds: Annotated[float | None, typer.Option(min=0, help="How long; 3600 if not given.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="A deadline, 2030-01-31T18:00:00Z.")] = None,
    config: ConfigOption = load_default_path,
    as_json: JsonOption = False,
) -> None:
    """No new conversations; those that are warm stay until they are cold, or until the deadline."""
    body: dict[str, Any] = {"state": "draining"}
    if seconds is not None:
        body["drain_seconds"] = seconds
    if until is not None:
        body["drain_until"] = until
    _change(config, account, body, as_json)


@app.command()
def enable(account: AccountId, config: ConfigOption = load_default_path, as_json: JsonOption = False) -> None:
    """Serve with it again."""
    _change(config, account, {"state": "active"}, as_json)


@app.command()
def disable(account: AccountId, config: ConfigOption = load_default_path, as_json: JsonOption = False) -> None:
    """Send it nothing more; its conversations move at their next request."""
    _change(config, account, {"state": "disabled"}, as_json)


@app.command()
def weight(
    account: AccountId,
    value: Annotated[float | None, typer.Argument(metavar="[WEIGHT]", help="Above 0; the file's if left out.")] = None,
    config: ConfigOption = load_default_path,
    as_json: JsonOption = False,
) -> None:
    """Change its share of new conversations."""
    _change(config, account, {"weight": value}, as_json)


def _change(config: Path, account: str, body: dict[str, Any], as_json: bool) -> None:
    changed = _ask(config, "PATCH", account, body)
    if as_json:
        _print_json(changed)
    else:
        _print_table([changed])


def _ask(path: Path, method: str, account: str, body: dict[str, Any] | None = None) -> Any:
    """What the admin API of the gateway that runs with this file answers; ends the command where it does not."""
    import httpx  # here, because `gateway serve` loads this module too and should be ready soon

    try:
        config = load(path)
    except ConfigError as error:
        _fail(str(error), 2)
    base = _base_url(config)
    url = f"{base}/admin/v1/accounts" + (f"/{quote(account, safe='')}" if account else "")
    headers = {"authorization": f"Bearer {config.admin.token}"}
    try:
        answer = httpx.request(method, url, json=body, headers=headers, timeout=_TIMEOUT, trust_env=False)
        said = answer.json()
        if answer.status_code == 200:
            return said
        reason = said["error"]["message"]
    except httpx.TransportError as error:
        _fail(f"no gateway answers at {base}; is it running, with this configuration? ({error})", 1)
    except (ValueError, LookupError, TypeError):
        _fail(f"what answers at {base} is not this gateway", 1)
    if answer.status_code == 401:
        reason = "the running gateway has another admin.token; it keeps the one it was started with"
    _fail(reason, 2 if answer.status_code == 400 else 1)


def _base_url(config: Config) -> str:
    host, port = parse_listen(config.admin.listen)
    if not port:
        _fail("admin.listen has port 0, so the gateway cannot be found; give it a port", 1)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound here
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(message if code == 2 and "\n" in message else f"gateway: {message}", err=True)
    raise typer.Exit(code)


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _print_table(accounts: list[dict[str, Any]]) -> None:
    rows = [[name.upper() for name in _COLUMNS], *(_row(each) for each in accounts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        typer.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(account: dict[str, Any]) -> list[str]:
    notes = [f"until {account['drain_until']}"] if account["drain_until"] else []
    if account["overridden"]:
        notes.append("overridden: " + ", ".join(sorted(account["overridden"].keys() - {"drain_until"})))
    if not account["in_pool"]:
        notes.append("not in the pool yet: not every gateway holds it")
    if not account["held"]:
        notes.append("held by other gateways only")
    cells = {**account, "weight": f"{account['weight']:g}", "models": ",".join(account["models"])}
    return [*(str(cells[name]) for name in _COLUMNS[:-1]), "; ".join(notes)]
