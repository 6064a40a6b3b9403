"""The callers and keys made at run time as they were last read, in a file of `data_dir`: what a gateway starts from
while the store is away. It holds digests, never keys.

It is a convenience: a file that cannot be written or read costs one warning, never more.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
import structlog

from gateway.core.keyring import Stored

log = structlog.get_logger("gateway.supervisor")
NAME = "keys.json"

_decode = msgspec.json.Decoder(Stored).decode


class KeyFile:
    """The file in `data_dir`, which only its owner may read; made when there is something to keep."""

    def __init__(self, data_dir: str) -> None:
        self.path = Path(data_dir) / NAME
        self._present: bytes | None = None
        self._failing = False

    def read(self) -> Stored | None:
        """What was kept last; None if there is nothing, or nothing to make sense of."""
        try:
            data = self.path.read_bytes()
            kept = _decode(data)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # a DecodeError is a ValueError
            log.warning("key snapshot ignored", path=str(self.path), reason=_reason(error))
            return None
        self._present = data
        return kept

    def write(self, stored: Stored) -> None:
        """Keep it, unless it is what was kept last."""
        data = msgspec.json.encode(stored, order="sorted")
        if data == self._present or (self._present is None and not stored):
            return
        try:
            self._replace(data)
        except OSError as error:
            if not self._failing:
                log.warning("key snapshot not written", path=str(self.path), reason=_reason(error))
            self._failing = True
            return
        self._present = data
        self._failing = False

    def _replace(self, data: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_name(f"{NAME}.{os.getpid()}")
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
