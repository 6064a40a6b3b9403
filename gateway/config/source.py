"""The text of a configuration file: YAML with line numbers, and `${...}` expressions.

Knows nothing of accounts or keys. `parse` turns bytes into `Node`s that remember their line; `expand` replaces the
expressions of one scalar. Both are bounded: a hostile file costs a bounded amount of memory and time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

MAX_FILE_BYTES = 8 * 1024 * 1024
MAX_SECRET_FILE_BYTES = 64 * 1024
MAX_NODES = 500_000
MAX_DEPTH = 32
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


def read_text(path: Path) -> str:
    """The file's text. Raises ConfigError when it is missing, unreadable, not a file, too big or not UTF-8."""
    source = str(path)

    def refuse(message: str) -> ConfigError:
        return ConfigError(source, [Problem(0, "", message)])

    try:
        if not path.exists():
            raise refuse("no such file; name the configuration with --config")
        if not path.is_file():
            raise refuse("not a regular file")
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or 'not a usable path'}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise refuse(f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB, which is no configuration file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(source, [Problem(line, "", "not UTF-8 text")]) from None


def parse(text: str, source: str, problems: list[Problem]) -> Node:
    """The root node of a YAML text. Duplicate keys and the like are added to `problems` and reading goes on; a text
    that is no YAML at all raises ConfigError."""
    try:
        return _Composer(text, problems).document()
    except _Stop as stop:
        raise ConfigError(source, [*problems, stop.problem]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 0
        message = f"not valid YAML: {_without_quotes(error.problem or 'syntax error')}{_flow_hint(text, line)}"
        raise ConfigError(source, [*problems, Problem(line, "", message)]) from None
    except (yaml.YAMLError, UnicodeError):
        problem = Problem(0, "", "not a text file: it contains characters that YAML does not allow")
        raise ConfigError(source, [*problems, problem]) from None


def _without_quotes(message: str) -> str:
    # The parser quotes pieces of the file, and a piece may be a secret; its own words are like '<document start>'.
    return re.sub(r"'([^']*)'", lambda match: match[0] if len(match[1]) < 2 or match[1][0] == "<" else "'…'", message)


def _flow_hint(text: str, line: int) -> str:
    lines = text.splitlines()
    near = lines[line - 1] if 0 < line <= len(lines) else ""
    return ' (inside [ ] and { } an expression needs quotes: "${NAME}")' if "${" in near else ""


class _Stop(Exception):
    def __init__(self, line: int, path: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(line, path, message)


class _Composer:
    """Builds Nodes from the parser's events, because the events know lines and can be counted while they come."""

    def __init__(self, text: str, problems: list[Problem]) -> None:
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._events: Iterator[Any] = yaml.parse(text, Loader=loader)
        self._problems = problems
        self._anchors: dict[str, Node] = {}
        self._count = 0

    def document(self) -> Node:
        next(self._events)  # stream start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            raise _Stop(0, "", "the file is empty")
        root = self._node(next(self._events), "", 0)
        next(self._events)  # document end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _Stop(event.start_mark.line + 1, "", 'a second document begins here; remove "---"')
        return root

    def _node(self, event: Any, path: str, depth: int) -> Node:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            # A name that is no anchor may be a value that begins with "*": it is not shown.
            known = self._anchors.get(str(event.anchor))
            if known is None:
                raise _Stop(line, path, 'unknown or unfinished anchor; quote a value that begins with "*"')
            self._add(known.size, line)
            return known
        self._add(1, line)
        if depth > MAX_DEPTH:
            raise _Stop(line, "", f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.ScalarEvent):
            node = Node(line, self._scalar(event, line, path))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._refuse_tag(event, "tag:yaml.org,2002:seq", line, path)
            node = self._sequence(line, path, depth)
        else:
            self._refuse_tag(event, "tag:yaml.org,2002:map", line, path)
            node = self._mapping(line, path, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _add(self, nodes: int, line: int) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            raise _Stop(line, "", f"more than {MAX_NODES} values, aliases counted at full size")

    def _sequence(self, line: int, path: str, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, f"{path}[{len(items)}]", depth + 1))
        return Node(line, items, 1 + sum(item.size for item in items))

    def _mapping(self, line: int, path: str, depth: int) -> Node:
        entries: dict[str, Entry] = {}
        merges: list[tuple[int, Node]] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise _Stop(key_line, path, "a key must be a plain word")
            self._add(1, key_line)
            key: str = event.value
            key_path = join(path, key)
            node = self._node(next(self._events), key_path, depth + 1)
            if key == "<<" and event.implicit[0]:
                merges.append((key_line, node))
            elif key in entries:
                self._problems.append(Problem(key_line, key_path, f"given twice, first on line {entries[key].line}"))
            else:
                entries[key] = Entry(key_line, node)
        for key_line, node in merges:
            self._merge(entries, key_line, node, path)
        return Node(line, entries, 1 + sum(entry.node.size for entry in entries.values()))

    def _merge(self, entries: dict[str, Entry], line: int, node: Node, path: str) -> None:
        for part in node.value if isinstance(node.value, list) else [node]:
            if not isinstance(part.value, dict):
                self._problems.append(Problem(line, join(path, "<<"), "only mappings can be merged"))
                continue
            self._add(len(part.value), line)
            for key, entry in part.value.items():
                entries.setdefault(key, entry)

    def _scalar(self, event: Any, line: int, path: str) -> Any:
        if event.implicit[0]:
            return plain(event.value)
        self._refuse_tag(event, "tag:yaml.org,2002:str", line, path)
        return event.value

    def _refuse_tag(self, event: Any, allowed: str, line: int, path: str) -> None:
        if event.tag not in (None, "!", allowed):
            self._problems.append(Problem(line, path, 'tags are not used here; quote a value that begins with "!"'))


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
