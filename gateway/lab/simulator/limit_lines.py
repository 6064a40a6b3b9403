"""Rate limits as response headers, in the upstream's own style and in that of the OpenAI compatibility."""

import time

from gateway.lab.simulator.limits import Gate

__all__ = ["LimitLines"]


class LimitLines:
    """`epoch` is what to add to the simulator's clock for the wall clock."""

    def __init__(self, epoch: float) -> None:
        self._epoch = epoch
        self._resets: dict[int, str] = {}

    def native(self, gate: Gate, now: float) -> bytes:
        """Encoded `anthropic-ratelimit-*` lines."""
        lines = []
        for name, limit, remaining, full in gate.headers(now):
            reset = self._timestamp(int(self._epoch + now + full + 0.999))
            prefix = f"anthropic-ratelimit-{name}-"
            lines.append(f"{prefix}limit: {limit}\r\n{prefix}remaining: {remaining}\r\n{prefix}reset: {reset}\r\n")
        return "".join(lines).encode()

    @staticmethod
    def compatible(gate: Gate, now: float) -> bytes:
        """Encoded `x-ratelimit-*` lines; a reset is a duration."""
        lines = []
        for name, limit, remaining, full in gate.headers(now):
            if name in ("requests", "tokens"):
                lines.append(
                    f"x-ratelimit-limit-{name}: {limit}\r\nx-ratelimit-remaining-{name}: {remaining}\r\n"
                    f"x-ratelimit-reset-{name}: {full:.3f}s\r\n"
                )
        return "".join(lines).encode()

    def _timestamp(self, second: int) -> str:
        known = self._resets.get(second)
        if known is None:
            if len(self._resets) > 1000:
                self._resets.clear()
            known = self._resets[second] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        return known
