"""Keys made at run time through a real server: nothing is lost, whoever else changes something, and all hear of it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from redis.crc import key_slot

from gateway.config.schema import Budget, Caller, CallerLimits
from gateway.core.spending.keyring import (
    BOOSTS,
    CALLERS,
    KEPT,
    TEAMS,
    BoostRecord,
    CallerRecord,
    KeyRecord,
    Stored,
    TeamRecord,
    missing,
)
from gateway.log import captured
from gateway.store.client.client import StoreDown
from gateway.store.pool import keys as keys_module
from gateway.store.pool.key_file import NAME, KeyFile
from gateway.store.pool.keyring import caller_of, decode, keyring_of
from gateway.store.pool.keys import (
    KeyEnded,
    KeyStore,
    NewKey,
    OtherKey,
    RecordExists,
    TooManyKeys,
    UnknownKey,
    UnknownRecord,
    new_key,
)
from gateway.store.pool.pool_store import CHANNEL, SCHEMA, NewerSchema, PoolStore
from gateway.store.pool.shared_keys import SharedKeys

BOB = CallerRecord(team="blue", models=("claude-*",), limits={"concurrency": 3}, created_at=5)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], KeyStore]]:
    made: list[KeyStore] = []

    def make(url: str) -> KeyStore:
        made.append(KeyStore(url))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def store(server, connect) -> KeyStore:
    made: KeyStore = connect(server.url)
    return made


async def table(store: KeyStore) -> Stored:
    stored = await store.read()
    assert stored is not None
    return stored


async def make(store: KeyStore, caller: str = "bob", record: CallerRecord | None = BOB, lifetime: int = 0) -> NewKey:
    new = new_key()
    await store.create(new, caller, record, lifetime, known=True)
    return new


def test_a_key_looks_as_promised_and_does_not_show_itself():
    keys = [new_key() for _ in range(50)]
    assert all(re.fullmatch("sk-[A-Za-z0-9]{48}", key.secret) and re.fullmatch("key_[A-Za-z0-9]{12}", key.id)
               for key in keys)  # fmt: skip
    assert len({key.secret for key in keys} | {key.id for key in keys}) == 100
    key = keys[0]
    assert key.digest == hashlib.sha256(key.secret.encode()).hexdigest()
    assert key.secret.endswith(key.hint) and len(key.hint) == 4
    assert key.secret not in repr(key)


def test_all_lives_in_one_slot():
    assert {key_slot(place.encode()) for place in keys_module._PLACES} == {key_slot(b"{pool}:document")}


async def test_a_key_is_made_with_its_caller_and_kept_as_a_digest(store, server):
    assert await table(store) == Stored()
    new = await make(store, lifetime=60_000)
    stored = await table(store)
    key = stored.keys[new.id]
    assert stored.callers == {"bob": BOB}
    assert key == KeyRecord("bob", new.digest, new.hint, key.created_at, key.created_at + 60_000, 0, 60_000)
    assert abs(key.created_at - float(server.admin.time()[0]) * 1000) < 60_000
    everything = b"".join(
        value for place in (b"{pool}:callers", b"{pool}:keys") for value in server.admin.hgetall(place).values()
    )
    assert new.secret.encode() not in everything and new.secret[3:20].encode() not in everything


async def test_what_is_known_is_not_read_again(store):
    await make(store)
    stored = await table(store)
    assert await store.read(stored.version) is None
    await make(store)
    again = await store.read(stored.version)
    assert again is not None and again.version != stored.version and len(again.keys) == 2


async def test_a_caller_is_made_once_and_whoever_comes_second_is_told_what_it_is(store):
    first, second = new_key(), new_key()
    other = msgspec.structs.replace(BOB, team="red")
    await store.create(first, "bob", BOB)
    with pytest.raises(RecordExists) as caught:
        await store.create(second, "bob", other)
    assert caught.value.record == BOB
    assert list((await table(store)).keys) == [first.id]
    await store.create(second, "bob", caught.value.record, known=True)
    stored = await table(store)
    assert (stored.callers, set(stored.keys)) == ({"bob": BOB}, {first.id, second.id})


async def test_many_gateways_that_make_one_caller_at_once_agree_on_one(server, connect):
    stores = [connect(server.url) for _ in range(6)]
    teams = [msgspec.structs.replace(BOB, team=f"team-{n}") for n in range(6)]
    done = await asyncio.gather(
        *(store.create(new_key(), "bob", team) for store, team in zip(stores, teams, strict=True)),
        return_exceptions=True,
    )
    stored = await table(stores[0])
    won = [team for team, result in zip(teams, done, strict=True) if result is None]
    assert won == [stored.callers["bob"]]
    assert [each.record for each in done if isinstance(each, RecordExists)] == won * 5


async def test_a_key_of_a_caller_that_a_file_defines_makes_no_caller(store):
    new = await make(store, "alice", None)
    stored = await table(store)
    assert (stored.callers, stored.keys[new.id].of_file) == ({}, True)


async def test_a_key_that_is_asked_for_twice_is_made_once(store):
    """As it happens where the reply to the first was lost."""
    new, other = new_key(), new_key()
    await store.create(new, "bob", BOB)
    stored = await table(store)
    await store.create(new, "bob", BOB)
    await store.rotate(new.id, other, 60_000)
    rotated = await table(store)
    await store.rotate(new.id, other, 60_000)
    assert await table(store) == rotated
    assert (len(stored.keys), len(rotated.keys)) == (1, 2)
    with pytest.raises(StoreDown):
        await store.create(NewKey(new.id, "sk-another"), "bob", BOB, known=True)


async def test_rotation_leaves_the_key_for_the_overlap_and_gives_its_successor_the_same_life(store):
    old, new = await make(store, lifetime=1_000_000), new_key()
    await store.rotate(old.id, new, 60_000)
    stored = await table(store)
    before, after = stored.keys[old.id], stored.keys[new.id]
    assert before.replaced_by == new.id
    assert before.expires_at - after.created_at == 60_000
    assert (after.caller, after.lifetime, after.expires_at) == ("bob", 1_000_000, after.created_at + 1_000_000)
    assert (after.digest, after.hint, after.replaced_by) == (new.digest, new.hint, "")


async def test_rotation_never_makes_a_key_live_longer(store):
    old = await make(store, lifetime=60_000)
    expires = (await table(store)).keys[old.id].expires_at
    await store.rotate(old.id, new_key(), 3_600_000, lifetime=0)
    keys = (await table(store)).keys
    assert keys[old.id].expires_at == expires
    assert keys[keys[old.id].replaced_by].expires_at == 0


async def test_of_two_rotations_at_once_one_makes_a_key_and_the_other_hears_of_it(server, connect):
    one, two = connect(server.url), connect(server.url)
    old, first, second = await make(one), new_key(), new_key()
    rotations = one.rotate(old.id, first, 3_600_000), two.rotate(old.id, second, 60_000)
    refused = [each for each in await asyncio.gather(*rotations, return_exceptions=True) if each is not None]
    stored = await table(one)
    heir = stored.keys[old.id].replaced_by
    assert heir in (first.id, second.id) and stored.keys.keys() == {old.id, heir}
    assert [type(each) for each in refused] == [TooManyKeys]
    assert isinstance(refused[0], TooManyKeys) and refused[0].key == heir


async def test_a_key_is_rotated_again_once_its_successor_has_ended(store):
    old, heir, other = await make(store), new_key(), new_key()
    await store.rotate(old.id, heir, 60_000)
    with pytest.raises(TooManyKeys) as caught:
        await store.rotate(old.id, other, 60_000)
    assert caught.value.key == heir.id
    await store.revoke(heir.id)
    await store.rotate(old.id, other, 60_000)
    assert (await table(store)).keys[old.id].replaced_by == other.id


async def test_of_a_caller_with_as_many_keys_as_it_may_have_one_at_a_time_is_rotated(store):
    first, second, heir = await make(store), new_key(), new_key()
    await store.create(second, "bob", BOB, known=True, most=2)
    await store.rotate(first.id, heir, 60_000, most=2)
    with pytest.raises(TooManyKeys) as caught:
        await store.rotate(second.id, new_key(), 60_000, most=2)
    assert not caught.value.key
    await store.revoke(first.id)
    await store.rotate(second.id, new_key(), 60_000, most=2)


async def test_a_key_that_has_ended_cannot_be_rotated(store):
    revoked, over = await make(store), await make(store)
    await store.revoke(revoked.id)
    await store.rotate(over.id, new_key(), 0)  # without an overlap it ends at once
    for ended in (revoked, over):
        with pytest.raises(KeyEnded):
            await store.rotate(ended.id, new_key(), 60_000)
    assert len((await table(store)).keys) == 3
    with pytest.raises(UnknownKey):
        await store.rotate("key_none", new_key(), 60_000)


async def test_a_key_is_revoked_once_and_for_good(store):
    new = await make(store)
    await store.revoke(new.id)
    stored = await table(store)
    assert stored.keys[new.id].revoked_at >= stored.keys[new.id].created_at > 0
    await store.revoke(new.id)
    assert await table(store) == stored  # not even the version
    with pytest.raises(UnknownKey):
        await store.revoke("key_none")


async def test_whatever_happens_at_once_nothing_is_lost(server, connect):
    stores = [connect(server.url) for _ in range(4)]
    old = [await make(stores[0]) for _ in range(8)]
    new = [new_key() for _ in range(8)]
    successors = [new_key() for _ in range(4)]
    version = (await table(stores[0])).version
    await asyncio.gather(
        *(stores[n % 4].create(new[n], f"caller-{n % 3}", BOB, known=True) for n in range(8)),
        *(stores[n % 4].revoke(old[n].id) for n in range(4)),
        *(stores[(n + 1) % 4].rotate(old[n + 4].id, successors[n], 60_000) for n in range(4)),
    )
    stored = await table(stores[0])
    assert stored.keys.keys() == {key.id for key in (*old, *new, *successors)}
    assert [bool(stored.keys[key.id].revoked_at) for key in old] == [True] * 4 + [False] * 4
    assert [stored.keys[old[n + 4].id].replaced_by for n in range(4)] == [key.id for key in successors]
    counted = [int(each.partition("-")[0]) for each in (version, stored.version)]
    assert counted[1] - counted[0] == 16  # one a change


async def test_a_store_that_a_newer_version_owns_is_neither_written_nor_read(store, server):
    server.admin.set("{pool}:schema", SCHEMA + 1)
    with pytest.raises(NewerSchema):
        await make(store)
    with pytest.raises(NewerSchema):
        await store.read()
    assert server.admin.keys() == [b"{pool}:schema"]


async def test_what_no_gateway_wrote_is_left_alone(store, server):
    new = await make(store)
    server.admin.hset(
        "{pool}:keys", mapping={"key_a": "junk", "key_b": '{"caller":"bob","digest":"zz"}', b"\xff": "{}"}
    )
    server.admin.hset("{pool}:callers", "odd", "[]")
    assert (await table(store)).keys.keys() == {new.id}
    with pytest.raises(UnknownKey):
        await store.revoke("key_a")
    with pytest.raises(StoreDown):
        await store.create(new_key(), "odd", BOB)
    await store.offer(Stored("", {"odd": BOB}, {"key_a": KeyRecord("bob", "ab" * 32)}))
    assert server.admin.hget("{pool}:keys", "key_a") == b"junk"


async def test_a_store_that_lost_everything_is_given_all_back_by_several_at_once(server, connect):
    stores = [connect(server.url) for _ in range(3)]
    keys = [await make(stores[0], f"caller-{n}") for n in range(20)]
    early = await table(stores[0])
    for key in keys[:5]:
        await stores[0].revoke(key.id)
    late = await table(stores[0])
    server.admin.flushall()
    server.admin.script_flush()
    await asyncio.gather(stores[0].offer(early), stores[1].offer(late), stores[2].offer(early))
    back = await table(stores[0])
    assert back.same(late)
    await stores[0].offer(early)
    assert await stores[0].read(back.version) is None  # nothing new


async def test_more_than_one_script_takes_is_offered_too(store, monkeypatch):
    monkeypatch.setattr(keys_module, "_AT_ONCE", 7)
    lost = Stored(
        "",
        {f"c{n}": BOB for n in range(20)},
        {f"key_{n}": KeyRecord("c1", f"{n:064x}", created_at=1) for n in range(30)},
    )
    await store.offer(lost)
    assert (await table(store)).same(lost)
    await store.forget([f"key_{n}" for n in range(25)])
    assert len((await table(store)).keys) == 5


# -- A gateway's copy -------------------------------------------------------------------------------------------------


class Copy:
    """A gateway's copy, and how often it has changed."""

    def __init__(self, url: str, folder: Path, now: Callable[[], float] | None = None) -> None:
        self.store = KeyStore(url)
        self.folder = folder
        self.changes: asyncio.Queue[Stored] = asyncio.Queue()
        options = {} if now is None else {"now": now}
        self.keys = SharedKeys(
            self.store, KeyFile(str(folder)), lambda: self.changes.put_nowait(self.keys.stored), **options
        )

    @property
    def changed(self) -> int:
        return self.changes.qsize()


@pytest.fixture
async def copy(tmp_path: Path) -> AsyncIterator[Callable[..., Copy]]:
    made: list[Copy] = []

    def start(url: str, folder: str = "one", **options) -> Copy:
        made.append(Copy(url, tmp_path / folder, **options))
        return made[-1]

    yield start
    for each in made:
        await each.keys.close()


async def test_a_copy_follows_what_others_change(server, copy):
    one, other = copy(server.url, "one"), copy(server.url, "other")
    await one.keys.join()
    await other.keys.join()
    assert (one.keys.up, one.changed) == (True, 0)
    new = await one.keys.create("bob", BOB)
    assert (one.changed, one.keys.stored.keys.keys()) == (1, {new.id})
    assert await other.keys.look() and other.changed == 1
    await other.keys.revoke(new.id)
    assert await one.keys.look()
    assert one.keys.stored == other.keys.stored
    assert await one.keys.look() and one.changed == 2  # nothing new, nothing told
    assert decode(one.keys.usable()) == Stored(one.keys.stored.version, {"bob": BOB}, {})


async def test_a_message_brings_the_change_and_without_one_the_next_look_does(server, copy, monkeypatch):
    one, other = copy(server.url, "one"), copy(server.url, "other")
    pool = PoolStore(server.url)
    monkeypatch.setattr("gateway.store.pool.shared_keys.LOOK_EVERY", 1e6)
    keeping = asyncio.create_task(other.keys.keep())
    following = asyncio.create_task(pool.follow(other.keys.poke, lambda data: None))
    try:
        async with asyncio.timeout(20):
            while not server.admin.pubsub_numsub(CHANNEL)[0][1]:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.005)
            new = await one.keys.create("bob", BOB)
            while new.id not in (await other.changes.get()).keys:
                pass
            for task in (following, keeping):
                task.cancel()
            await asyncio.gather(following, keeping, return_exceptions=True)
            monkeypatch.setattr("gateway.store.pool.shared_keys.LOOK_EVERY", 0.01)
            keeping = asyncio.create_task(other.keys.keep())
            await one.keys.revoke(new.id)
            while not (await other.changes.get()).keys[new.id].revoked_at:
                pass
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await pool.close()


async def test_a_gateway_starts_from_what_was_known_last_while_the_store_is_away(own_server, copy):
    server = own_server()
    first = copy(server.url)
    kept, gone = await first.keys.create("bob", BOB), await first.keys.create("bob", BOB, known=True)
    await first.keys.revoke(gone.id)
    server.kill()
    again = copy(server.url)
    with captured():
        await again.keys.join()
    assert not again.keys.up
    assert again.keys.stored == first.keys.stored
    caller = keyring_of((), decode(again.keys.usable())).find(bytes.fromhex(kept.digest), 0.0)
    assert caller == Caller(id="bob", team="blue", models=("claude-*",), limits=CallerLimits(concurrency=3))
    async with asyncio.timeout(30):
        with pytest.raises(StoreDown):
            await again.keys.create("bob", BOB, known=True)
        with pytest.raises(StoreDown):
            await again.keys.revoke(kept.id)
    path = again.folder / NAME
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert kept.digest in text and kept.secret not in text and kept.secret[3:20] not in text


async def test_a_store_that_was_flushed_has_all_back_with_the_next_look(server, copy):
    one, other = copy(server.url, "one"), copy(server.url, "other")
    kept, gone = await one.keys.create("bob", BOB), await one.keys.create("bob", BOB, known=True)
    assert await other.keys.look()  # and hears nothing of what follows
    await one.keys.revoke(gone.id)
    server.admin.flushall()
    assert await other.keys.look()
    late = await other.keys.create("eve", CallerRecord())
    assert await one.keys.look() and await other.keys.look()
    for each in (one, other):
        keys = each.keys.stored.keys
        assert keys.keys() == {kept.id, gone.id, late.id}
        assert keys[gone.id].revoked_at and not keys[kept.id].revoked_at
    changed = one.changed
    assert await one.keys.look() and one.changed == changed


@pytest.mark.parametrize("which", ["put", "follow", "delete", "finish", "rotate", "revoke", "create"])
async def test_a_change_right_after_a_flush_is_made_to_what_there_was(server, copy, which):
    one, other = copy(server.url, "one").keys, copy(server.url, "other").keys
    await one.put(TEAMS, "blue", TeamRecord(name="Blue"))
    await one.put(TEAMS, "gone", TeamRecord(deleted_at=5))
    first = await one.create("bob", BOB, label="ci")
    await other.join()
    server.admin.flushall()
    if which == "put":
        await other.put(TEAMS, "blue", TeamRecord(name="Azure", revision=2))
        assert other.stored.teams["blue"].name == "Azure"
    elif which == "follow":  # what was deleted is made anew
        await other.put(TEAMS, "gone", TeamRecord(name="Gone", revision=2))
        assert not other.stored.teams["gone"].deleted_at
    elif which == "delete":
        assert await other.finish("bob", GONE) == 1 and other.stored.present == {}
    elif which == "finish":
        assert await other.finish("bob") == 1
    elif which == "rotate":
        assert (await other.rotate(first.id, 0)).id in other.stored.keys
    elif which == "revoke":
        await other.revoke(first.id)
        assert other.stored.keys[first.id].revoked_at
    else:
        with pytest.raises(TooManyKeys):  # its label is taken
            await other.create("bob", BOB, known=True, label="ci")
    assert await one.look() and one.stored.same(other.stored)
    assert (set(one.stored.teams), set(one.stored.callers)) == ({"blue", "gone"}, {"bob"})


async def test_of_two_who_write_the_same_at_one_moment_one_is_told_that_the_other_was_quicker(server, copy):
    one, other = copy(server.url, "one").keys, copy(server.url, "other").keys
    for write in (
        lambda keys: keys.put(CALLERS, "bob", BOB),
        lambda keys: keys.put(TEAMS, "blue", TeamRecord(name="Blue")),
        lambda keys: keys.put(BOOSTS, "b1", BoostRecord(whose="blue", usd=5.0)),
        lambda keys: keys.put(TEAMS, "blue", TeamRecord(name="Azure", revision=2)),
        lambda keys: keys.finish("bob", GONE),
    ):
        outcomes = await asyncio.gather(*(write(keys) for keys in (one, other)), return_exceptions=True)
        assert sorted(type(each) is RecordExists for each in outcomes) == [False, True], outcomes


async def test_a_gateway_that_comes_back_with_an_old_snapshot_undoes_no_revocation(server, copy):
    one, other = copy(server.url, "one"), copy(server.url, "other")
    new = await one.keys.create("bob", BOB)
    await other.keys.join()
    await one.keys.revoke(new.id)
    again = copy(server.url, "other")
    assert not again.keys.stored.keys[new.id].revoked_at
    await again.keys.join()
    assert again.keys.stored.keys[new.id].revoked_at
    assert again.keys.stored == one.keys.stored


async def test_keys_that_ended_long_ago_are_forgotten_and_stay_so(server, copy):
    clock = [0.0]

    def now() -> float:
        return float(server.admin.time()[0]) + clock[0]

    one, other = copy(server.url, "one", now=now), copy(server.url, "other", now=now)
    old, new = await one.keys.create("bob", BOB), await one.keys.create("bob", BOB, known=True)
    await one.keys.revoke(old.id)
    assert await other.keys.look() and len(other.keys.stored.keys) == 2
    clock[0] = KEPT / 1000 + 5
    later = await one.keys.create("bob", BOB, known=True)
    assert one.keys.stored.keys.keys() == {new.id, later.id}
    assert await other.keys.look()
    assert other.keys.stored.keys.keys() == {new.id, later.id}
    assert {name.decode() for name in server.admin.hkeys("{pool}:keys")} == {new.id, later.id}


async def test_a_copy_outlives_whatever_goes_wrong_with_one_look(server, copy, monkeypatch):
    one = copy(server.url)
    real, failures = one.keys.look, [RuntimeError("once"), RuntimeError("twice")]
    done = asyncio.Event()

    async def look(wait: float = 5.0) -> bool:
        if failures:
            raise failures.pop()
        done.set()
        return await real(wait)

    monkeypatch.setattr(one.keys, "look", look)
    monkeypatch.setattr("gateway.store.pool.shared_keys.LOOK_EVERY", 0.001)
    with captured() as logs:
        keeping = asyncio.create_task(one.keys.keep())
        async with asyncio.timeout(20):
            await done.wait()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    assert [line["event"] for line in logs] == ["looking for keys failed"] * 2


# -- Callers from records ---------------------------------------------------------------------------------------------


def test_a_record_becomes_a_caller_as_a_file_would_define_it():
    limits = {"requests_per_minute": 5, "budget_usd": {"day": 2, "month": 9.5}}
    record = CallerRecord("blue", ("claude-*",), limits, {"cost_center": "7"}, created_at=1)
    assert caller_of("bob", record) == Caller(
        id="bob", team="blue", models=("claude-*",), metadata={"cost_center": "7"},
        limits=CallerLimits(requests_per_minute=5, budget_usd=Budget(day=2.0, month=9.5)),
    )  # fmt: skip


@pytest.mark.parametrize("limits", [{"concurrency": "3"}, {"budget_usd": 5}, {"watts": 5}])
def test_a_caller_whose_limits_are_not_understood_is_none(limits):
    assert caller_of("bob", CallerRecord(limits=limits)) is None


# -- The file ---------------------------------------------------------------------------------------------------------

STORED = Stored("3-a", {"bob": BOB}, {"key_1": KeyRecord("bob", "ab" * 32, "wxyz", 5, 9)})


def test_what_was_written_is_read(tmp_path: Path):
    KeyFile(str(tmp_path / "new/folder")).write(STORED)
    assert KeyFile(str(tmp_path / "new/folder")).read() == STORED
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == [NAME]


def test_nothing_is_written_before_there_is_something_or_twice(tmp_path: Path):
    file = KeyFile(str(tmp_path / "none"))
    with captured() as logs:
        assert file.read() is None
        file.write(Stored("1-x"))
    assert logs == [] and not (tmp_path / "none").exists()
    file.write(STORED)
    inode = file.path.stat().st_ino
    file.write(STORED)
    assert file.path.stat().st_ino == inode
    file.write(Stored("4-b"))  # nothing is left: that is worth knowing too
    assert KeyFile(str(tmp_path / "none")).read() == Stored("4-b")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"[]", b"\xff", b'{"keys":{"k":{"caller":"b","digest":"zz"}}}', b'{"callers":{"b":7}}']
)
def test_what_makes_no_sense_costs_one_warning_and_is_replaced(tmp_path: Path, data: bytes):
    (tmp_path / NAME).write_bytes(data)
    file = KeyFile(str(tmp_path))
    with captured() as logs:
        assert file.read() is None
    assert [line["event"] for line in logs] == ["key snapshot ignored"]
    file.write(STORED)
    assert KeyFile(str(tmp_path)).read() == STORED


def test_a_disk_that_fails_costs_one_warning(tmp_path: Path):
    blocker = tmp_path / "data"
    blocker.write_text("not a folder")
    file = KeyFile(str(blocker))
    with captured() as logs:
        assert file.read() is None
        file.write(STORED)
        file.write(msgspec.structs.replace(STORED, version="4-b"))
    assert [line["event"] for line in logs] == ["key snapshot ignored", "key snapshot not written"]
    blocker.unlink()
    file.write(STORED)
    assert KeyFile(str(blocker)).read() == STORED


async def test_a_caller_can_be_given_other_limits_unless_somebody_was_quicker(store):
    await make(store)
    wider = msgspec.structs.replace(BOB, limits={"concurrency": 9}, revision=2)
    before = (await table(store)).version
    await store.put(CALLERS, "bob", wider)
    after = await table(store)
    assert after.callers == {"bob": wider} and after.version != before
    await store.put(CALLERS, "bob", wider)  # the reply was lost
    assert (await table(store)).version == after.version
    with pytest.raises(RecordExists) as late:
        await store.put(CALLERS, "bob", msgspec.structs.replace(BOB, models=("*",), revision=2))
    assert late.value.record == wider
    with pytest.raises(UnknownRecord):
        await store.put(CALLERS, "carol", wider)
    assert (await table(store)).callers == {"bob": wider}


async def test_of_two_records_of_a_caller_the_later_one_is_given_back(store, server):
    later = msgspec.structs.replace(BOB, limits={"concurrency": 1}, revision=3)
    for first, second in ((BOB, later), (later, BOB)):
        server.admin.flushall()
        await store.offer(Stored("", {"bob": first}))
        await store.offer(Stored("", {"bob": second}))
        assert (await table(store)).callers == {"bob": later}


async def test_all_keys_of_a_caller_end_at_once_and_no_others(store):
    mine, spent, others = await make(store), await make(store), await make(store, "carol")
    await store.revoke(spent.id)
    before = (await table(store)).keys[spent.id]
    assert await store.finish("bob") == 1
    stored = await table(store)
    assert stored.keys[mine.id].revoked_at and stored.keys[spent.id] == before
    assert not stored.keys[others.id].revoked_at and stored.callers["bob"] == BOB
    with pytest.raises(RecordExists):
        await store.finish("carol", was=2)
    assert await store.finish("bob", was=1) == await store.finish("nobody") == 0
    assert (await table(store)).version == stored.version


GONE = CallerRecord(team="blue", revision=2, deleted_at=9)


async def test_a_caller_is_deleted_with_its_keys_and_made_anew_by_the_record_that_follows(store):
    old = await make(store)
    assert await store.finish("bob", GONE) == 1
    stored = await table(store)
    assert (stored.callers, stored.present) == ({"bob": GONE}, {}) and stored.keys[old.id].revoked_at
    assert await store.finish("bob", GONE) == 0  # the reply was lost
    for record, known in ((BOB, True), (BOB, False), (msgspec.structs.replace(BOB, revision=2), False)):
        with pytest.raises(RecordExists) as caught:
            await store.create(new_key(), "bob", record, known=known)
        assert caught.value.record == GONE
    again, new = msgspec.structs.replace(BOB, team="red", revision=3), new_key()
    await store.create(new, "bob", again)
    stored = await table(store)
    assert stored.present == {"bob": again} and not stored.keys[new.id].revoked_at and stored.keys[old.id].revoked_at


async def test_a_caller_is_not_deleted_where_somebody_was_quicker_or_there_is_none(store):
    await make(store)
    wider = msgspec.structs.replace(BOB, limits={"concurrency": 9}, revision=2)
    await store.put(CALLERS, "bob", wider)
    with pytest.raises(RecordExists) as late:
        await store.finish("bob", GONE)
    assert late.value.record == wider and (await table(store)).callers == {"bob": wider}
    with pytest.raises(UnknownRecord):
        await store.finish("carol", GONE)


async def test_a_gateway_with_an_old_snapshot_brings_no_deleted_caller_back(server, copy):
    one, other = copy(server.url, "one").keys, copy(server.url, "other").keys
    await one.create("bob", BOB)
    await other.look()
    await one.finish("bob", GONE)
    server.admin.flushall()
    await other.look()  # which gives back what it knows
    await one.look()
    await other.look()
    assert one.stored.present == other.stored.present == {}
    assert all(key.revoked_at for key in other.stored.keys.values()) and other.stored.keys


# -- Teams, boosts and labels -----------------------------------------------------------------------------------------


async def test_a_record_of_any_kind_follows_the_present_one_or_nothing(server, connect):
    store = connect(server.url)
    team = TeamRecord(name="Blue", limits={"concurrency": 3})
    await store.put(TEAMS, "blue", team)
    await store.put(TEAMS, "blue", team)  # the reply was lost
    boost = BoostRecord(whose="blue", usd=5.0, until=10**13, reason="launch", by="admin")
    await store.put(BOOSTS, "b1", boost)
    with pytest.raises(RecordExists) as late:
        await store.put(TEAMS, "blue", TeamRecord(name="Bleu"))
    assert late.value.record == team
    wider = msgspec.structs.replace(team, limits={}, revision=2)
    await store.put(TEAMS, "blue", wider)
    with pytest.raises(UnknownRecord):
        await store.put(TEAMS, "red", wider)
    found = await store.read()
    assert found is not None and (found.teams, found.boosts) == ({"blue": wider}, {"b1": boost})


async def test_a_store_that_lost_everything_gets_back_the_latest_and_no_more(server, connect):
    store = connect(server.url)
    old, new = TeamRecord(name="old"), TeamRecord(name="new", revision=2)
    gone = TeamRecord(deleted_at=5, revision=3)
    known = Stored(teams={"blue": old, "red": gone}, boosts={"b1": BoostRecord(whose="blue", usd=1.0)})
    await store.put(TEAMS, "blue", TeamRecord(name="other"))
    await store.put(TEAMS, "blue", new)
    await store.put(TEAMS, "red", TeamRecord())
    found = await store.read()
    assert found is not None
    lost = missing(found, known, 0)
    assert (set(lost.teams), set(lost.boosts)) == ({"red"}, {"b1"})
    await store.offer(lost)
    await store.offer(known)  # by one that does not know what is there
    again = await store.read()
    assert again is not None and again.teams == {"blue": new, "red": gone} and set(again.boosts) == {"b1"}


async def test_a_label_is_one_keys_at_a_time_and_keys_are_no_more_than_allowed(server, connect):
    store = connect(server.url)
    first, second = new_key(), new_key()
    await store.create(first, "bob", CallerRecord(), label="ci")
    with pytest.raises(TooManyKeys) as taken:
        await store.create(second, "bob", CallerRecord(), known=True, label="ci")
    assert taken.value.key == first.id
    await store.rotate(first.id, second, 0)
    found = await store.read()
    assert found is not None and found.keys[second.id].label == "ci"
    with pytest.raises(TooManyKeys) as full:
        await store.create(new_key(), "bob", CallerRecord(), known=True, most=1)
    assert full.value.key == ""
    await store.create(new_key(), "bob", CallerRecord(), known=True, most=2)


async def test_a_key_that_is_not_as_it_was_known_stays_as_it_is(server, connect):
    store = connect(server.url)
    first, second = new_key(), new_key()
    await store.create(first, "bob", CallerRecord())
    was = (await store.read() or Stored()).keys[first.id]
    await store.rotate(first.id, second, 60_000, was=was)
    for late in (store.rotate(first.id, new_key(), 0, was=was), store.revoke(first.id, was)):
        with pytest.raises(OtherKey):
            await late
    now = (await store.read() or Stored()).keys[first.id]
    assert now.revoked_at == 0 and now.replaced_by == second.id
    await store.revoke(first.id, now)
