"""The reference of `gateway.yaml` as a Markdown page, made of the file's JSON Schema: keys, types, defaults, meanings.

It knows no key by name; what the page says of the file as a whole stands here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

Schema = dict[str, Any]

_HEAD = """\
# Configuration

<!-- Written by `gateway config schema --markdown`; a test compares. Change the schema, not this page. -->

Every key of `gateway.yaml`. JSON is YAML too. An unknown key is an error that names its line and the nearest known
key; `gateway config check` finds it before anybody else does. `gateway config schema` prints the same as JSON Schema:
save it and name it in the file's first line, and an editor completes and checks while you type:

```yaml
# yaml-language-server: $schema=gateway.schema.json
```

**Expressions** are replaced inside values, never inside keys, and what is put in is not expanded again:

| written | becomes |
|---|---|
| `${NAME}` | the environment variable; an error where it is not set |
| `${NAME:-default}` | the variable, or the default where it is not set or empty |
| `${file:PATH}` | what the file holds, without its last line end: for secrets that are mounted |
| `$${` | a literal `${` |

Inside `[ ]` and `{ }` an expression needs quotes. Relative paths start at the working directory.

**Units**: a number alone is of the unit that its key says. Seconds may be written as `500ms`, `90s`, `5m`, `1h30m` or
`1d`, sizes as `512kb`, `32mb` or `1gb` (of 1024), shares as `10%`.

**While it runs**, the gateway follows the file: a change of a key marked **yes** under *live* takes effect within a
second of saving, in a mounted ConfigMap too, and on SIGHUP. A file that cannot be used changes nothing; the others need
a restart, and a warning names them.
"""


def reference(schema: Schema, reloadable: Iterable[str]) -> str:
    """The page. `reloadable` are dotted keys, or sections, that take effect without a restart."""
    live = frozenset(reloadable)
    return "\n".join((_HEAD, *_section("", "", schema, live)))


def _section(path: str, about: str, schema: Schema, live: frozenset[str]) -> Iterator[str]:
    """One mapping: its own keys as a table, then those mappings that are in it."""
    properties: dict[str, Schema] = schema["properties"]
    yield f"## `{path}`" if path else "## The file"
    yield ""
    if about:
        yield f"{about[0].upper()}{about[1:]}."
        yield ""
    yield "| key | value | default | live | meaning |"
    yield "|---|---|---|---|---|"
    inner: list[tuple[str, str, Schema]] = []
    for name, each in properties.items():
        place = f"{path}.{name}" if path else name
        found = _mapping(place, each)
        if found is not None:
            inner.append((found[0], each.get("description", ""), found[1]))
        required = name in schema.get("required", ())
        link = f"see [below](#{_anchor(found[0])})" if found is not None else _kind(each)
        default = "**required**" if required else _default(each)
        marks = "yes" if _is_live(place, live) else ""
        yield f"| `{name}` | {link} | {default} | {marks} | {_cell(each.get('description', ''))} |"
    yield ""
    for place, words, each in inner:
        yield from _section(place, words, each, live)


def _mapping(place: str, schema: Schema) -> tuple[str, Schema] | None:
    """The path and schema of the mapping that a key holds, of which there may be many; None if it holds none."""
    if schema.get("type") == "object" and "properties" in schema:
        return place, schema
    if schema.get("type") == "array" and "properties" in schema["items"]:
        return f"{place}[]", schema["items"]
    inner = schema.get("additionalProperties")
    if isinstance(inner, dict) and "properties" in inner:
        return f"{place}.<name>", inner
    return None


def _anchor(path: str) -> str:
    """What GitHub makes of a heading."""
    return "".join(character for character in path.lower() if character.isalnum() or character in "_-")


def _is_live(place: str, live: frozenset[str]) -> bool:
    plain = place.replace("[]", "").replace(".<name>", "")
    parts = plain.split(".")
    return any(".".join(parts[:count]) in live for count in range(1, len(parts) + 1))


def _kind(schema: Schema) -> str:
    """What may stand there, in words."""
    options = [each for each in schema.get("anyOf", ()) if "$ref" not in each]
    if options:
        return " or ".join(dict.fromkeys(map(_kind, options)))
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_plural(_kind(schema['items']))}"
    if kind == "object":
        return f"names, each with {_article(_kind(schema['additionalProperties']))}"
    if kind == ["string", "integer"]:
        return "text or port"
    if kind == "string":
        if "examples" in schema:
            return f"`{schema['examples'][0]}`"
        return "time" if schema.get("format") == "date-time" else "text"
    if kind == "boolean":
        return "`true`, `false`"
    words = "whole number" if kind == "integer" else "number"
    return words + _bounds(schema)


def _bounds(schema: Schema) -> str:
    if "exclusiveMinimum" in schema:
        low = f" above {_number(schema['exclusiveMinimum'])}"
    elif "minimum" in schema:
        low = f" from {_number(schema['minimum'])}"
    else:
        low = ""
    return f"{low} to {_number(schema['maximum'])}" if "maximum" in schema and schema["maximum"] < 2**53 else low


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _plural(word: str) -> str:
    return {"text": "texts", "time": "times"}.get(word, word)


def _article(word: str) -> str:
    return f"a {word}" if word[:1].isalpha() else word


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return ""
    value = schema["default"]
    if value in ("", [], {}):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
