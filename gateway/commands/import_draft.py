"""A configuration that is being taken over from elsewhere: what goes into the file, and what has to be said about it.

It reads and writes nothing. No secret gets into it: a credential is an expression, and what is said names places only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from gateway.config.file import loads
from gateway.config.source import ConfigError, Problem

NEW = "new; `openssl rand -hex 32` makes one"
_KEY = "x" * 40
_ELSEWHERE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")


class Draft:
    """`left` are settings without a counterpart, `changed` those that came over as something else, `look` what only
    their owner can know. Each is a reason by subject, with whatever it concerns."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {"admin": {"token": "${GATEWAY_ADMIN_TOKEN}"}, "secret": "${GATEWAY_SECRET}"}
        self._variables: dict[str, tuple[str, str]] = {}  # name -> (where its value is from, a value of its kind)
        self._said: dict[str, dict[tuple[str, str], list[str]]] = {"left": {}, "changed": {}, "look": {}}
        self.variable("GATEWAY_SECRET", NEW)
        self.variable("GATEWAY_ADMIN_TOKEN", NEW)

    def left(self, subject: str, why: str, holder: str = "") -> None:
        """A setting, the same for every `holder`, that has no counterpart."""
        self._say("left", subject, why, holder)

    def changed(self, subject: str, how: str, holder: str = "") -> None:
        """A setting that came over as something else."""
        self._say("changed", subject, how, holder)

    def look(self, subject: str, why: str) -> None:
        """Something that only the owner of the pool can tell."""
        self._say("look", subject, why, "")

    def _say(self, kind: str, subject: str, why: str, holder: str) -> None:
        holders = self._said[kind].setdefault((subject, why), [])
        if holder and holder not in holders:
            holders.append(holder)

    def variable(self, name: str, origin: str, example: str = _KEY) -> str:
        """The expression for an environment variable that has to be set; `example` is a value of its kind."""
        self._variables.setdefault(name, (origin, example))
        return f"${{{name}}}"

    def forget(self, name: str) -> None:
        """A variable that nothing needs any more."""
        del self._variables[name]

    def secret(self, value: object, name: str, place: str, example: str = _KEY) -> str:
        """The expression for a secret at `place` of the other file: the variable that is named there, or a new one for
        what is written out."""
        named = _ELSEWHERE.fullmatch(str(value))
        if named:
            return self.variable(named[1], "as today", example)
        return self.variable(name, f"written out today at {place}: keep it in this variable", example)

    def value(self, value: object, example: str) -> str:
        """The expression for a setting that may name a variable and is no secret."""
        named = _ELSEWHERE.fullmatch(str(value))
        return self.variable(named[1], "as today", example) if named else verbatim(str(value))

    def text(self, origin: str) -> str:
        """The file."""
        head = f"# Taken over from {origin}. `gateway config check` says whether it can be used.\n"
        return head + "".join(_yaml({key: value}) for key, value in self.config.items())

    def check(self) -> None:
        """Raise ConfigError where the file could not be used although each variable is set. It names the entries that
        are at fault, since there is no file to look at."""
        try:
            loads(self.text("elsewhere"), {name: example for name, (_, example) in self._variables.items()})
        except ConfigError as error:
            problems = [Problem(0, self._named(each.path), each.message) for each in error.problems]
            raise ConfigError("what would be written", problems) from None

    def _named(self, path: str) -> str:
        """A path, with the id of the entry that it is in."""
        found = re.match(r"(\w+)\[(\d+)\]", path)
        if found is None:
            return path
        return f"{found[0]} ({self.config[found[1]][int(found[2])]['id']}){path[found.end() :]}"

    def report(self) -> str:
        """What has to be said, for people."""
        lines = [self._summary()]
        for kind, title in (
            ("left", "Has no counterpart here, and is left out:"),
            ("changed", "Came over as something else:"),
            ("look", "Nobody but you knows:"),
        ):
            said = self._said[kind]
            lines += [f"\n{title}"] if said else []
            lines += [f"  {_subject(subject, holders)}: {why}" for (subject, why), holders in said.items()]
        width = max(map(len, self._variables))
        lines.append("\nSet these variables before it starts:")
        lines += [f"  {name:<{width}}  {origin}" for name, (origin, _) in self._variables.items()]
        return "\n".join(lines)

    def _summary(self) -> str:
        models = self.config.get("models", {})
        counts = (
            (len(self.config.get("accounts", ())), "account"),
            (len(models.get("aliases", ())), "alias"),
            (len(self.config.get("keys", ())), "key"),
            (len(self.config.get("teams", ())), "team"),
        )
        return "Taken over: " + ", ".join(counted(number, noun) for number, noun in counts) + "."


def _yaml(section: dict[str, Any]) -> str:
    """In the items of a list, what holds no further lists or mappings stands on one line."""
    flow = None if any(isinstance(value, list) for value in section.values()) else False
    return yaml.safe_dump(section, sort_keys=False, allow_unicode=True, width=110, default_flow_style=flow)


def counted(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def verbatim(text: str) -> str:
    """A text whose `${` is meant."""
    return text.replace("${", "$${")


def unique(name: str, taken: Collection[str], allowed: str, most: int) -> str:
    """An id like `name` that is not yet taken: of the characters `allowed`, at most so many of them."""
    base = re.sub("--+", "-", re.sub(rf"[^{allowed}]+", "-", name)).strip("-")[:most]
    base = base if base.strip(".") else "unnamed"  # . and .. are no ids
    found, count = base, 2
    while found in taken:
        end = f"-{count}"
        found, count = f"{base[: most - len(end)]}{end}", count + 1
    return found


def _subject(subject: str, holders: list[str]) -> str:
    return f"{subject} ({', '.join(holders)})" if holders else subject


def variable_name(text: str) -> str:
    """A text as the name of an environment variable."""
    return re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_")


def number(row: Mapping[str, Any], key: str, place: str) -> float | None:
    """The number under a key, None where nothing is. Raises ValueError, which says where it stands: `place` goes before
    the key."""
    value = row.get(key)
    if value in (None, ""):
        return None
    try:
        found = float(str(value))
    except ValueError:
        raise ValueError(f"{place}{key} is no number") from None
    if not math.isfinite(found):
        raise ValueError(f"{place}{key} is no finite number")
    return found


def given(row: Mapping[str, Any], *skip: str) -> list[str]:
    """The keys of a mapping that say anything."""
    return [key for key, value in row.items() if key not in skip and value not in (None, "", {}, [], False)]
