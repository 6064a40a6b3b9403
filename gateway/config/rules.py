"""Rules for configuration values: one object reads a parsed value, names what is wrong with it, and is its JSON Schema.

Knows no field of the configuration by name. Messages never repeat a value: it may be a secret in the wrong place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Protocol

from gateway.config.source import Node, Problem, expand, join, plain
from gateway.config.units import Unit

BAD: Final[Any] = object()
"""What a rule returns for a value it has already reported."""

Clean = Callable[[str], str]
"""Returns the text to keep; raises ValueError with a message that does not repeat the text."""


class Reader:
    """One reading of a file: the environment, the problems found so far, and what must not occur twice."""

    def __init__(self, environ: Mapping[str, str], problems: list[Problem]) -> None:
        self._environ = environ
        self.problems = problems
        self._seen: dict[tuple[str, str], tuple[int, str]] = {}

    def fail(self, line: int, path: str, message: str) -> Any:
        self.problems.append(Problem(line, path, message))
        return BAD

    def scalar(self, node: Node, path: str, secret: bool = False) -> tuple[Any, bool]:
        """The node's value after expansion (BAD when that failed), and whether it was wholly one expression. Of a
        `secret` no message advises a default."""
        if not isinstance(node.value, str):
            return node.value, False
        try:
            return expand(node.value, self._environ, secret)
        except ValueError as error:
            return self.fail(node.line, path, str(error)), False

    def once(self, kind: str, value: str, line: int, path: str) -> bool:
        """False, and a problem, when this value of this kind was already seen elsewhere in the file."""
        first_line, first_path = self._seen.setdefault((kind, value), (line, path))
        if first_path == path:
            return True
        self.fail(line, path, f"the same {kind} as {first_path} on line {first_line}; each must be different")
        return False


class Rule(Protocol):
    def read(self, reader: Reader, node: Node, path: str) -> Any: ...
    def schema(self) -> dict[str, Any]: ...
    def redact(self, value: Any) -> Any: ...


_EXPRESSION_SCHEMA = {"$ref": "#/$defs/expression"}


def _or_expression(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, _EXPRESSION_SCHEMA]}


def _origin(node: Node, expression: bool) -> str:
    # Only the name: the default inside an expression may be a secret.
    return f" (it comes from {node.value.partition(':-')[0].rstrip('}')}}})" if expression else ""


def kind_of(value: Any) -> str:
    """The kind of a parsed value, in the words of messages."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
    return names[type(value)]


class _Same:
    def redact(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Text:
    """A string; `clean` checks and normalises it, `hide` makes it fit to be shown, `once` names what is unique.
    `secret`: it must be one, even where nothing of it is kept that would have to be hidden. `digits`: a whole number
    means its digits. `lines`: it may have several, as a key file has."""

    clean: Clean | None = None
    pattern: str = ""
    hide: Callable[[str], str] | None = None
    once: str = ""
    empty: bool = False
    secret: bool = False
    digits: bool = False
    lines: bool = False

    def read(self, reader: Reader, node: Node, path: str) -> Any:
        value, whole = reader.scalar(node, path, self.hidden)
        if value is BAD:
            return BAD
        if self.digits and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            hint = "; put it in quotes" if isinstance(value, bool | int | float) else ""
            return reader.fail(node.line, path, f"expected a string, got {kind_of(value)}{hint}")
        problem = self._problem(value)
        if problem:
            return reader.fail(node.line, path, f"{problem}{_origin(node, whole)}")
        if value and self.clean is not None:
            try:
                value = self.clean(value)
            except ValueError as error:
                return reader.fail(node.line, path, f"{error}{_origin(node, whole)}")
        if self.once and not reader.once(self.once, value, node.line, path):
            return BAD
        return value

    @property
    def hidden(self) -> bool:
        """Whether no message may show what it is, nor advise to write it down."""
        return self.secret or self.hide is not None

    def _problem(self, value: str) -> str:
        if not value:
            return "" if self.empty else "must not be empty"
        allowed = "\t\n\r" if self.lines else ""
        if any((character < " " and character not in allowed) or "\x7f" <= character <= "\x9f" for character in value):
            return "contains a control character"
        if any("\ud800" <= character <= "\udfff" for character in value):
            return "is not valid Unicode text"
        return ""

    def schema(self) -> dict[str, Any]:
        if self.pattern:
            kind: Any = ["string", "integer"] if self.digits else "string"
            return _or_expression({"type": kind, "pattern": f"^(?:{self.pattern})$"})
        return {"type": "string"} if self.empty else {"type": "string", "minLength": 1}

    def redact(self, value: Any) -> Any:
        return self.hide(value) if self.hide is not None and value else value


@dataclass(frozen=True)
class Number(_Same):
    """A finite number, greater than `above`, from `least` to `most`; with `whole` an integer, else with at most
    `decimals` digits after its point. With a `unit` it may be a text that names one."""

    whole: bool = False
    above: float | None = None
    least: float | None = None
    most: float | None = None
    decimals: int | None = None
    unit: Unit | None = None

    def read(self, reader: Reader, node: Node, path: str) -> Any:
        value, expression = reader.scalar(node, path)
        if value is BAD:
            return BAD
        if expression:
            value = plain(value)
        if isinstance(value, str) and self.unit is not None:
            found = self.unit.read(value)
            value = value if found is None else found
        if isinstance(value, bool) or not isinstance(value, int | float):
            message = f"expected a number, got {kind_of(value)}{_origin(node, expression)}{self._hint(value)}"
            return reader.fail(node.line, path, message)
        problem = self._problem(value)
        if problem:
            return reader.fail(node.line, path, problem)
        return int(value) if self.whole else float(value)

    def _hint(self, value: Any) -> str:
        """How to write what looks like a number and is none."""
        if not isinstance(value, str) or not re.match(r"[-+$€]?[0-9.]", value):
            return ""
        if self.unit is not None:
            return f"; write {self.unit.name}, or such as {', '.join(self.unit.examples)}"
        if isinstance(plain(value), int | float):
            return "; take the quotes off"
        return "; write it without a unit, spaces or commas"

    def _problem(self, value: float) -> str:
        if not math.isfinite(value):
            return "must be a finite number"
        if self.above is not None and value <= self.above:
            return f"must be greater than {self.above:g}"
        if self.least is not None and value < self.least:
            return f"must be at least {self.least:g}"
        if self.most is not None and value > self.most:
            return f"must be at most {self.most:,g}" if self.most < 1e6 else f"must be at most {int(self.most):,}"
        if self.decimals is not None and Decimal(repr(value)).scaleb(self.decimals) % 1:
            return f"must have at most {self.decimals} decimals"
        return "must be a whole number" if self.whole and value != int(value) else ""

    def schema(self) -> dict[str, Any]:
        bounds = {"exclusiveMinimum": self.above, "minimum": self.least, "maximum": self.most}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        number: dict[str, Any] = {"type": "integer" if self.whole else "number", **given}
        if self.unit is None:
            return _or_expression(number)
        text = {"type": "string", "pattern": f"^{self.unit.pattern}$", "examples": list(self.unit.examples)}
        return {"anyOf": [number, text, _EXPRESSION_SCHEMA]}


@dataclass(frozen=True)
class Flag(_Same):
    """true or false."""

    def read(self, reader: Reader, node: Node, path: str) -> Any:
        value, expression = reader.scalar(node, path)
        if expression and value is not BAD:
            value = plain(value)
        if value is BAD or isinstance(value, bool):
            return value
        return reader.fail(node.line, path, f"expected true or false, got {kind_of(value)}")

    def schema(self) -> dict[str, Any]:
        return _or_expression({"type": "boolean"})


@dataclass(frozen=True)
class Choice(_Same):
    """One of a few words."""

    options: tuple[str, ...]

    def read(self, reader: Reader, node: Node, path: str) -> Any:
        value = Text().read(reader, node, path)
        if value is BAD or value in self.options:
            return value
        return reader.fail(node.line, path, f"must be one of: {', '.join(self.options)}")

    def schema(self) -> dict[str, Any]:
        return _or_expression({"enum": list(self.options)})


_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_moment(text: str) -> float:
    """Unix seconds of a time as RFC 3339 writes it, with its offset. Raises ValueError."""
    try:
        if _RFC_3339.fullmatch(text):
            return max(0.0, datetime.fromisoformat(text.upper()).astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a time with its offset, such as 2030-01-31T18:00:00Z")


def moment_text(seconds: float) -> str:
    """A time that somebody set as RFC 3339 writes it, in UTC, to the second where it is whole."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def instant_text(seconds: float) -> str:
    """When something happened as RFC 3339 writes it, in UTC, always to the millisecond: as text they sort by time."""
    return datetime.fromtimestamp(round(seconds, 3), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Moment:
    """A point in time as RFC 3339 writes it; read as Unix seconds."""

    def read(self, reader: Reader, node: Node, path: str) -> Any:
        value = Text().read(reader, node, path)
        if value is BAD:
            return BAD
        try:
            return parse_moment(value)
        except ValueError as error:
            return reader.fail(node.line, path, str(error))

    def schema(self) -> dict[str, Any]:
        return _or_expression({"type": "string", "format": "date-time"})

    def redact(self, value: Any) -> Any:
        return moment_text(value)


@dataclass(frozen=True)
class Many:
    """A list of `item`, read as a tuple; with `or_one`, a single item stands for a list of it."""

    item: Rule
    least: int = 0
    most: int | None = None
    or_one: bool = False

    def read(self, reader: Reader, node: Node, path: str) -> Any:
        if not isinstance(node.value, list):
            if self.or_one and not isinstance(node.value, dict) and node.value is not None:
                value = self.item.read(reader, node, path)
                return BAD if value is BAD else (value,)
            return reader.fail(node.line, path, f"expected a list, got {kind_of(node.value)}")
        if len(node.value) < self.least:
            return reader.fail(node.line, path, f"needs at least {self.least} item")
        if self.most is not None and len(node.value) > self.most:
            return reader.fail(node.line, path, f"takes at most {self.most} items")
        values = tuple(self.item.read(reader, item, f"{path}[{index}]") for index, item in enumerate(node.value))
        return BAD if any(value is BAD for value in values) else values

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array", "items": self.item.schema()}
        if self.least:
            schema["minItems"] = self.least
        if self.most is not None:
            schema["maxItems"] = self.most
        return {"anyOf": [self.item.schema(), schema]} if self.or_one else schema

    def redact(self, value: Any) -> Any:
        return [self.item.redact(item) for item in value]


@dataclass(frozen=True)
class Perhaps:
    """A section that may be left out, which is another thing than an empty one."""

    section: Rule

    def read(self, reader: Reader, node: Node, path: str) -> Any:
        return self.section.read(reader, node, path)

    def schema(self) -> dict[str, Any]:
        return self.section.schema()

    def redact(self, value: Any) -> Any:
        return self.section.redact(value)


@dataclass(frozen=True)
class Table:
    """A mapping of free keys to values: `key` reads each of the former as a text, `value` each of the latter.
    Expressions in keys are not expanded."""

    key: Text
    value: Rule

    def read(self, reader: Reader, node: Node, path: str) -> Any:
        if not isinstance(node.value, dict):
            return reader.fail(node.line, path, f"expected a mapping, got {kind_of(node.value)}")
        values: dict[str, Any] = {}
        for key, entry in node.value.items():
            entry_path = join(path, key)
            name = self.key.read(reader, Node(entry.line, key), entry_path) if "${" not in key else key
            values[key] = BAD if name is BAD else self.value.read(reader, entry.node, entry_path)
        return BAD if any(value is BAD for value in values.values()) else values

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.value.schema()}

    def redact(self, value: Any) -> Any:
        return {key: self.value.redact(item) for key, item in value.items()}
