"""`gateway callers`: who calls, over the running gateway's admin listener. Their keys are `gateway keys`'."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from gateway.commands import completion
from gateway.commands.client import ConfigOption, JsonOption, TokenFileOption, UrlOption, admin_of, fail, print_json
from gateway.commands.limit_options import (
    ConcurrencyOption,
    DayOption,
    ItpmOption,
    MessageOption,
    ModelOption,
    MonthOption,
    OtpmOption,
    RpmOption,
    SoftOption,
    WeekOption,
    given,
    limits_of,
    shown_limits,
    warn,
)
from gateway.commands.teams import ForOption, ReasonOption, UsdOption, print_boost
from gateway.commands.terminal import print_rows
from gateway.config.file import load_default_path

app = typer.Typer(help="Make, change, suspend and delete callers.", no_args_is_help=True)

_COLUMNS = {"CALLER": 0, "TEAM": 6, "KIND": 0, "STATUS": 0, "FROM": 0, "LABEL": 6, "MODELS": 8, "LIMITS": 8}
CallerArgument = Annotated[
    str, typer.Argument(metavar="CALLER", help="The caller's id.", autocompletion=completion.callers)
]
TeamOption = Annotated[str | None, typer.Option(metavar="TEAM|none", help="Its team.", autocompletion=completion.teams)]
PersonOption = Annotated[bool | None, typer.Option("--person/--service", help="What it is.")]
LabelOption = Annotated[str | None, typer.Option(metavar="TEXT", help="What people call it.")]
EmailOption = Annotated[str | None, typer.Option(metavar="ADDRESS", help="A label; it changes no rights.")]


@app.command("list")
def list_callers(
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all callers."""
    found = admin_of(config, url, token_file).ask("GET", "callers")["data"]
    if as_json:
        print_json(found)
    else:
        _print(found)


@app.command()
def show(
    caller: CallerArgument,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one caller."""
    _done(admin_of(config, url, token_file).ask("GET", _path(caller)), as_json)


@app.command()
def create(
    caller: CallerArgument,
    team: TeamOption = None,
    person: PersonOption = None,
    label: LabelOption = None,
    email: EmailOption = None,
    model: ModelOption = None,
    rpm: RpmOption = None,
    itpm: ItpmOption = None,
    otpm: OtpmOption = None,
    concurrency: ConcurrencyOption = None,
    day: DayOption = None,
    week: WeekOption = None,
    month: MonthOption = None,
    soft: SoftOption = None,
    message: MessageOption = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a caller, as yet without a key; `gateway keys create` makes one."""
    limits = limits_of(rpm, itpm, otpm, concurrency, day, week, month, soft, message)
    body = _body(team, person, label, email, model, limits)
    _done(admin_of(config, url, token_file).ask("POST", "callers", {"id": caller, **body}), as_json)


@app.command("set")
def set_caller(
    caller: CallerArgument,
    team: TeamOption = None,
    person: PersonOption = None,
    label: LabelOption = None,
    email: EmailOption = None,
    model: ModelOption = None,
    rpm: RpmOption = None,
    itpm: ItpmOption = None,
    otpm: OtpmOption = None,
    concurrency: ConcurrencyOption = None,
    day: DayOption = None,
    week: WeekOption = None,
    month: MonthOption = None,
    soft: SoftOption = None,
    message: MessageOption = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a caller or move it to another team; what is not named stays, `none` takes a limit away."""
    limits = limits_of(rpm, itpm, otpm, concurrency, day, week, month, soft, message)
    body = _body(team, person, label, email, model, limits)
    if not body:
        fail("name something to change, such as --team blue", 2)
    _done(admin_of(config, url, token_file).ask("PATCH", _path(caller), body), as_json)


@app.command()
def suspend(
    caller: CallerArgument,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse a caller, on all gateways, until it is resumed; its keys stay."""
    _done(admin_of(config, url, token_file).ask("PATCH", _path(caller), {"status": "suspended"}), as_json)


@app.command()
def resume(
    caller: CallerArgument,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a caller again that was suspended."""
    _done(admin_of(config, url, token_file).ask("PATCH", _path(caller), {"status": "active"}), as_json)


@app.command()
def boost(
    caller: CallerArgument,
    usd: UsdOption,
    seconds: ForOption,
    reason: ReasonOption,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Raise every budget of a caller for a while."""
    body = {"caller": caller, "usd": usd, "seconds": seconds, "reason": reason}
    print_boost(admin_of(config, url, token_file).ask("POST", "boosts", body), as_json)


@app.command()
def delete(
    caller: CallerArgument,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a caller: its keys end now, on all gateways and for good; what it has used stays in the ledger."""
    gone = admin_of(config, url, token_file).ask("DELETE", _path(caller))
    warn(gone)
    if as_json:
        print_json(gone)
    else:
        typer.echo(f"{gone['caller']} is deleted, {gone['revoked']} keys with it", err=True)


def _path(caller: str) -> str:
    return f"callers/{quote(caller, safe='')}"


def _body(
    team: str | None,
    person: bool | None,
    label: str | None,
    email: str | None,
    model: list[str] | None,
    limits: dict[str, Any],
) -> dict[str, Any]:
    kind = None if person is None else "person" if person else "service"
    fields = {"kind": kind, "label": label, "email": email, "models": model or None}
    body = given({**fields, "limits": limits or None})
    return body if team is None else {**body, "team": None if team == "none" else team}


def _done(caller: dict[str, Any], as_json: bool) -> None:
    warn(caller)
    if as_json:
        print_json(caller)
    else:
        _print([caller])


def _print(callers: list[dict[str, Any]]) -> None:
    rows = [
        [
            each["id"], each["team"] or "-", each["kind"], each["status"], each["source"] or "-", each["label"] or "-",
            ",".join(each["models"]), shown_limits(each["limits"]),
        ]
        for each in callers
    ]  # fmt: skip
    hidden = "one that was made at run time has this id too; the file's counts"
    print_rows(_COLUMNS, rows, [hidden if each["shadows_stored"] else "" for each in callers])
