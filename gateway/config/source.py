"""What a configuration file holds: values that remember their line, and `${...}` expressions.

Knows nothing of accounts or keys, nor how the file is written: `config.file` does. `expand` replaces the expressions of
one scalar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

MAX_SECRET_FILE_BYTES = 64 * 1024
MAX_REPORTED = 100


class Problem(NamedTuple):
    """One thing to correct. `line` counts from 1, 0 meaning the file as a whole; `path` is like `accounts[0].id`."""

    line: int
    path: str
    message: str


class ConfigError(ValueError):
    """A configuration that cannot be used; `str` is one line for each problem, none of them showing a secret."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        lines = [self._line(problem) for problem in self.problems[:MAX_REPORTED]]
        if len(self.problems) > MAX_REPORTED:
            lines.append(f"{source}: and {len(self.problems) - MAX_REPORTED} more problems")
        super().__init__("\n".join(lines))

    def _line(self, problem: Problem) -> str:
        where = f"{self.source}:{problem.line}" if problem.line else self.source
        return ": ".join(part for part in (where, problem.path, problem.message) if part)


class Entry(NamedTuple):
    """One key of a mapping: the line of the key, and its value."""

    line: int
    node: Node


@dataclass(frozen=True, slots=True)
class Node:
    """A parsed value: str, int, float, bool, None, list of Node or dict of Entry. `size` counts the nodes in it."""

    line: int
    value: Any
    size: int = 1


_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,39})")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,40}|[0-9]{1,40}(?:\.[0-9]{0,40})?)(?:[eE][-+]?[0-9]{1,4})?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    "-.inf": float("-inf"),
}


def plain(text: str) -> Any:
    """The value of an unquoted scalar by the YAML 1.2 core rules, so that `no` and `1:30` stay strings."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return text if text.endswith("_") or "__" in text else int(text)
    if _FLOAT.fullmatch(text) and not re.match(r"[-+]?0[0-9]", text):
        return float(text)
    return text


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXPRESSION = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")


def expand(text: str, environ: Mapping[str, str], secret: bool = False) -> tuple[str, bool]:
    """`text` with `${NAME}`, `${NAME:-default}` and `${file:PATH}` replaced and `$${` turned into `${`, and whether
    it was wholly one expression. What is put in is never expanded again. Raises ValueError saying what to do, which for
    a `secret` is never to write it down as a default."""
    if "${" not in text:
        return text, False
    parts: list[str] = []
    position = 0
    for match in _EXPRESSION.finditer(text):
        parts.append(text[position : match.start()])
        parts.append(_replacement(match, environ, secret))
        position = match.end()
    first = _EXPRESSION.match(text)
    whole = first is not None and first.group(1) is not None and first.end() == len(text)
    return "".join((*parts, text[position:])), whole


def _replacement(match: re.Match[str], environ: Mapping[str, str], secret: bool) -> str:
    inner = match.group(1)
    if inner is None:
        if match.group() == "$${":
            return "${"
        raise ValueError('"${" without its "}"; write "$${" for a literal one')
    if inner.startswith("file:"):
        return _file(inner.removeprefix("file:"))
    name, has_default, default = inner.partition(":-")
    if not _NAME.fullmatch(name):
        raise ValueError('use ${NAME}, ${NAME:-default} or ${file:PATH}; write "$${" for a literal "${"')
    value = environ.get(name)
    if has_default:
        return value or default
    if value is None:
        other = "name a file that holds it: ${file:PATH}" if secret else f"write ${{{name}:-default}}"
        raise ValueError(f"environment variable {name} is not set; set it or {other}")
    return value


def _file(name: str) -> str:
    path = Path(name)
    try:
        if not path.is_file():
            raise ValueError(f"file {name!r} does not exist or is not a regular file")
        with path.open("rb") as file:
            raw = file.read(MAX_SECRET_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"file {name!r} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_SECRET_FILE_BYTES:
        raise ValueError(f"file {name!r} is larger than {MAX_SECRET_FILE_BYTES // 1024} KiB")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueError(f"file {name!r} is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")


def join(path: str, key: str) -> str:
    """`path.key`, with a key that cannot be one of ours kept out of messages: it may be a misplaced secret."""
    shown = key if re.fullmatch(r"[A-Za-z0-9_.<*-]{1,40}", key) and not key.lower().startswith("sk-") else "?"
    return f"{path}.{shown}" if path else shown
