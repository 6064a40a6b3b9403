"""A worker process: one event loop that serves the data listener, told what to do by its supervisor.

Run as `python -m gateway.worker.process CONTROL_FD LISTEN_FD`; both are inherited sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import sys

import uvloop

from gateway.listen.server import Server
from gateway.telemetry.logs import LogWriter, configure
from gateway.worker.app import Gateway
from gateway.worker.control import Channel, Ready
from gateway.worker.follower import begin, end, obey
from gateway.worker.request.journey import new_request_id

_CUT_WAIT = 2.0  # seconds that interrupted streams get to say so


async def run(control: socket.socket, listener: socket.socket, writer: LogWriter) -> None:
    """Serve until the supervisor says Drain or is gone."""
    channel = Channel(*await asyncio.open_connection(sock=control))
    begun = await begin(channel, lambda log: configure(log, writer))
    if begun is None:
        return
    gateway, config = begun
    server = Server(gateway.serve, config, new_request_id, gateway.metrics.throttled, gateway.take)
    serving = asyncio.create_task(server.serve([listener]))
    listening = asyncio.create_task(server.listening.wait())
    await asyncio.wait((listening, serving), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving  # it could not even begin: let the process say why and end
    # What lives now lives on: the collector need not look at it again, and may look at the rest less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    channel.send(Ready())
    limit = await obey(channel, gateway, server.drain)
    # Still there to be asked for numbers, or orphaned.
    orders = asyncio.create_task(obey(channel, gateway, server.drain))
    await _drain(gateway, server, serving, orders, limit)
    orders.cancel()
    await end(channel, gateway)


async def _drain(
    gateway: Gateway, server: Server, serving: asyncio.Task[None], orders: asyncio.Task[float], limit: float
) -> None:
    """Stop accepting; let answers finish within `limit` or until the supervisor is gone; end the others with an error
    event."""
    gateway.draining = True
    server.drain()
    server.end()
    await asyncio.wait((serving, orders), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        gateway.upkeep.interrupt("drain")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(serving), _CUT_WAIT)
    if not serving.done():
        server.force_exit = True
        await serving
        await server.cut()


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # where the system allows it: one for each connection
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    control = socket.socket(fileno=int(sys.argv[1]))
    listener = socket.socket(fileno=int(sys.argv[2]))
    # The terminal's Ctrl-C and a service manager's SIGTERM are the supervisor's to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    writer = LogWriter()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(control, listener, writer))
    finally:
        writer.close()


if __name__ == "__main__":
    main()
