"""The data listener: uvicorn's server over connections of our own. It does not know endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from gateway.config.schema import Config
from gateway.listen.client import App
from gateway.listen.connection import Connection, Listener, Serve, Take
from gateway.listen.cycle import Cycle

_CUT_WAIT = 1.0  # seconds in which what is cut off comes to its end


def serve_asgi(app: App) -> Serve:
    """What serves requests by an ASGI application."""

    async def serve(cycle: Cycle) -> None:
        await app(cycle.scope, cycle.receive, cycle.send)

    return serve


class Server(uvicorn.Server):
    """One worker's data listener. Signals are its owner's business."""

    def __init__(
        self,
        serve: Serve,
        config: Config,
        request_id: Callable[[], str],
        throttled: Callable[[str, str], None] = lambda scope, reason: None,
        take: Take | None = None,
    ) -> None:
        listener = self.listener = Listener(serve, config, request_id, throttled, take)

        def connect(server_state: ServerState, **_: object) -> Connection:
            return Connection(listener, server_state, asyncio.get_running_loop())

        super().__init__(
            uvicorn.Config(
                cast(Any, serve),
                http=cast(Any, connect),
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                date_header=False,
                server_header=False,
                proxy_headers=False,
                backlog=4096,
            )
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self.listening = asyncio.Event()
        self._ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._bounds = asyncio.get_running_loop().create_task(self._keep_bounds())
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self._ending.wait()

    def end(self) -> None:
        """Accept no more, close what is idle, and let `serve` return when the answers under way are whole."""
        self.should_exit = True
        self._ending.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().shutdown(sockets)
        finally:
            self._bounds.cancel()

    async def _keep_bounds(self) -> None:
        """Compare every connection's deadlines once a second, while draining too."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            now = loop.time()
            for connection in [c for c in self.server_state.connections if isinstance(c, Connection)]:
                if connection.deadline <= now or connection.write_deadline <= now:
                    connection.expire(now)

    async def cut(self) -> None:
        """End what has outlived `serve`: answers that their clients do not take."""
        tasks = set(self.server_state.tasks)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=_CUT_WAIT)

    def drain(self) -> None:
        """From now on every answer closes its connection, so that clients move on to another process, and every request
        whose head has come is told of the end."""
        self.listener.draining = True
        for connection in [c for c in self.server_state.connections if isinstance(c, Connection)]:
            connection.serve_due()
