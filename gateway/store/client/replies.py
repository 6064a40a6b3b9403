"""What an error reply means for the call that got it: one table for every topology. It does not know connections."""

from __future__ import annotations

from enum import Enum


class Meaning(Enum):
    """What the caller of a refused call must do."""

    UNKNOWN_SCRIPT = "repeat it with the script's text"
    MOVED = "repeat it at the node that has the slot now"
    ASK = "repeat it, this once, at the node that receives the slot"
    DEMOTED = "give it up and find the server that is the master now"
    REFUSED = "give it up; the server cannot do it now"
    WRONG = "give it up and tell the programmer; it will never work"


_MEANINGS = {
    "NOSCRIPT": Meaning.UNKNOWN_SCRIPT,
    "MOVED": Meaning.MOVED,
    "ASK": Meaning.ASK,
    "READONLY": Meaning.DEMOTED,
    "LOADING": Meaning.REFUSED,
    "MASTERDOWN": Meaning.REFUSED,
    "CLUSTERDOWN": Meaning.REFUSED,
    "TRYAGAIN": Meaning.REFUSED,
    "BUSY": Meaning.REFUSED,
    "OOM": Meaning.REFUSED,
    "NOREPLICAS": Meaning.REFUSED,
    "MISCONF": Meaning.REFUSED,
}


def code(error: str) -> str:
    """The first word of an error reply, such as `READONLY`."""
    return error.partition(" ")[0]


def meaning(error: str) -> Meaning:
    """What the text of an error reply means; unknown ones are errors of ours."""
    return _MEANINGS.get(code(error), Meaning.WRONG)


def redirection(error: str, asked: str) -> tuple[int, tuple[str, int]]:
    """(slot, (host, port)) of `MOVED 3999 10.0.0.2:6381` or `ASK ...`, got from the node at host `asked`.

    Raises ValueError where the text is no such thing."""
    _, slot, where = error.split(" ")
    host, _, port = where.rpartition(":")
    return int(slot), (named(host, asked), int(port))


def named(host: str | None, asked: str) -> str:
    """A node's host as a cluster gives it; one that does not know it means the host that was asked."""
    return asked if host in (None, "", "?") else str(host)
