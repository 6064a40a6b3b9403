"""What one request costs in Python calls of the gateway's own: counted, not timed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import gateway
from tests.journeys.driver import KEYS, Rig
from tests.journeys.journey import Want, ask, journey

ROOT = str(Path(gateway.__file__).parent) + "/"
LIMITS = {"requests_per_minute": 1000, "concurrency": 10, "budget_usd": {"day": 100}}
MOST_CALLS, MOST_FILES = 235, 56  # of one warm request, alone; whatever makes fewer lowers them
OF_THE_DRIVER = ("driver.py", "replica.py")  # whose calls find a conversation for a home, and read the journal


def caller_of(frame: FrameType) -> str:
    """The file from which the gateway was called."""
    back: FrameType | None = frame
    while back is not None and back.f_code.co_filename.startswith(ROOT):
        back = back.f_back
    return "" if back is None else back.f_code.co_filename


def calls(rig: Rig, requests: int) -> Counter[str]:
    """How often each file's functions are called, or resumed, while so many requests of a warm conversation are served
    by callers whose limits and budget are counted."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(ROOT) and not caller_of(frame).endswith(OF_THE_DRIVER):
            found[name[len(ROOT) :]] += 1

    warm = [ask(at=0.2 * number, want=Want(by="a")) for number in range(requests)]
    callers = [{"id": "alice", "key": KEYS["alice"], "limits": LIMITS}]
    played = journey("warm requests", *warm, given=(ask(want=Want(by="a")),), config={"keys": callers, "teams": []})
    sys.setprofile(note)
    try:
        rig.play(played)
    finally:
        sys.setprofile(None)
    return found


@pytest.fixture
def wire(rig: Rig) -> Iterator[Rig]:
    """The gateway's own listener: another server has calls of its own."""
    made = Rig(rig.folder.parent / "cost")
    yield made
    made.close()


def test_a_warm_request_makes_few_calls_in_few_files(wire: Rig):
    calls(wire, 1)  # what is made once is made
    ten, twenty = calls(wire, 10), calls(wire, 20)
    each = {name: (twenty[name] - ten[name]) / 10 for name in twenty}
    made = {name: number for name, number in each.items() if number >= 0.5}
    assert sum(made.values()) <= MOST_CALLS, sorted(made.items(), key=lambda item: -item[1])
    assert len(made) <= MOST_FILES, sorted(made)
