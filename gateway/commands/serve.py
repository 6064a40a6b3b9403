"""`gateway serve`: run the gateway in the foreground."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import structlog
import typer

from gateway.config import Config, ConfigError, config_warnings, load, load_default_path
from gateway.edge import supervisor
from gateway.ops.logs import LogWriter, configure
from gateway.store.embedded import EmbeddedError, EmbeddedServer

log = structlog.get_logger("gateway")


def serve(
    config: Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")] = load_default_path,
    demo: Annotated[bool, typer.Option("--demo", help="Simulated accounts, a key made up now: needs no file.")] = False,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C."""
    if demo:
        from gateway.lab.demo import serve_demo

        serve_demo()
        return
    try:
        loaded = load(config, os.environ)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    run(loaded)


def run(config: Config, serving: Callable[[supervisor.Supervisor], None] = lambda supervisor: None) -> None:
    """Run a gateway with this configuration, with the embedded store where none is configured."""
    writer = LogWriter()
    configure(config.log, writer)
    for warning in config_warnings(config):
        log.warning(warning)
    try:
        with store(config) as url:
            supervisor.run(config, url, serving)
    except (EmbeddedError, supervisor.Unstartable) as error:
        writer.close()
        typer.echo(f"gateway: {error}", err=True)
        raise typer.Exit(1) from None
    finally:
        writer.close()
        sys.stdout.flush()


@contextlib.contextmanager
def store(config: Config) -> Iterator[str]:
    """The URL of the store: the configured one, or the embedded server's for as long as the context lasts."""
    if config.redis:
        yield config.redis
        return
    server = EmbeddedServer(config.data_dir)
    url = server.start()
    try:
        yield url
    finally:
        server.stop()
