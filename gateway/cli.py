"""The `gateway` command. Data goes to stdout, messages to stderr; exit codes: 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_group

from gateway import __version__

# What it is called, and its function or its own group. Each is imported when it is called: no command waits for what
# another needs.
COMMANDS = {
    "serve": "gateway.commands.serve:serve",
    "config": "gateway.commands.config:app",
    "doctor": "gateway.commands.doctor:doctor",
    "top": "gateway.commands.top:top",
    "accounts": "gateway.commands.accounts:app",
    "teams": "gateway.commands.teams:app",
    "callers": "gateway.commands.callers:app",
    "keys": "gateway.commands.keys:app",
    "conversations": "gateway.commands.conversations:app",
    "usage": "gateway.commands.usage:app",
    "audit": "gateway.commands.audit:audit",
    "import": "gateway.commands.import_app:app",
    "demo": "gateway.commands.demo:demo",
    "simulate": "gateway.lab.simulator.command:simulate",
    "replay": "gateway.commands.replay:replay",
    "bench": "gateway.commands.bench:bench",
}


def _of_numbers(command: Any) -> Any:
    """The command, of which options and arguments that are numbers refuse `nan` and `inf`: no bounds do."""

    def finite(context: Any, parameter: Any, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise typer.BadParameter(f"{value} is not a number", ctx=context, param=parameter)
        return value

    for each in (command, *getattr(command, "commands", {}).values()):
        for parameter in each.params:
            if parameter.type.name in ("float", "float range"):
                parameter.callback = finite
    return command


class _Commands(Mapping[str, Any]):
    """COMMANDS, as the command line's parser wants them."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            found, around = resolve_name(COMMANDS[name]), typer.Typer()
            if isinstance(found, typer.Typer):
                around.add_typer(found, name=name)
            else:
                around.command(name)(found)
            self._made[name] = _of_numbers(get_group(around).commands[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast(Any, _Commands())  # a mapping that nobody changes


app = typer.Typer(
    name="gateway",
    cls=_Group,
    help="One base URL in front of many Anthropic accounts; each conversation stays on the account that caches it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every command: those below inherit it
)


@app.callback(invoke_without_command=True)
def version(
    version: bool = typer.Option(False, "--version", help="Show the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(f"gateway {__version__}")
        raise typer.Exit


def main() -> None:
    try:
        app()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        typer.echo(f"gateway: nothing more can be written: {error.strerror}", err=True)
        sys.stdout = None  # what waits there would be tried again at the end
        sys.exit(1)
