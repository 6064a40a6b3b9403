"""The simulator itself: a world, its behaviour, and a listening socket."""

import asyncio
import ssl as tls
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.core.spending.pricing import Catalogue
from gateway.data import load_catalogue
from gateway.lab.simulator import control
from gateway.lab.simulator.faults import Faults
from gateway.lab.simulator.protocol import Protocol
from gateway.lab.simulator.records import Records
from gateway.lab.simulator.reply import Reply
from gateway.lab.simulator.request import Request
from gateway.lab.simulator.service import Service
from gateway.lab.simulator.settings import Settings
from gateway.lab.simulator.static import StaticAnswers, StaticProtocol
from gateway.lab.simulator.world import World

__all__ = ["Simulator"]

CLOSED_KEPT = 10_000


class Simulator:
    """A fake upstream on a real socket; `async with` starts and stops it.

    `clock` (seconds, monotonic) drives caches and limits; the pace of answers follows the event loop. Settings are
    given as one `Settings` or by name: `Simulator(World.grid(2), ttft=0.2, input_tokens_per_minute=20_000)`.
    """

    def __init__(
        self,
        world: World | None = None,
        settings: Settings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        catalogue: Catalogue | None = None,
        **changes: Any,
    ) -> None:
        """`TypeError` for a setting that does not exist, or if both a `Settings` and single settings are given."""
        if settings is not None and changes:
            raise TypeError("give either settings or single values")
        self.world = world or World.grid()
        self.settings = settings or Settings(**changes)
        self.service = Service(self.world, self.settings, catalogue or load_catalogue(), clock)
        self.base_url = ""
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._open: dict[int, Protocol] = {}
        self._closed: deque[dict[str, Any]] = deque(maxlen=CLOSED_KEPT)

    def __repr__(self) -> str:
        return f"<Simulator {self.base_url or 'stopped'} {len(self.world.accounts)} accounts {len(self._open)} open>"

    @property
    def requests(self) -> Records:
        """What was seen, oldest first."""
        return self.service.records

    @property
    def faults(self) -> Faults:
        """What goes wrong on command."""
        return self.service.faults

    @property
    def port(self) -> int:
        """The port it listens on, 0 if it does not."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else 0

    async def start(self, host: str = "127.0.0.1", port: int = 0, ssl: tls.SSLContext | None = None) -> None:
        """Listens; `base_url` is then set. `OSError` if the address is taken."""
        loop = asyncio.get_running_loop()
        factory: Callable[[], asyncio.Protocol] = lambda: Protocol(self)  # noqa: E731
        if self.settings.static:
            answers = StaticAnswers(self.settings)
            factory = lambda: StaticProtocol(answers)  # noqa: E731
        self._server = await loop.create_server(factory, host, port, ssl=ssl, backlog=4096, reuse_address=True)
        shown = f"[{host}]" if ":" in host else host
        self.base_url = f"{'https' if ssl else 'http'}://{shown}:{self.port}"

    async def stop(self) -> None:
        """Stops listening and closes every connection; answers under way count as aborted."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for protocol in list(self._open.values()):
            protocol.transport.abort()
        await asyncio.sleep(0)
        await server.wait_closed()

    async def __aenter__(self) -> "Simulator":
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def configure(self, **changes: Any) -> None:
        """Changes the named settings from the next request on; limits start afresh where they changed."""
        self.settings = msgspec.structs.replace(self.settings, **changes)
        self.service.configure(self.settings)

    def reset(self, **flags: bool) -> None:
        """Forgets records, faults, cache and limits; `reset(cache=False)` leaves that one, `objects=True` adds them."""
        self.service.reset(**flags)

    def control(self, request: Request) -> Reply:
        """The reply of the control plane."""
        return control.answer(self, request)

    def opened(self, protocol: Protocol) -> None:
        self.accepted += 1
        protocol.number = self.accepted
        self._open[protocol.number] = protocol

    def closed(self, protocol: Protocol) -> None:
        if self._open.pop(protocol.number, None) is not None:
            self._closed.append({"n": protocol.number, "open": False, "requests": protocol.requests})

    def connection_report(self) -> dict[str, Any]:
        """`open` now, `accepted` ever, and requests by connection (the latest closed ones included)."""
        still = [{"n": one.number, "open": True, "requests": one.requests} for one in self._open.values()]
        return {"open": len(self._open), "accepted": self.accepted, "connections": [*self._closed, *still]}
