"""What supervisor and worker say to each other, over a socket pair: length-prefixed MessagePack.

Either end that goes away ends the conversation, which is how a worker learns that its supervisor died.
"""

from __future__ import annotations

import asyncio
import struct

import msgspec

from gateway.core.routing.document import PoolDocument
from gateway.records import Finished


class Start(msgspec.Struct, tag=True):
    """To a new worker: all it needs. `config` is `gateway.config.schema.encode`'s; `processes` as in Document."""

    config: bytes
    document: PoolDocument
    processes: int
    store: str
    keys: bytes
    process: str


class Document(msgspec.Struct, tag=True):
    """To a worker: route over this from now on, one of `processes` worker processes of all gateways."""

    document: PoolDocument
    processes: int


class Keys(msgspec.Struct, tag=True):
    """To a worker: these are the callers and keys made at run time (`SharedKeys.usable`'s)."""

    keys: bytes


class Reload(msgspec.Struct, tag=True):
    """To a worker: this is the configuration from now on (`gateway.config.schema.encode`'s); the document follows."""

    config: bytes


class Reseed(msgspec.Struct, tag=True):
    """To a worker: the store may have lost what you know; give it back. May come more often than that happens."""


class Broadcast(msgspec.Struct, tag=True):
    """Either way: what processes tell each other in passing. Nothing may depend on its arrival; the supervisor
    does not read it."""

    data: bytes


class Scrape(msgspec.Struct, tag=True):
    """To a worker: send your numbers, all of them if `whole`; they are the answer to question `number`."""

    number: int
    whole: bool = False


class NotReady(msgspec.Struct, tag=True):
    """To a worker: say on /readyz that you will stop, but go on accepting."""


class Drain(msgspec.Struct, tag=True):
    """To a worker: stop accepting, finish what runs within `limit` seconds, exit."""

    limit: float


class Ready(msgspec.Struct, tag=True):
    """From a worker: it serves."""


class Numbers(msgspec.Struct, tag=True):
    """From a worker: `WorkerMetrics.sample`, its `snapshot` ("" where nobody asked for it), the number of the Scrape
    that this answers (0 for none), the requests that each account has of it now (if any), and those that have ended
    since it last said."""

    sample: bytes
    metrics: bytes = b""
    answers: int = 0
    in_flight: dict[str, int] = {}
    ended: list[Finished] = []


class Returned(msgspec.Struct, tag=True):
    """From a worker: the store is back that went away `since` then (Unix ms); what could not be told is in the
    journals."""

    since: int


Message = Start | Keys | Document | Reload | Reseed | Broadcast | Scrape | NotReady | Drain | Ready | Returned | Numbers
_BACKLOG = 1 << 20  # bytes that wait for the other end, beyond which broadcasts are dropped
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode
_LENGTH = struct.Struct(">I")


class Channel:
    """One end of the conversation."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> None:
        """Send without waiting; a lost peer shows in `receive`. Broadcast to a peer that does not read is dropped."""
        if isinstance(message, Broadcast) and self._writer.transport.get_write_buffer_size() > _BACKLOG:
            return
        data = _encode(message)
        if not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Message | None:
        """The next message, None when the other end is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            message: Message = _decode(await self._reader.readexactly(length))
            return message
        except (asyncio.IncompleteReadError, OSError):
            return None

    async def flush(self) -> None:
        """Wait until what was sent has left."""
        try:
            await self._writer.drain()
        except OSError:
            return

    def close(self) -> None:
        self._writer.close()
