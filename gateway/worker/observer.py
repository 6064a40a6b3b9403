"""Who is told of each request that has ended: metrics, log, traces, and the supervisor when it next asks."""

from __future__ import annotations

from collections import deque

from gateway.records import Finished
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import WorkerMetrics
from gateway.telemetry.recent import MOST
from gateway.telemetry.tracing import Tracing


class Observer:
    """`ended` are the requests that the supervisor has not taken yet."""

    def __init__(self, metrics: WorkerMetrics, log: RequestLog, tracing: Tracing) -> None:
        self.metrics = metrics
        self.tracing = tracing
        self._log = log
        self.ended: deque[Finished] = deque(maxlen=MOST)

    def observe(self, record: Finished, admit_time: float) -> None:
        """Tell all of them; `admit_time` is seconds spent on the store before the request was sent."""
        self.ended.append(record)
        try:
            self.metrics.observe(record, admit_time)
        finally:
            self._log.request(record)
        if record.span_id:
            self.tracing.finished(record)

    def take(self) -> list[Finished]:
        """What has ended since the last time."""
        taken = list(self.ended)
        self.ended.clear()
        return taken
