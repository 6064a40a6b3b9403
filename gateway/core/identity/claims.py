"""What claims mean here: a path to one, a text made of some, patterns that they must fit, and the caller's id.

A path has its parts between slashes (`kubernetes.io/namespace`), as a JSON Pointer does without its first one: a slash
in a name is `~1`, a tilde `~0`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

LONGEST = 128  # characters of a caller's id
_PLAIN = re.compile(r"[A-Za-z0-9._@+'/:=~%-]+")
_HASHED = "sha256-"
_CLAIM = re.compile(r"\{([^{}]*)\}")


class NotAdmitted(Exception):
    """The token is right, and does not let its bearer in; the words are for the bearer."""


class WithoutTeam(NotAdmitted):
    """It has all that is required, and its team is none."""


def split_path(path: str) -> tuple[str, ...]:
    """The names on a path. Raises ValueError."""
    parts = path.split("/")
    if not all(parts) or re.search("~(?![01])", path):
        raise ValueError("must be the path of a claim, such as sub or kubernetes.io/namespace")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim at a path, None where there is none."""
    found: Any = claims
    for name in split_path(path):
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def _text(value: Any) -> str | None:
    """A single claim as text; None for what is none, or many."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) and value != "" else None


def unmet(claims: Mapping[str, Any], require: Mapping[str, Sequence[str]]) -> str:
    """The first path of `require` whose claim fits none of its patterns, "" where all do. Of a list one must fit."""
    for path, patterns in require.items():
        value = claim(claims, path)
        texts = [_text(each) for each in value] if isinstance(value, list) else [_text(value)]
        if not any(text is not None and fnmatchcase(text, pattern) for text in texts for pattern in patterns):
            return path
    return ""


def check_template(template: str) -> str:
    """A text with claims in braces, of which different claims never make the same one. Raises ValueError."""
    pieces = _CLAIM.split(template)
    if any(character in literal for literal in pieces[::2] for character in "{}"):
        raise ValueError("has a brace without its other one")
    for path in pieces[1::2]:
        split_path(path)
    if "" in pieces[2:-1:2]:
        raise ValueError("needs a character between two claims")
    if any(literal and not _PLAIN.fullmatch(literal) for literal in pieces[::2]):
        raise ValueError("may have A-Z a-z 0-9 . _ @ + ' / : = ~ % - beside its claims in braces")
    return template


def render(template: str, claims: Mapping[str, Any]) -> str:
    """The template's text with the claims in it. Raises NotAdmitted where one is missing or not a single value."""
    pieces = _CLAIM.split(template)
    # Of several claims, none may contain what stands between them: a/b and c would be a and b/c.
    between = "%" + "".join(pieces[2:-1:2])
    for index in range(1, len(pieces), 2):
        value = _text(claim(claims, pieces[index]))
        if value is None:
            raise NotAdmitted(f"Your token has no claim {pieces[index]}.")
        if len(pieces) > 3:
            value = "".join(f"%{ord(each):02X}" if each in between else each for each in value)
        pieces[index] = value
    return "".join(pieces)


def caller_id(issuer: str, text: str) -> str:
    """`<issuer>/<text>`, or a digest in place of a text that is too long, or has other characters than ids may."""
    name = f"{issuer}/{text}"
    if len(name) <= LONGEST and _PLAIN.fullmatch(text) and not text.startswith(_HASHED):
        return name
    return f"{issuer}/{_HASHED}{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"
