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
from gateway.supervisor.pool.account_states import AccountStates
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
    """Both clocks of the account_states."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "time", lambda: self.now + 1_700_000_000.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
async def account_states(clock: Clock) -> AsyncIterator[AccountStates]:
    config = loads(FILE, {})
    account_states = AccountStates(config, lambda data: None)
    account_states.apply(PoolDocument(1, tuple(sorted(map(entry_of, config.accounts)))))
    yield account_states
    await account_states.aclose()


async def test_an_organization_without_credit_is_out_since_then_until_a_request_was_paid(
    account_states: AccountStates, clock: Clock
):
    account_states.heard(encode(Out("acme", Cause.BILLING, 60.0, "a")))
    began = account_states.view("a")["health"]
    assert (began["state"], began["reason"]) == ("out", "billing") and began["until"] is not None
    seen: list[dict[str, Any]] = []
    for _ in range(10):
        clock.now += 30.0
        account_states.look()
        assert account_states.states() == {"a": "out", "b": "out", "c": "available"}
        seen.append(account_states.view("a")["health"])
    assert {(each["reason"], each["since"]) for each in seen} == {("billing", began["since"])}
    assert seen[-1]["until"] is None and "The next request tries it." in seen[-1]["why"]
    account_states.heard(encode(Back("b", paid=False)))  # what costs nothing shows no money
    assert account_states.states() == {"a": "out", "b": "out", "c": "available"}
    account_states.heard(encode(Back("b", paid=True)))
    assert account_states.states() == {"a": "available", "b": "available", "c": "available"}
    assert account_states.view("a")["health"]["since"] != began["since"]
