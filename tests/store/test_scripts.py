"""The scripts, on a real server: what each may change, and what it must leave alone."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
import redis
from redis.crc import key_slot

from gateway.core.routing.binding import Move, Record, pack, unpack
from gateway.store import scripts
from gateway.store.bindings import STAYS_FLUSHED
from gateway.store.ledger.ledger import pack_renewal, to_bind, to_renew_binding
from gateway.store.pool import pool_store
from gateway.store.scripts import ANNOUNCE, FLUSH, INSPECT, PUBLISH, REBIND, RECALL, Script

KEY = "{t:team}:b:00ff"
MODEL = "claude-x"
IN_FLIGHT = 590_000
DAY = 86_400_000
NOW = 1_800_000_000_000  # ms


class Store:
    """The server, and the scripts by name; times are given, so that nothing depends on the clock."""

    def __init__(self, admin: redis.Redis) -> None:
        self.admin: Any = admin

    def run(self, script: Script, keys: list[str], *args: Any) -> Any:
        return self.admin.eval(script.text, len(keys), *keys, *args)

    def admit(
        self, proposed: Record, *, key: str = KEY, model: str = MODEL, now: int = NOW, remember: int = DAY,
        in_flight: int = 0,
    ) -> tuple[bool, Record, int]:  # fmt: skip
        """(created, the binding as it was found, now)."""
        script, args = to_bind((key, model, pack(proposed), proposed.generation, remember, in_flight), now)
        [(created, packed, at)] = self.run(script, [key], *args[2:])
        return bool(created), unpack(packed), at

    def settle(
        self, served: str, read: Record, *, model: str = MODEL, now: int = NOW, age: int = 0, ttl: int = 300_000,
        tokens: int = 0, size: int = 0, account_bound: int = 0, remember: int = DAY, before: bytes = b"",
    ) -> bool:  # fmt: skip
        """Whether the binding was renewed; `read` is the one that the request knew."""
        told = (served, read.generation, read.workspace, age, ttl, tokens, size, account_bound)
        script, args = to_renew_binding((KEY, model, remember, before, before, pack_renewal(told)), now)
        counted, (renewed,) = self.run(script, [KEY], *args[2:])
        assert counted == []
        return bool(renewed)

    def rebind(
        self, read: Record, workspace: str, *, reason: str = "limited", model: str = MODEL, now: int = NOW,
        voluntary: int = 0, remember: int = DAY,
    ) -> tuple[bool, Record]:  # fmt: skip
        args = (now, model, read.generation, read.workspace, workspace, reason, remember, voluntary, IN_FLIGHT)
        moved, packed = self.run(REBIND, [KEY], *args)
        return bool(moved), unpack(packed)

    def record(self, model: str = MODEL, key: str = KEY) -> Record:
        return unpack(self.admin.hget(key, model))

    def bind(self, workspace: str = "w1", **fields: Any) -> Record:
        """A binding as it is after some life."""
        created, record, _ = self.admit(Record(workspace, **fields))
        assert created
        return record

    @property
    def life(self) -> int:
        return int(self.admin.pttl(KEY))


@pytest.fixture
def store(server) -> Store:
    return Store(server.admin)


FULL = Record(
    "w1", 4, NOW + 1000, 900, 3600, 1, "w0", NOW + 500, 800, "w2", NOW + 700, NOW - 5,
    [Move(NOW - 9, "w0", "w1", "limited")], "group",
)  # fmt: skip


# Admission.


def test_the_first_request_creates_the_binding_it_proposes(store):
    proposed = Record("w1", group="g", in_flight_until=NOW + IN_FLIGHT)
    assert store.admit(proposed) == (True, proposed, NOW)
    assert store.record() == proposed
    assert store.admin.hlen(KEY) == 1


def test_every_later_request_reads_it_whatever_it_proposes(store):
    first = store.bind(group="g")
    store.settle("w1", first, tokens=500, size=2000)
    known = store.record()
    assert store.admit(Record("w2"), now=NOW + 7) == (False, known, NOW + 7)
    assert store.record() == known


def test_a_newer_generation_than_the_stored_one_comes_from_before_a_loss_and_wins(store):
    store.admit(Record("w9"))  # by a process that remembered nothing
    assert store.admit(FULL) == (True, FULL, NOW)
    assert store.record() == FULL


@pytest.mark.parametrize("generation", [1, 3, 4])
def test_what_is_not_newer_than_the_stored_generation_does_not_replace_it(store, generation):
    store.admit(FULL)
    assert store.admit(Record("w9", generation)) == (False, FULL, NOW)
    assert store.record() == FULL


def test_two_models_of_a_conversation_are_two_bindings_in_one_place(store):
    one, other = store.bind("w1", group="one"), Record("w2", 3)
    assert store.admit(other, model="claude-y") == (True, other, NOW)
    assert store.rebind(one, "w3")[0]
    assert store.settle("w2", other, model="claude-y", tokens=5, size=20)
    assert (store.record().workspace, store.record().generation, store.record().tokens) == ("w3", 2, 0)
    assert (store.record("claude-y").workspace, store.record("claude-y").generation) == ("w2", 3)
    assert store.record("claude-y").tokens == 5
    assert store.admin.dbsize() == 1


def clock(store: Store) -> int:
    seconds, micro = store.admin.time()
    return int(seconds * 1000 + micro // 1000)


def test_without_a_time_the_servers_own_clock_counts(store):
    before = clock(store)
    *_, now = store.admit(Record("w1"), now=0)
    assert before <= now <= clock(store)
    before = clock(store)
    store.settle("w1", Record("w1"), now=0, age=1000, ttl=300_000)
    assert before + 299_000 <= store.record().warm_until <= clock(store) + 299_000
    before = clock(store)
    store.rebind(Record("w1"), "w2", now=0, voluntary=1)
    after = store.record()
    assert before <= after.voluntary == after.moves[0].at == after.in_flight_until - IN_FLIGHT <= clock(store)


def test_a_binding_can_be_read_without_creating_one(store):
    assert store.run(RECALL, [KEY], MODEL) is None
    assert store.admin.dbsize() == 0
    store.admit(FULL)
    assert unpack(store.run(RECALL, [KEY], MODEL)) == FULL
    assert store.run(RECALL, [KEY], "claude-y") is None


# Settlement.


def test_settling_makes_the_binding_warm_from_the_start_of_the_response(store):
    known = store.bind(group="g")
    assert store.settle("w1", known, age=4_000, ttl=3_600_000, tokens=1234, size=5000)
    assert store.record() == Record("w1", 1, NOW + 3_596_000, 1234, 5000, group="g")


def test_a_settlement_that_comes_late_never_shortens_the_warmth(store):
    known = store.bind()
    store.settle("w1", known, ttl=3_600_000)
    store.settle("w1", known, now=NOW + 1000, ttl=300_000)
    assert store.record().warm_until == NOW + 3_600_000


def test_tokens_that_are_not_known_yet_keep_those_that_are(store):
    known = store.bind()
    store.settle("w1", known, tokens=900, size=3600)
    store.settle("w1", known, tokens=0, size=7)
    assert (store.record().tokens, store.record().size) == (900, 3600)
    store.settle("w1", known, tokens=100, size=400)
    assert (store.record().tokens, store.record().size) == (100, 400)


def test_a_history_that_is_bound_to_its_account_stays_so(store):
    known = store.bind()
    store.settle("w1", known, account_bound=1)
    assert store.record().account_bound == 1
    store.settle("w1", known, account_bound=0)
    assert store.record().account_bound == 1


def test_a_settlement_by_another_workspace_of_the_same_generation_is_a_detour(store):
    known = store.bind(warm_until=NOW + 50, tokens=900, size=3600)
    assert store.settle("w2", known, age=1000, tokens=950, size=4000, account_bound=1)
    assert store.record() == msgspec.structs.replace(known, detour="w2", detour_warm_until=NOW + 299_000)
    assert store.settle("w3", known, now=NOW + 5)
    assert (store.record().detour, store.record().detour_warm_until) == ("w3", NOW + 300_005)


@pytest.mark.parametrize("served", ["w1", "w2", "w3"])
@pytest.mark.parametrize("generation", [1, 2])
def test_a_settlement_of_an_older_generation_changes_nothing(store, served, generation):
    store.admit(Record("w2", 3, group="g"), remember=DAY)
    before = store.admin.hgetall(KEY)
    assert not store.settle(served, Record("w1", generation), tokens=5, remember=2 * DAY)
    assert store.admin.hgetall(KEY) == before
    assert store.life <= DAY


def test_a_settlement_of_no_generation_renews_its_own_workspace_alone(store):
    store.bind("w1", generation=3)
    unknown = Record("w1", 0)
    assert store.settle("w1", unknown, tokens=5, size=20)
    assert (store.record().generation, store.record().tokens) == (3, 5)
    before = store.admin.hgetall(KEY)
    assert not store.settle("w2", unknown, tokens=7)
    assert store.admin.hgetall(KEY) == before


@pytest.mark.parametrize(("known", "created"), [(0, 1), (1, 1), (7, 7)])
def test_a_record_that_is_gone_is_created_from_what_the_process_knows(store, known, created):
    assert store.settle("w9", Record("w9", known), tokens=12, size=50)
    assert store.record() == Record("w9", created, NOW + 300_000, 12, 50)
    assert 0 < store.life <= DAY


def test_a_record_that_is_gone_and_was_served_elsewhere_keeps_its_home(store):
    assert store.settle("w2", Record("w1", 3), tokens=12)
    assert store.record() == Record("w1", 3, detour="w2", detour_warm_until=NOW + 300_000)


def test_a_record_older_than_what_the_process_knows_is_replaced(store):
    store.bind("w9", group="other", tokens=3, warm_until=NOW + DAY)
    assert store.settle("w1", Record("w1", 5), tokens=12, size=50)
    assert store.record() == Record("w1", 5, NOW + 300_000, 12, 50)


def test_large_numbers_stay_whole_numbers(store):
    known = store.bind()
    store.settle("w1", known, now=NOW * 2, ttl=3_600_000, tokens=10**15, size=10**15 + 1)
    assert store.record() == Record("w1", 1, NOW * 2 + 3_600_000, 10**15, 10**15 + 1)
    store.rebind(known, "w2", now=NOW * 2)
    assert store.record().previous_tokens == 10**15


# In flight: from a cold conversation's first request on, until it is answered or ends without an answer.


@pytest.mark.parametrize("generation", [1, 2])
def test_a_cold_conversation_is_in_flight_from_the_request_that_finds_it_cold(store, generation):
    known = store.bind(generation=generation, warm_until=NOW, tokens=900, size=3600)
    first = store.admit(Record("w2", generation), in_flight=IN_FLIGHT)
    assert first == (False, known, NOW)  # as it was found, so that one request may still move it
    noted = msgspec.structs.replace(known, in_flight_until=NOW + IN_FLIGHT)
    assert store.admit(Record("w2", generation), now=NOW + 5, in_flight=IN_FLIGHT)[1] == store.record() == noted
    again = store.admit(Record("w2", generation), now=NOW + IN_FLIGHT, in_flight=IN_FLIGHT)[1]
    assert again == noted  # it never came
    assert store.record().in_flight_until == NOW + 2 * IN_FLIGHT


def test_a_warm_conversation_needs_no_such_note_nor_does_one_that_nobody_asked_about(store):
    known = store.bind(warm_until=NOW + 1, tokens=900)
    assert store.admit(known, in_flight=IN_FLIGHT)[1] == store.record() == known
    assert store.admit(known, now=NOW + 1)[1] == store.record() == known


@pytest.mark.parametrize("served", ["w1", "w2"])
def test_an_answer_from_anywhere_ends_it_and_so_does_one_that_will_not_come(store, served):
    known = store.bind(tokens=900)
    store.admit(known, in_flight=IN_FLIGHT)
    assert store.settle(served, known)
    assert store.record().in_flight_until == 0
    store.admit(known, now=NOW + 300_000, in_flight=IN_FLIGHT)
    before = store.record()
    assert store.settle("w1", known, age=1 << 52, ttl=0)
    assert store.record() == msgspec.structs.replace(before, in_flight_until=0)


def test_a_record_that_cannot_be_read_is_not_noted(store):
    store.admin.hset(KEY, MODEL, b"nonsense")
    script, args = to_bind((KEY, MODEL, pack(Record("w1")), 1, DAY, IN_FLIGHT), NOW)
    [(created, packed, _)] = store.run(script, [KEY], *args[2:])
    assert (created, packed) == (0, b"nonsense")
    assert store.admin.hget(KEY, MODEL) == b"nonsense"


# Moving.


def test_moving_raises_the_generation_and_starts_cold(store):
    known = store.bind(group="g", warm_until=NOW + 9, tokens=5, size=20, account_bound=1)
    moved, record = store.rebind(known, "w2", reason="out")
    assert moved
    assert record == store.record() == Record(
        "w2", 2, account_bound=1, previous="w1", previous_warm_until=NOW + 9, previous_tokens=5,
        moves=[Move(NOW, "w1", "w2", "out")], group="g", in_flight_until=NOW + IN_FLIGHT,
    )  # fmt: skip


def test_of_two_who_move_from_one_generation_the_first_wins_and_both_learn_it(store):
    known = store.bind()
    moved, first = store.rebind(known, "w2")
    assert moved
    assert store.rebind(known, "w3") == (False, first)
    assert store.record() == first


@pytest.mark.parametrize("generation", [0, 1, 9])
def test_moving_a_record_that_is_gone_creates_it_with_a_later_generation(store, generation):
    moved, record = store.rebind(Record("w1", generation), "w2", reason="out")
    assert moved
    assert record == store.record() == Record(
        "w2", generation + 1, previous="w1", moves=[Move(NOW, "w1", "w2", "out")], in_flight_until=NOW + IN_FLIGHT,
    )  # fmt: skip


def test_moving_from_a_newer_generation_than_the_stored_one_forgets_that(store):
    store.bind("w9", tokens=7, warm_until=NOW + DAY, group="other")
    moved, record = store.rebind(Record("w1", 5), "w2")
    assert moved
    assert (record.workspace, record.generation, record.previous, record.previous_tokens) == ("w2", 6, "w1", 0)


def test_a_process_that_never_read_the_binding_cannot_move_it(store):
    known = store.bind()
    assert store.rebind(Record("w1", 0), "w2") == (False, known)


def test_a_move_back_finds_the_cache_that_is_still_warm_there(store):
    known = store.bind(tokens=1000, size=4000, warm_until=NOW + 10_000)
    _, away = store.rebind(known, "w2")
    store.settle("w2", away, tokens=1100, size=4400)
    _, back = store.rebind(away, "w1", now=NOW + 9_999, reason="home", voluntary=1)
    assert (back.workspace, back.warm_until, back.tokens, back.size) == ("w1", NOW + 10_000, 1000, 4000)
    assert (back.previous, back.previous_warm_until, back.previous_tokens) == ("w2", NOW + 300_000, 1100)


def test_a_move_back_to_a_cache_that_has_expired_starts_cold(store):
    known = store.bind(tokens=1000, size=4000, warm_until=NOW + 10_000)
    _, away = store.rebind(known, "w2")
    _, back = store.rebind(away, "w1", now=NOW + 10_000)
    assert (back.warm_until, back.tokens, back.size) == (0, 0, 0)


def test_a_move_to_where_a_detour_went_finds_that_cache(store):
    known = store.bind(tokens=1000, size=4000, warm_until=NOW + 10_000)
    store.settle("w2", known)
    _, moved = store.rebind(known, "w2", now=NOW + 5)
    assert (moved.workspace, moved.warm_until, moved.tokens, moved.size) == ("w2", NOW + 300_000, 1000, 4000)
    assert (moved.detour, moved.detour_warm_until) == ("", 0)
    assert (moved.previous, moved.previous_warm_until, moved.previous_tokens) == ("w1", NOW + 10_000, 1000)


def test_a_move_elsewhere_leaves_a_detour_as_it_was(store):
    known = store.bind(tokens=1000)
    store.settle("w2", known)
    _, moved = store.rebind(known, "w3")
    assert (moved.tokens, moved.detour, moved.detour_warm_until) == (0, "w2", NOW + 300_000)


def test_only_a_move_without_need_is_a_voluntary_one(store):
    known = store.bind(voluntary=7)
    _, forced = store.rebind(known, "w2")
    assert forced.voluntary == 7
    _, free = store.rebind(forced, "w1", now=NOW + 5, voluntary=1)
    assert free.voluntary == NOW + 5


def test_the_last_five_moves_are_kept(store):
    known = store.bind("w0")
    for number in range(1, 8):
        _, known = store.rebind(known, f"w{number}", now=NOW + number, reason=f"r{number}")
        assert known.generation == number + 1
    assert known.moves == [Move(NOW + n, f"w{n - 1}", f"w{n}", f"r{n}") for n in range(3, 8)]


# What a binding must survive.


def test_no_script_loses_or_changes_a_field_that_it_has_no_business_with(store):
    store.admit(FULL)
    assert store.settle("w1", FULL, ttl=0)
    assert store.record() == FULL
    moved, record = store.rebind(FULL, "w3", reason="out")
    assert moved
    assert record == msgspec.structs.replace(
        FULL, workspace="w3", generation=5, warm_until=0, tokens=0, size=0, previous="w1",
        previous_warm_until=NOW + 1000, previous_tokens=900, in_flight_until=NOW + IN_FLIGHT,
        moves=[*FULL.moves, Move(NOW, "w1", "w3", "out")],
    )  # fmt: skip


def test_an_empty_list_of_moves_stays_a_list(store):
    known = store.bind()
    for _ in range(3):
        store.settle("w1", known, tokens=1)
        store.settle("w2", known)
    assert store.record().moves == []
    assert msgspec.msgpack.decode(store.admin.hget(KEY, MODEL))[12] == []


@pytest.mark.parametrize(
    "name", ["w", "x" * 31, "x" * 32, "x" * 255, "x" * 300, "arbeit-\u00e4\u00df-\U0001f600", "1", "1e3"]
)
def test_names_of_any_length_and_script_come_back_as_they_were(store, name):
    known = store.bind(name, group=name)
    store.settle(name + "2", known)
    assert store.record() == Record(name, 1, group=name, detour=name + "2", detour_warm_until=NOW + 300_000)
    _, moved = store.rebind(known, name + "3", reason=name)
    assert (moved.previous, moved.moves, moved.group) == (name, [Move(NOW, name, name + "3", name)], name)


def test_fields_that_a_newer_version_appends_are_kept(store):
    newer = [*msgspec.to_builtins(FULL), "new", {"a": [1]}, -7, 1.5]
    packed = msgspec.msgpack.encode(newer)
    script, args = to_bind((KEY, MODEL, packed, 4, DAY, 0), NOW)
    store.run(script, [KEY], *args[2:])
    store.settle("w1", FULL, tokens=1000, size=4000)
    store.settle("w5", FULL)
    store.rebind(FULL, "w3")
    stored = msgspec.msgpack.decode(store.admin.hget(KEY, MODEL))
    assert stored[15:] == newer[15:]
    assert stored[:2] == ["w3", 5]
    assert store.record().group == "group"


# How long it is remembered.


def test_a_write_sets_the_expiry_anew(store):
    known = store.bind()
    store.admin.pexpire(KEY, 100_000)
    store.settle("w1", known, remember=10_000_000)
    assert store.life > 9_000_000
    store.rebind(known, "w2", remember=100_000_000)
    assert store.life > 90_000_000
    store.admit(Record("w9", 9), remember=200_000_000)
    assert store.life > 190_000_000


def test_no_write_shortens_a_life(store):
    known = store.bind()
    store.settle("w1", known, account_bound=1, remember=30 * DAY)
    store.settle("w1", known, remember=DAY)
    store.settle("w2", known, remember=DAY)
    _, moved = store.rebind(known, "w2", remember=DAY)
    store.admit(Record("w1", 9), remember=1000)
    store.admit(Record("w1"), model="claude-y", remember=1000)
    assert moved.generation == 2
    assert 29 * DAY < store.life <= 30 * DAY


def test_reading_is_not_writing(store):
    known = store.bind()
    store.admin.pexpire(KEY, 100_000)
    store.admit(Record("w3"), remember=DAY)
    store.run(RECALL, [KEY], MODEL)
    store.settle("w1", Record("w1", 0), remember=50_000)
    assert store.life <= 100_000
    store.rebind(known, "w2", remember=1000)
    moved, _ = store.rebind(known, "w3", remember=DAY)
    assert not moved
    assert not store.settle("w1", known, remember=DAY)
    assert 50_000 < store.life <= 100_000


# What operators see and flush.


def test_everything_kept_of_a_conversation_can_be_seen_without_changing_it(store):
    assert store.run(INSPECT, [KEY], NOW) == [[], -2, NOW]
    store.admit(FULL)
    store.admit(Record("w2"), model="claude-y", remember=1000)
    flat, left, now = store.run(INSPECT, [KEY], NOW)
    records = {flat[i].decode(): unpack(flat[i + 1]) for i in range(0, len(flat), 2)}
    assert records == {MODEL: FULL, "claude-y": Record("w2")}
    assert now == NOW
    assert DAY - 60_000 < left <= DAY
    before = clock(store)
    assert before <= store.run(INSPECT, [KEY], 0)[2] <= clock(store)


def flush(store, *keys, workspace=""):
    return store.run(FLUSH, keys, workspace, STAYS_FLUSHED)


def test_a_conversation_is_flushed_with_all_its_models(store):
    store.admit(Record("w1"))
    store.admit(Record("w2"), model="claude-y")
    store.admit(Record("w1"), key="{t:team}:b:01")
    assert flush(store, KEY) == 2
    assert flush(store, KEY) == 0
    assert store.admin.hvals(KEY) == [b"", b""]
    assert 0 < store.admin.pttl(KEY) <= STAYS_FLUSHED
    assert store.record(key="{t:team}:b:01") == Record("w1")


def test_of_many_conversations_those_of_one_workspace_are_flushed(store):
    keys = [f"{{t:team}}:b:0{number}" for number in range(4)]
    for number, key in enumerate(keys[:3]):
        store.admit(Record(f"w{number % 2}"), key=key)
    store.admit(Record("w1"), key=keys[0], model="claude-y")
    store.admin.hset(keys[2], "claude-z", "no record")
    assert flush(store, *keys, workspace="w0") == 2
    assert flush(store, *keys, workspace="w0") == 0
    assert store.record("claude-y", keys[0]).workspace == "w1" == store.record(MODEL, keys[1]).workspace
    assert store.admin.hget(keys[0], MODEL) == b"" == store.admin.hget(keys[2], MODEL)
    assert store.admin.hget(keys[2], "claude-z") == b"no record"
    assert store.admin.pttl(keys[0]) > STAYS_FLUSHED  # as long as what is left
    assert not store.admin.exists(keys[3])
    assert flush(store, *keys, workspace="unknown") == 0


@pytest.mark.parametrize("workspace", ["", "w1"])
@pytest.mark.parametrize("served", ["w1", "w2"])
@pytest.mark.parametrize("known", [True, False])
def test_what_is_told_after_a_flush_does_not_bring_the_binding_back(store, workspace, served, known):
    """Of a request that ended before, perhaps in a process that has not asked the store."""
    bound = store.bind("w1")
    before = pack(bound) if known else b""
    flush(store, KEY, workspace=workspace)
    assert not store.settle(served, bound, before=before)
    assert store.admin.hvals(KEY) == [b""]
    assert store.admit(Record("w3")) == (True, Record("w3"), NOW)
    assert store.settle("w3", Record("w3"))
    assert store.life > STAYS_FLUSHED


# Announcements.

POOL = list(pool_store._KEYS)


def announce(
    store: Store, process: str, said: str, *, now: int = NOW, dead_after: int = 10_000, schema: int = 1
) -> Any:
    return store.run(ANNOUNCE, POOL, now, process, said, dead_after, schema)


def test_a_heartbeat_tells_what_all_live_processes_say(store):
    assert announce(store, "p1", "one") == [1, None, [b"one"], [], NOW, 0]
    store.admin.set("{pool}:document", "the document")
    store.admin.hset("{pool}:overrides", "a", "{}")
    schema, document, said, overrides, now, known = announce(store, "p2", "two", now=NOW + 1)
    assert (now, known) == (NOW + 1, 0)
    assert announce(store, "p2", "two")[5] == 1
    assert (schema, document, sorted(said), overrides) == (1, b"the document", [b"one", b"two"], [b"a", b"{}"])


def test_a_process_says_something_else_by_saying_it(store):
    announce(store, "p1", "old")
    assert announce(store, "p1", "new")[2] == [b"new"]


def test_a_silent_process_is_forgotten_and_one_that_speaks_is_not(store):
    announce(store, "p1", "one", now=NOW)
    announce(store, "p2", "two", now=NOW + 5_000)
    assert sorted(announce(store, "p2", "two", now=NOW + 9_999)[2]) == [b"one", b"two"]
    assert announce(store, "p2", "two", now=NOW + 10_000)[2] == [b"two"]
    assert store.admin.hkeys("{pool}:processes") == [b"p2"] == store.admin.zrange("{pool}:heartbeats", 0, -1)
    assert sorted(announce(store, "p1", "one", now=NOW + 10_001)[2]) == [b"one", b"two"]


def test_a_process_that_leaves_is_gone_at_once(store):
    announce(store, "p1", "one")
    announce(store, "p2", "two")
    assert announce(store, "p1", "")[2] == [b"two"]
    assert store.admin.zrange("{pool}:heartbeats", 0, -1) == [b"p2"]
    assert announce(store, "p3", "")[2] == [b"two"]  # leaving without having come is nothing


def test_what_a_newer_version_owns_is_left_alone(store):
    announce(store, "p9", "new", schema=2)
    before = {key: store.admin.dump(key) for key in store.admin.scan_iter()}
    assert announce(store, "p1", "old", schema=1) == [2, None, [], [], NOW, 0]
    assert {key: store.admin.dump(key) for key in store.admin.scan_iter()} == before


def test_a_newer_version_takes_over_what_an_older_one_wrote(store):
    announce(store, "p1", "old", schema=1)
    assert announce(store, "p9", "new", schema=2)[0] == 2
    assert store.admin.get("{pool}:schema") == b"2"


def test_without_a_time_a_heartbeat_is_dated_by_the_server(store):
    announce(store, "p1", "one", now=0)
    seconds, _ = store.admin.time()
    assert abs(store.admin.zscore("{pool}:heartbeats", "p1") / 1000 - seconds) < 60


# Publishing.


def publish(store: Store, read: bytes, new: bytes) -> int:
    return int(store.run(PUBLISH, ["{pool}:document", "{pool}:overrides"], read, new, pool_store.CHANNEL))


def test_a_document_is_replaced_only_by_those_who_read_it(store):
    assert publish(store, b"", b"first") == 1
    assert publish(store, b"", b"other first") == 0
    assert publish(store, b"first", b"second") == 1
    assert publish(store, b"first", b"third") == 0
    assert store.admin.get("{pool}:document") == b"second"


def test_only_a_replacement_is_told(store):
    with store.admin.pubsub(ignore_subscribe_messages=True) as listening:
        listening.subscribe(pool_store.CHANNEL)
        listening.get_message(timeout=10)
        publish(store, b"", b"first")
        publish(store, b"", b"again")
        publish(store, b"first", b"second")
        store.admin.publish(pool_store.CHANNEL, "end")
        told = []
        while b"end" not in told:
            message = listening.get_message(timeout=10)
            if message is not None:
                told.append(message["data"])
    assert told == [b"document", b"document", b"end"]


# Slots.


OTHERS = (("PUBLISH", "ARGV[3]"), ("MGET", "unpack"))  # a channel, and several keys


@pytest.mark.parametrize(
    "script", [each for each in vars(scripts).values() if isinstance(each, Script)], ids=lambda s: s.name
)
def test_a_script_touches_the_keys_it_is_given_and_no_others(script):
    calls = re.findall(r"redis\.p?call\(\s*'(\w+)'\s*,?\s*([\w\[\]]*)", script.text)
    assert len(calls) == script.text.count("redis.call(") + script.text.count("redis.pcall(") > 0
    for command, first in calls:
        assert command == "TIME" or first.startswith(("KEYS[", "key")) or (command, first) in OTHERS
    if not any(first == "key" for _, first in calls):
        return
    named = re.findall(r"local key = (\w+)|for _, key in ipairs\((\w+)\)", script.text)
    origins = {origin for pair in named for origin in pair if origin}
    for function in re.findall(r"local function (\w+)\(key\b", script.text):
        origins.update(re.findall(rf"(?<!function )\b{function}\((\w+)", script.text))
    assert origins - {"key"} == {"KEYS"}  # of which some are handed on


def test_all_keys_of_the_pool_are_in_one_slot():
    assert len({key_slot(key.encode()) for key in (*POOL, pool_store.CHANNEL)}) == 1


def test_scripts_are_known_by_the_digest_that_the_server_computes(server):
    for script in vars(scripts).values():
        if isinstance(script, Script):
            assert server.admin.script_load(script.text) in (script.sha, script.sha.encode())
            assert server.admin.script_exists(script.sha) == [True]
