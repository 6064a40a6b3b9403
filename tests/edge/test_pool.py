"""Accounts in this process: slots that are never lost, and what follows the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.config import Account as AccountConfig
from gateway.config import Admin, Config, Timeouts
from gateway.core.document import Entry
from gateway.edge import pool as module
from gateway.edge.pool import Account, Lease, Pool, entry_of, readable_notes

RUNS = settings(deadline=None, max_examples=100)
ANY: Any = None


def account(slots: int | None) -> Account:
    made = Account(AccountConfig(id="a", api_key="sk-upstream-0001"), ANY, ANY)
    made.resize(slots)
    return made


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


async def test_a_slot_can_be_had_without_waiting_while_there_is_one():
    one = account(1)
    first = one.lease_now()
    assert first is not None and one.lease_now() is None
    waiting = asyncio.create_task(one.lease())
    await spin()
    first.release()  # to the one who waits
    assert one.lease_now() is None
    cast(Lease, await waiting).release()
    again = one.lease_now()
    assert again is not None
    again.release()
    assert state(one) == "in_flight=0 waiting=0"


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


async def test_more_slots_go_to_those_who_wait_at_once():
    one = account(1)
    leases = [await one.lease()]
    tasks = [asyncio.create_task(one.lease()) for _ in range(4)]
    await spin()
    one.resize(3)
    await spin()
    assert [task.done() for task in tasks] == [True, True, False, False]
    assert state(one) == "in_flight=3 waiting=2"
    one.resize(None)
    leases += [await task for task in tasks]
    assert state(one) == "in_flight=5 waiting=0"
    for lease in leases:
        cast(Lease, lease).release()
    assert one.in_flight == 0


async def test_slots_that_are_taken_away_come_back_in_their_own_time():
    one = account(3)
    leases = [one.lease_now() for _ in range(3)]
    one.resize(1)
    waiting = asyncio.create_task(one.lease())
    await spin()
    for lease, expected in zip(leases, (2, 1, 1), strict=True):
        assert not waiting.done()
        cast(Lease, lease).release()
        await spin()
        assert one.in_flight == expected
    cast(Lease, waiting.result()).release()
    assert state(one) == "in_flight=0 waiting=0"


async def test_who_waits_for_a_bound_that_falls_away_waits_no_more():
    one = account(0)
    waiting = asyncio.create_task(one.lease())
    await spin()
    assert not waiting.done()
    one.resize(None)
    cast(Lease, await waiting).release()
    assert state(one) == "in_flight=0 waiting=0"


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "now", "release", "release", "cancel", "resize", "run", "run"]),
        st.integers(0, 99),
    ),
    max_size=60,
)


@settings(RUNS, max_examples=250)
@given(st.integers(1, 3), ACTIONS)
def test_over_any_course_of_events_no_slot_is_lost_or_taken_twice(slots, actions):
    async def course() -> None:
        one = account(slots)
        most: float = slots  # that may be in flight: fewer slots take none away
        tasks: list[asyncio.Task[Lease | None]] = []
        released: list[asyncio.Task[Lease | None]] = []

        sizes: list[int | None] = [1, 2, 3, 4, None]

        def waiting() -> bool:
            return any(not turn.done() for turn in one._queue)

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
            elif action == "now":
                full = one.full
                lease = one.lease_now()
                assert (lease is None) == full
                if lease is not None:
                    lease.release()
            elif action == "resize":
                one.resize(sizes[number % len(sizes)])
            else:
                await spin(1 + number % 3)
            bound = float("inf") if one.slots is None else one.slots
            most = max(bound, min(most, one.in_flight))
            assert 0 <= one.in_flight <= most
            assert len(held()) <= one.in_flight
            if one.in_flight < bound:
                assert not waiting()
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


# What the configuration says.


def configured(*accounts: AccountConfig, **fields: Any) -> Config:
    return Config(admin=Admin(token="admin-token"), secret=("s" * 32,), accounts=accounts, **fields)


def one(name: str, workspace: str = "", **fields: Any) -> AccountConfig:
    fields = {"base_url": "http://127.0.0.1:9", "api_key": f"sk-upstream-{name}", **fields}  # nothing is ever sent
    return AccountConfig(id=name, workspace=workspace, **fields)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def pool(*accounts: AccountConfig, **fields: Any) -> Pool:
        made.append(Pool(configured(*accounts, **fields)))
        return made[-1]

    yield pool
    for each in made:
        await each.aclose()


def slots(pool: Pool) -> list[int | None]:
    return [each.slots for each in pool.accounts.values()]


async def test_slots_of_an_account_are_split_over_the_workers(make):
    pool = make(one("a", max_concurrency=100), one("b", max_concurrency=3), one("c"), workers=8)
    assert slots(pool) == [12, 1, None]


async def test_slots_are_split_anew_when_there_are_more_or_fewer_workers(make):
    pool = make(one("a", max_concurrency=100), one("b", max_concurrency=3), one("c"), workers=8)
    for share, expected in ((25, [4, 1, None]), (1, [100, 3, None]), (0, [100, 3, None]), (2, [50, 1, None])):
        pool.divide(share)
        assert slots(pool) == expected


async def test_a_division_lets_those_who_wait_in_and_turns_nobody_out(make):
    pool = make(one("a", max_concurrency=4), workers=4)
    account = pool.accounts["a"]
    held = account.lease_now()
    waiting = asyncio.create_task(account.lease())
    await spin()
    pool.divide(2)
    assert (await waiting) is not None
    pool.divide(4)
    assert state(account) == "in_flight=2 waiting=0"
    cast(Lease, held).release()
    assert account.full


async def test_an_account_is_free_while_it_has_a_slot(make):
    pool = make(one("a", max_concurrency=1))
    assert pool.free("a") and pool.free("unknown")
    lease = pool.accounts["a"].lease_now()
    assert not pool.free("a")
    lease.release()
    assert pool.free("a")


async def test_an_account_of_the_configuration_is_its_entry():
    entry = entry_of(one("a", "w", organization="o", weight=2.5, models=("x-*",)))
    assert entry == Entry("a", "w", "o", 2.5, ("x-*",), "active")
    drained = entry_of(one("a", "w", organization="o", state="draining", drain_until=1_800_000_000.0))
    assert drained == Entry("a", "w", "o", 1.0, ("*",), "draining", 1_800_000_000.0)


async def test_accounts_of_one_origin_share_its_connections(make):
    pool = make(one("a"), one("b"), one("c", base_url="http://127.0.0.1:10"))
    assert pool.accounts["a"].transport is pool.accounts["b"].transport
    assert pool.accounts["a"].transport is not pool.accounts["c"].transport


async def test_a_new_configuration_keeps_what_an_account_has_under_way(make):
    pool = make(one("a", max_concurrency=2))
    account = pool.accounts["a"]
    account.lease_now()
    account.note([(b"anthropic-organization-id", b"o")])
    transport = account.transport
    assert pool.configure(configured(one("a", "w", max_concurrency=1, weight=2.0), one("b")), ()) == []
    assert pool.accounts["a"] is account
    assert (account.workspace, account.in_flight, account.slots) == ("w", 1, 1)
    assert account.transport is transport is pool.accounts["b"].transport
    assert readable_notes(account) == {"anthropic-organization-id": "o"}


@pytest.mark.parametrize(
    "fields",
    [{"api_key": "sk-upstream-another"}, {"base_url": "http://127.0.0.1:10"}, {"proxy": "http://127.0.0.1:11"}],
)
async def test_an_account_with_another_credential_or_address_is_told_of(make, fields):
    pool = make(one("a"), one("b"))
    before = pool.accounts["a"].provider, pool.accounts["a"].transport
    assert pool.configure(configured(one("a", **fields), one("b"), one("c")), ()) == ["a"]
    assert (pool.accounts["a"].provider, pool.accounts["a"].transport) != before
    assert pool.configure(configured(one("a", **fields), one("b"), one("c")), ()) == []


async def test_other_timeouts_take_other_connections(make):
    pool = make(one("a"))
    before = pool.accounts["a"].transport
    pool.configure(configured(one("a"), timeouts=Timeouts(connect=1.0)), ())
    assert pool.accounts["a"].transport is not before
    pool.configure(configured(one("a")), ())
    assert pool.accounts["a"].transport is before


async def test_the_slots_of_a_new_configuration_are_split_as_before(make):
    pool = make(one("a", max_concurrency=100), workers=2)
    pool.divide(10)
    pool.configure(configured(one("a", max_concurrency=50), one("b", max_concurrency=20), workers=2), ())
    assert slots(pool) == [5, 2]


async def test_an_account_that_left_the_configuration_stays_while_the_agreed_pool_names_it(make):
    pool = make(one("a"), one("b"), one("c"))
    kept = pool.accounts["b"]
    pool.configure(configured(one("a")), ["b", "unknown"])
    assert sorted(pool.accounts) == ["a", "b"]
    assert pool.accounts["b"] is kept
    pool.retire(["a", "b"], ["a"])
    assert sorted(pool.accounts) == ["a", "b"]
    pool.retire(["a"], ["a"])
    assert sorted(pool.accounts) == ["a"]


async def test_an_account_that_the_agreed_pool_does_not_name_yet_is_not_retired(make):
    pool = make(one("a"), one("b"))
    pool.retire(["a"], ["a", "b"])
    assert sorted(pool.accounts) == ["a", "b"]
    pool.retire([], [])
    assert pool.accounts == {}


# What answers say of an account.


async def test_the_latest_of_what_answers_said_is_kept_within_bounds(make, monkeypatch):
    monkeypatch.setattr(module, "_MAX_NOTES", 3)
    account = make(one("a")).accounts["a"]
    account.note([(b"one", b"1"), (b"two", b"2"), (b"three", b"3"), (b"four", b"4")])
    account.note([(b"three", b"\xe9"), (b"five", b"5")])
    assert readable_notes(account) == {"one": "1", "two": "2", "three": "\u00e9"}


def identity(organization: str, workspace: str = "") -> list[tuple[bytes, bytes]]:
    told = [(b"anthropic-organization-id", organization.encode()), (b"x-other", b"1")]
    return [*told, (b"anthropic-workspace-id", workspace.encode())] if workspace else told


def warnings(pool: Pool, *told: tuple[str, list[tuple[bytes, bytes]]]) -> list[tuple[str, list[str], str]]:
    with capture_logs() as logs:
        for account, headers in told:
            pool.check_identity(pool.accounts[account], headers)
    return [(entry["event"].split()[2], entry["accounts"], entry["configured_as"]) for entry in logs]


async def test_accounts_that_are_configured_as_they_are_make_no_words(make):
    pool = make(one("a", "w1", organization="o"), one("b", "w1", organization="o"), one("c", "w2", organization="o"))
    told = [("a", identity("org-1", "ws-1")), ("b", identity("org-1", "ws-1")), ("c", identity("org-1", "ws-2"))]
    assert warnings(pool, *told, *told) == []


async def test_two_accounts_of_one_organization_must_be_configured_so(make):
    pool = make(one("a"), one("b"), one("c"))
    told = [("a", identity("org-1")), ("b", identity("org-2")), ("c", identity("org-1"))]
    assert warnings(pool, *told) == [("organizations", ["a", "c"], "different")]
    assert warnings(pool, *told) == []  # once is enough


async def test_accounts_that_are_configured_as_one_must_be_one(make):
    pool = make(one("a", "w", organization="o"), one("b", "w", organization="o"))
    told = [("a", identity("org-1", "ws-1")), ("b", identity("org-1", "ws-2"))]
    assert warnings(pool, *told) == [("workspaces", ["a", "b"], "same")]


async def test_an_account_that_says_something_new_is_looked_at_again(make):
    pool = make(one("a"), one("b"))
    assert warnings(pool, ("a", identity("org-1")), ("b", identity("org-2"))) == []
    assert warnings(pool, ("b", identity("org-1"))) == [("organizations", ["a", "b"], "different")]


async def test_an_account_that_is_gone_is_compared_with_nobody(make):
    pool = make(one("a"), one("b"))
    warnings(pool, ("a", identity("org-1")))
    pool.configure(configured(one("b")), ())
    assert warnings(pool, ("b", identity("org-1"))) == []
