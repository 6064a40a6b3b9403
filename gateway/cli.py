"""The `gateway` command. Data goes to stdout, messages to stderr; exit codes: 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import typer

from gateway import __version__
from gateway.commands import accounts, bench, config, conversations, demo, keys, replay, serve, usage
from gateway.lab.simulator.command import simulate

app = typer.Typer(
    name="gateway",
    help="One base URL in front of many Anthropic accounts; each conversation stays on the account that caches it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("simulate")(simulate)
app.command("demo")(demo.demo)
app.command("replay")(replay.replay)
app.command("bench")(bench.bench)
app.add_typer(config.app, name="config")
app.add_typer(accounts.app, name="accounts")
app.add_typer(keys.app, name="keys")
app.add_typer(conversations.app, name="conversations")
app.add_typer(usage.app, name="usage")


@app.callback(invoke_without_command=True)
def version(
    version: bool = typer.Option(False, "--version", help="Show the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(f"gateway {__version__}")
        raise typer.Exit


def main() -> None:
    app()
