"""Wrong tokens on the admin listener: how many come from where, when that is too many, and who is told.

It never sees a token. The right one always passes, or whoever sends wrong ones could lock out everybody behind the same
address; that tokens are long is what keeps them from being found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import log
from gateway.listen.addresses import network_of
from gateway.telemetry.repeats import Repeats

MOST = 10  # a minute from one address
MOST_OF_ALL = 100  # a minute from all together, beyond which signing in is slow
PAUSE = 1.0  # seconds that it takes then
_MINUTE = 60.0


class FailedLogins(Collector):
    """All of them; `now()` gives seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._by_network = Repeats[str](_MINUTE, self._again, now)
        self._count = 0

    def add(self, address: str) -> int:
        """There was one from there: seconds until the next may be tried, 0 for none."""
        self._count += 1
        network = network_of(address)
        times = self._by_network.add(network)
        if times == 1 and self._by_network.total <= MOST_OF_ALL:
            log.warning("admin token refused", address=address)
        return 0 if times <= MOST else max(1, math.ceil(self._by_network.left(network)))

    def _again(self, network: str, times: int) -> None:
        if self._by_network.total <= MOST_OF_ALL:
            log.warning("more admin tokens refused", address=network, times=times)

    def look(self) -> None:
        """Say what is due; call it now and then."""
        self._by_network.look()

    @property
    def pause(self) -> float:
        """Seconds that signing in must take now."""
        self.look()
        return PAUSE if self._by_network.total >= MOST_OF_ALL else 0.0

    def collect(self) -> Iterator[Metric]:
        """Their number, for Prometheus."""
        yield CounterMetricFamily("gateway_admin_refused", "Wrong tokens on the admin listener.", value=self._count)
