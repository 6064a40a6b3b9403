"""A world without sockets and without waiting: an event loop whose time jumps, and connections that end in scripts.

When nothing is left to do, the clock goes on to the next timer. All bytes are real: the gateway's own protocols write
and are fed, only what would be the kernel's sockets is here. Two clocks of the gateway are this one: its processes'
(`turned`) and the store's (see `store`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import selectors
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache
from typing import Any, Protocol

WALL = 1_900_000_000.0  # Unix seconds at which every journey begins: 2030-03-17, 17:46:40 UTC
MOST = 5_000.0  # seconds that a journey may wait
_SPIN = 100_000  # rounds of the loop in which no time passes


class Stuck(Exception):
    """Nothing will ever happen any more, or it never ends."""


class Clock:
    """Seconds since the journey began: what a process calls monotonic. It begins at some thousands."""

    def __init__(self) -> None:
        self.now = 10_000.0

    @property
    def wall(self) -> float:
        """Unix seconds."""
        return WALL - 10_000.0 + self.now


class _Jump(selectors.SelectSelector):
    """Waits for nobody: says that the time is over at once."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._rounds = 0
        self._waited = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("nothing is left to wait for")
        self._rounds = 0 if timeout > 0 else self._rounds + 1
        wait = max(timeout, 0.0)
        self._clock.now += wait
        self._waited += wait
        if self._waited > MOST or self._rounds > _SPIN:
            self._waited, self._rounds = 0.0, 0  # what is left may be ended
            raise Stuck("the journey never ends")
        return []


class Peer(Protocol):
    """The other end of a connection of the gateway's."""

    def heard(self, data: bytes) -> None:
        """The gateway has written this."""

    def left(self) -> None:
        """The gateway has closed its end."""


class Pipe(asyncio.Transport):
    """The gateway's end of a connection; `peer` is the other one. What the peer says arrives a tick later, as from a
    socket. A peer that is `deaf` takes nothing, so that what is written piles up here."""

    _nothing = os.pipe()[0]  # what is never readable: the descriptor of every connection

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, **about: Any) -> None:
        super().__init__(about)
        self._loop = loop
        self._protocol = protocol
        self.peer: Peer
        self.deaf = False
        self._unread: list[bytes] = []
        self._high = 64 * 1024
        self._full = False
        self._late: list[bytes] = []  # said while the gateway did not read
        self._reading = True
        self._closing = False
        self._lost = False

    # What the gateway does with it.

    def write(self, data: Any) -> None:
        data = bytes(data)
        if self._closing or not data:
            return
        if not self.deaf:
            self.peer.heard(data)
            return
        self._unread.append(data)
        if self.get_write_buffer_size() > self._high and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._unread))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        late, self._late = self._late, []
        for data in late:
            self.say(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        raise OSError(107, "the peer has reset the connection just now: the worst that can happen")

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._unread:
                self._end(None)

    def abort(self) -> None:
        self._closing = True
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._protocol.connection_lost, error)
            self._loop.call_soon(self.peer.left)

    # What the peer does with it.

    def say(self, data: bytes) -> None:
        """The gateway gets these bytes in one piece."""
        self._loop.call_soon(self._arrive, data)

    def _arrive(self, data: bytes) -> None:
        if self._lost:
            return
        if self._reading:
            self._protocol.data_received(data)
        else:
            self._late.append(data)

    def listen(self) -> None:
        """The peer takes again what is written."""
        self.deaf = False
        unread, self._unread = self._unread, []
        for data in unread:
            self.peer.heard(data)
        if self._closing:
            self._end(None)
        elif self._full:
            self._full = False
            self._protocol.resume_writing()

    def hang_up(self, error: Exception | None = None) -> None:
        """The peer goes: in good order, or with an error."""
        self._loop.call_soon(self._hung_up, error)

    def _hung_up(self, error: Exception | None) -> None:
        if self._lost:
            return
        if error is None and not self._protocol.eof_received():
            self.close()
        if not self._lost:
            self._closing = True
            self._end(error)


class _Descriptor:
    def setsockopt(self, *_: int) -> None:
        """There is no connection to keep alive."""

    def fileno(self) -> int:
        return Pipe._nothing


Accept = Callable[[Pipe], Awaitable[Peer]]


class World(asyncio.SelectorEventLoop):
    """The event loop. `origins` are who answers at a host (or at a path, for a unix socket): they are given the
    gateway's end of each connection and return the other one, or raise OSError. `listeners` are what the gateway
    listens with."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(_Jump(self.clock))
        self.origins: dict[str, Accept] = {}
        self.listeners: list[Callable[[], asyncio.Protocol]] = []

    def time(self) -> float:
        return self.clock.now

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return await self._connect(protocol_factory, str(host))

    async def create_unix_connection(self, protocol_factory: Any, path: Any = None, **_: Any) -> Any:
        return await self._connect(protocol_factory, str(path))

    async def _connect(self, factory: Callable[[], asyncio.Protocol], name: str) -> tuple[Pipe, asyncio.Protocol]:
        protocol = factory()
        pipe = Pipe(self, protocol, socket=_Descriptor())
        pipe.peer = await self.origins[name](pipe)
        protocol.connection_made(pipe)
        return pipe, protocol

    async def create_server(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        self.listeners.append(protocol_factory)
        return _Listener()

    def call_in(self, peer: Peer, listener: int = 0) -> Pipe:
        """A client connects to a listener of the gateway's."""
        protocol = self.listeners[listener]()
        pipe = Pipe(self, protocol, peername=("192.0.2.7", 40_000), sockname=("192.0.2.1", 8080))
        pipe.peer = peer
        protocol.connection_made(pipe)
        return pipe

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Threads take no time here."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class _Listener:
    def close(self) -> None:
        pass

    async def wait_closed(self) -> None:
        pass


# The gateway's clocks and its chance.


class _Time:
    """The module `time` with other clocks."""

    def __init__(self, clocks: dict[str, Callable[[], float]]) -> None:
        self.__dict__.update(clocks)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


_REAL = {id(getattr(time, name)): name for name in ("time", "monotonic", "perf_counter")}
_REAL |= {id(time): "module", id(random.random): "random"}


@lru_cache(maxsize=1)
def _readers(modules: int) -> list[tuple[Any, str, Any]]:
    """Where so many modules of the gateway name a clock or chance, and what stands there while nothing is turned."""
    named = [(module, vars(module)) for name, module in list(sys.modules.items()) if name.startswith("gateway.")]
    return [(module, word, value) for module, words in named for word, value in words.items() if id(value) in _REAL]


@contextlib.contextmanager
def turned(clock: Clock) -> Iterator[None]:
    """Every module of the gateway reads this clock, and draws the same numbers every time."""

    def now() -> float:
        return clock.now

    def wall() -> float:
        return clock.wall

    clocks: dict[str, Callable[[], Any]] = {"time": wall, "monotonic": now, "perf_counter": now}
    fakes = {**clocks, "module": _Time(clocks), "random": random.Random(7).random}
    changed = _readers(sum(name.startswith("gateway.") for name in sys.modules))
    for module, word, value in changed:
        setattr(module, word, fakes[_REAL[id(value)]])
    try:
        yield
    finally:
        for module, word, value in changed:
            setattr(module, word, value)
