"""A small file in `data_dir` that only its owner may read, replaced as a whole.

It is a convenience: a file that cannot be written or read costs one warning, never more. What it holds, others know.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gateway import log

T = TypeVar("T")


class PrivateFile:
    """The file `name` in `data_dir`, made when there is something to keep; `what` it is called in warnings."""

    def __init__(self, data_dir: str, name: str, what: str) -> None:
        self.path = Path(data_dir) / name
        self._what = what
        self._present: bytes | None = None
        self._failing = False

    @property
    def empty(self) -> bool:
        """Whether nothing is known to be in it."""
        return self._present is None

    def read(self, decode: Callable[[bytes], T]) -> T | None:
        """What was kept last; None if there is nothing, or nothing that `decode` makes sense of (it raises
        ValueError)."""
        try:
            data = self.path.read_bytes()
            kept = decode(data)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning(f"{self._what} snapshot ignored", path=str(self.path), reason=_reason(error))
            return None
        self._present = data
        return kept

    def write(self, data: bytes) -> None:
        """Keep it, unless it is what was kept last."""
        if data == self._present:
            return
        try:
            self._replace(data)
        except OSError as error:
            if not self._failing:
                log.warning(f"{self._what} snapshot not written", path=str(self.path), reason=_reason(error))
            self._failing = True
            return
        self._present = data
        self._failing = False

    def _replace(self, data: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
            new.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
