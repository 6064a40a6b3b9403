"""A worker's application under its supervisor's orders, in a process of its own or in the supervisor's."""

from __future__ import annotations

from collections.abc import Callable

from gateway import log
from gateway.config.schema import Config, Log, decode
from gateway.core.routing.broadcast import encode
from gateway.telemetry.logs import RequestLog
from gateway.worker.above import Above
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
    Reload,
    Reseed,
    Returned,
    Scrape,
    Start,
)


async def begin(channel: Channel, request_log: Callable[[Log], RequestLog]) -> tuple[Gateway, Config] | None:
    """The application that the supervisor orders, at work but for its listener; None if it orders none."""
    start = await channel.receive()
    if not isinstance(start, Start):
        return None
    config: Config = decode(start.config)
    above = Above(lambda fact: channel.send(Broadcast(encode(fact))), lambda since: channel.send(Returned(since)))
    gateway = Gateway(config, start.document, start.keys, start.store, start.process, request_log(config.log), above)
    gateway.apply(start.document, start.processes)
    await gateway.start()
    return gateway, config


async def obey(channel: Channel, gateway: Gateway, not_ready: Callable[[], None]) -> float:
    """Follow the supervisor's messages; returns the drain limit in seconds, 0 if the supervisor is gone. `not_ready` is
    called when clients should move on to other processes."""
    while True:
        message = await channel.receive()
        if isinstance(message, Drain):
            return message.limit
        if message is None:
            log.error("the supervisor is gone; stopping")
            return 0.0
        try:
            _follow(message, channel, gateway, not_ready)
        except Exception:  # whatever one message did, the next must be read: it may be the drain
            log.exception("message failed", kind=type(message).__name__)


def _follow(message: Message, channel: Channel, gateway: Gateway, not_ready: Callable[[], None]) -> None:
    match message:
        case Broadcast(data):
            gateway.heard(data)
        case Document(document, processes):
            gateway.apply(document, processes)
        case Keys(keys):
            gateway.roll.know(keys)
        case Reload(config):
            gateway.reload(decode(config))
        case Reseed():
            gateway.reseed()
        case NotReady():
            gateway.draining = True
            not_ready()
            gateway.accounting.flush()
        case Scrape(number, whole):
            channel.send(numbers(gateway, number, whole))


def numbers(gateway: Gateway, answers: int, whole: bool) -> Numbers:
    """What a worker tells of itself."""
    gateway.accounting.flush()
    in_flight = {account.id: account.in_flight for account in gateway.pool.accounts.values() if account.in_flight}
    metrics = gateway.metrics
    whole_of_them = metrics.snapshot() if whole else b""
    return Numbers(metrics.sample(), whole_of_them, answers, in_flight, gateway.observer.take())


async def end(channel: Channel, gateway: Gateway) -> None:
    """Tell the last numbers, and let everything go."""
    channel.send(numbers(gateway, 0, True))
    await gateway.close()
    await channel.flush()
