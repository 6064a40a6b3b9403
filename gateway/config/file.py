"""The configuration's file: YAML, read with its lines, and made a Config.

`load` is the only place of the program that reads the environment. `parse` is bounded: a hostile file costs a bounded
amount of memory and time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gateway.config.rules import Reader
from gateway.config.schema import ROOT, Config
from gateway.config.source import ConfigError, Entry, Node, Problem, join, plain

load_default_path = Path("gateway.yaml")
MAX_FILE_BYTES = 8 * 1024 * 1024
MAX_NODES = 500_000
MAX_DEPTH = 32


def load(
    path: str | os.PathLike[str] = load_default_path,
    environ: Mapping[str, str] | None = None,
    *,
    named: str = "--config",
) -> Config:
    """The configuration in a file, `environ` (default: the process's) filling its expressions; `named` is what names
    another file.

    Raises ConfigError with every problem found."""
    source = os.fspath(path)
    text = read_text(Path(source), missing=f"; name the configuration with {named}")
    return loads(text, environ, source=source)


def loads(text: str, environ: Mapping[str, str] | None = None, *, source: str = "gateway.yaml") -> Config:
    """As `load`, from a text; `source` names it in errors."""
    problems: list[Problem] = []
    root = parse(text, source, problems)
    if root.value is None:
        raise ConfigError(source, [Problem(0, "", "the file is empty")])
    reader = Reader(os.environ if environ is None else environ, problems)
    config = ROOT.read(reader, root, "")
    if not isinstance(config, Config) or problems:
        raise ConfigError(source, problems)
    return config


def read_text(path: Path, missing: str = "") -> str:
    """The file's text. Raises ConfigError when it is missing (`missing` says more of that), unreadable, not a file, too
    big or not UTF-8."""
    source = str(path)

    def refuse(message: str) -> ConfigError:
        return ConfigError(source, [Problem(0, "", message)])

    try:
        if not path.exists():
            raise refuse(f"no such file{missing}")
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
