"""A worker in its supervisor's own process and event loop: for a gateway whose listener is another ASGI server's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable

from gateway.telemetry.logs import LogWriter, configure
from gateway.worker.app import Gateway
from gateway.worker.control import Channel, Ready
from gateway.worker.follower import begin, end, obey


class InsideWorker:
    """Follows the orders that come over `control`; `serving` is given its application once that may serve, and None
    when it may not any more. To its supervisor it looks like a process."""

    def __init__(self, control: socket.socket, writer: LogWriter, serving: Callable[[Gateway | None], None]) -> None:
        self.pid = os.getpid()
        self.returncode: int | None = None
        self._ended = threading.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(control, writer, serving))

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._task.cancel()

    def wait(self) -> int | None:
        """Wait, in another thread than its own, until it has ended."""
        self._ended.wait()
        return self.returncode

    async def _run(self, control: socket.socket, writer: LogWriter, serving: Callable[[Gateway | None], None]) -> None:
        code = 1
        gateway: Gateway | None = None
        try:
            control.setblocking(False)
            channel = Channel(*await asyncio.open_connection(sock=control))
            with contextlib.closing(channel):
                begun = await begin(channel, lambda log: configure(log, writer))
                if begun is not None:
                    gateway, _ = begun
                    serving(gateway)
                    channel.send(Ready())
                    await obey(channel, gateway, lambda: None)
                    gateway.draining = True
                    gateway.upkeep.interrupt("drain")  # what the server has not waited for
                    await asyncio.sleep(0)
                    await end(channel, gateway)
            code = 0
        finally:
            serving(None)
            if gateway is not None:
                gateway.observer.end()
            self.returncode = code
            self._ended.set()
