"""Who calls, and where a conversation lives: against a real store, and without one."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis

from gateway.config import Account as AccountConfig
from gateway.config import Admin, Affinity, Caller, Config
from gateway.core.document import Entry, PoolDocument
from gateway.edge import admission as module
from gateway.edge.admission import Admission, Binding, Callers
from gateway.edge.head import read_head
from gateway.edge.pool import Pool
from gateway.errors import ApiError
from gateway.store import client as client_module
from gateway.store.client import StoreClient
from gateway.store.embedded import EmbeddedServer

MODEL = "claude-sonnet-4-5"
ALICE = Caller(id="alice", team="research")
BOB = Caller(id="bob")
KEYS = [random.Random(n).randbytes(16) for n in range(40)]
CONFIG = Config(
    admin=Admin(token="admin-token"),
    secret=("s" * 32,),
    accounts=tuple(
        AccountConfig(id=name, api_key=f"sk-upstream-{name}", base_url="http://127.0.0.1:9") for name in ("a", "b", "c")
    ),
    affinity=Affinity(remember=3600.0),
)


# Who calls.


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


CALLERS = Callers(
    (
        Caller(id="alice", digests=(digest("sk-alice-1"), digest("sk-alice-2")), models=("claude-*",)),
        Caller(id="bob", digests=(digest("sk-bob"),)),
    )
)


def who(*headers: tuple[bytes, bytes]) -> str:
    return CALLERS.authenticate(read_head(list(headers), b"x-conversation-id")).id


@pytest.mark.parametrize(
    ("headers", "caller"),
    [
        ([(b"x-api-key", b"sk-alice-1")], "alice"),
        ([(b"x-api-key", b"sk-alice-2")], "alice"),
        ([(b"authorization", b"Bearer sk-bob")], "bob"),
        ([(b"x-api-key", b"sk-bob"), (b"authorization", b"Bearer other")], "bob"),
        ([(b"x-api-key", b"other"), (b"authorization", b"Bearer sk-bob")], "bob"),
    ],
)
def test_a_caller_is_known_by_any_of_its_keys_in_either_header(headers, caller):
    assert who(*headers) == caller


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([], "x-api-key header is required"),
        ([(b"authorization", b"Basic sk-bob")], "x-api-key header is required"),
        ([(b"x-api-key", b"sk-other")], "invalid x-api-key"),
        ([(b"x-api-key", b"sk-bo")], "invalid x-api-key"),
        ([(b"x-api-key", b"sk-bob ")], "invalid x-api-key"),
        ([(b"x-api-key", digest("sk-bob").encode())], "invalid x-api-key"),
        ([(b"authorization", b"Bearer nobody")], "invalid x-api-key"),
        ([(b"x-api-key", b"\xff\xfe")], "invalid x-api-key"),
    ],
)
def test_who_has_no_key_is_told_so(headers, words):
    with pytest.raises(ApiError, match=words) as caught:
        who(*headers)
    assert caught.value.status == 401
    assert caught.value.kind == "authentication_error"


def test_a_caller_may_use_the_models_it_is_allowed():
    alice, bob = (CALLERS.authenticate(read_head([(b"x-api-key", key)], b"")) for key in (b"sk-alice-1", b"sk-bob"))
    assert CALLERS.may_use(alice, "claude-opus-4-8") and not CALLERS.may_use(alice, "other")
    assert CALLERS.may_use(bob, "other")


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


class Process:
    """What one worker has of all this."""

    def __init__(self, url: str) -> None:
        self.pool = Pool(CONFIG)
        self.store = StoreClient(url)
        self.admission = Admission(CONFIG, self.pool, self.store)

    async def bind(self, key: bytes = KEYS[0], *, caller: Caller = ALICE, model: str = MODEL, **more: Any) -> Binding:
        return await self.admission.bind(caller, key, model, **more)

    def states(self, **states: str) -> None:
        entries = tuple(
            Entry(name, name, name, state=states.get(name, "active")) for name in "abc" if states.get(name) != "gone"
        )
        self.pool.apply(PoolDocument(self.pool.ring.epoch + 1, entries))

    async def close(self) -> None:
        await self.store.close()
        await self.pool.aclose()


Start = Callable[..., Any]


@pytest.fixture
async def start(embedded: str, admin: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts processes on one store; with `away` on none."""
    monkeypatch.setattr(client_module, "BUDGET", 10.0)
    made: list[Process] = []

    async def process(away: bool = False) -> Process:
        made.append(Process("unix:///nonexistent/store.sock" if away else embedded))
        assert await made[-1].store.start(0.01 if away else 10) != away
        return made[-1]

    yield process
    for each in made:
        await each.close()


def home(process: Process, key: bytes) -> str:
    return process.pool.ring.rank(key)[0]


async def test_a_first_request_is_placed_at_home_and_later_ones_stay_there(start):
    process = await start()
    for key in KEYS[:10]:
        first, second = await process.bind(key), await process.bind(key)
        assert (first.route, first.workspace, first.generation) == ("new", home(process, key), 1)
        assert (second.route, second.workspace, second.generation) == ("bound", first.workspace, 1)


async def test_any_number_of_first_requests_on_any_process_make_one_binding(start):
    processes = [await start() for _ in range(3)]
    processes[1].states(a="disabled")  # not all of them would choose the same
    for key in KEYS[:5]:
        bindings = await asyncio.gather(*(process.bind(key) for process in processes for _ in range(10)))
        made = [binding for binding in bindings if binding.route == "new"]
        assert len(made) == 1
        settled = {binding.workspace for binding in bindings if binding.route == "bound"}
        assert settled == {made[0].workspace} or "a" in (made[0].workspace, *settled)


async def test_a_conversation_has_a_binding_for_each_model_on_one_workspace(start, admin):
    process = await start()
    bindings = [await process.bind(model=model) for model in ("m1", "m2")]
    assert [binding.route for binding in bindings] == ["new", "new"]
    assert bindings[0].workspace == bindings[1].workspace
    assert admin.dbsize() == 2


async def test_one_conversation_of_two_tenants_is_two_bindings_in_their_own_slots(start, admin):
    process = await start()
    assert (await process.bind(caller=ALICE)).route == "new"
    assert (await process.bind(caller=BOB)).route == "new"
    colleague = Caller(id="carol", team="research")
    assert (await process.bind(caller=colleague)).route == "bound"
    keys = sorted(key.decode() for key in admin.scan_iter())
    assert keys == [f"{{{tenant}}}:b:{KEYS[0].hex()}:{MODEL}" for tenant in ("c:bob", "t:research")]


async def test_a_record_lives_as_long_as_it_is_to_be_remembered_once_it_was_answered(start, admin):
    process = await start()
    binding = await process.bind()
    assert 590_000 < admin.pttl(binding.key) <= 650_000  # as long as an answer may take to begin, and a minute
    process.admission.renew(binding, 0.0, 300, 0)
    await process.bind()
    assert 3_500_000 < admin.pttl(binding.key) <= 3_600_000


async def test_a_binding_says_how_long_its_cache_is_still_warm(start):
    process = await start()
    binding = await process.bind()
    assert binding.warm_for <= 0
    process.admission.renew(binding, 10.0, 3600, 500)
    again = await process.bind()
    assert 3_500_000 < again.warm_for <= 3_590_000


async def test_what_another_process_moved_is_learned_with_the_next_request(start):
    one, other = await start(), await start()
    first = await one.bind()
    elsewhere = next(name for name in "abc" if name != first.workspace)
    mine = await other.bind()
    await other.admission.rebind(mine, elsewhere)
    assert (mine.route, mine.workspace, mine.generation) == ("moved", elsewhere, 2)
    later = await one.bind()
    assert (later.route, later.workspace, later.generation) == ("bound", elsewhere, 2)


async def test_of_two_who_move_at_once_the_second_learns_where_to(start):
    one, other = await start(), await start()
    await one.bind()
    mine, theirs = await one.bind(), await other.bind()
    targets = [name for name in "abc" if name != mine.workspace]
    await one.admission.rebind(mine, targets[0])
    await other.admission.rebind(theirs, targets[1])
    assert (theirs.route, theirs.workspace, theirs.generation) == ("bound", targets[0], 2)


async def test_a_new_conversation_that_moves_stays_a_new_one(start):
    process = await start()
    binding = await process.bind()
    await process.admission.rebind(binding, next(name for name in "abc" if name != binding.workspace))
    assert binding.route == "new"
    assert (await process.bind()).workspace == binding.workspace


async def test_a_conversation_nobody_may_serve_has_no_binding(start, admin):
    process = await start()
    process.states(a="disabled", b="disabled", c="disabled")
    binding = await process.bind()
    assert (binding.workspace, binding.route, binding.key) == (None, "none", "")
    assert admin.dbsize() == 0


@pytest.mark.parametrize("how", ["disabled", "gone"])
@pytest.mark.parametrize("remembered", [True, False])
async def test_a_conversation_whose_workspace_is_out_for_good_moves_with_its_next_request(start, how, remembered):
    first, other = await start(), await start()
    for key in KEYS[:10]:
        before = await first.bind(key)
        process = first if remembered else other
        process.states(**{before.workspace: how})
        after = await process.bind(key)
        expected = next(name for name in process.pool.ring.rank(key) if name != before.workspace)
        assert (after.workspace, after.route, after.generation) == (expected, "moved", 2)
        again = await process.bind(key)
        assert (again.workspace, again.route) == (expected, "bound")


async def test_a_draining_workspace_keeps_its_conversations(start):
    process = await start()
    before = await process.bind()
    process.states(**{str(before.workspace): "draining"})
    after = await process.bind()
    assert (after.workspace, after.route) == (before.workspace, "bound")


async def test_a_conversation_follows_its_key_through_a_change_of_secret(start):
    process = await start()
    old = await process.bind(KEYS[0])
    elsewhere = next(name for name in "abc" if name != old.workspace)
    await process.admission.rebind(old, elsewhere)
    for former, expected in ((KEYS[0], elsewhere), (KEYS[9], home(process, KEYS[2]))):
        other = await start()
        binding = await other.bind(KEYS[1] if former == KEYS[0] else KEYS[2], former=former)
        assert (binding.workspace, binding.route) == (expected, "new")


# Renewal.


async def test_a_renewal_makes_the_binding_warm(start, admin):
    process = await start()
    binding = await process.bind()
    process.admission.renew(binding, 2.5, 300, 1234)
    await process.store.close()
    record = admin.hgetall(binding.key)
    seconds, _ = admin.time()
    assert abs(int(record[b"u"]) / 1000 - seconds - 297.5) < 60
    assert record[b"n"] == b"1234"


async def test_a_renewal_after_a_flush_writes_the_binding_back(start, admin):
    process = await start()
    await process.bind()
    binding = await process.bind()
    admin.flushall()
    admin.script_flush()
    process.admission.renew(binding, 0.0, 300, 0)
    later = await process.bind()
    assert (later.route, later.workspace) == ("bound", binding.workspace)


async def test_a_renewal_of_a_binding_that_has_moved_changes_nothing(start, admin):
    one, other = await start(), await start()
    stale = await one.bind()
    mine = await other.bind()
    await other.admission.rebind(mine, next(name for name in "abc" if name != stale.workspace))
    before = admin.hgetall(stale.key)
    one.admission.renew(stale, 0.0, 300, 99)
    await one.store.close()
    assert admin.hgetall(stale.key) == before


async def test_a_request_without_a_conversation_renews_nothing(start, admin):
    process = await start()
    process.admission.renew(Binding(None, "none", b"alice"), 0.0, 300, 1)
    process.admission.renew(Binding("a", "none", b"alice"), 0.0, 300, 1)
    await process.store.close()
    assert admin.dbsize() == 0


# Without the store.


async def test_without_the_store_all_processes_agree_by_rank_alone(start):
    processes = [await start(away=True) for _ in range(3)]
    for key in KEYS:
        bindings = [await process.bind(key) for process in processes]
        assert {(binding.workspace, binding.route, binding.generation) for binding in bindings} == {
            (home(processes[0], key), "stateless", 0)
        }


async def test_without_the_store_a_process_keeps_to_what_it_remembers(start, embedded):
    process = await start()
    binding = await process.bind()
    elsewhere = next(name for name in "abc" if name != binding.workspace)
    await process.admission.rebind(binding, elsewhere)
    await process.store.close()
    away = await process.bind()
    assert (away.workspace, away.route, away.generation) == (elsewhere, "stateless", 0)
    process.admission.renew(away, 0.0, 300, 5)
    await process.admission.rebind(away, "a")
    assert away.workspace == elsewhere


async def test_a_store_that_comes_back_empty_is_told_what_was_remembered(start, admin):
    process = await start()
    binding = await process.bind()
    await process.admission.rebind(binding, elsewhere := next(name for name in "abc" if name != binding.workspace))
    admin.flushall()
    again = await process.bind()
    assert (again.workspace, again.route) == (elsewhere, "new")


async def test_a_process_remembers_a_bounded_number_of_conversations(start, monkeypatch):
    monkeypatch.setattr(module, "MEMORY", 3)
    process = await start(away=True)
    for key in [*KEYS[:3], KEYS[0], KEYS[3]]:  # the first is used again, so the second is the one to go
        await process.bind(key)
    assert [key.split(":")[3] for key in process.admission._memory] == [KEYS[n].hex() for n in (2, 0, 3)]
