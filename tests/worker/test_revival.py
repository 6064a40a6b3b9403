"""How a process finds out that an account is well again, where what it asks is out of order itself."""

from __future__ import annotations

import asyncio
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.routing.conduct import FIRST_PAUSE, Fault
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.router import Router
from gateway.worker import revival
from gateway.worker.revival import Revival


class Broken:
    """A store that answers what nobody understands."""

    async def call(self, *args: Any) -> Any:
        raise ValueError("no such script")


async def test_a_trial_that_cannot_be_prepared_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch):
    async def well(account: Any) -> int:
        return 200

    monkeypatch.setattr(revival, "probe", well)
    router = Router(lambda model: model)
    accounts = [Entry(name, name, name) for name in ("a", "b", "c")]
    long_ago = monotonic() - FIRST_PAUSE - 1.0
    router.apply(PoolDocument(1, tuple(accounts)), long_ago)
    for n in range(3):
        router.failing.bad("a", Fault.ERROR, b"%d" % n, long_ago)
    assert "a" in router.failing
    account: Any = SimpleNamespace(id="a")
    pool: Any = SimpleNamespace(accounts={"a": account})
    store: Any = Broken()
    made = Revival(router, pool, store, "here", lambda account, seconds: None)
    assert not router.failing.try_out("a", b"first", monotonic())
    await asyncio.gather(*made._tasks.values())
    assert router.failing.try_out("a", b"second", monotonic())
    await made.aclose()
