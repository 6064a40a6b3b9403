"""Where a conversation lives: against a real store, and without one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from time import monotonic, time
from typing import Any

import msgspec
import pytest
import redis

from gateway.config.schema import Admin, Affinity, Caller, Config
from gateway.core.routing.binding import Move, Record, pack, record_key, unpack
from gateway.core.routing.broadcast import BoundConversation, BoundConversations, Fact, Forget
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.groups import group_of
from gateway.core.routing.route import Route
from gateway.core.routing.router import Router
from gateway.core.wire.peek import peek
from gateway.store.client.client import StoreClient
from gateway.store.client.topology import Access
from gateway.store.embedded import EmbeddedServer
from gateway.worker.affinity import bindings as module
from gateway.worker.affinity.bindings import Admission, Binding

MODEL = "claude-sonnet-4-5"
ALICE = Caller(id="alice", team="research")
BOB = Caller(id="bob")
KEYS = [random.Random(n).randbytes(16) for n in range(40)]
CONFIG = Config(admin=Admin(token="admin-token"), secret=("s" * 32,), accounts=(), affinity=Affinity(remember=3600.0))
BODY = b'{"model":"m","messages":[]}'
DAY = 86_400_000


# Where a conversation lives.


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedServer(tmp_path_factory.mktemp("store"))
    yield server.start()
    server.stop()


@pytest.fixture
def admin(embedded: str) -> Iterator[Any]:
    with redis.Redis.from_url(embedded) as made:
        made.flushall()
        yield made


class Request:
    """One that has been admitted."""

    def __init__(self, binding: Binding, route: Route) -> None:
        self.binding = binding
        self.route = route

    @property
    def place(self) -> tuple[str | None, str, int]:
        """Where its conversation lives, how that was found, and the binding's generation."""
        assert self.route.placement.workspace == self.record.workspace
        return self.route.placement.workspace, self.route.placement.how, self.record.generation

    @property
    def workspace(self) -> str:
        return self.record.workspace

    @property
    def record(self) -> Record:
        return self.binding.record


class Process:
    """What one worker has of all this; `moves` and `told` are what it counted and told others."""

    def __init__(self, url: str) -> None:
        self.moves: list[str] = []
        self.told: list[Fact] = []
        self.router = Router(lambda model: model)
        self.states()
        self.store = StoreClient(url)
        self.admission = Admission(CONFIG, self.store, self.moves.append, self.told.append)

    def states(self, **states: str) -> None:
        entries = tuple(
            Entry(name, name, name, state=states.get(name, "active")) for name in "abc" if states.get(name) != "gone"
        )
        self.router.apply(PoolDocument(self.router.ring.epoch + 1, entries), monotonic(), time())

    async def ask(
        self, key: bytes = KEYS[0], *, caller: Caller = ALICE, model: str = MODEL, body: bytes = BODY,
        former: bytes | None = None, own_limit: str = "",
    ) -> tuple[Binding | None, Route]:  # fmt: skip
        route = Route(self.router, key, model, len(body), 300.0, monotonic() + 600.0, own_limit)
        return await self.admission.bind(caller, key, peek(body), route, former), route

    async def bind(self, key: bytes = KEYS[0], **more: Any) -> Request:
        binding, route = await self.ask(key, **more)
        assert binding is not None
        route.settle(0.0, 0.0, 0, monotonic())  # nothing is sent: the load that it has put on its home is taken back
        return Request(binding, route)

    async def move(self, request: Request, workspace: str, reason: str = "limited") -> None:
        await self.admission.rebind(request.binding, request.route, workspace, reason)

    def renew(
        self, request: Request, *, served: str = "", age: float = 0.0, ttl: int = 300, tokens: int = 1000,
        account_bound: bool = False,
    ) -> None:  # fmt: skip
        """Its answer came from home, or from another workspace."""
        served = served or request.workspace
        self.admission.renew(
            self.admission.renewal(request.binding, served, age, ttl, tokens, 4 * tokens, account_bound)
        )

    def remembered(self, request: Request) -> Record:
        return self.admission._memory[request.binding.key, request.binding.model]

    async def reseed(self) -> None:
        self.admission.reseed()
        assert self.admission._reseeding is not None
        await self.admission._reseeding
        await self.recall()  # what was posted has been answered

    async def recall(self, key: str = "none") -> Record | None:
        return await self.admission._recall(key, MODEL)

    async def close(self) -> None:
        await self.store.close()


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(embedded: str, admin: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts processes on one store; with `away` on none."""
    monkeypatch.setattr(Access, "budget", 10.0)
    made: list[Process] = []

    async def process(away: bool = False) -> Process:
        made.append(Process("unix:///nonexistent/store.sock" if away else embedded))
        assert await made[-1].store.start(0.01 if away else 10) != away
        return made[-1]

    yield process
    for each in made:
        await each.close()


def home(process: Process, key: bytes = KEYS[0]) -> str:
    return process.router.ring.rank(key)[0]


def others(workspace: str) -> list[str]:
    return [name for name in "abc" if name != workspace]


def stored(admin: Any, request: Request) -> Record:
    return unpack(admin.hget(request.binding.key, request.binding.model))


def put(admin: Any, record: Record, key: bytes = KEYS[0]) -> None:
    """A binding as it is after some life."""
    admin.hset(record_key(ALICE.tenant, key), MODEL, pack(record))


def server_ms(admin: Any) -> int:
    seconds, micro = admin.time()
    return int(seconds * 1000 + micro // 1000)


async def test_a_first_request_is_placed_at_home_and_later_ones_stay_there(start):
    process = await start()
    for key in KEYS[:10]:
        first, second = await process.bind(key), await process.bind(key)
        assert first.place == (home(process, key), "new", 1)
        assert second.place == (home(process, key), "bound", 1)
    assert process.moves == process.told == []


async def test_any_number_of_first_requests_on_any_process_make_one_binding(start):
    processes = [await start() for _ in range(3)]
    processes[1].states(a="disabled")  # not all of them would choose the same
    for key in KEYS[:5]:
        requests = await asyncio.gather(*(process.bind(key) for process in processes for _ in range(10)))
        assert [request.route.placement.how for request in requests].count("new") == 1
        assert len({request.workspace for request in requests}) == 1
        assert {request.record.generation for request in requests} == {1}


async def test_a_conversation_has_a_binding_for_each_model_in_one_place(start, admin):
    process = await start()
    requests = [await process.bind(model=model) for model in ("m1", "m2")]
    assert [request.route.placement.how for request in requests] == ["new", "new"]
    assert requests[0].workspace == requests[1].workspace
    assert admin.keys() == [requests[0].binding.key.encode()]
    assert sorted(admin.hkeys(requests[0].binding.key)) == [b"m1", b"m2"]


async def test_one_conversation_of_two_tenants_is_two_bindings_in_their_own_slots(start, admin):
    process = await start()
    assert (await process.bind(caller=ALICE)).route.placement.how == "new"
    assert (await process.bind(caller=BOB)).route.placement.how == "new"
    colleague = Caller(id="carol", team="research")
    assert (await process.bind(caller=colleague)).route.placement.how == "bound"
    keys = sorted(key.decode() for key in admin.scan_iter())
    assert keys == [f"{{{tenant}}}:b:{KEYS[0].hex()}" for tenant in ("c:bob", "t:research")]


async def test_a_record_lives_as_long_as_it_is_to_be_remembered_once_it_was_answered(start, admin):
    process = await start()
    request = await process.bind()
    assert 590_000 < admin.pttl(request.binding.key) <= 650_000  # as long as an answer may take to begin, and a minute
    process.renew(request)
    await process.bind()
    assert 3_500_000 < admin.pttl(request.binding.key) <= 3_600_000


async def test_the_life_of_a_record_in_constant_use_is_extended_now_and_then(start, admin, monkeypatch):
    process = await start()
    key = (await process.bind()).binding.key

    async def life_after(**how: Any) -> int:
        """Of a record that is renewed when it has a minute less than it may have."""
        admin.pexpire(key, 3_540_000)
        await asyncio.sleep(0.02)  # clocks are compared to the millisecond
        process.renew(await process.bind(), **how)
        await process.bind()
        return int(admin.pttl(key))

    assert await life_after() > 3_540_000  # it was kept for an answer alone
    assert [await life_after() <= 3_540_000 for _ in range(5)] == [True] * 5
    assert await life_after(ttl=3600) <= 3_540_000 and await life_after(age=30.0) <= 3_540_000
    last = await process.bind()
    monkeypatch.setattr(module, "monotonic", lambda: monotonic() + 57.0)  # more than a sixty-fourth has gone by
    process.renew(last)
    monkeypatch.undo()
    await process.bind()
    assert admin.pttl(key) > 3_540_000


async def test_without_the_store_a_request_changes_no_record_that_another_one_will_tell_of(start):
    process = await start()
    process.renew(await process.bind())
    first = await process.bind()
    proposal = module.Proposal(first.binding.key, MODEL, process.remembered(first))
    beside = process.admission._alone(
        proposal, None, Route(process.router, KEYS[0], MODEL, 0, 300.0, monotonic() + 600.0)
    )
    assert beside.record == first.binding.record and beside.record is not first.binding.record


async def test_a_history_that_is_bound_to_its_account_is_remembered_for_a_month(start, admin):
    process = await start()
    request = await process.bind()
    process.renew(request, account_bound=True)
    again = await process.bind()
    assert 29 * DAY < admin.pttl(request.binding.key) <= 30 * DAY
    assert again.record.account_bound == 1
    assert again.route.placement.account_bound
    await process.move(again, others(again.workspace)[0])
    assert admin.pttl(request.binding.key) > 29 * DAY


async def test_another_configuration_remembers_for_another_time(start, admin):
    process = await start()
    process.renew(await process.bind())
    process.admission.configure(msgspec.structs.replace(CONFIG, affinity=Affinity(remember=7200.0)))
    request = await process.bind()
    process.renew(request)
    await process.bind()
    assert 7_100_000 < admin.pttl(request.binding.key) <= 7_200_000


async def test_a_record_that_the_store_has_lost_says_no_more_how_long_another_configuration_kept_it(start, admin):
    process = await start()
    process.admission.configure(msgspec.structs.replace(CONFIG, affinity=Affinity(remember=7200.0)))
    process.renew(await process.bind())
    await process.bind()
    process.admission.configure(CONFIG)
    admin.flushall()
    await process.bind()
    other = await start()
    request = await other.bind()
    admin.pexpire(request.binding.key, 3_000_000)
    other.renew(request)
    await other.bind()
    assert admin.pttl(request.binding.key) > 3_540_000


async def test_a_new_binding_counts_as_in_use_though_it_is_not_warm(start):
    process = await start()
    first, second = await process.bind(), await process.bind()
    assert not first.route.placement.sticky
    assert second.route.placement.sticky and not second.route.placement.warm
    assert second.route.placement.warm_for < 0


def busy(process: Process, workspace: str) -> None:
    process.router.loads.add(workspace, 1e6, monotonic())


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_cold_conversation_stays_where_its_request_is_on_its_way_whatever_the_load(start, admin, replicas):
    processes = [await start() for _ in range(replicas)]
    put(admin, Record("a", 3, warm_until=server_ms(admin) - 1, tokens=400_000, size=1_600_000))
    first = await processes[0].bind()
    assert first.place == ("a", "bound", 3) and not first.route.placement.sticky
    for process in processes:
        busy(process, "a")
    for process in processes * 2:
        again = await process.bind()
        assert again.place == ("a", "bound", 3) and again.route.placement.sticky and not again.route.placement.warm
    processes[0].renew(first, age=400.0)  # answered so long ago that it is cold again
    await processes[0].recall()
    assert (await processes[-1].bind()).place[1:] == ("new", 4)


async def test_one_that_a_move_takes_elsewhere_takes_the_others_along(start, admin):
    one, other = await start(), await start()
    put(admin, Record("a", warm_until=server_ms(admin) - 1, tokens=1000))
    busy(one, "a")
    moved = await one.bind()
    assert moved.place[1:] == ("new", 2)
    busy(other, moved.workspace)
    assert (await other.bind()).place == (moved.workspace, "bound", 2)


@pytest.mark.parametrize("warm_until", [0, -1])
async def test_one_that_ends_without_an_answer_settles_nobody_any_longer(start, admin, warm_until):
    one, other = await start(), await start()
    if warm_until:
        put(admin, Record("a", warm_until=server_ms(admin) - 1, tokens=1000))
    first, follower = await one.bind(), await other.bind()
    before = stored(admin, first)
    assert first.binding.leads and not follower.binding.leads
    assert before.in_flight_until > server_ms(admin)
    one.admission.renew(one.admission.unanswered(first.binding))
    await one.recall()
    assert stored(admin, first) == msgspec.structs.replace(before, in_flight_until=0)
    assert one.remembered(first).in_flight_until == 0
    busy(other, first.workspace)
    assert (await other.bind()).route.placement.how == "new"


async def test_a_request_for_a_count_is_no_answer_on_its_way(start, admin):
    process = await start()
    counted = await process.bind(own_limit="count_tokens")
    assert not counted.binding.leads and stored(admin, counted).in_flight_until == 0
    first = await process.bind()
    assert first.binding.leads and not first.route.placement.sticky
    assert (await process.bind(own_limit="count_tokens")).route.placement.sticky


async def test_a_binding_says_how_long_its_cache_is_still_warm(start):
    process = await start()
    request = await process.bind()
    process.renew(request, age=10.0, ttl=3600, tokens=500)
    again = await process.bind()
    assert again.route.placement.warm
    assert 3_500_000 < again.route.placement.warm_for <= 3_590_000
    assert (again.record.tokens, again.record.size) == (500, 2000)


async def test_what_a_conversation_shares_with_others_is_kept_with_its_binding(start):
    one, other = await start(), await start()
    body = b'{"model":"m","system":"You are x","tools":[],"messages":[]}'
    first = await one.bind(body=body)
    group = group_of(peek(body))
    assert group and first.route.group == group
    assert (await other.bind()).record.group == group
    assert (await other.bind()).route.group == group


# Moving.


async def test_what_another_process_moved_is_learned_with_the_next_request(start):
    one, other = await start(), await start()
    first = await one.bind()
    elsewhere = others(first.workspace)[0]
    one.renew(first)
    mine = await other.bind()
    assert mine.route.placement.warm
    await other.move(mine, elsewhere)
    assert mine.place == (elsewhere, "moved", 2)
    assert (mine.route.placement.reason, other.moves) == ("limited", ["limited"])
    assert (await one.bind()).place == (elsewhere, "bound", 2)
    assert one.moves == []


async def test_of_two_who_move_at_once_the_second_learns_where_to(start, admin):
    one, other = await start(), await start()
    one.renew(await one.bind())
    mine, theirs = await one.bind(), await other.bind()
    targets = others(mine.workspace)
    await one.move(mine, targets[0])
    await other.move(theirs, targets[1])
    assert theirs.place == (targets[0], "moved", 2)
    assert (one.moves, other.moves) == (["limited"], [])
    assert other.remembered(theirs) == theirs.record == stored(admin, mine)
    assert (await other.bind()).place == (targets[0], "bound", 2)


async def test_a_new_conversation_that_moves_stays_a_new_one(start):
    process = await start()
    request = await process.bind()
    elsewhere = others(request.workspace)[0]
    await process.move(request, elsewhere)
    assert request.place == (elsewhere, "new", 2)
    assert process.moves == []
    assert (await process.bind()).place == (elsewhere, "bound", 2)


async def test_a_conversation_nobody_may_serve_has_no_binding(start, admin):
    process = await start()
    process.states(a="disabled", b="disabled", c="disabled")
    binding, route = await process.ask()
    assert binding is None
    assert (route.placement.workspace, route.placement.how) == (None, "none")
    assert admin.dbsize() == 0


@pytest.mark.parametrize(("how", "reason"), [("disabled", "disabled"), ("draining", "draining"), ("gone", "removed")])
async def test_a_cold_conversation_leaves_a_workspace_that_will_not_serve_it(start, admin, how, reason):
    process = await start()
    for key in KEYS[:10]:
        before = home(process, key)
        put(admin, Record(before, 3, warm_until=1, tokens=500, size=2000), key)
        process.states(**{before: how})
        after = await process.bind(key)
        expected = next(name for name in process.router.ring.rank(key) if name != before)
        assert after.place == (expected, "new", 4)
        assert process.moves.pop() == reason
        assert (after.record.previous, after.record.previous_tokens) == (before, 500)
        process.states()
        assert (await process.bind(key)).place == (expected, "bound", 4)


async def test_a_warm_conversation_stays_where_it_is_until_it_cannot_be_served_there(start):
    process = await start()
    request = await process.bind()
    process.renew(request)
    for state in ("draining", "disabled", "gone"):  # in the last two its route goes elsewhere, and then moves it
        process.states(**{request.workspace: state})
        assert (await process.bind()).place == (request.workspace, "bound", 1)
    assert process.moves == []


async def test_a_cold_conversation_leaves_a_workspace_that_has_more_than_its_share(start, admin):
    process = await start()
    put(admin, Record(home(process), 3, warm_until=1, tokens=500, size=2000))
    process.router.loads.add(home(process), 1e6, monotonic())
    after = await process.bind()
    assert after.place == (process.router.ring.rank(KEYS[0])[1], "new", 4)
    assert process.moves == ["cold"]


async def test_a_warm_conversation_goes_home_once_where_that_relieves_its_workspace(start, admin):
    process = await start()
    there, now = others(home(process))[0], server_ms(admin)
    put(
        admin,
        Record(
            there, 4, now + 200_000, 1000, 4000, previous=home(process), previous_warm_until=now + 100_000,
            previous_tokens=990,
        ),
    )  # fmt: skip
    assert (await process.bind()).place == (there, "bound", 4)
    process.router.loads.add(there, 1e6, monotonic())
    process.router._means.clear()
    after = await process.bind()
    assert after.place == (home(process), "moved", 5)
    assert process.moves == ["home"]
    assert after.route.placement.warm and after.record.tokens == 990
    assert abs(stored(admin, after).voluntary - now) < 60_000


async def test_a_conversation_follows_its_key_through_a_change_of_secret(start):
    process = await start()
    old = await process.bind(KEYS[0])
    elsewhere = others(old.workspace)[0]
    await process.move(old, elsewhere)
    other = await start()
    first = await other.bind(KEYS[1], former=KEYS[0])
    assert (first.workspace, first.record.generation) == (elsewhere, 2)
    assert (await other.bind(KEYS[1], former=KEYS[0])).place == (elsewhere, "bound", 2)
    assert (await process.bind(KEYS[1], former=KEYS[0])).place == (elsewhere, "bound", 2)


async def test_while_secrets_change_a_conversation_that_nobody_knows_is_a_new_one(start):
    process = await start()
    first = await process.bind(KEYS[2], former=KEYS[9])
    assert first.place == (home(process, KEYS[2]), "new", 1)
    assert not first.route.placement.sticky
    assert (await process.bind(KEYS[2], former=KEYS[9])).place == (home(process, KEYS[2]), "bound", 1)


# Renewal.


async def test_a_renewal_makes_the_binding_warm(start, admin):
    process = await start()
    request = await process.bind()
    process.renew(request, age=2.5, tokens=1234)
    mine = msgspec.structs.replace(process.remembered(request))
    await process.store.close()
    record = stored(admin, request)
    assert abs(record.warm_until - server_ms(admin) - 297_500) < 60_000
    assert (record.tokens, record.size) == (1234, 4936)
    assert abs(mine.warm_until - record.warm_until) < 60_000
    assert mine == msgspec.structs.replace(record, warm_until=mine.warm_until)


@pytest.mark.parametrize("found", ["new", "warm", "cold", "moved", "by an older version"])
async def test_a_process_knows_what_the_store_has_of_a_binding_byte_by_byte(start, admin, found):
    """So that most renewals need not be worked out there."""
    process = await start()
    if found in ("warm", "cold"):
        warm_until = server_ms(admin) + (100_000 if found == "warm" else -1)
        put(admin, Record("a", 3, warm_until, 1000, 4000, moves=[Move(1, "b", "a", "limited")]))
    elif found == "by an older version":
        put(admin, Record("a", 3, server_ms(admin) - 1, 1000, 4000))
        key = record_key(ALICE.tenant, KEYS[0])
        admin.hset(key, MODEL, msgspec.msgpack.encode(msgspec.msgpack.decode(admin.hget(key, MODEL))[:13]))
    request = await process.bind()
    if found == "moved":
        await process.move(request, others(request.workspace)[0])
    place = request.binding.key, MODEL
    assert admin.hget(*place) == request.binding.stored
    for tokens in (1100, 1200):
        process.renew(request, tokens=tokens)
        await process.recall()
        assert admin.hget(*place) == request.binding.stored
    assert stored(admin, request).tokens == 1200
    process.admission.renew(process.admission.unanswered(request.binding))
    await process.recall()
    assert admin.hget(*place) == request.binding.stored


@pytest.mark.parametrize("first", [0, 1])
async def test_requests_of_one_conversation_renew_it_together_whoever_ends_first(start, admin, first):
    processes = [await start(), await start()]
    requests = [await process.bind() for process in processes]
    elsewhere = others(requests[0].workspace)[0]
    for number in (first, 1 - first):
        processes[number].renew(requests[number], served=elsewhere if number else "", tokens=700)
        await processes[number].recall()
    record = stored(admin, requests[0])
    assert (record.workspace, record.tokens, record.detour) == (requests[0].workspace, 700, elsewhere)
    assert min(record.warm_until, record.detour_warm_until) > server_ms(admin)


async def test_what_is_not_known_yet_keeps_what_is(start, admin):
    process = await start()
    request = await process.bind()
    process.renew(request, ttl=3600, tokens=1234)
    warm_until = process.remembered(request).warm_until
    process.renew(request, tokens=0)
    assert process.remembered(request).tokens == 1234
    assert process.remembered(request).warm_until == warm_until
    await process.recall()
    assert (stored(admin, request).tokens, stored(admin, request).size) == (1234, 4936)


async def test_an_answer_from_elsewhere_is_a_detour_and_moves_nothing(start, admin):
    process = await start()
    request = await process.bind()
    elsewhere = others(request.workspace)[0]
    process.renew(request, served=elsewhere)
    again = await process.bind()
    assert again.place == (request.workspace, "bound", 1)
    for record in (again.record, request.record, stored(admin, request)):
        assert (record.detour, record.tokens) == (elsewhere, 0)
        assert abs(record.detour_warm_until - server_ms(admin) - 300_000) < 60_000


async def test_a_renewal_after_a_flush_writes_the_binding_back(start, admin):
    process = await start()
    await process.move(await process.bind(), "a")
    await process.move(await process.bind(), "b")
    request = await process.bind()
    admin.flushall()
    admin.script_flush()
    process.renew(request)
    other = await start()
    assert (await other.bind()).place == ("b", "bound", request.record.generation)


async def test_a_renewal_of_a_binding_that_has_moved_changes_nothing(start, admin):
    one, other = await start(), await start()
    stale = await one.bind()
    mine = await other.bind()
    await other.move(mine, others(stale.workspace)[0])
    before = admin.hgetall(stale.binding.key)
    one.renew(stale, tokens=99)
    await one.store.close()
    assert admin.hgetall(stale.binding.key) == before


# Without the store.


async def test_without_the_store_all_processes_agree_by_rank_alone(start):
    processes = [await start(away=True) for _ in range(3)]
    processes[1].router.loads.add("a", 1e6, monotonic())  # what one of them knows alone must not count
    for key in KEYS:
        places = {(await process.bind(key)).place for process in processes}
        assert places == {(home(processes[0], key), "stateless", 1)}
    assert processes[0].told == []


async def test_without_the_store_a_conversation_nobody_is_meant_to_serve_has_no_home(start):
    process = await start(away=True)
    process.states(a="disabled", b="draining", c="gone")
    binding, route = await process.ask()
    assert (binding, route.placement.workspace, route.placement.how) == (None, None, "none")


async def test_without_the_store_a_process_keeps_to_what_it_remembers(start):
    process = await start()
    request = await process.bind()
    elsewhere, further = others(request.workspace)
    await process.move(request, elsewhere)
    process.renew(request)
    await process.store.close()
    away = await process.bind()
    assert away.place == (elsewhere, "stateless", 2)
    assert away.route.placement.warm
    process.renew(away, tokens=1500)
    await process.move(away, further)
    assert away.place == (further, "stateless", 3)
    assert (away.record.previous, away.record.previous_tokens, away.record.tokens) == (elsewhere, 1500, 0)
    assert (await process.bind()).place == (further, "stateless", 3)


async def test_a_store_that_comes_back_empty_is_told_what_was_remembered(start, admin):
    process, other = await start(), await start()
    request = await process.bind()
    elsewhere = others(request.workspace)[0]
    await process.move(request, elsewhere)
    process.renew(request)
    admin.flushall()
    assert (await process.bind()).place == (elsewhere, "bound", 2)
    assert (await other.bind()).place == (elsewhere, "bound", 2)
    assert process.moves == other.moves == []


async def test_what_is_remembered_wins_over_what_was_bound_anew_after_a_loss(start, admin):
    process, other = await start(), await start()
    request = await process.bind()
    elsewhere = others(request.workspace)[0]
    await process.move(request, elsewhere)
    admin.flushall()
    assert (await other.bind()).place == (home(process), "new", 1)
    assert (await process.bind()).place == (elsewhere, "bound", 2)
    assert (await other.bind()).place == (elsewhere, "bound", 2)


async def test_a_move_that_the_store_missed_is_told_to_it(start, admin):
    process, other = await start(), await start()
    request = await process.bind()
    elsewhere = others(request.workspace)[0]
    route = request.route
    alone = await start(away=True)
    alone.admission._keep(request.binding)
    moving = await alone.bind()
    await alone.move(moving, elsewhere)
    assert moving.place == (elsewhere, "stateless", 2)
    process.admission.heard(BoundConversations([BoundConversation(moving.binding.key, MODEL, pack(moving.record))]))
    assert (await process.bind()).place == (elsewhere, "bound", 2)
    assert (await other.bind()).place == (elsewhere, "bound", 2)
    assert route.placement.workspace != elsewhere


async def test_a_store_that_lost_everything_gets_the_bindings_that_were_answered(start, admin, monkeypatch):
    monkeypatch.setattr(module, "_RESEED_AT_ONCE", 3)
    process = await start()
    answered = {}
    for key in KEYS[:8]:
        request = await process.bind(key)
        await process.move(request, others(request.workspace)[0])
        process.renew(request)
        answered[request.binding.key.encode()] = process.remembered(request)
    await process.bind(KEYS[9])
    await process.recall()
    admin.flushall()
    await process.reseed()
    assert {key: unpack(admin.hget(key, MODEL)) for key in admin.scan_iter()} == answered
    assert all(3_500_000 < admin.pttl(key) <= 3_600_000 for key in answered)


async def test_bindings_that_are_published_replace_no_newer_ones(start, admin):
    process, other = await start(), await start()
    request = await process.bind()
    process.renew(request)
    theirs = await other.bind()
    await other.move(theirs, others(request.workspace)[0])
    await process.reseed()
    assert stored(admin, request) == theirs.record


async def test_bindings_that_are_bound_to_their_account_are_published_for_as_long_as_they_were_kept(start, admin):
    process = await start()
    request = await process.bind()
    process.renew(request, account_bound=True)
    await process.recall()
    admin.flushall()
    await process.reseed()
    assert 29 * DAY < admin.pttl(request.binding.key) <= 30 * DAY


async def test_publishing_to_a_store_that_is_away_ends_without_words(start):
    process = await start(away=True)
    process.renew(await process.bind())
    process.admission.reseed()
    running = process.admission._reseeding
    process.admission.reseed()
    assert process.admission._reseeding is running is not None  # one at a time
    await running


async def test_a_process_remembers_a_bounded_number_of_conversations(start, monkeypatch):
    monkeypatch.setattr(module, "MEMORY", 3)
    process = await start(away=True)
    for key in [*KEYS[:3], KEYS[0], KEYS[3]]:  # the first is used again, so the second is the one to go
        await process.bind(key)
    assert [key.split(":")[3] for key, _ in process.admission._memory] == [KEYS[n].hex() for n in (2, 0, 3)]


# What processes tell each other.


async def test_a_binding_that_the_ranking_would_not_find_is_told_to_others(start):
    process, other = await start(), await start(away=True)
    process.router.loads.add(home(process), 1e6, monotonic())
    request = await process.bind()
    assert request.workspace != home(process)
    process.admission._spread_all()
    (fact,) = process.told
    assert isinstance(fact, BoundConversations)
    (told,) = fact.bound
    assert (told.key, told.model, unpack(told.record)) == (request.binding.key, MODEL, request.record)
    other.admission.heard(fact)
    assert (await other.bind()).place == (request.workspace, "stateless", 1)


async def test_every_new_binding_and_every_move_is_told_once(start):
    process = await start()
    request = await process.bind()
    await process.move(request, others(request.workspace)[0])
    assert (await process.bind()).record.generation == 2  # which tells nothing new
    told = [unpack(each.record) for each in process.admission._unspread]
    assert [(each.workspace, each.generation) for each in told] == [
        (home(process), 1),
        (request.record.workspace, 2),
    ]


@pytest.mark.parametrize("generation", [1, 2])
async def test_news_that_come_late_do_not_replace_what_is_newer(start, generation):
    process = await start()
    request = await process.bind()
    await process.move(request, others(request.workspace)[0])
    process.renew(request)
    known = process.remembered(request)
    assert (known.generation, known.tokens) == (2, 1000)
    late = Record(home(process), generation)
    process.admission.heard(BoundConversations([BoundConversation(request.binding.key, MODEL, pack(late))]))
    assert process.remembered(request) == known


async def test_a_conversation_that_was_flushed_is_forgotten(start, admin):
    process = await start()
    for key in KEYS[:3]:
        await process.move(await process.bind(key), others(home(process, key))[0])
    admin.flushall()
    process.admission.forget(Forget(key=record_key(ALICE.tenant, KEYS[0])))
    assert (await process.bind(KEYS[0])).place == (home(process, KEYS[0]), "new", 1)
    assert (await process.bind(KEYS[1])).place == (others(home(process, KEYS[1]))[0], "bound", 2)


@pytest.mark.parametrize(("later", "back"), [(0, False), (0.9, False), (1.1, True)])
async def test_a_flushed_conversation_does_not_come_back_by_news_of_before(start, monkeypatch, later, back):
    """What another process spread before it heard of the flush; what it binds afterwards is believed."""
    process, other = await start(), await start()
    request = await other.bind()
    other.admission._spread_all()
    process.admission.forget(Forget(key=request.binding.key))
    now = monotonic()
    monkeypatch.setattr(module, "monotonic", lambda: now + later)
    process.admission.heard(other.told[-1])
    assert ((request.binding.key, MODEL) in process.admission._memory) is back


async def test_flushes_of_long_ago_are_not_kept_where_no_other_worker_tells_anything(start, monkeypatch):
    process = await start()
    now = monotonic()
    for number in range(50):
        monkeypatch.setattr(module, "monotonic", lambda number=number: now + number)
        process.admission.forget(Forget(key=f"k{number}"))
    assert len(process.admission._flushed) <= 2


@pytest.mark.parametrize("by", ["key", "workspace"])
async def test_what_was_flushed_is_not_spread_any_more(start, by):
    process = await start()
    request = await process.bind()
    gone = Forget(key=request.binding.key) if by == "key" else Forget(workspace=request.workspace)
    process.admission.forget(gone)
    process.admission._spread_all()
    assert all(fact == BoundConversations([]) for fact in process.told)


async def test_the_conversations_of_a_workspace_that_was_flushed_are_forgotten(start):
    process = await start(away=True)
    requests = [await process.bind(key) for key in KEYS]
    process.admission.forget(Forget(workspace="a"))
    kept = [key for key, _ in process.admission._memory]
    assert kept == [request.binding.key for request in requests if request.workspace != "a"] != []
    process.admission.forget(Forget())
    assert len(process.admission._memory) == len(kept)
