"""Which objects of its workspace a Messages body refers to, and which state it asks to be kept.

Pure. What a single block refers to is found once, when the block is read, and remembered with it.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from gateway.lab.simulator.prompt import Body

__all__ = ["References", "Uses", "references", "uses"]

_PHRASE = "make a file"
_decode = msgspec.json.Decoder().decode


class Uses(msgspec.Struct, frozen=True):
    """Of one block or tool: the ids of files it refers to, and whether it is a tool that runs code."""

    files: tuple[str, ...] = ()
    runs_code: bool = False


class References(msgspec.Struct, frozen=True):
    """`files` are file ids, `container` the id of one to go on with, `skills` (type, id, version) of those to load.

    `runs_code`: the answer has a container; `makes_file`: it leaves a file. `thread` is what the body asks for,
    `previous` the message it goes on from.
    """

    files: tuple[str, ...] = ()
    container: str | None = None
    skills: tuple[tuple[str, str, str], ...] = ()
    runs_code: bool = False
    makes_file: bool = False
    thread: str | None = None
    previous: str | None = None


def uses(block: dict[str, Any]) -> Uses | None:
    """What a decoded content block or tool uses; None for nothing, as nearly always."""
    kind = block.get("type")
    if kind in ("image", "document", "container_upload", "tool_result"):
        files = tuple(_files([block]))
        return Uses(files) if files else None
    return Uses(runs_code=True) if isinstance(kind, str) and kind.startswith("code_execution_") else None


def references(body: "Body", used: list[Uses]) -> References | None:
    """What a body, whose blocks use these, refers to; None for nothing."""
    if not used and body.container is None and body.thread is None:
        return None
    runs_code = any(one.runs_code for one in used)
    container, skills = _container(body.container)
    thread = body.thread or {}
    return References(
        files=tuple(dict.fromkeys(ident for one in used for ident in one.files)),
        container=container,
        skills=skills,
        runs_code=runs_code or body.container is not None,
        makes_file=runs_code and _PHRASE in _last_text(body).lower(),
        thread=thread.get("type"),
        previous=thread.get("previous_message_id"),
    )


def _files(blocks: Iterable[Any]) -> Iterator[str]:
    for block in blocks:
        if not isinstance(block, dict):
            continue
        source = block.get("source")
        if block.get("type") in ("image", "document") and isinstance(source, dict) and source.get("type") == "file":
            yield str(source.get("file_id"))
        elif block.get("type") == "container_upload":
            yield str(block.get("file_id"))
        elif block.get("type") == "tool_result" and isinstance(block.get("content"), list):
            yield from _files(block["content"])


def _container(given: str | dict[str, Any] | None) -> tuple[str | None, tuple[tuple[str, str, str], ...]]:
    if given is None or isinstance(given, str):
        return given, ()
    skills = given.get("skills")
    found = [one for one in skills if isinstance(one, dict)] if isinstance(skills, list) else []
    named = ((str(one.get("type")), str(one.get("skill_id")), str(one.get("version") or "latest")) for one in found)
    ident = given.get("id")
    return ident if isinstance(ident, str) else None, tuple(named)


def _last_text(body: "Body") -> str:
    """The text of the last message, if the user wrote it."""
    last = body.messages[-1]
    if last.role != "user":
        return ""
    if isinstance(last.content, str):
        return last.content
    blocks = [_decode(raw) for raw in last.content]
    return " ".join(str(block.get("text", "")) for block in blocks if isinstance(block, dict))
