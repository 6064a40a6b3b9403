"""What the simulated upstream saw and what came of it. Bounded; knows no sockets."""

import base64
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, overload

import msgspec

from gateway.lab.simulator.cache import CachePlan

__all__ = ["Record", "Records", "Totals"]

Header = tuple[bytes, bytes]
_NOTHING = CachePlan(0)


class Record(msgspec.Struct, gc=False):
    """One request. `time` is the simulator's clock; `output_tokens` what was produced when it ended.

    `completed`: the whole answer was written. `aborted`: the client closed before that. Neither, once `finished`:
    a fault cut it.
    """

    n: int
    time: float
    method: str
    path: str
    headers: list[Header]
    body: bytes | None
    body_size: int
    digest: bytes
    request_id: str
    account: str | None = None
    workspace: str | None = None
    organization: str | None = None
    model: str | None = None
    limit_class: str | None = None
    stream: bool = False
    status: int = 0
    fault: str = ""
    plan: CachePlan | None = None
    output_tokens: int = 0
    completed: bool = False
    aborted: bool = False
    finished: bool = False

    def __repr__(self) -> str:
        state = "completed" if self.completed else "aborted" if self.aborted else "cut" if self.finished else "open"
        return f"<Record {self.n} {self.method} {self.path} {self.account} {self.status} {state}>"

    @property
    def body_sha256(self) -> str:
        return self.digest.hex()

    @property
    def usage(self) -> dict[str, int] | None:
        """Tokens by class, None where no model ran."""
        if self.plan is None:
            return None
        return {
            "input_tokens": self.plan.fresh,
            "cache_read_input_tokens": self.plan.read,
            "cache_creation_input_tokens": self.plan.write_5m + self.plan.write_1h,
            "ephemeral_5m_input_tokens": self.plan.write_5m,
            "ephemeral_1h_input_tokens": self.plan.write_1h,
            "output_tokens": self.output_tokens,
        }

    def header(self, name: str) -> str | None:
        """The first value of a request header, by lower-case name."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)

    def as_dict(self, bodies: bool = False) -> dict[str, Any]:
        """For JSON; headers as [name, value] pairs as received."""
        made: dict[str, Any] = {
            "n": self.n,
            "time": self.time,
            "account": self.account,
            "workspace": self.workspace,
            "organization": self.organization,
            "method": self.method,
            "path": self.path,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers],
            "body_sha256": self.body_sha256,
            "body_size": self.body_size,
            "status": self.status,
            "request_id": self.request_id,
            "model": self.model,
            "stream": self.stream,
            "usage": self.usage,
            "fault": self.fault or None,
            "completed": self.completed,
            "aborted": self.aborted,
            "finished": self.finished,
        }
        if bodies:
            made["body"] = None if self.body is None else base64.b64encode(self.body).decode()
        return made


class Records(Sequence[Record]):
    """The latest records, oldest first; bodies are kept for the latest few only."""

    def __init__(self, keep: int, keep_bodies: int) -> None:
        self._records: deque[Record] = deque(maxlen=keep)
        self._bodies: deque[Record] = deque()
        self._keep_bodies = keep_bodies

    def add(self, record: Record) -> None:
        self._records.append(record)
        self._bodies.append(record)
        if len(self._bodies) > self._keep_bodies:
            self._bodies.popleft().body = None

    def clear(self) -> None:
        self._records.clear()
        self._bodies.clear()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return list(self._records)[index] if isinstance(index, slice) else self._records[index]

    def __repr__(self) -> str:
        return f"<Records {len(self._records)}>"


_OUTCOMES = ("completed", "aborted", "cut")


class Totals:
    """Requests and tokens by account and limit class, apart for completed, aborted and cut answers."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], list[int]] = {}

    def add(self, record: Record) -> None:
        """Counts a finished record of a request that reached an account."""
        if record.account is None:
            return
        outcome = "completed" if record.completed else "aborted" if record.aborted else "cut"
        row = self._rows.setdefault((record.account, record.limit_class or "none", outcome), [0] * 7)
        plan = record.plan or _NOTHING
        row[0] += 1
        row[1] += record.status >= 400
        row[2] += plan.fresh
        row[3] += plan.read
        row[4] += plan.write_5m
        row[5] += plan.write_1h
        row[6] += record.output_tokens

    def clear(self) -> None:
        self._rows.clear()

    def as_list(self) -> list[dict[str, Any]]:
        """One row for each account and class, sorted."""
        keys = sorted({(account, limit_class) for account, limit_class, _ in self._rows})
        return [
            {"account": account, "class": limit_class}
            | {outcome: self._counts(account, limit_class, outcome) for outcome in _OUTCOMES}
            for account, limit_class in keys
        ]

    def _counts(self, account: str, limit_class: str, outcome: str) -> dict[str, int]:
        row = self._rows.get((account, limit_class, outcome), [0] * 7)
        return {
            "requests": row[0],
            "errors": row[1],
            "input_tokens": row[2],
            "cache_read_input_tokens": row[3],
            "cache_creation_input_tokens": row[4] + row[5],
            "ephemeral_5m_input_tokens": row[4],
            "ephemeral_1h_input_tokens": row[5],
            "output_tokens": row[6],
        }
