"""`gateway keys`: make, list, rotate and revoke the keys of callers, over the running gateway's admin listener.

A new key goes to stdout alone and is shown only this once; what is said about it goes to stderr.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import typer

from gateway.commands import completion
from gateway.commands.client import ConfigOption, JsonOption, TokenFileOption, UrlOption, admin_of, fail, print_json
from gateway.commands.limit_options import (
    SHORT,
    ConcurrencyOption,
    DayOption,
    ItpmOption,
    ModelOption,
    MonthOption,
    OtpmOption,
    RpmOption,
    WeekOption,
    clock,
    given,
    limits_of,
    shown_limits,
    warn,
)
from gateway.commands.terminal import duration, print_rows
from gateway.config.file import load_default_path

T = TypeVar("T")

app = typer.Typer(help="Make, list, rotate and revoke the keys of callers.", no_args_is_help=True)

_COLUMNS = {
    "CALLER": 0, "TEAM": 6, "KEY": 0, "HINT": 0, "STATE": 0, "ENDS": 0, "MODELS": 8, "LIMITS": 8, "CREATED": 10,
}  # fmt: skip


@app.command()
def create(
    caller: Annotated[
        str,
        typer.Argument(
            metavar="CALLER", help="Whose key: an id that stays while keys rotate.", autocompletion=completion.callers
        ),
    ],
    team: Annotated[
        str | None, typer.Option(metavar="TEAM", help="Team of a new caller.", autocompletion=completion.teams)
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Model a new caller may use; may be repeated.")
    ] = None,
    rpm: Annotated[int | None, typer.Option(metavar="N", help="Requests a minute.")] = None,
    itpm: Annotated[int | None, typer.Option(metavar="N", help="Uncached input tokens a minute.")] = None,
    otpm: Annotated[int | None, typer.Option(metavar="N", help="Output tokens a minute.")] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="Requests in flight.")] = None,
    day: Annotated[float | None, typer.Option(metavar="USD", help="Dollars a day.")] = None,
    week: Annotated[float | None, typer.Option(metavar="USD", help="Dollars a week, from Monday.")] = None,
    month: Annotated[float | None, typer.Option(metavar="USD", help="Dollars a calendar month.")] = None,
    expires: Annotated[
        float | None, typer.Option(parser=duration, metavar="TIME", help="How long the key lives, as 30d; for ever.")
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="What its keys are told apart by.")] = None,
    meta: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A note about a new caller; may be repeated.")
    ] = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key, and the caller if it is new. The key is shown only this once."""
    budget = given({"day": day, "week": week, "month": month})
    limits = {**_amounts(rpm, itpm, otpm, concurrency), "budget_usd": budget or None}
    body = {
        "caller": caller,
        "team": team,
        "models": model or None,
        "limits": given(limits) or None,
        "metadata": dict(_pair(each) for each in meta or ()) or None,
        "expires_in": expires,
        "label": label,
    }
    made = admin_of(config, url, token_file).ask("POST", "keys", given(body))
    warn(made)
    _hand_out(made, f"{made['id']} of {made['caller']}", as_json)


@app.command()
def limit(
    caller: Annotated[
        str, typer.Argument(metavar="CALLER", help="Whose: one made at run time.", autocompletion=completion.callers)
    ],
    rpm: RpmOption = None,
    itpm: ItpmOption = None,
    otpm: OtpmOption = None,
    concurrency: ConcurrencyOption = None,
    day: DayOption = None,
    week: WeekOption = None,
    month: MonthOption = None,
    model: ModelOption = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what a caller may use, on all gateways; what is not named stays, `none` takes a limit away."""
    limits = limits_of(rpm, itpm, otpm, concurrency, day, week, month)
    if not (limits or model):
        fail("name a limit to change: --rpm, --itpm, --otpm, --concurrency, --day, --week, --month or --model", 2)
    changes = given({"limits": limits or None, "models": model})
    changed = admin_of(config, url, token_file).ask("PATCH", f"callers/{quote(caller, safe='')}", changes)
    warn(changed)
    if as_json:
        print_json(changed)
    else:
        _print_table([changed])


@app.command("list")
def list_keys(
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all callers and their keys."""
    callers = admin_of(config, url, token_file).ask("GET", "keys")["data"]
    if as_json:
        print_json(callers)
    else:
        _print_table(callers)


@app.command()
def revoke(
    key_id: Annotated[
        str | None, typer.Argument(metavar="[KEY_ID]", help="The key's id, as `gateway keys list` shows it.")
    ] = None,
    caller: Annotated[
        str | None,
        typer.Option(metavar="CALLER", help="Instead: all keys of this caller.", autocompletion=completion.callers),
    ] = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a key, or all of a caller, now, on all gateways and for good."""
    if (key_id is None) == (caller is None):
        fail("name a key by its id, or a caller with --caller", 2)
    admin = admin_of(config, url, token_file)
    if caller is None:
        revoked = admin.ask("DELETE", f"keys/{quote(key_id or '', safe='')}")
        words = f"{revoked['id']} of {revoked['caller']} is {revoked['state']}"
    else:
        revoked = admin.ask("DELETE", f"callers/{quote(caller, safe='')}/keys")
        words = f"{revoked['revoked']} keys of {caller} are revoked"
    warn(revoked)
    if as_json:
        print_json(revoked)
    else:
        typer.echo(words, err=True)


@app.command()
def rotate(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY_ID|CALLER", help="The key, or the caller who has only one.", autocompletion=completion.callers
        ),
    ],
    overlap: Annotated[
        float | None, typer.Option(parser=duration, metavar="TIME", help="How long both count; 24h if not given.")
    ] = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a successor of a key, which itself ends after the overlap. The new key is shown only this once."""
    admin = admin_of(config, url, token_file)
    key_id = _key_of(key, admin.ask("GET", "keys")["data"])
    made = admin.ask("POST", f"keys/{quote(key_id, safe='')}/rotate", given({"overlap": overlap}))
    _hand_out(made, f"{made['id']} of {made['caller']}; {key_id} ends at {made['replaces']['expires_at']}", as_json)


def _key_of(wanted: str, callers: list[dict[str, Any]]) -> str:
    """The id of the key that is meant by its own or by its caller's."""
    keys = [key for each in callers if each["caller"] == wanted for key in each["keys"]]
    if not keys or any(key["id"] == wanted for each in callers for key in each["keys"]):
        return wanted  # if it is no key, the gateway says so
    live = [key for key in keys if key["id"] and key["state"] == "active" and not key["replaced_by"]]
    if len(live) == 1:
        return str(live[0]["id"])
    if live:
        fail(f"{wanted} has several keys; name one of {', '.join(key['id'] for key in live)}", 1)
    if any(key["source"] == "file" for key in keys):
        fail(
            f"the keys of {wanted} are in the configuration file; make another with `gateway keys create {wanted}` and "
            "remove the old one there",
            1,
        )
    fail(f"{wanted} has no key that can be rotated; make one with `gateway keys create {wanted}`", 1)


def _hand_out(made: dict[str, Any], words: str, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    until = f", until {made['expires_at']}" if made["expires_at"] else ""
    typer.echo(f"{words}{until}. This key is shown only now:", err=True)
    typer.echo(made["key"])


def _amounts(*amounts: T) -> dict[str, T]:
    """Limits that are whole numbers, in the order of `SHORT`."""
    return dict(zip(SHORT, amounts, strict=True))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        fail("--meta needs NAME=VALUE", 2)
    return name, value


# For people.


def _print_table(callers: list[dict[str, Any]]) -> None:
    rows, notes = [], []
    for caller in callers:
        for number, key in enumerate(caller["keys"] or [None]):
            rows.append(_row(caller, key, number == 0))
            notes.append(_note(key))
    print_rows(_COLUMNS, rows, notes)


def _row(caller: dict[str, Any], key: dict[str, Any] | None, first: bool) -> list[str]:
    about = [",".join(caller["models"]), shown_limits(caller["limits"])] if first else ["", ""]
    who = [caller["caller"], (caller["team"] or "-") if first else ""]
    if key is None:
        return [*who, "-", "", "no key", "", *about, ""]
    name = key["id"] or f"file:{key['digest']}"
    ends = clock(key["revoked_at"] or key["expires_at"])
    hint = f"…{key['hint']}" if key["hint"] else ""
    return [*who, name, hint, key["state"], ends, *about, clock(key["created_at"])]


def _note(key: dict[str, Any] | None) -> str:
    if key is not None and key["state"] == "unowned":
        return "its caller is no longer in the configuration file"
    return f"replaced by {key['replaced_by']}" if key is not None and key["replaced_by"] else ""
