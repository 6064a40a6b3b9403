"""Plays a reply on a connection: waits, writes, minds back-pressure, and ends the connection as told.

Made of timers instead of tasks: thousands of paced streams cost one callback an event.
"""

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

from gateway.lab.simulator.reply import End, Reply, wire
from gateway.lab.simulator.request import Request

if TYPE_CHECKING:
    from gateway.lab.simulator.protocol import Protocol

__all__ = ["Player", "reset_connection"]

JOIN = 64 * 1024
DRAIN_POLL = 0.005


def reset_connection(transport: asyncio.Transport) -> None:
    """Ends the connection with a TCP reset instead of a FIN; what was not sent yet is lost."""
    raw = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Player:
    """One reply being written; reports its end to the service exactly once."""

    __slots__ = ("_begun", "_keep_alive", "_loop", "_over", "_pending", "_produced", "_protocol", "_reply", "_steps",
                 "_timer")  # fmt: skip

    def __init__(self, protocol: "Protocol", reply: Reply, request: Request) -> None:
        self._protocol = protocol
        self._reply = reply
        self._keep_alive = request.keep_alive
        self._steps = wire(reply, request.keep_alive, head_only=request.method == "HEAD")
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._pending: tuple[bytes, int] | None = None
        self._produced = 0
        self._begun = False
        self._over = False

    def play(self) -> None:
        """Writes until a wait, a full buffer, or the end."""
        self._timer = None
        protocol, apart = self._protocol, self._reply.apart
        joined: list[bytes] = []
        size = 0
        if self._pending is not None:
            data, self._produced = self._pending
            self._pending = None
            self._begin()
            joined.append(data)
            size = len(data)
        while True:
            if size and (apart or size >= JOIN):
                self._write(joined)
                joined, size = [], 0
                if not protocol.writable:
                    return
                if apart and self._reply.pieces is not None:
                    # Another turn of the loop between pieces, so that each may leave as its own segment.
                    self._timer = self._loop.call_soon(self.play)
                    return
            step = next(self._steps, None)
            if step is None:
                break
            delay, data, produced = step
            if delay > 0:
                self._write(joined)
                self._pending = (data, produced)
                self._timer = self._loop.call_later(delay, self.play)
                return
            self._begin()
            self._produced = produced
            if data:
                joined.append(data)
                size += len(data)
        self._write(joined)
        self._end()

    def resume(self) -> None:
        """The buffer has room again."""
        if self._timer is None and not self._over:
            self.play()

    def client_gone(self) -> None:
        """The connection closed before the reply ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._finish(completed=False, aborted=True)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._protocol.simulator.service.begin(self._reply)

    def _write(self, pieces: list[bytes]) -> None:
        if pieces:
            self._protocol.transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _end(self) -> None:
        end = self._reply.end
        if end is End.HANG:
            # Silent until the client gives up, which counts as its abort.
            self._over = True
            return
        if end is End.RESET:
            self._reset_when_drained()
            return
        self._finish(completed=self._reply.complete, aborted=False)
        self._protocol.answered(self._keep_alive and end is End.KEEP)

    def _reset_when_drained(self) -> None:
        transport = self._protocol.transport
        self._over = True
        if transport.get_write_buffer_size():
            self._timer = self._loop.call_later(DRAIN_POLL, self._reset_when_drained)
            return
        self._finish(completed=False, aborted=False)
        reset_connection(transport)

    def _finish(self, *, completed: bool, aborted: bool) -> None:
        self._over = True
        self._protocol.simulator.service.finish(self._reply, self._produced, completed=completed, aborted=aborted)
