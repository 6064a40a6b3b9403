"""`gateway serve`: run the gateway in the foreground."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from gateway.commands.client import ConfigOption
from gateway.config.file import load, load_default_path
from gateway.config.schema import ConfigError


def serve(
    config: ConfigOption = load_default_path,
    demo: Annotated[bool, typer.Option("--demo", help="Simulated accounts, a key made up now: needs no file.")] = False,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C."""
    from gateway.supervisor.run import CannotStart, run  # no other command should wait for what this imports

    try:
        if demo:
            from gateway.lab.demo.serve_demo import serve_demo  # what only the demo needs, only the demo imports

            serve_demo()
        else:
            loaded = load(config, os.environ)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # until the gateway minds it
            run(loaded, source=config)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except CannotStart as error:
        typer.echo(f"gateway: {error}", err=True)
        raise typer.Exit(1) from None
