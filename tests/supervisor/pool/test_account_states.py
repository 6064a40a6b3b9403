"""The supervisor's picture of the accounts, over time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.config.schema import loads
from gateway.core.routing.broadcast import Back, Out, encode
from gateway.core.routing.document import PoolDocument
from gateway.core.routing.health import Cause
from gateway.supervisor.pool import account_states as module
from gateway.supervisor.pool.account_states import Board
from gateway.worker.accounts import entry_of

FILE = """\
secret: 0123456789abcdef0123456789abcdef
admin: {token: token-of-the-operator}
keys: [{id: k, key: sk-0123456789abcdef0123456789abcdef}]
accounts:
  - {id: a, api_key: sk-ant-one, organization: acme}
  - {id: b, api_key: sk-ant-two, organization: acme}
  - {id: c, api_key: sk-ant-three}
"""


class Clock:
    """Both clocks of the board."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "time", lambda: self.now + 1_700_000_000.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
async def board(clock: Clock) -> AsyncIterator[Board]:
    config = loads(FILE, {})
    board = Board(config, lambda data: None)
    board.apply(PoolDocument(1, tuple(sorted(map(entry_of, config.accounts)))))
    yield board
    await board.aclose()


async def test_an_organization_without_credit_is_out_since_then_until_a_request_was_paid(board: Board, clock: Clock):
    board.heard(encode(Out("acme", Cause.BILLING, 60.0, "a")))
    began = board.view("a")["health"]
    assert (began["state"], began["reason"]) == ("out", "billing") and began["until"] is not None
    seen: list[dict[str, Any]] = []
    for _ in range(10):
        clock.now += 30.0
        board.look()
        assert board.states() == {"a": "out", "b": "out", "c": "available"}
        seen.append(board.view("a")["health"])
    assert {(each["reason"], each["since"]) for each in seen} == {("billing", began["since"])}
    assert seen[-1]["until"] is None and "The next request tries it." in seen[-1]["why"]
    board.heard(encode(Back("b", paid=False)))  # what costs nothing shows no money
    assert board.states() == {"a": "out", "b": "out", "c": "available"}
    board.heard(encode(Back("b", paid=True)))
    assert board.states() == {"a": "available", "b": "available", "c": "available"}
    assert board.view("a")["health"]["since"] != began["since"]
