"""`gateway teams`: make, change and delete teams and boosts, over the running gateway's admin listener."""

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
    amount,
    clock,
    given,
    limits_of,
    shown_limits,
    warn,
)
from gateway.commands.terminal import duration, print_rows
from gateway.config.file import load_default_path

app = typer.Typer(help="Make, change and delete teams, and raise budgets for a while.", no_args_is_help=True)

_COLUMNS = {"TEAM": 0, "NAME": 6, "FROM": 0, "CALLERS": 0, "MODELS": 8, "LIMITS": 8}
_BOOSTS = {"BOOST": 0, "FOR": 0, "USD": 0, "UNTIL": 0, "STATE": 0, "BY": 0, "REASON": 6}
TeamArgument = Annotated[str, typer.Argument(metavar="TEAM", help="The team's id.", autocompletion=completion.teams)]
NameOption = Annotated[str | None, typer.Option(metavar="TEXT", help="What people call it.")]
MaxKeysOption = Annotated[str | None, typer.Option(metavar="N|none", help="Keys that a caller may have at a time.")]
MaxDaysOption = Annotated[str | None, typer.Option(metavar="DAYS|none", help="Days that a key may live.")]
ReasonOption = Annotated[str, typer.Option(metavar="TEXT", help="Why; it stands in the audit log.")]
UsdOption = Annotated[float, typer.Option(metavar="USD", help="How much more each budget is.")]
ForOption = Annotated[float, typer.Option("--for", parser=duration, metavar="TIME", help="For how long, as 24h.")]


@app.command("list")
def list_teams(
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all teams."""
    found = admin_of(config, url, token_file).ask("GET", "teams")["data"]
    if as_json:
        print_json(found)
    else:
        _print(found)


@app.command()
def show(
    team: TeamArgument,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one team and who is in it."""
    found = admin_of(config, url, token_file).ask("GET", f"teams/{quote(team, safe='')}")
    if as_json:
        print_json(found)
        return
    _print([found])
    for name in ("members", "key_policy", "metadata"):
        if found[name]:
            typer.echo(f"{name.replace('_', ' ')}: {_line(found[name])}")


@app.command()
def create(
    team: TeamArgument,
    name: NameOption = None,
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
    max_keys: MaxKeysOption = None,
    max_lifetime_days: MaxDaysOption = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a team."""
    limits = limits_of(rpm, itpm, otpm, concurrency, day, week, month, soft, message)
    body = _body(name, model, limits, max_keys, max_lifetime_days)
    made = admin_of(config, url, token_file).ask("POST", "teams", {"id": team, **body})
    _done(made, as_json)


@app.command("set")
def set_team(
    team: TeamArgument,
    name: NameOption = None,
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
    max_keys: MaxKeysOption = None,
    max_lifetime_days: MaxDaysOption = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a team, on all gateways; what is not named stays, `none` takes a limit away."""
    limits = limits_of(rpm, itpm, otpm, concurrency, day, week, month, soft, message)
    body = _body(name, model, limits, max_keys, max_lifetime_days)
    if not body:
        fail("name something to change, such as --week 200", 2)
    _done(admin_of(config, url, token_file).ask("PATCH", f"teams/{quote(team, safe='')}", body), as_json)


@app.command()
def delete(
    team: TeamArgument,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a team and its callers: their keys end now, for good; what they have used stays in the ledger."""
    gone = admin_of(config, url, token_file).ask("DELETE", f"teams/{quote(team, safe='')}")
    warn(gone)
    if as_json:
        print_json(gone)
    else:
        typer.echo(f"{gone['id']} is deleted, {len(gone['callers'])} callers and {gone['revoked']} keys too", err=True)


@app.command()
def boost(
    team: TeamArgument,
    usd: UsdOption,
    seconds: ForOption,
    reason: ReasonOption,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Raise every budget of a team for a while."""
    body = {"team": team, "usd": usd, "seconds": seconds, "reason": reason}
    print_boost(admin_of(config, url, token_file).ask("POST", "boosts", body), as_json)


@app.command()
def boosts(
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the boosts of teams and callers."""
    found = admin_of(config, url, token_file).ask("GET", "boosts")["data"]
    if as_json:
        print_json(found)
    else:
        _print_boosts(found)


@app.command("end-boost")
def end_boost(
    boost_id: Annotated[str, typer.Argument(metavar="BOOST", help="Its id, as `gateway teams boosts` shows it.")],
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a boost now."""
    gone = admin_of(config, url, token_file).ask("DELETE", f"boosts/{quote(boost_id, safe='')}")
    warn(gone)
    if as_json:
        print_json(gone)
    else:
        typer.echo(f"{gone['id']} has ended", err=True)


def _body(
    name: str | None, model: list[str] | None, limits: dict[str, Any], max_keys: str | None, days: str | None
) -> dict[str, Any]:
    policy = {
        field: amount(text) for field, text in (("max_keys", max_keys), ("max_lifetime_days", days)) if text is not None
    }
    return given({"name": name, "models": model or None, "limits": limits or None, "key_policy": policy or None})


def _done(team: dict[str, Any], as_json: bool) -> None:
    warn(team)
    if as_json:
        print_json(team)
    else:
        _print([team])


def print_boost(made: dict[str, Any], as_json: bool) -> None:
    """A boost that was given."""
    if as_json:
        print_json(made)
    else:
        _print_boosts([made])


def _print(teams: list[dict[str, Any]]) -> None:
    rows = [
        [
            each["id"], each["name"] or "-", each["source"], str(len(each["members"])), ",".join(each["models"]),
            shown_limits(each["limits"]),
        ]
        for each in teams
    ]  # fmt: skip
    hidden = "one that was made at run time has this id too; the file's counts"
    print_rows(_COLUMNS, rows, [hidden if each["shadows_stored"] else "" for each in teams])


def _print_boosts(boosts: list[dict[str, Any]]) -> None:
    rows = [
        [
            each["id"], f"team {each['team']}" if each["team"] else str(each["caller"]), f"{each['usd']:,g}",
            clock(each["until"]), "active" if each["active"] else "over", each["by"], each["reason"],
        ]
        for each in boosts
    ]  # fmt: skip
    print_rows(_BOOSTS, rows, [""] * len(rows))


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_line(item)}" for name, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
