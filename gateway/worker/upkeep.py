"""Once a second, for the requests on their way: pings in silence, renewal of long streams, an end to what is late."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from gateway import log
from gateway.config.schema import Config
from gateway.listen.client import HeaderList
from gateway.worker.callers.limits import Accounting
from gateway.worker.request.journey import Journey, Phase
from gateway.worker.request.relay import SILENT_END
from gateway.worker.request.settlement import Settlement

_KEEP_EVERY = 12.0  # seconds after which slots of callers are kept for another while
_RENEW_EVERY = 60.0  # seconds after which a running stream says again that its cache is warm


class Upkeep:
    """Of the exchanges in `live`."""

    def __init__(self, config: Config, live: set[Journey], settlement: Settlement, accounting: Accounting) -> None:
        self._live = live
        self._accounting = accounting
        self._keep_at = perf_counter() + _KEEP_EVERY
        self.configure(config)
        self._settlement = settlement
        self._tasks: set[asyncio.Task[None]] = set()

    def configure(self, config: Config) -> None:
        """Follow a new configuration."""
        self._timeouts = config.timeouts

    def tick(self) -> None:
        """Look at every request once."""
        now = perf_counter()
        self._accounting.journal.write()  # what there was no room for
        if now >= self._keep_at:
            self._keep_at = now + _KEEP_EVERY
            self._accounting.renew(
                [x.reservation for x in self._live if x.reservation is not None and x.reservation.noted]
            )
        ping, idle, total = self._timeouts.ping, self._timeouts.idle, self._timeouts.total
        for x in list(self._live):
            reply, attempt = x.reply, x.attempt
            response, meter = attempt.response, attempt.meter
            if reply.stream and meter.started and now - attempt.renewed > _RENEW_EVERY:
                attempt.renewed = now
                self._settlement.renew(x, 0.0, meter.usage.total_input)
            if x.phase >= Phase.SENT and reply.quiet and now - reply.silent_since(now) > ping:
                self._spawn(reply.ping(self._ping_headers(x), meter.started))
            if response is None:
                continue
            if attempt.over_since and now - attempt.over_since > idle:
                response.interrupt(SILENT_END)
            if not reply.first_byte and now - attempt.patient_from > total:
                response.interrupt("timeout")

    def interrupt(self, reason: str) -> None:
        """End every request that is being served."""
        for x in list(self._live):
            x.interrupt(reason)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Without waiting: a client that does not read must not hold up the others."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.debug("a ping came too late", reason=str(task.exception()))

    @staticmethod
    def _ping_headers(x: Journey) -> HeaderList:
        """Without the account: another one may serve it in the end."""
        return [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"request-id", x.request.id.encode()),
            (b"x-gateway-request-id", x.request.id.encode()),
            *(x.reservation.headers() if x.reservation is not None else ()),
        ]
