"""The gateway of `gateway demo`, a process of its own: `python -m gateway.lab.demo.gateway CONFIG_FILE`.

It prints its base URL once everything answers, writes its log to standard error, and ends with its standard input.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from gateway.config.schema import decode
from gateway.supervisor.run import run
from gateway.supervisor.supervisor import Supervisor


def main() -> None:
    config = decode(Path(sys.argv[1]).read_bytes())
    told = os.dup(1)
    os.dup2(2, 1)  # the log, and that of the workers

    def serving(supervisor: Supervisor) -> None:
        host, port = supervisor.address
        os.write(told, f"http://{host}:{port}\n".encode())

    threading.Thread(target=_end_with_input, daemon=True).start()
    run(config, serving)


def _end_with_input() -> None:
    # Not through sys.stdin: its lock would be held when the interpreter ends.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
