"""Writing usage records to a file, as newline JSON or Parquet. It neither asks for them nor knows what is in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import msgspec

Record = dict[str, Any]
_TYPES = {bool: "bool_", int: "int64", float: "float64", str: "string"}  # Python's -> pyarrow's name of it


class Tenant(msgspec.Struct, frozen=True, order=True):
    """Whose records: `kind` is "team", or "key" for a caller without a team."""

    kind: str
    name: str


class _Sink(Protocol):
    def write(self, records: list[Record]) -> None: ...
    def close(self) -> None: ...


def write_records(
    out: Path, tenants: Callable[[], list[Tenant]], page: Callable[[Tenant, str], Any]
) -> tuple[int, int]:
    """Write the records of all tenants page by page, `page(tenant, before)` being as the admin API's; how many were
    written, and how many could not be read. An estimate that another record has taken the place of is left out. The
    file is there only once it is whole.

    Raises OSError, and ValueError for a file whose name says no form, or one that cannot be written here.
    """
    form = _FORMS.get(out.suffix.lower())
    if form is None:
        raise ValueError(f"--out must end in {' or '.join(_FORMS)}")
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    written = unreadable = 0
    try:
        with closing(form(partial)) as sink:
            for tenant in tenants():
                seen: set[str] = set()
                for answer in _pages(tenant, page):
                    records = list(_final(answer["data"], seen))
                    sink.write(records)
                    written += len(records)
                    unreadable += answer.get("unreadable", 0)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return written, unreadable


def _pages(tenant: Tenant, page: Callable[[Tenant, str], Any]) -> Iterator[Any]:
    before: str | None = ""
    while before is not None:
        answer = page(tenant, before)
        yield answer
        before = answer["next"]


def _final(records: list[Record], seen: set[str]) -> Iterator[Record]:
    """The records, the latest first, but for estimates of requests that were `seen` already."""
    for record in records:
        if not record["provisional"] or record["request_id"] not in seen:
            yield record
        seen.add(record["request_id"])


class _Lines:
    """Newline JSON."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, records: list[Record]) -> None:
        for record in records:
            self._file.write(msgspec.json.encode(record) + b"\n")

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Parquet: a column for each field of the first record, those inside of others with a dot between their names."""

    def __init__(self, path: Path) -> None:
        try:
            self._arrow: Any = import_module("pyarrow")
            self._parquet: Any = import_module("pyarrow.parquet")
        except ImportError:
            raise ValueError("Parquet needs pyarrow, which is not here: pip install pyarrow, or use .jsonl") from None
        self._file = path.open("wb")
        self._schema: Any = None
        self._writer: Any = None

    def write(self, records: list[Record]) -> None:
        if not records:
            return
        rows = [dict(_flat(record)) for record in records]
        if self._writer is None:
            self._open(
                [(name, getattr(self._arrow, _TYPES.get(type(value), "string"))()) for name, value in rows[0].items()]
            )
        self._writer.write_table(self._arrow.Table.from_pylist(rows, schema=self._schema))

    def _open(self, columns: list[tuple[str, Any]]) -> None:
        self._schema = self._arrow.schema(columns)
        self._writer = self._parquet.ParquetWriter(self._file, self._schema)

    def close(self) -> None:
        if self._writer is None:
            self._open([])
        self._writer.close()
        self._file.close()


_FORMS: dict[str, Callable[[Path], _Sink]] = {".jsonl": _Lines, ".parquet": _Parquet}


def _flat(record: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
