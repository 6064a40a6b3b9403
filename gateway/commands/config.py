"""`gateway config`: check, show and describe a configuration file.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed, 2 wrong use or configuration.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from gateway.commands.client import ConfigOption, JsonOption, fail, print_json
from gateway.commands.config_reference import reference
from gateway.config import schema as configuration
from gateway.config.file import load, load_default_path
from gateway.config.schema import Config, ConfigError

app = typer.Typer(help="Check and show the configuration.", no_args_is_help=True)

WRONG_CONFIGURATION = 2


@app.command()
def check(config: ConfigOption = load_default_path, as_json: JsonOption = False) -> None:
    """Say whether the file can be used, and everything that is wrong with it."""
    try:
        loaded = load(config)
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "file": str(config), "problems": [p._asdict() for p in error.problems]})
        typer.echo(str(error), err=True)
        raise typer.Exit(WRONG_CONFIGURATION) from None
    warnings = configuration.config_warnings(loaded)
    if as_json:
        print_json({"ok": True, "file": str(config), **_counts(loaded), "warnings": warnings})
    else:
        typer.echo(f"{config}: ok — {summary(loaded)}")
    for warning in warnings:
        typer.echo(f"{config}: warning: {warning}", err=True)


@app.command()
def show(config: ConfigOption = load_default_path, as_json: JsonOption = False) -> None:
    """Print the configuration in force, defaults filled in and secrets replaced by ***."""
    try:
        described = configuration.describe(load(config))
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(WRONG_CONFIGURATION) from None
    if as_json:
        print_json(described)
    else:
        typer.echo(yaml.safe_dump(described, sort_keys=False, allow_unicode=True), nl=False)


@app.command()
def schema(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print it as a page for people.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as it does anyway.")] = False,
) -> None:
    """Print the JSON Schema of the file, for editors, or every key with its default and meaning, for people."""
    if as_markdown and as_json:
        fail("give --json or --markdown, not both", WRONG_CONFIGURATION)
    if as_markdown:
        from gateway.supervisor.reload import RELOADABLE  # here, as no other command should wait for what it imports

        typer.echo(reference(configuration.schema(), RELOADABLE), nl=False)
    else:
        print_json(configuration.schema())


def _counts(config: Config) -> dict[str, Any]:
    return {
        "accounts": len(config.accounts),
        "organizations": len({account.organization for account in config.accounts}),
        "keys": sum(len(caller.digests) for caller in config.keys),
        "callers": len(config.keys),
        "store": configuration.describe(config)["redis"] or "embedded",
    }


def summary(config: Config) -> str:
    """What is in it, for a line."""
    counts = _counts(config)
    parts = (
        f"{_count(counts['accounts'], 'account')} in {_count(counts['organizations'], 'organization')}",
        _count(counts["keys"], "key"),
        "embedded store" if counts["store"] == "embedded" else f"store {counts['store']}",
    )
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
