"""The scripts, on a real server: what each may change, and what it must leave alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.crc import key_slot

from gateway.store import pool_store, scripts
from gateway.store.scripts import ADMIT, ANNOUNCE, PUBLISH, REBIND, RECALL, SETTLE, Script

KEY = "{t:team}:b:00ff:claude-x"
DAY = 86_400_000
NOW = 1_800_000_000_000  # ms


class Store:
    """The server, and the scripts by name; times are given, so that nothing depends on the clock."""

    def __init__(self, admin: redis.Redis) -> None:
        self.admin: Any = admin

    def run(self, script: Script, keys: list[str], *args: Any) -> Any:
        return self.admin.eval(script.text, len(keys), *keys, *args)

    def admit(self, workspace: str, *, key: str = KEY, now: int = NOW, remember: int = DAY) -> list[Any]:
        return list(self.run(ADMIT, [key], now, workspace, remember))

    def settle(
        self, workspace: str, generation: int, *, key: str = KEY, now: int = NOW, age: int = 0, ttl: int = 300_000,
        tokens: int = 0, remember: int = DAY,
    ) -> int:  # fmt: skip
        return int(self.run(SETTLE, [key], now, workspace, generation, age, ttl, tokens, remember))

    def rebind(self, generation: int, workspace: str, *, key: str = KEY, remember: int = DAY) -> list[Any]:
        return list(self.run(REBIND, [key], generation, workspace, remember))

    def record(self, key: str = KEY) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.admin.hgetall(key).items()}


@pytest.fixture
def store(server) -> Store:
    return Store(server.admin)


# Admission.


def test_the_first_request_creates_the_binding_it_proposes(store):
    assert store.admit("w1") == [1, b"w1", 1, 0, 0, NOW]
    assert store.record() == {"w": "w1", "g": "1", "u": "0", "n": "0"}


def test_every_later_request_reads_it_whatever_it_proposes(store):
    store.admit("w1")
    store.settle("w1", 1, tokens=500)
    assert store.admit("w2", now=NOW + 7) == [0, b"w1", 1, NOW + 300_000, 500, NOW + 7]
    assert store.record()["w"] == "w1"


def test_without_a_time_the_servers_own_clock_counts(store):
    def clock() -> int:
        seconds, micro = store.admin.time()
        return int(seconds * 1000 + micro // 1000)

    before = clock()
    *_, now = store.admit("w1", now=0)
    assert before <= now <= clock()
    before = clock()
    store.settle("w1", 1, now=0, age=1000, ttl=300_000)
    assert before + 299_000 <= int(store.record()["u"]) <= clock() + 299_000


def test_the_workspace_of_a_binding_can_be_read_without_creating_one(store):
    assert store.run(RECALL, [KEY]) is None
    assert store.admin.dbsize() == 0
    store.admit("w1")
    assert store.run(RECALL, [KEY]) == b"w1"


# Settlement.


def test_settling_makes_the_binding_warm_from_the_start_of_the_response(store):
    store.admit("w1")
    assert store.settle("w1", 1, now=NOW, age=4_000, ttl=3_600_000, tokens=1234) == 1
    assert store.record() == {"w": "w1", "g": "1", "u": str(NOW + 3_596_000), "n": "1234"}


def test_a_settlement_that_comes_late_never_shortens_the_warmth(store):
    store.admit("w1")
    store.settle("w1", 1, now=NOW, ttl=3_600_000)
    store.settle("w1", 1, now=NOW + 1000, ttl=300_000)
    assert store.record()["u"] == str(NOW + 3_600_000)


def test_tokens_that_are_not_known_yet_keep_those_that_are(store):
    store.admit("w1")
    store.settle("w1", 1, tokens=900)
    store.settle("w1", 1, tokens=0)
    assert store.record()["n"] == "900"
    store.settle("w1", 1, tokens=100)
    assert store.record()["n"] == "100"


@pytest.mark.parametrize("generation", [0, 1, 3])
def test_a_settlement_of_another_generation_changes_nothing(store, generation):
    store.admit("w1")
    store.rebind(1, "w2")
    before = store.record()
    assert store.settle("w1", generation, tokens=5, remember=2 * DAY) == 0
    assert store.record() == before
    assert store.admin.pttl(KEY) <= DAY


@pytest.mark.parametrize(("known", "created"), [(0, "1"), (1, "1"), (7, "7")])
def test_a_record_that_is_gone_is_created_from_what_the_process_knows(store, known, created):
    store.admit("w1")
    store.admin.flushall()
    assert store.settle("w9", known, tokens=12) == 1
    assert store.record() == {"w": "w9", "g": created, "u": str(NOW + 300_000), "n": "12"}
    assert 0 < store.admin.pttl(KEY) <= DAY


def test_large_numbers_stay_whole_numbers(store):
    store.admit("w1")
    store.settle("w1", 1, now=NOW * 2, ttl=3_600_000, tokens=10**15)
    assert store.record()["u"] == str(NOW * 2 + 3_600_000)
    assert store.admit("w1")[3:5] == [NOW * 2 + 3_600_000, 10**15]


# Moving.


def test_moving_raises_the_generation_and_starts_cold(store):
    store.admit("w1")
    store.settle("w1", 1, tokens=5)
    assert store.rebind(1, "w2") == [1, b"w2", 2]
    assert store.record() == {"w": "w2", "g": "2", "u": "0", "n": "0"}


def test_of_two_who_move_from_one_generation_the_first_wins_and_both_learn_it(store):
    store.admit("w1")
    assert store.rebind(1, "w2") == [1, b"w2", 2]
    assert store.rebind(1, "w3") == [0, b"w2", 2]
    assert store.record()["w"] == "w2"


@pytest.mark.parametrize("generation", [0, 1, 9])
def test_moving_a_record_that_is_gone_creates_it_with_a_later_generation(store, generation):
    assert store.rebind(generation, "w2") == [1, b"w2", generation + 1]
    assert store.record()["g"] == str(generation + 1)


def test_a_process_that_never_read_the_binding_cannot_move_it(store):
    store.admit("w1")
    assert store.rebind(0, "w2") == [0, b"w1", 1]


def test_every_write_sets_the_expiry_anew(store):
    store.admit("w1", remember=100_000)
    assert 0 < store.admin.pttl(KEY) <= 100_000
    store.settle("w1", 1, remember=10_000_000)
    assert store.admin.pttl(KEY) > 5_000_000
    store.rebind(1, "w2", remember=100_000_000)
    assert store.admin.pttl(KEY) > 50_000_000
    store.admit("w3", remember=1000)  # reading is not writing
    assert store.admin.pttl(KEY) > 50_000_000


# Any history.


@dataclass
class Bound:
    workspace: str
    generation: int
    warm: int = 0
    tokens: int = 0
    remember: int = 0


CONVERSATIONS = st.sampled_from(["{t}:b:1", "{t}:b:2"])
WORKSPACES = st.sampled_from(["w1", "w2", "w3"])
GENERATIONS = st.integers(0, 4)
REMEMBER = st.sampled_from([1_000_000, 100_000_000])
TIMES = st.integers(NOW, NOW + 1_000_000)


class Bindings(RuleBasedStateMachine):
    """The scripts beside a plain model of a binding."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.store.admin.flushall()
        self.model: dict[str, Bound] = {}
        self.seen: dict[str, int] = {}  # the greatest generation of each record

    @rule(key=CONVERSATIONS, workspace=WORKSPACES, now=TIMES, remember=REMEMBER)
    def admit(self, key, workspace, now, remember):
        bound = self.model.get(key)
        reply = self.store.admit(workspace, key=key, now=now, remember=remember)
        if bound is None:
            assert reply == [1, workspace.encode(), 1, 0, 0, now]
            self.model[key] = Bound(workspace, 1, remember=remember)
        else:
            assert reply == [0, bound.workspace.encode(), bound.generation, bound.warm, bound.tokens, now]

    @rule(
        key=CONVERSATIONS, workspace=WORKSPACES, generation=GENERATIONS, now=TIMES, age=st.integers(0, 600_000),
        ttl=st.sampled_from([300_000, 3_600_000]), tokens=st.integers(0, 200_000), remember=REMEMBER,
    )  # fmt: skip
    def settle(self, key, workspace, generation, now, age, ttl, tokens, remember):
        bound = self.model.get(key)
        renewed = self.store.settle(
            workspace, generation, key=key, now=now, age=age, ttl=ttl, tokens=tokens, remember=remember
        )
        assert renewed == (bound is None or bound.generation == generation)
        if bound is None:
            self.model[key] = Bound(workspace, max(1, generation), now - age + ttl, tokens, remember)
        elif renewed:
            bound.warm = max(bound.warm, now - age + ttl)
            bound.tokens = tokens or bound.tokens
            bound.remember = remember

    @rule(key=CONVERSATIONS, workspace=WORKSPACES, generation=GENERATIONS, remember=REMEMBER)
    def rebind(self, key, workspace, generation, remember):
        bound = self.model.get(key)
        reply = self.store.rebind(generation, workspace, key=key, remember=remember)
        if bound is None or bound.generation == generation:
            bound = self.model[key] = Bound(workspace, generation + 1, remember=remember)
            assert reply == [1, workspace.encode(), generation + 1]
        else:
            assert reply == [0, bound.workspace.encode(), bound.generation]

    @rule(key=CONVERSATIONS)
    def expire(self, key):
        self.store.admin.delete(key)
        self.model.pop(key, None)
        self.seen.pop(key, None)

    @rule()
    def flush(self):
        self.store.admin.flushall()
        self.model.clear()
        self.seen.clear()

    @invariant()
    def the_store_holds_what_the_model_does(self):
        for key, bound in self.model.items():
            assert self.store.record(key) == {
                "w": bound.workspace, "g": str(bound.generation), "u": str(bound.warm), "n": str(bound.tokens)
            }  # fmt: skip
            assert bound.remember / 2 < self.store.admin.pttl(key) <= bound.remember
        assert self.store.admin.dbsize() == len(self.model)

    @invariant()
    def generations_only_grow(self):
        for key, bound in self.model.items():
            assert bound.generation >= self.seen.get(key, 1)
            self.seen[key] = bound.generation


def test_any_history_of_admissions_settlements_and_moves_keeps_to_the_model(store):
    Bindings.store = store
    run_state_machine_as_test(
        Bindings,
        settings=settings(
            deadline=None, max_examples=40, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


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


@pytest.mark.parametrize(
    "script", [each for each in vars(scripts).values() if isinstance(each, Script)], ids=lambda s: s.name
)
def test_a_script_touches_the_keys_it_is_given_and_no_others(script):
    calls = re.findall(r"redis\.p?call\(\s*'(\w+)'\s*,?\s*([\w\[\]]*)", script.text)
    assert len(calls) == script.text.count("redis.call(") + script.text.count("redis.pcall(") > 0
    for command, first in calls:
        assert command == "TIME" or first.startswith("KEYS[") or (command, first) == ("PUBLISH", "ARGV[3]")


def test_all_keys_of_the_pool_are_in_one_slot():
    assert len({key_slot(key.encode()) for key in (*POOL, pool_store.CHANNEL)}) == 1


def test_scripts_are_known_by_the_digest_that_the_server_computes(server):
    for script in vars(scripts).values():
        if isinstance(script, Script):
            assert server.admin.script_load(script.text) in (script.sha, script.sha.encode())
            assert server.admin.script_exists(script.sha) == [True]
