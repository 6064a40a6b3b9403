"""`gateway doctor`: is everything there that the gateway needs, and if not, what to do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands.client import ConfigOption, JsonOption, print_json, read_config
from gateway.commands.config import summary
from gateway.commands.terminal import console
from gateway.config.file import load_default_path, parse, read_text
from gateway.config.schema import Config, config_warnings
from gateway.config.source import ConfigError, Node, Problem

if TYPE_CHECKING:
    from gateway.commands.checkup.finding import Finding

_SECRETS = ("api_key", "key", "token", "secret")
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def doctor(
    config: ConfigOption = load_default_path,
    offline: Annotated[
        bool, typer.Option("--offline", help="Look at this machine alone: ask neither the store nor the accounts.")
    ] = False,
    paid: Annotated[
        bool,
        typer.Option(
            "--paid",
            help="Ask accounts for one token of their cheapest model where no free call proves credential and model: "
            "about ten tokens each. It says what that cost.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check configuration, store, accounts, machine and the running gateway, and say what to do. Exit code 1: something
    failed."""
    if offline and paid:
        raise typer.BadParameter("--paid asks accounts, --offline nobody: choose one", param_hint="--paid")
    loaded = read_config(config)
    from gateway.commands.checkup.causes import once
    from gateway.commands.checkup.finding import Level, secrets_of, without

    secrets = secrets_of(loaded)
    findings = [
        type(each)(each.level, each.about, each.check, without(secrets, each.message), without(secrets, each.advice))
        for each in once(_look(config, loaded, offline, paid))
    ]
    counts = {level.value: sum(each.level is level for each in findings) for level in Level}
    if as_json:
        print_json({"ok": not counts["failed"], "counts": counts, "findings": [_plain(each) for each in findings]})
    elif sys.stdout.isatty():
        _print_table(findings, counts)
    else:
        for each in findings:
            typer.echo(f"{each.level.value:8} {each.about}: {each.check}: {each.line}")
    if counts["failed"]:
        raise typer.Exit(1)


def _look(path: Path, config: Config, offline: bool, paid: bool) -> Iterator[Finding]:
    """Every finding, from the nearest to the farthest."""
    # Here, because `gateway serve` loads this module too and should be ready soon.
    from gateway.commands.checkup.causes import accounts_told
    from gateway.commands.checkup.machine import check_machine
    from gateway.commands.checkup.running import check_running

    elsewhere = [] if offline else asyncio.run(_elsewhere(config, paid))
    yield from _file(path, config, accounts_told(elsewhere))
    yield from check_machine(config)
    yield from check_running(config)
    yield from elsewhere


async def _elsewhere(config: Config, paid: bool) -> list[Finding]:
    from gateway.commands.checkup.accounts import check_accounts
    from gateway.commands.checkup.store import check_embedded, check_store

    store = check_store(config.redis) if config.redis else check_embedded(config.data_dir)
    found = list(await asyncio.gather(store, check_accounts(config, paid)))
    if config.issuers:
        from gateway.commands.checkup.issuers import check_issuers

        found.append(await check_issuers(config))
    return [each for findings in found for each in findings]


def _file(path: Path, config: Config, told: Collection[str]) -> Iterator[Finding]:
    """Of accounts that are `told` of, what their upstream has shown is not told again."""
    from gateway.commands.checkup.finding import ok, warning

    about = "configuration"
    yield ok(about, str(path), summary(config))
    for words in config_warnings(config, told):
        yield warning(about, "warning", words, "correct it, if it is not meant")
    for name, text in (("admin.token", config.admin.token), ("secret", config.secret[0])):
        if len(set(text)) < 8:
            yield warning(about, name, "it is made of few different characters", "make one with `openssl rand -hex 32`")
    if path.stat().st_mode & 0o004 and _holds_secrets(path):
        yield warning(about, "rights", "everybody here can read it, and it holds keys", f"chmod 600 {path}")


def _holds_secrets(path: Path) -> bool:
    """Whether a secret stands in the file itself, not by an expression."""
    problems: list[Problem] = []
    try:
        nodes = [parse(read_text(path), str(path), problems)]
    except ConfigError:  # it changes just now
        return False
    for node in nodes:
        if isinstance(node.value, list):
            nodes += node.value
        elif isinstance(node.value, dict):
            for name, entry in node.value.items():
                if name in _SECRETS and _literal(entry.node):
                    return True
                nodes.append(entry.node)
    return False


def _literal(node: Node) -> bool:
    if isinstance(node.value, list):
        return any(map(_literal, node.value))
    return isinstance(node.value, str) and "${" not in node.value


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "level": finding.level.value, "about": finding.about, "check": finding.check, "message": finding.message,
        "advice": finding.advice or None,
    }  # fmt: skip


def _print_table(findings: list[Finding], counts: dict[str, int]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("level", "about", "check"):
        table.add_column(name, no_wrap=True)
    table.add_column("finding", overflow="fold")
    about = ""
    for each in findings:
        level = Text(each.level.value, _COLOURS[each.level.value])
        table.add_row(level, each.about if each.about != about else "", each.check, each.line)
        about = each.about
    console().print(table)
    console().print(", ".join(f"{number} {level}" for level, number in counts.items()))
