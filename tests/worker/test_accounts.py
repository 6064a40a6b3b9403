"""Accounts in this process: slots that are never lost, and what follows the configuration."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gateway.config.file import loads
from gateway.config.schema import Account as AccountConfig
from gateway.config.schema import Admin, Config, Timeouts
from gateway.core.routing.document import Entry
from gateway.core.spending.fair import FairQueue
from gateway.log import captured
from gateway.upstream.providers import PROVIDERS
from gateway.worker import accounts as module
from gateway.worker.accounts import QUANTUM, Account, Lease, Pool, entry_of, readable_notes

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


# Tenants.


def grants(of: Account, *waiters: asyncio.Task[Lease | None]) -> list[int]:
    """Which of these have their slots by now."""
    return [number for number, task in enumerate(waiters) if task.done()]


def ask(of: Account, tenant: str, number: int = 1, **fields: Any) -> list[asyncio.Task[Lease | None]]:
    return [asyncio.create_task(of.lease(60.0, tenant, **fields)) for _ in range(number)]


async def course(of: Account, held: list[Lease | None], *waiters: tuple[str, asyncio.Task[Lease | None]]) -> str:
    """The tenants in the order of their grants, while slots come back first come first served."""
    left, order = list(waiters), ""
    while held:
        cast(Lease, held.pop(0)).release()
        await spin()
        for each in [each for each in left if each[1].done()]:
            left.remove(each)
            order += each[0]
            held.append(await each[1])
    assert state(of) == "in_flight=0 waiting=0"
    assert not of._held
    return order


def named(**tasks: list[asyncio.Task[Lease | None]]) -> list[tuple[str, asyncio.Task[Lease | None]]]:
    return [(name, task) for name, each in tasks.items() for task in each]


async def test_tenants_take_turns_by_tokens():
    one = account(1)
    held = [one.lease_now("z")]
    a = ask(one, "a", 6, cost=QUANTUM / 2)
    b = ask(one, "b", 3, cost=QUANTUM)
    await spin()
    assert await course(one, held, *named(a=a, b=b)) == "aabaabaab"


async def test_who_asks_for_little_is_served_soon_though_another_asked_for_much_before():
    one = account(1)
    held = [one.lease_now("h")]
    h = ask(one, "h", 100, cost=QUANTUM / 4)
    await spin()
    x, y = ask(one, "x", cost=QUANTUM / 4), ask(one, "y", cost=QUANTUM / 4)
    await spin()
    assert (await course(one, held, *named(h=h, x=x, y=y))).startswith("hhhhxyhhhh")


async def test_batch_requests_wait_for_interactive_ones():
    one = account(1)
    held = [one.lease_now("z")]
    b = ask(one, "a", 3, batch=True)
    await spin()
    a = ask(one, "a", 10)
    await spin()
    assert await course(one, held, *named(b=b, a=a)) == "aaaaaaabaaabb"


async def test_a_tenant_alone_may_have_every_slot():
    one = account(4)
    held = [one.lease_now("a") for _ in range(4)]
    a = ask(one, "a", 6)
    await spin()
    assert await course(one, held, *named(a=a)) == "aaaaaa"


async def test_a_tenant_that_has_its_part_of_the_slots_lets_others_have_theirs():
    one = account(6)
    held = [one.lease_now("a") for _ in range(6)]
    a = ask(one, "a", 9, cost=1.0)
    await spin()
    b, c = ask(one, "b", 3, cost=QUANTUM), ask(one, "c", 1, cost=QUANTUM)
    await spin()
    # b and c until they have two or want no more; then turns, of which a's requests take little; b again for its own.
    assert await course(one, held, *named(a=a, b=b, c=c)) == "bcbaaabaaaaaa"


async def test_a_part_is_of_those_who_are_there_now():
    one = account(2)
    held = [one.lease_now("a"), one.lease_now("a")]
    a, b = ask(one, "a", 1), ask(one, "b", 1)
    await spin()
    b[0].cancel()
    await spin()
    assert await course(one, held, *named(a=a)) == "a"


async def test_no_slot_is_idle_for_the_sake_of_fairness():
    one = account(3)
    held = [one.lease_now("a"), one.lease_now("a"), one.lease_now("b")]
    a = ask(one, "a", 2)
    await spin()
    cast(Lease, held.pop()).release()  # b has gone: a may have all three
    await spin()
    assert one.in_flight == 3 and grants(one, *a) == [0]
    held.append(await a.pop(0))
    assert await course(one, held, *named(a=a)) == "a"


async def test_a_slot_that_somebody_waits_for_cannot_be_had_without_waiting():
    one = account(2)
    held = [one.lease_now("a"), one.lease_now("a")]
    a = ask(one, "a")
    await spin()
    cast(Lease, held.pop()).release()
    assert one.lease_now("b") is None
    await spin()
    held.append(await a[0])
    cast(Lease, held.pop()).release()
    held.append(one.lease_now("b"))
    assert await course(one, held) == ""


async def test_more_slots_go_to_tenants_by_turns():
    one = account(1)
    held = [one.lease_now("a")]
    a, b = ask(one, "a", 4), ask(one, "b", 4)
    await spin()
    one.resize(4)
    await spin()
    assert (grants(one, *a), grants(one, *b)) == ([0], [0, 1])
    held += [await task for task in (a.pop(0), b.pop(0), b.pop(0))]
    assert sorted(await course(one, held, *named(a=a, b=b))) == list("aaabb")


async def test_a_tenant_with_too_many_waiters_is_refused_at_once_and_others_are_not():
    one = account(1)
    held = [one.lease_now("a")]
    a = ask(one, "a", 250)
    await spin()
    (refused,) = ask(one, "a")
    b = ask(one, "b")
    await spin()
    assert refused.done() and await refused is None
    assert state(one) == "in_flight=1 waiting=251"
    assert (await course(one, held, *named(a=a, b=b))).count("b") == 1


async def test_a_queue_that_is_full_refuses_everybody_at_once():
    one = account(0)
    tasks = [task for tenant in "abcd" for task in ask(one, tenant, 250)]
    await spin()
    (refused,) = ask(one, "e")
    await spin()
    assert refused.done() and await refused is None
    assert "e" not in one._held
    for task in tasks:
        task.cancel()
    await spin()
    assert state(one) == "in_flight=0 waiting=0"
    assert not one._held


# Any course of events.


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes when a test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now


TENANTS = st.sampled_from(["a", "a", "a", "b", "c"])
NUMBERS = st.integers(0, 99)


class Slots(RuleBasedStateMachine):
    """One account, three tenants, a short queue."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Clock()
        self.account = account(2)
        self.account._queue = FairQueue(QUANTUM, 16)
        self.most: float = 2  # that may be in flight: fewer slots take none away
        self.asked: dict[asyncio.Task[Lease | None], str] = {}  # by whom
        self.until: dict[asyncio.Task[Lease | None] | None, float] = {}  # it waits, once it runs
        self.out: list[tuple[str, Lease]] = []  # leases had without waiting

    def bound(self) -> float:
        return float("inf") if self.account.slots is None else self.account.slots

    def collect(self) -> None:
        """Take what the tasks that are done have come to."""
        for task, tenant in list(self.asked.items()):
            if task.done():
                del self.asked[task]
                self.until.pop(task, None)
                lease = None if task.cancelled() else task.result()
                if lease is not None:
                    self.out.append((tenant, lease))

    def turn(self, turns: int) -> None:
        self.loop.run_until_complete(spin(turns))

    @rule(tenant=TENANTS, wait=st.sampled_from([0.0, 1.0, 2.0]), cost=st.floats(0, 1e6), batch=st.booleans())
    def ask(self, tenant, wait, cost, batch):
        one = self.account

        async def run() -> Lease | None:
            until = self.until[asyncio.current_task()] = self.loop.now + wait
            refused = one.full and (one._queue.size == 16 or one._queue._waiting(tenant) == 4)
            lease = await one.lease(wait, tenant, cost, batch)
            assert lease is not None or refused or self.loop.now >= until
            return lease

        self.asked[self.loop.create_task(run())] = tenant

    @rule(tenant=TENANTS)
    def ask_now(self, tenant):
        waiting, full = self.waiting(), self.account.full
        lease = self.account.lease_now(tenant)
        assert (lease is None) == full
        if lease is not None:
            assert not waiting
            self.out.append((tenant, lease))

    @rule(number=NUMBERS, again=st.booleans())
    def release(self, number, again):
        if self.out:
            _, lease = self.out.pop(number % len(self.out))
            lease.release()
            if again:
                lease.release()

    @rule(number=NUMBERS)
    def cancel(self, number):
        if self.asked:
            list(self.asked)[number % len(self.asked)].cancel()

    @rule(slots=st.sampled_from([0, 1, 2, 3, 4, 8, None]))
    def resize(self, slots):
        self.account.resize(slots)

    @rule(turns=st.integers(1, 3))
    def run(self, turns):
        self.turn(turns)

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def pass_time(self, seconds):
        self.loop.now += seconds

    @rule()
    def settle(self):
        """Everybody has run: what is counted is what there is."""
        self.turn(10)
        self.collect()
        one = self.account
        assert one.in_flight == len(self.out)
        assert one._queue.size == len(self.asked)
        assert all(self.until[task] > self.loop.now for task in self.asked)
        there = dict.fromkeys(self.asked.values(), 0)
        for tenant, _ in self.out:
            there[tenant] = there.get(tenant, 0) + 1
        assert one._held == there

    def waiting(self) -> int:
        return sum(not turn.done() for _, turn in self.account._queue._places)

    @invariant()
    def no_slot_is_lost_or_taken_twice(self):
        self.collect()
        one = self.account
        self.most = max(self.bound(), min(self.most, one.in_flight))
        assert len(self.out) <= one.in_flight == sum(one._held.values()) <= self.most
        if one.in_flight < self.bound():
            assert not self.waiting()

    def teardown(self):
        try:
            while self.out or self.asked:  # everything comes to its end
                for _, lease in self.out:
                    lease.release()
                self.out.clear()
                self.loop.now += 1.0
                self.settle()
            assert state(self.account) == "in_flight=0 waiting=0"
            assert self.account._held == {} == self.account._queue._places
        finally:
            self.loop.close()


def test_over_any_course_of_events_no_slot_is_lost_or_taken_twice():
    run_state_machine_as_test(Slots, settings=settings(RUNS, max_examples=250, stateful_step_count=50))


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
    for processes, expected in ((25, [4, 1, None]), (1, [100, 3, None]), (0, [100, 3, None]), (2, [50, 1, None])):
        pool.divide(processes)
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
    with captured() as logs:
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


# Credentials that are fetched.

CLOUD = {"id": "a", "provider": "bedrock", "region": "us-east-1"}


def sky(*accounts: dict[str, Any], **more: Any) -> Config:
    settings = {"admin": {"token": "token-of-the-operator-of-tests"}, "secret": "0" * 40, "keys": [], **more}
    return loads(json.dumps({**settings, "accounts": [*accounts]}), {})


class Fetched:
    """A credential that can be had or not, as a test says."""

    def __init__(self) -> None:
        self.trouble, self.expires_at = "", None
        self.did: list[str] = []

    def lines(self, method: bytes, host: bytes, path: bytes, body: bytes) -> bytes:
        return b""

    async def refresh(self) -> bool:
        return False

    async def start(self, tell: object = None) -> None:
        self.did.append("start")

    async def close(self) -> None:
        self.did.append("close")


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Fetched]:
    """Those that accounts on Bedrock get, in turn."""
    made: list[Fetched] = []

    def credential(settings: Any) -> Fetched:
        made.append(Fetched())
        return made[-1]

    row = msgspec.structs.replace(PROVIDERS["bedrock"], credential=credential)
    monkeypatch.setitem(PROVIDERS, "bedrock", row)
    return made


async def test_a_credential_is_kept_while_what_it_is_made_of_stays_and_given_up_with_its_account(fetched):
    pool = Pool(sky({**CLOUD, "aws": {}}))
    await pool.start()
    await asyncio.sleep(0)
    assert pool.configure(sky({**CLOUD, "aws": {}, "weight": 3}), ()) == []
    assert cast(Any, pool.accounts["a"].provider.credential) is fetched[0]
    assert fetched[0].did == ["start"]
    named = pool.credentials["a"]
    assert pool.configure(sky({**CLOUD, "aws": {"config_profile": "p"}}), ()) == ["a"]
    await asyncio.sleep(0)
    assert [each.did for each in fetched] == [["start", "close"], ["start"]]
    assert pool.credentials["a"] != named
    pool.configure(sky({"id": "b", "api_key": "sk-1"}), ())
    await asyncio.sleep(0)
    assert fetched[1].did == ["start", "close"]
    await pool.aclose()


async def test_trouble_with_a_credential_is_noted_and_its_expiry(fetched):
    pool = Pool(sky({**CLOUD, "aws": {}}, {"id": "b", "api_key": "sk-1"}))
    assert pool.look() == []
    fetched[0].trouble = "the role may not be assumed"
    (account,) = pool.look()
    assert pool.look() == []
    assert readable_notes(account) == {"credential-trouble": "the role may not be assumed"}
    fetched[0].trouble, fetched[0].expires_at = "", 1_900_000_000.25
    assert [each.id for each in pool.look()] == ["a"]
    assert readable_notes(account) == {"credential-expires": "2030-03-17T17:46:40Z"}
    await pool.aclose()


async def test_what_each_account_s_provider_serves_is_known_of_those_that_do_not_serve_everything():
    pool = Pool(sky({**CLOUD, "api_key": "k"}, {"id": "b", "api_key": "sk-1"}))
    assert set(pool.partial) == {"a"}
    assert pool.partial["a"]("messages", "claude-haiku-4-5") and not pool.partial["a"]("chat", "claude-haiku-4-5")


def test_why_a_cloud_refuses_is_logged_by_status_once_in_a_while():
    made = account(None)
    with captured() as lines:
        for now, status in ((0.0, 403), (1.0, 403), (2.0, 404), (59.0, 403), (61.0, 403)):
            made.tell_refusal("claude-opus-5", status, "may not", now)
    assert [(each["account"], each["status"], each["reason"]) for each in lines] == [
        ("a", 403, "may not"), ("a", 404, "may not"), ("a", 403, "may not")
    ]  # fmt: skip
