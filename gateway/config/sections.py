"""Sections of a configuration file: mappings whose known keys are the annotated fields of a struct.

A struct's field carries its rule in its annotation (`Annotated[float, Number(above=0), "help"]`), so names, types,
defaults, checks, help and schema cannot disagree.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, get_args, get_type_hints

import msgspec

from gateway.config.rules import BAD, Reader, Rule, Text, kind_of
from gateway.config.source import Entry, Node, join

REQUIRED: Final[Any] = object()


@dataclass(frozen=True)
class Expression:
    """In an annotation: what an omitted key means, an expression over the environment."""

    text: str


@dataclass(frozen=True)
class Derived:
    """In an annotation: no key of the file, made by the section's `finish`; `show` makes it fit to be shown."""

    show: Callable[[Any], Any]


@dataclass(frozen=True)
class Field:
    """One key of a section. `default` is REQUIRED or the value of an omitted key; `expression` is expanded instead."""

    name: str
    rule: Rule
    help: str
    default: Any = REQUIRED
    expression: str | None = None

    def read(self, reader: Reader, section: Node, path: str) -> Any:
        entry: Entry | None = section.value.get(self.name)
        path = join(path, self.name)
        if entry is not None and entry.node.value is not None:
            return self._given(reader, entry.node, path)
        line = section.line if entry is None else entry.line
        if self.expression is not None:
            return self.rule.read(reader, Node(line, self.expression), path)
        if isinstance(self.rule, Section):
            return self.rule.read(reader, Node(line, {}), path)
        if self.default is REQUIRED:
            return reader.fail(line, path, f"missing; {self.help}")
        return self.default

    def _given(self, reader: Reader, node: Node, path: str) -> Any:
        # `proxy: ${HTTPS_PROXY:-}` means no proxy; a key or a limit that expands to nothing is a mistake.
        if self.default is None and isinstance(self.rule, Text):
            value, whole = reader.scalar(node, path, self.rule.hidden)
            if value is BAD or (whole and not value):
                return BAD if value is BAD else None
        return self.rule.read(reader, node, path)

    def schema(self) -> dict[str, Any]:
        schema = {**self.rule.schema(), "description": self.help}
        default = self.default if self.expression is None else self.expression
        if default not in (REQUIRED, None) and not isinstance(self.rule, Section):
            schema["default"] = simple(msgspec.to_builtins(default))
        return schema


@dataclass(frozen=True)
class Section:
    """A mapping with known keys, read into `struct`. `extra` are keys of the file that are no fields of the struct;
    `finish` turns the values of all keys into the struct's own (or BAD)."""

    struct: type[msgspec.Struct]
    extra: tuple[Field, ...] = ()
    finish: Callable[[Reader, Node, str, dict[str, Any]], Any] | None = None

    def fields(self) -> tuple[Field, ...]:
        return (*struct_fields(self.struct), *self.extra)

    def read(self, reader: Reader, node: Node, path: str) -> Any:
        if not isinstance(node.value, dict):
            return reader.fail(node.line, path, f"expected a mapping, got {kind_of(node.value)}")
        fields = self.fields()
        names = [field.name for field in fields]
        for key, entry in node.value.items():
            if key not in names:
                reader.fail(entry.line, join(path, key), f"unknown key; {nearest(key, names, 'known keys here')}")
        values = {field.name: field.read(reader, node, path) for field in fields}
        if any(value is BAD for value in values.values()):
            return BAD
        if self.finish is not None:
            values = self.finish(reader, node, path, values)
        return BAD if values is BAD else self.struct(**values)

    def schema(self) -> dict[str, Any]:
        fields = self.fields()
        schema: dict[str, Any] = {"type": "object", "additionalProperties": False}
        schema["properties"] = {field.name: field.schema() for field in fields}
        required = [
            field.name
            for field in fields
            if field.default is REQUIRED and field.expression is None and not isinstance(field.rule, Section)
        ]
        return {**schema, "required": required} if required else schema

    def redact(self, value: Any) -> Any:
        return redacted(value)


def nearest(name: str, names: Collection[str], all_of_them: str) -> str:
    """What may have been meant by `name`, for a sentence: the one of `names` that is like it, else all of them, which
    are called so."""
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else f"{all_of_them}: {', '.join(names)}"


def redacted(value: msgspec.Struct) -> dict[str, Any]:
    """A struct for people to read, as plain data without its secrets, and without what is none of its file."""
    derived = _derived(type(value))
    shown = {**derived, **{field.name: field.rule.redact for field in struct_fields(type(value))}}
    items = ((name, getattr(value, name)) for name in value.__struct_fields__)
    return {
        name: None if item is None else simple(shown[name](item))
        for name, item in items
        if item is not None or name not in derived
    }


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """What sections are read into. Its repr ends in logs and tracebacks sooner or later, so that it shows what
    `redacted` shows."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in redacted(self).items())})"


def _notes(struct: type[msgspec.Struct]) -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(struct, include_extras=True)
    return {info.name: get_args(hints[info.name]) for info in msgspec.structs.fields(struct)}


@cache
def _derived(struct: type[msgspec.Struct]) -> dict[str, Callable[[Any], Any]]:
    return {name: note.show for name, notes in _notes(struct).items() for note in notes if isinstance(note, Derived)}


@cache
def struct_fields(struct: type[msgspec.Struct]) -> tuple[Field, ...]:
    """The fields of a struct that are keys of the file: those with a rule, and those that are structs themselves."""
    annotations = _notes(struct)
    fields = []
    for info in msgspec.structs.fields(struct):
        if info.name in _derived(struct):
            continue
        base, *notes = annotations[info.name]
        rule = next((note for note in notes if not isinstance(note, str | Expression)), None) or Section(base)
        expression = next((note.text for note in notes if isinstance(note, Expression)), None)
        default = REQUIRED if info.default is msgspec.NODEFAULT else info.default
        if info.default_factory is not msgspec.NODEFAULT:
            default = info.default_factory()
        help_text = next(note for note in notes if isinstance(note, str))
        fields.append(Field(info.name, rule, help_text, default, expression))
    return tuple(fields)


def simple(value: Any) -> Any:
    """Numbers without a needless fraction, for people to read: 5.0 becomes 5."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: simple(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [simple(item) for item in value]
    return value
