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

from gateway import log
from gateway.config.schema import Config, decode
from gateway.listen.server import Server
from gateway.telemetry.logs import LogWriter, configure
from gateway.worker.app import Gateway
from gateway.worker.control import (
    Broadcast,
    Channel,
    Document,
    Drain,
    Keys,
    Message,
    NotReady,
    Numbers,
    Ready,
    Reload,
    Reseed,
    Returned,
    Scrape,
    Start,
)
from gateway.worker.request.journey import new_request_id

_CUT_WAIT = 2.0  # seconds that interrupted streams get to say so


async def run(control: socket.socket, listener: socket.socket, writer: LogWriter) -> None:
    """Serve until the supervisor says Drain or is gone."""
    reader, stream = await asyncio.open_connection(sock=control)
    channel = Channel(reader, stream)
    start = await channel.receive()
    if not isinstance(start, Start):
        return
    config: Config = decode(start.config)
    request_log = configure(config.log, writer)
    gateway = Gateway(config, start.document, start.keys, start.store, start.process, request_log)
    gateway.tell = lambda data: channel.send(Broadcast(data))
    gateway.store_returned = lambda since: channel.send(Returned(since))
    gateway.apply(start.document, start.processes)
    await gateway.start()
    server = Server(gateway.serve, config, new_request_id, gateway.metrics.throttled)
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
    limit = await _obey(channel, gateway, server)
    orders = asyncio.create_task(_obey(channel, gateway, server))  # still there to be asked for numbers, or orphaned
    await _drain(gateway, server, serving, orders, limit)
    orders.cancel()
    channel.send(_numbers(gateway, 0, True))
    await gateway.close()
    await channel.flush()


async def _obey(channel: Channel, gateway: Gateway, server: Server) -> float:
    """Follow the supervisor's messages; returns the drain limit in seconds, 0 if the supervisor is gone."""
    while True:
        message = await channel.receive()
        if isinstance(message, Drain):
            return message.limit
        if message is None:
            log.error("the supervisor is gone; stopping")
            return 0.0
        try:
            _follow(message, channel, gateway, server)
        except Exception:  # whatever one message did, the next must be read: it may be the drain
            log.exception("message failed", kind=type(message).__name__)


def _follow(message: Message, channel: Channel, gateway: Gateway, server: Server) -> None:
    match message:
        case Broadcast(data):
            gateway.heard(data)
        case Document(document, processes):
            gateway.apply(document, processes)
        case Keys(keys):
            gateway.know(keys)
        case Reload(config):
            gateway.reload(decode(config))
        case Reseed():
            gateway.reseed()
        case NotReady():
            gateway.draining = True
            server.drain()
            gateway.accounting.flush()
        case Scrape(number, whole):
            channel.send(_numbers(gateway, number, whole))


def _numbers(gateway: Gateway, answers: int, whole: bool) -> Numbers:
    gateway.accounting.flush()
    ended = list(gateway.ended)
    gateway.ended.clear()
    in_flight = {account.id: account.in_flight for account in gateway.pool.accounts.values() if account.in_flight}
    metrics = gateway.metrics
    return Numbers(metrics.sample(), metrics.snapshot() if whole else b"", answers, in_flight, ended)


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
