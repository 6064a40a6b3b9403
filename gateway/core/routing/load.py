"""How busy each workspace is: the fresh tokens of the last minute, settled and reserved, in this and other processes.

Fresh tokens are those an upstream had to compute: input that was neither read from a cache nor refused. Times are
seconds of one clock.
"""

from __future__ import annotations

from collections import deque
from math import exp

WINDOW = 60.0
HOUR = 3600.0  # seconds over which a token fades from the hour's sum to its e-th part
_STEP = 5.0
_SAMPLES = 256


class _Load:
    """A sum over the last minute, in steps, and one over the last hour or so, which fades."""

    __slots__ = ("hour", "hour_at", "steps", "sum")

    def __init__(self) -> None:
        self.steps: deque[list[float]] = deque()  # [begin of the step, tokens]
        self.sum = 0.0
        self.hour = self.hour_at = 0.0

    def add(self, tokens: float, now: float) -> None:
        steps = self.steps
        if steps and now - steps[-1][0] < _STEP:
            steps[-1][1] += tokens
        else:
            steps.append([now, tokens])
            self.hour, self.hour_at = self.faded(now), now
        self.hour += tokens
        self.sum += tokens

    def correct(self, tokens: float, at: float) -> bool:
        """Change what was added at `at`; False if that is too long ago to count."""
        self.hour += tokens
        for step in reversed(self.steps):
            if step[0] <= at:
                step[1] += tokens
                self.sum += tokens
                return True
        return False

    def faded(self, now: float) -> float:
        """What is left of the hour's sum."""
        return self.hour * exp((self.hour_at - now) / HOUR) if self.hour > 0.0 else 0.0

    def value(self, now: float) -> float:
        steps = self.steps
        while steps and now - steps[0][0] >= WINDOW:
            self.sum -= steps.popleft()[1]
        if not steps:
            self.sum = 0.0
        return self.sum if self.sum > 0.0 else 0.0  # others tell of corrections as of now


class Loads:
    """The load of every workspace, and how large a request typically is at most."""

    def __init__(self) -> None:
        self._loads: dict[str, _Load] = {}
        self._told: dict[str, float] = {}
        self._sizes: deque[float] = deque(maxlen=_SAMPLES)
        self._seen = 0
        self.p95 = 0.0  # fresh tokens of the largest but a twentieth of recent requests

    def add(self, workspace: str, tokens: float, now: float) -> None:
        """Reserve fresh tokens, of this process."""
        load = self._loads.get(workspace) or self._load(workspace)
        load.add(tokens, now)
        self._told[workspace] = self._told.get(workspace, 0.0) + tokens

    def correct(self, workspace: str, tokens: float, at: float) -> None:
        """What was reserved at `at` has come to so many tokens more, or less."""
        load = self._loads.get(workspace) or self._load(workspace)
        if load.correct(tokens, at):
            self._told[workspace] = self._told.get(workspace, 0.0) + tokens

    def add_others(self, workspace: str, tokens: float, now: float) -> None:
        """Fresh tokens that another process has told of."""
        self._load(workspace).add(tokens, now)

    def sized(self, tokens: float) -> None:
        """A settled request had this many fresh tokens."""
        self._sizes.append(tokens)
        self._seen += 1
        if self._seen % 32 == 1:
            ordered = sorted(self._sizes)
            self.p95 = ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]

    def of(self, workspace: str, now: float) -> float:
        """Fresh tokens of the last minute."""
        load = self._loads.get(workspace)
        return load.value(now) if load is not None else 0.0

    def of_hour(self, workspace: str, now: float) -> float:
        """Fresh tokens of the last hour or so; what is older counts for less."""
        load = self._loads.get(workspace)
        return load.faded(now) if load is not None else 0.0

    def take_report(self) -> dict[str, float]:
        """What this process has added since the last report."""
        told, self._told = self._told, {}
        return {workspace: tokens for workspace, tokens in told.items() if tokens}

    def _load(self, workspace: str) -> _Load:
        return self._loads.setdefault(workspace, _Load())
