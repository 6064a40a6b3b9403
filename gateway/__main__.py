"""The `gateway` command, also as `python -m gateway`."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Listen to SIGTERM, then import the rest, which takes a second: to a container's first process a signal that it
    does not handle is nothing, and whoever stops it so early would wait until it is killed. Modules that are being
    imported may swallow what is raised in them, and nothing has begun yet: the process ends at once. A command that
    begins something says otherwise."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    from gateway.cli import main as run

    run()


if __name__ == "__main__":
    main()
