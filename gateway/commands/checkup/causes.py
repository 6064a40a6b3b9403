"""Findings with one cause, told once: of several accounts or nodes that have the same, and of one trouble that several
looks have seen. It looks at nothing itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from gateway.commands.checkup.finding import Finding, Level
from gateway.config.catalogue import listed

_ACCOUNT = "account "
# What the running gateway says of itself, and what was seen of the same with our own eyes.
_STORE_LOST, _STORE = ("gateway", "store"), ("store", "reachable")
_OWN_LOOK = ("credential", "credit", "reachable")  # checks of an account that tell why a gateway holds it out


def once(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, each cause in its first place."""
    groups: dict[Any, list[Finding]] = {}
    for number, each in enumerate(_without_echoes(list(findings))):
        groups.setdefault(_cause(each) or number, []).append(each)
    return [_together(group) for group in groups.values()]


def accounts_told(findings: Iterable[Finding]) -> frozenset[str]:
    """The accounts of which a look at the upstream tells what is wrong with their `models` or `base_url`."""
    bad = (each for each in findings if each.level is not Level.ok and each.check in ("models", "base_url"))
    return frozenset(each.about.removeprefix(_ACCOUNT) for each in bad if each.about.startswith(_ACCOUNT))


def _without_echoes(findings: list[Finding]) -> list[Finding]:
    """Without what the running gateway says of that which was seen to be so."""
    bad = {(each.about, each.check) for each in findings if each.level is not Level.ok}
    return [each for each in findings if not _is_echo(each, bad)]


def _is_echo(each: Finding, bad: Collection[tuple[str, str]]) -> bool:
    if (each.about, each.check) == _STORE_LOST:
        return _STORE in bad
    return each.check == "health" and any((each.about, look) in bad for look in _OWN_LOOK)


def _cause(each: Finding) -> tuple[Any, ...] | None:
    """What findings have in common that are told as one; None for one that stands alone."""
    if each.level is Level.ok:
        return None
    about = _ACCOUNT if each.about.startswith(_ACCOUNT) else each.about
    return each.level, about, each.cause or (each.check, each.message), each.advice


def _together(group: list[Finding]) -> Finding:
    first = group[0]
    if len(group) == 1:
        return first
    if not first.about.startswith(_ACCOUNT):  # of nodes, which their checks name
        others = [each.check.rpartition(" ")[2] for each in group[1:]]
        return msgspec.structs.replace(first, check=", ".join((first.check, *others)))
    return msgspec.structs.replace(
        first, about=f"accounts {listed([each.about.removeprefix(_ACCOUNT) for each in group])}"
    )
