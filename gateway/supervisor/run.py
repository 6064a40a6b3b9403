"""Running a whole gateway in the foreground: its log, its store, its supervisor.

For `gateway serve` and the demo. It does not parse command lines; what keeps a gateway from starting is raised as
CannotStart, in words for people.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from gateway import log
from gateway.config.schema import Config, config_warnings
from gateway.listen.bind import Unstartable
from gateway.store.embedded import EmbeddedError, EmbeddedServer
from gateway.supervisor import supervisor
from gateway.telemetry.logs import LogWriter, configure


class CannotStart(Exception):
    """One line that says why the gateway cannot start, and what to do."""


def run(
    config: Config,
    serving: Callable[[supervisor.Supervisor], None] = lambda _: None,
    source: Path | None = None,
) -> None:
    """Run a gateway in this thread, the main one, until SIGTERM or SIGINT; `serving` is called once it answers. The
    file `source`, if given, is followed: its changes take effect without a restart."""
    writer = LogWriter()
    configure(config.log, writer)
    for warning in config_warnings(config):
        log.warning(warning)
    try:
        with store(config) as (url, revive):
            supervisor.run(config, url, revive, serving, source)
    except (EmbeddedError, Unstartable) as error:
        raise CannotStart(str(error)) from None
    finally:
        writer.close()
        sys.stdout.flush()


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
