"""`gateway serve`: run the gateway in the foreground."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from gateway.commands.client import ConfigOption
from gateway.config.file import load, load_default_path
from gateway.config.schema import ConfigError

_METRICS = "opentelemetry.sdk.metrics"


def serve(
    config: ConfigOption = load_default_path,
    demo: Annotated[bool, typer.Option("--demo", help="Simulated accounts, a key made up now: needs no file.")] = False,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C."""
    with _unmeasured():
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


@contextlib.contextmanager
def _unmeasured() -> Iterator[None]:
    """Where OpenTelemetry is installed redis-py would load its metrics, should anybody want to report some by it.
    Nobody does here, and they are a tenth of the time and some of the memory that a start takes."""
    if _METRICS in sys.modules:
        yield
        return
    sys.modules[_METRICS] = None  # type: ignore[assignment]  # to import it fails as if it were not installed
    try:
        yield
    finally:
        del sys.modules[_METRICS]
