"""`gateway conversations`: where a conversation lives and why, and how to make the running gateway forget it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from gateway.commands import completion
from gateway.commands.client import (
    TIMEOUT,
    ConfigOption,
    JsonOption,
    TokenFileOption,
    UrlOption,
    admin_of,
    fail,
    print_json,
)
from gateway.commands.terminal import console
from gateway.config.file import load_default_path

app = typer.Typer(help="See where conversations live and why, and forget them.", no_args_is_help=True)

_FLUSH_SECONDS = 600.0  # that an account's bindings may take: the whole store is searched


class Kind(StrEnum):
    """What the id was sent as."""

    header = "header"
    session = "session"


KeyId = Annotated[
    str,
    typer.Argument(
        metavar="KEY_ID",
        help="The caller's id: under `keys` in the configuration, or as `gateway keys list` shows it.",
        autocompletion=completion.callers,
    ),
]
ConversationId = Annotated[str, typer.Argument(metavar="CONVERSATION_ID", help="The id as the client sends it.")]
KindOption = Annotated[
    Kind | None, typer.Option(help="What the id is: the affinity header's, or Claude Code's session. Both are tried.")
]
AgentOption = Annotated[
    str | None, typer.Option(metavar="AGENT_ID", help="Claude Code's agent within the session (with --kind session).")
]


@app.command()
def show(
    key_id: KeyId,
    conversation_id: ConversationId,
    kind: KindOption = None,
    agent: AgentOption = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Where a conversation lives, why there, and how warm its cache is."""
    resource = _resource(key_id, conversation_id, kind, agent)
    found = admin_of(config, url, token_file).ask("GET", resource)
    if as_json:
        print_json(found)
    else:
        _print(found)


@app.command()
def flush(
    key_id: Annotated[
        str | None, typer.Argument(metavar="KEY_ID", help="The caller's id.", autocompletion=completion.callers)
    ] = None,
    conversation_id: Annotated[str | None, typer.Argument(metavar="CONVERSATION_ID", help="The id as sent.")] = None,
    account: Annotated[
        str | None,
        typer.Option(
            metavar="ACCOUNT",
            help="Forget all conversations of this account's workspace.",
            autocompletion=completion.accounts,
        ),
    ] = None,
    kind: KindOption = None,
    agent: AgentOption = None,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget where a conversation lives, or all of an account's: they are placed anew at their next request."""
    if account is not None:
        if key_id is not None or kind is not None or agent is not None:
            fail("give KEY_ID and CONVERSATION_ID, or --account alone", 2)
        resource, seconds = f"accounts/{_quoted(account)}/bindings", _FLUSH_SECONDS
    elif key_id is None or conversation_id is None:
        fail("give KEY_ID and CONVERSATION_ID, or --account", 2)
    else:
        resource, seconds = _resource(key_id, conversation_id, kind, agent), TIMEOUT
    gone = admin_of(config, url, token_file).ask("DELETE", resource, timeout=seconds)
    if as_json:
        print_json(gone)
        return
    number = gone["flushed"]
    bindings = "1 binding" if number == 1 else f"{number:,} bindings"
    place = f"workspace {gone['workspace']}" if account is not None else f"conversation {gone['conversation']}"
    typer.echo(f"forgotten: {bindings} of {place}")


def _resource(key_id: str, conversation_id: str, kind: Kind | None, agent: str | None) -> str:
    if not key_id or not conversation_id:
        fail("KEY_ID and CONVERSATION_ID must not be empty", 2)
    query = urlencode({name: value for name, value in (("kind", kind), ("agent", agent)) if value})
    path = f"conversations/{_quoted(key_id)}/{_quoted(conversation_id)}"
    return f"{path}?{query}" if query else path


def _quoted(text: str) -> str:
    """One segment of a path; one of dots alone would be taken for a step up."""
    return quote(text.encode(errors="surrogateescape"), safe="").replace(".", "%2E")


# For people.


def _print(found: dict[str, Any]) -> None:
    from rich.text import Text
    from rich.tree import Tree

    team = f" (team {found['team']})" if found["team"] else ""
    tree = Tree(Text(f"conversation {found['conversation']} of {found['caller']}{team}, known by its {found['kind']}"))
    for binding in found["bindings"]:
        branch = tree.add(Text(f"{binding['model']}: bound to workspace {binding['workspace']}", "bold"))
        for line in _lines(binding):
            branch.add(Text(line))
        for move in binding["moves"]:
            branch.add(Text(f"moved at {_clock(move['at'])} from {move['from']} to {move['to']}: {move['reason']}"))
    console().print(tree)


def _lines(binding: dict[str, Any]) -> Iterator[str]:
    """What there is to say of one binding."""
    account, closed = binding["account"], binding["closed"]
    yield f"why: {binding['why']}"
    if account is None:
        yield f"now: no account there can serve it ({closed})"
    else:
        yield f"now: served by account {account}"
    yield f"cache: {_cache(binding)}"
    for each in binding.get("avoided") or ():
        at = "" if each["workspace"] == binding["workspace"] else f" at its home {each['workspace']}"
        again = f" (tried again at {_clock(each['until'])})" if each["until"] else ""
        yield f"avoided: account {each['account']}{at} is {each['state']}. {each['why']}{again}"
    if binding["home"] is None:
        yield "home: none; no active account serves this model"
    elif binding["home"] != binding["workspace"]:
        yield f"home: workspace {binding['home']}, by its ranking"
    if binding["account_bound"]:
        yield "its history holds thinking that only this workspace's accounts read"
    for name, place in (("before", binding["previous"]), ("last detour", binding["last_detour"])):
        if place is not None:
            yield f"{name}: workspace {place['workspace']}{_until(place['warm_until'])}"
    if binding["record_expires"] is not None:
        yield f"remembered until {_clock(binding['record_expires'])} if nothing more comes"


def _cache(binding: dict[str, Any]) -> str:
    tokens = f"{binding['tokens']:,} tokens"
    if binding["warm"]:
        return f"warm, {tokens}{_until(binding['warm_until'])}"
    return f"cold, {tokens} when last seen" if binding["tokens"] else "nothing yet; no answer has been settled"


def _until(moment: str | None) -> str:
    if moment is None:
        return ""
    over = datetime.fromisoformat(moment) < datetime.now(UTC)
    return f", warm until {_clock(moment)}" + (" (over)" if over else "")


def _clock(moment: str) -> str:
    """A time of the API as the clock here shows it."""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}"
