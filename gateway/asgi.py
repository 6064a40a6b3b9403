"""The gateway as an ASGI application: `GATEWAY_CONFIG=gateway.yaml uvicorn gateway.asgi:app`, or any other such server.

The server's lifespan starts and ends everything that is no request: the store, the pool, the admin listener, all in
the server's process and event loop. The server has the listener, and so the bounds of what a client may take. Start one
process; two of one `data_dir` do not get along.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from functools import partial
from pathlib import Path
from typing import Any

from gateway import log
from gateway.config.file import load, load_default_path
from gateway.config.schema import ConfigError, config_warnings
from gateway.errors import ApiError
from gateway.listen.bind import Unstartable
from gateway.listen.client import Receive, Scope, Send
from gateway.store.embedded import EmbeddedError
from gateway.supervisor.run import store
from gateway.supervisor.supervisor import Supervisor
from gateway.telemetry.logs import LogWriter, configure
from gateway.worker.app import Gateway
from gateway.worker.inside import InsideWorker
from gateway.worker.request.journey import new_request_id

__all__ = ["Application", "app"]


class Application:
    """Serves by the configuration in the file that GATEWAY_CONFIG names (default: gateway.yaml), from the server's
    lifespan on. What keeps it from starting, the server is told in one line."""

    def __init__(self) -> None:
        self._gateway: Gateway | None = None
        self._lived = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
        elif self._gateway is None:
            await self._refuse(send)
        else:
            await self._gateway(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        self._lived = True
        await receive()
        async with contextlib.AsyncExitStack() as stack:
            try:
                await self._start(stack)
            except (ConfigError, EmbeddedError, Unstartable) as error:
                await send({"type": "lifespan.startup.failed", "message": f"gateway: {error}"})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        source = Path(os.environ.get("GATEWAY_CONFIG") or load_default_path)
        config = load(source, named="GATEWAY_CONFIG")
        writer = LogWriter()
        stack.callback(writer.close)
        configure(config.log, writer)
        for warning in config_warnings(config):
            log.warning(warning)
        url, revive = stack.enter_context(store(config))
        supervisor = Supervisor(config, url, revive, source, partial(self._work, writer))
        await supervisor.start()
        stack.push_async_callback(supervisor.stop, 0.0)  # the server has waited for what was under way
        outdated = asyncio.create_task(self._end_when(supervisor))
        stack.callback(outdated.cancel)

    def _work(self, writer: LogWriter, _: int, control: socket.socket) -> InsideWorker:
        return InsideWorker(control, writer, self._serve)

    def _serve(self, gateway: Gateway | None) -> None:
        self._gateway = gateway

    async def _end_when(self, supervisor: Supervisor) -> None:
        """A pool that has outgrown this version ends the server, as it does a gateway of its own."""
        await supervisor.asked_to_stop()
        os.kill(os.getpid(), signal.SIGTERM)

    async def _refuse(self, send: Send) -> None:
        request_id = new_request_id()
        words = "The gateway is not serving now." if self._lived else (
            "The gateway has not been started: run the ASGI server with its lifespan on."
        )  # fmt: skip
        error = ApiError(503 if self._lived else 500, words)
        headers: list[Any] = error.headers(request_id)
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": error.body(request_id)})


app = Application()
