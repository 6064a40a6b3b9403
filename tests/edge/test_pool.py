"""Accounts in this process: who may serve, in which order, and slots that are never lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Account as AccountConfig
from gateway.config import Admin, Config
from gateway.core.document import Entry, PoolDocument
from gateway.edge.pool import Account, Lease, Pool, entry_of

RUNS = settings(deadline=None, max_examples=100)
ANY: Any = None


def account(slots: int | None) -> Account:
    return Account(AccountConfig(id="a", api_key="sk-upstream-0001"), ANY, ANY, slots)


def state(of: Account) -> str:
    return repr(of).removeprefix("<Account a ").removesuffix(">")


async def spin(turns: int = 5) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


# Slots.


async def test_a_slot_is_taken_and_given_back():
    one = account(2)
    first, second = await one.lease(), await one.lease()
    assert state(one) == "in_flight=2 waiting=0"
    assert first is not None and second is not None
    first.release()
    second.release()
    assert state(one) == "in_flight=0 waiting=0"


async def test_a_lease_is_given_back_exactly_once():
    one = account(2)
    first, second = await one.lease(), await one.lease()
    assert first is not None and second is not None
    for _ in range(3):
        first.release()
    assert one.in_flight == 1
    second.release()
    assert one.in_flight == 0


async def test_an_account_without_a_bound_counts_and_never_waits():
    one = account(None)
    leases = [await one.lease() for _ in range(1000)]
    assert one.in_flight == 1000
    for lease in leases:
        cast(Lease, lease).release()
    assert one.in_flight == 0


async def test_slots_are_handed_over_first_come_first_served():
    one = account(1)
    served = []

    async def serve(name: int) -> None:
        lease = await one.lease()
        served.append(name)
        await spin(1)
        assert lease is not None
        lease.release()

    await asyncio.gather(*(serve(name) for name in range(20)))
    assert served == list(range(20))
    assert state(one) == "in_flight=0 waiting=0"


async def test_an_account_is_full_when_a_lease_would_have_to_wait():
    one, boundless = account(1), account(None)
    assert not one.full
    lease = await one.lease()
    await boundless.lease()
    assert (one.full, boundless.full) == (True, False)
    cast(Lease, lease).release()
    assert not one.full


async def test_a_newcomer_does_not_overtake_those_who_wait():
    one = account(1)
    held = await one.lease()
    waiting = asyncio.create_task(one.lease())
    await spin()
    assert held is not None
    held.release()  # handed over, though the waiter has not run yet
    newcomer = asyncio.create_task(one.lease())
    await spin()
    assert waiting.done() and not newcomer.done()
    cast(Lease, waiting.result()).release()
    cast(Lease, await newcomer).release()
    assert state(one) == "in_flight=0 waiting=0"


async def test_who_waits_too_long_goes_away_without_a_slot():
    one = account(1)
    held = await one.lease()
    assert await asyncio.gather(*(one.lease(0.01) for _ in range(5))) == [None] * 5
    assert state(one) == "in_flight=1 waiting=0"
    cast(Lease, held).release()
    cast(Lease, await one.lease()).release()
    assert state(one) == "in_flight=0 waiting=0"


async def test_a_waiter_that_is_cancelled_leaves_the_queue():
    one = account(1)
    held = await one.lease()
    tasks = [asyncio.create_task(one.lease()) for _ in range(3)]
    await spin()
    tasks[1].cancel()
    await spin()
    assert tasks[1].cancelled()
    assert state(one) == "in_flight=1 waiting=2"
    cast(Lease, held).release()
    cast(Lease, await tasks[0]).release()
    cast(Lease, await tasks[2]).release()
    assert state(one) == "in_flight=0 waiting=0"


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
async def test_a_slot_given_back_at_any_moment_of_a_cancellation_is_not_lost(before, after):
    one = account(1)
    held = await one.lease()
    tasks = [asyncio.create_task(one.lease()) for _ in range(2)]
    await spin()
    for turn in range(max(before, after) + 1):
        if turn == before:
            tasks[0].cancel()
        if turn == after:
            cast(Lease, held).release()
        await spin(1)
    await spin()
    if not tasks[0].cancelled():  # it had its slot before it was cancelled
        cast(Lease, tasks[0].result()).release()
        await spin()
    cast(Lease, tasks[1].result()).release()
    assert state(one) == "in_flight=0 waiting=0"


async def test_a_waiter_that_is_cancelled_as_it_gets_its_slot_is_cancelled_and_hands_it_on():
    one = account(1)
    held = await one.lease()
    doomed, other = asyncio.create_task(one.lease()), asyncio.create_task(one.lease())
    await spin()
    cast(Lease, held).release()
    doomed.cancel()
    await spin()
    assert doomed.cancelled()  # its client is gone: it must not go on to an upstream
    assert other.done()
    cast(Lease, other.result()).release()
    assert state(one) == "in_flight=0 waiting=0"


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "release", "cancel", "run", "run"]), st.integers(0, 99)), max_size=60
)


@settings(RUNS, max_examples=250)
@given(st.integers(1, 3), ACTIONS)
def test_over_any_course_of_events_no_slot_is_lost_or_taken_twice(slots, actions):
    async def course() -> None:
        one = account(slots)
        tasks: list[asyncio.Task[Lease | None]] = []
        released: list[asyncio.Task[Lease | None]] = []

        def held() -> list[asyncio.Task[Lease | None]]:
            return [task for task in tasks if task.done() and not task.cancelled() and task not in released]

        for action, number in actions:
            if action == "ask":
                tasks.append(asyncio.create_task(one.lease()))
            elif action == "release" and held():
                task = held()[number % len(held())]
                released.append(task)
                cast(Lease, task.result()).release()
            elif action == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            else:
                await spin(1 + number % 3)
            assert 0 <= one.in_flight <= slots
            assert len(held()) <= one.in_flight
        while True:  # everything comes to its end
            await spin(10)
            if not held():
                break
            for task in held():
                released.append(task)
                cast(Lease, task.result()).release()
        assert all(task.done() for task in tasks)
        assert state(one) == "in_flight=0 waiting=0"

    asyncio.run(course())


# Who may serve.


def configured(*accounts: AccountConfig, workers: int = 1) -> Config:
    return Config(admin=Admin(token="admin-token"), secret=("s" * 32,), accounts=accounts, workers=workers)


def one(name: str, workspace: str = "", **fields: Any) -> AccountConfig:
    fields.setdefault("base_url", "http://127.0.0.1:9")  # nothing is ever sent
    return AccountConfig(id=name, api_key=f"sk-upstream-{name}", workspace=workspace, **fields)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def pool(*accounts: AccountConfig, **fields: Any) -> Pool:
        made.append(Pool(configured(*accounts, **fields)))
        return made[-1]

    yield pool
    for each in made:
        await each.aclose()


def without(of: Pool, **states: str) -> None:
    """Apply the pool's own document with other states."""
    entries = [
        Entry(each.id, each.workspace, each.organization, each.weight, each.models, states.get(each.id, "active"))
        for each in of.ring.accounts.values()
    ]
    of.apply(PoolDocument(of.ring.epoch + 1, tuple(entries)))


KEYS = [random.Random(n).randbytes(16) for n in range(60)]


async def test_slots_of_an_account_are_split_over_the_workers(make):
    pool = make(one("a", max_concurrency=100), one("b", max_concurrency=3), one("c"), workers=8)
    assert [pool.accounts[name].slots for name in "abc"] == [12, 1, None]


async def test_an_account_of_the_configuration_is_its_entry():
    entry = entry_of(one("a", "w", organization="o", weight=2.5, models=("x-*",)))
    assert entry == Entry("a", "w", "o", 2.5, ("x-*",), "active")


async def test_accounts_of_one_origin_share_its_connections(make):
    pool = make(one("a"), one("b"), one("c", base_url="http://127.0.0.1:10"))
    assert pool.accounts["a"].transport is pool.accounts["b"].transport
    assert pool.accounts["a"].transport is not pool.accounts["c"].transport


@pytest.mark.parametrize(
    ("models", "model", "serves"),
    [
        (("*",), "anything", True),
        (("claude-*",), "claude-sonnet-4-5", True),
        (("claude-*",), "Claude-sonnet-4-5", False),
        (("claude-opus-4-8", "claude-haiku-*"), "claude-haiku-4-5", True),
        (("claude-opus-4-8",), "claude-opus-4-80", False),
        (("claude-opus-4-8",), "", True),
    ],
)
async def test_an_account_serves_the_models_it_is_for(make, models, model, serves):
    pool = make(one("a", models=models))
    for _ in range(2):  # the second answer comes from memory
        assert (pool.eligible(pool.ring.accounts["a"], model) is not None) == serves
        assert pool.offers(model) == serves
        assert pool.placed(KEYS[0], model) == ("a" if serves else None)


async def test_what_was_remembered_of_models_goes_with_the_document(make):
    pool = make(one("a", models=("x",)))
    assert not pool.offers("y")
    pool.apply(PoolDocument(2, (Entry("a", "a", "a", 1.0, ("y",)),)))
    assert pool.offers("y") and not pool.offers("x")


async def test_a_disabled_account_never_serves_and_a_draining_one_still_does(make):
    pool = make(one("a"), one("b"), one("c"))
    without(pool, a="disabled", b="draining")
    assert pool.eligible(pool.ring.accounts["a"], "") is None
    for key in KEYS:
        assert "a" not in [each.id for each in pool.candidates(None, key, "")]
        assert {each.id for each in pool.candidates("b", key, "")} == {"b", "c"}


async def test_an_account_that_this_process_has_no_credential_for_is_passed_over(make):
    pool = make(one("a"))
    pool.apply(PoolDocument(2, (Entry("a", "a", "a"), Entry("z", "z", "z", 1000.0))))
    assert {pool.placed(key, "") for key in KEYS} == {"a"}
    assert {each.id for key in KEYS for each in pool.candidates("z", key, "")} == {"a"}
    assert not pool.vanished("z", "")


async def test_a_workspace_has_vanished_when_none_of_its_accounts_can_serve_again(make):
    pool = make(one("a", "w", models=("x",)), one("b", "w", models=("y",)))
    assert not pool.vanished("w", "x")
    assert pool.vanished("w", "z")
    without(pool, a="disabled")
    assert pool.vanished("w", "x") and not pool.vanished("w", "y")
    assert pool.vanished("gone", "x")


async def test_without_accounts_nobody_serves(make):
    pool = make(one("a"))
    pool.apply(PoolDocument(2))
    assert pool.placed(KEYS[0], "") is None
    assert list(pool.candidates(None, KEYS[0], "")) == []
    assert not pool.offers("")


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from("uvw"), st.sampled_from([1.0, 2.0]), st.sampled_from([("*",), ("claude-*",), ("x",)]),
        st.sampled_from(["active", "active", "draining", "disabled"]), st.booleans(),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(RUNS, max_examples=60)
@given(ENTRIES, st.sampled_from([None, "u", "v", "gone"]), st.sampled_from(["", "x", "claude-opus-4-8"]))
def test_candidates_are_all_who_may_serve_once_each_the_bound_workspace_first_then_by_rank(rows, bound, model):
    async def check() -> None:
        entries = tuple(Entry(f"a{n}", row[0], "o", row[1], row[2], row[3]) for n, row in enumerate(rows))
        mine = [one(entry.id) for entry, row in zip(entries, rows, strict=True) if row[4]]
        pool = Pool(configured(*(mine or [one("other")])))
        pool.apply(PoolDocument(3, entries))
        for key in KEYS[:10]:
            allowed = [each for each in pool.ring.order(key) if pool.eligible(each, model) is not None]
            found = [each.id for each in pool.candidates(bound, key, model)]
            expected = [each.id for each in allowed if each.workspace == bound]
            expected += [each.id for each in allowed if each.workspace != bound]
            assert found == expected
            assert len(set(found)) == len(found)
            placed = pool.placed(key, model)
            assert placed == (allowed[0].workspace if allowed else None)
            if placed is not None:
                within = pool.within(placed, key, model)
                assert within is not None and within.id == allowed[0].id
        await pool.aclose()

    asyncio.run(check())
