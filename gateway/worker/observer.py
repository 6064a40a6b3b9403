"""Who is told of each request that has ended: metrics, log, traces, and the supervisor when it next asks."""

from __future__ import annotations

import asyncio
from collections import deque

from gateway import log
from gateway.records import Finished
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import WorkerMetrics
from gateway.telemetry.recent import MOST
from gateway.telemetry.tracing import Tracing

WAIT = 0.02  # seconds that what has ended waits to be told together: one after the other costs half
TOGETHER = 64  # of them are told at once


class Observer:
    """`ended` are the requests that the supervisor has not taken yet."""

    def __init__(self, metrics: WorkerMetrics, request_log: RequestLog, tracing: Tracing) -> None:
        self.tracing = tracing
        self.ended: deque[Finished] = deque(maxlen=MOST)
        self._metrics = metrics
        self._log = request_log
        self._waiting: list[tuple[Finished, float]] = []
        self._most = TOGETHER

    def observe(self, record: Finished, admit_time: float) -> None:
        """Tell all of them before long; `admit_time` is seconds spent on the store before the request was sent."""
        self.ended.append(record)
        waiting = self._waiting
        waiting.append((record, admit_time))
        if len(waiting) >= self._most:
            self.catch_up()
        elif len(waiting) == 1:
            asyncio.get_running_loop().call_later(WAIT, self.catch_up)

    def catch_up(self) -> None:
        """Tell them of all that has ended."""
        waiting, self._waiting = self._waiting, []
        for record, admit_time in waiting:
            try:
                try:
                    self._metrics.observe(record, admit_time)
                finally:
                    self._log.request(record)
                if record.span_id:
                    self.tracing.finished(record)
            except Exception:  # it costs no other one
                log.exception("a request could not be settled whole", request_id=record.request_id, step="tell of")

    def end(self) -> None:
        """Tell them of all that has ended, and from now on of each request at once: the loop may not turn again."""
        self._most = 1
        self.catch_up()

    @property
    def metrics(self) -> WorkerMetrics:
        """They have counted all that has ended."""
        self.catch_up()
        return self._metrics

    def take(self) -> list[Finished]:
        """What has ended since the last time."""
        taken = list(self.ended)
        self.ended.clear()
        return taken
