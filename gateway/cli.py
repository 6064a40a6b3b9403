"""The `gateway` command. Data goes to stdout, messages to stderr; exit codes: 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import typer

from gateway import __version__
from gateway.commands import (
    accounts,
    audit,
    bench,
    callers,
    config,
    conversations,
    demo,
    doctor,
    keys,
    replay,
    serve,
    top,
    usage,
)
from gateway.lab.simulator.command import simulate

app = typer.Typer(
    name="gateway",
    help="One base URL in front of many Anthropic accounts; each conversation stays on the account that caches it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every command: those below inherit it
)
app.command("serve")(serve.serve)
app.add_typer(config.app, name="config")
app.command("doctor")(doctor.doctor)
app.command("top")(top.top)
app.add_typer(accounts.app, name="accounts")
app.add_typer(keys.app, name="keys")
app.add_typer(callers.app, name="callers")
app.add_typer(conversations.app, name="conversations")
app.add_typer(usage.app, name="usage")
app.command("audit")(audit.audit)
app.command("demo")(demo.demo)
app.command("simulate")(simulate)
app.command("replay")(replay.replay)
app.command("bench")(bench.bench)


@app.callback(invoke_without_command=True)
def version(
    version: bool = typer.Option(False, "--version", help="Show the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(f"gateway {__version__}")
        raise typer.Exit


def main() -> None:
    app()
