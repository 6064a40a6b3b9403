"""What the parts of the program say of themselves: an event in words, and what belongs to it.

It knows neither form nor stream: whoever runs a process says by `direct` where its lines go.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
Sink = Callable[[str, str, dict[str, Any]], None]  # is given level, event and fields of a line


def _to_stderr(level: str, event: str, fields: dict[str, Any]) -> None:
    print(level, event, *(f"{name}={value}" for name, value in fields.items()), file=sys.stderr)


class _Output:
    def __init__(self, sink: Sink, least: str) -> None:
        self.sink = sink
        self.least = LEVELS[least]


_output = _Output(_to_stderr, "info")


def direct(sink: Sink, least: str = "debug") -> None:
    """Give every line from now on that is of the level `least` or above to `sink`, which any thread may call."""
    _output.sink, _output.least = sink, LEVELS[least]


@contextmanager
def captured() -> Iterator[list[dict[str, Any]]]:
    """Collect all lines meanwhile, instead of writing them: the fields of each, `event` and `log_level` among them."""
    lines: list[dict[str, Any]] = []
    before = _output.sink, _output.least
    direct(lambda level, event, fields: lines.append({**fields, "event": event, "log_level": level}))
    try:
        yield lines
    finally:
        _output.sink, _output.least = before


def debug(event: str, **fields: Any) -> None:
    if _output.least <= LEVELS["debug"]:
        _output.sink("debug", event, fields)


def info(event: str, **fields: Any) -> None:
    if _output.least <= LEVELS["info"]:
        _output.sink("info", event, fields)


def warning(event: str, **fields: Any) -> None:
    if _output.least <= LEVELS["warning"]:
        _output.sink("warning", event, fields)


def error(event: str, **fields: Any) -> None:
    _output.sink("error", event, fields)


def exception(event: str, **fields: Any) -> None:
    """An error with the exception that is being handled."""
    error(event, **fields, exception=traceback.format_exc().rstrip())
