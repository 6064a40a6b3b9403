"""The supervisor's picture of the accounts, over time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import jsonschema_rs
import pytest

from gateway.admin.schemas import HEALTH
from gateway.config.file import loads
from gateway.core.routing.broadcast import (
    Back,
    Failing,
    FeaturesClosed,
    Out,
    Recovered,
    Suspected,
    Unreachable,
    decode,
    encode,
)
from gateway.core.routing.conduct import Fault
from gateway.core.routing.document import PoolDocument
from gateway.core.routing.health import Cause
from gateway.supervisor.pool import account_states as module
from gateway.supervisor.pool.account_states import AccountStates
from gateway.supervisor.pool.diagnosis import STATES
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


class Log:
    """What was written: (level, event, account)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(module, "log", log)
    return log


@pytest.fixture
async def account_states(clock: Clock) -> AsyncIterator[AccountStates]:
    config = loads(FILE, {})
    account_states = AccountStates(config, lambda data: None, "here-1")
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


def failing(account: str, process: str = "here-1.1", seconds: float = 10.0, **faults: int) -> bytes:
    return encode(Failing(account, process, faults or {Fault.ERROR: 3}, seconds, seconds))


async def test_an_account_that_fails_says_since_when_who_judged_and_when_it_is_tried(
    account_states: AccountStates, clock: Clock, log: Log
):
    account_states.heard(failing("a", errors=3))
    health = account_states.view("a")["health"]
    assert (health["state"], health["faults"], health["judged_by"]) == ("failing", {"errors": 3}, "here-1.1")
    assert (health["since"], health["until"]) == ("2023-11-14T22:30:00Z", "2023-11-14T22:30:10Z")
    clock.now += 10.0
    account_states.heard(failing("a", "there-2.1", 20.0, errors=1, cuts=2))  # its trial went badly
    again = account_states.view("a")["health"]
    assert (again["since"], again["until"]) == (health["since"], "2023-11-14T22:30:30Z")
    assert (again["faults"], again["judged_by"]) == ({"errors": 1, "cuts": 2}, "there-2.1")
    account_states.heard(encode(FeaturesClosed("a", "claude-opus-9", ["mcp"], 600.0)))
    account_states.heard(encode(Unreachable("a", "there-2.1", 5.0)))
    jsonschema_rs.validate(HEALTH, account_states.view("a")["health"])
    account_states.heard(encode(Recovered("a")))
    well = account_states.view("a")["health"]
    assert (well["state"], well["faults"], well["judged_by"]) == ("available", {}, None)


async def test_the_log_warns_once_that_an_account_fails_and_once_that_it_is_well(
    account_states: AccountStates, clock: Clock, log: Log
):
    for process in ("here-1.1", "here-1.2", "there-2.1"):  # each finds it for itself
        account_states.heard(failing("a", process, errors=3))
        clock.now += 1.0
    for _ in range(2):
        account_states.heard(encode(Recovered("a", "there-2.1")))
    told = {"account": "a", "faults": {"errors": 3}, "tried_again_in": 10, "judged_by": "here-1.1"}
    assert log.lines == [
        ("warning", "account fails where others do not", told),
        ("warning", "account is well again", {"account": "a", "shown_by": "there-2.1"}),
    ]


async def test_what_a_process_said_that_has_ended_holds_until_a_trial_is_overdue_and_nobody_says_it_again(
    clock: Clock, log: Log
):
    config = loads(FILE, {})
    running = {"here-1.1", "there-2.1"}
    states = AccountStates(config, lambda data: None, "here-1", lambda: running)
    states.apply(PoolDocument(1, tuple(sorted(map(entry_of, config.accounts)))))
    states.heard(failing("a", "here-1.1"))
    states.heard(failing("b", "here-1.1"))
    states.heard(failing("b", "there-2.1"))
    clock.now += 600.0
    states.look()
    assert (states.states()["a"], states.states()["b"]) == ("failing", "failing")  # nobody asks: it may still be so
    states.heard(failing("a", "here-1.1"))
    running.discard("here-1.1")
    clock.now += 39.0
    states.look()
    assert states.states()["a"] == "failing"
    clock.now += 2.0
    states.look()
    assert (states.states()["a"], states.states()["b"]) == ("available", "failing")
    assert log.lines[-1] == (
        "info", "account is no longer avoided: who judged it has ended", {"account": "a"},
    )  # fmt: skip
    await states.aclose()


async def test_an_operator_who_says_that_it_is_in_order_ends_it(account_states: AccountStates, log: Log):
    account_states.heard(failing("a"))
    account_states.enable("a")
    assert account_states.states()["a"] == "available"


async def test_the_gateways_that_cannot_reach_an_account_are_named_until_they_can(
    account_states: AccountStates, clock: Clock
):
    account_states.heard(encode(Unreachable("a", "there-2.1", 5.0)))
    account_states.heard(encode(Unreachable("a", "there-2.2", 5.0)))
    account_states.heard(failing("a", "yonder-3.1", connections=4))  # no connection: its own trouble as well
    health = account_states.view("a")["health"]
    assert (health["state"], health["unreachable_from"]) == ("available", ["there-2", "yonder-3"])
    account_states.heard(encode(Unreachable("a", "there-2.1", 0.0)))
    account_states.heard(encode(Unreachable("a", "there-2.2", 0.0)))
    assert account_states.view("a")["health"]["unreachable_from"] == ["yonder-3"]
    clock.now += 60.0
    assert account_states.view("a")["health"]["unreachable_from"] == []
    account_states.heard(encode(Unreachable("a", "here-1.1", 5.0)))
    own = account_states.view("a")["health"]
    assert (own["state"], own["reason"], own["unreachable_from"]) == ("out", "unreachable", [])


def test_the_admin_api_documents_all_states():
    assert {*HEALTH["properties"]["state"]["enum"]} == {*STATES}


async def test_a_refused_credential_that_no_free_call_can_confirm_is_out_at_once_and_twice_as_long_the_next_time(
    clock: Clock,
):
    config = loads(f"{FILE}  - {{id: d, provider: bedrock, region: us-east-1, api_key: key-of-d}}\n", {})
    told: list[Any] = []
    states = AccountStates(config, lambda data: told.append(decode(data)), "here-1")
    states.apply(PoolDocument(1, tuple(sorted(map(entry_of, config.accounts)))))
    for _ in range(3):  # of requests that were under way together
        states.heard(encode(Suspected("d")))
    outs = [each for each in told if isinstance(each, Out)]
    assert [(each.name, each.cause, each.seconds) for each in outs] == [("d", Cause.CREDENTIAL, 60.0)]
    assert states.view("d")["health"]["reason"] == "credential"
    clock.now += 61.0
    states.look()
    states.heard(encode(Suspected("d")))
    assert [each.seconds for each in told if isinstance(each, Out)] == [60.0, 120.0]
    states.heard(encode(Back("d", credential=states.router.credential("d"))))
    assert states.states()["d"] == "available"
    await states.aclose()
