"""The `gateway` command, also as `python -m gateway`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Listen to SIGTERM, then import the rest, which takes a second: to a container's first process a signal that it
    does not handle is nothing, and whoever stops it so early would wait until it is killed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from gateway.cli import main as run

    run()


if __name__ == "__main__":
    main()
