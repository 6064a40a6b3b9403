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

from gateway.config import Caller, Config, ConfigError, config_warnings, load, load_default_path
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
    for each in not_enforced(config):
        log.warning(each)
    try:
        with store(config) as (url, revive):
            supervisor.run(config, url, revive, serving)
    except (EmbeddedError, supervisor.Unstartable) as error:
        writer.close()
        typer.echo(f"gateway: {error}", err=True)
        raise typer.Exit(1) from None
    finally:
        writer.close()
        sys.stdout.flush()


def not_enforced(config: Config) -> list[str]:
    """What the configuration says and this version does not do: nobody should learn that from a bill."""
    found = []
    if any(any(value is not None for value in _limits(caller)) for caller in config.keys):
        found.append("limits and budgets of keys are read but not enforced yet")
    if config.models.aliases:
        found.append("models.aliases are read but not resolved yet")
    return found


def _limits(caller: Caller) -> tuple[float | None, ...]:
    limits = caller.limits
    return (
        limits.requests_per_minute, limits.input_tokens_per_minute, limits.output_tokens_per_minute,
        limits.concurrency, limits.budget_usd.day, limits.budget_usd.month,
    )  # fmt: skip


@contextlib.contextmanager
def store(config: Config) -> Iterator[tuple[str, Callable[[], object]]]:
    """The URL of the store and what starts it again should it die: the configured one, which is not ours to start, or
    the embedded server's for as long as the context lasts."""
    if config.redis:
        yield config.redis, lambda: None
        return
    server = EmbeddedServer(config.data_dir)

    def revive() -> None:
        if not server.alive():
            log.error("the embedded store died; starting it again")
            server.start()

    url = server.start()
    try:
        yield url, revive
    finally:
        server.stop()
