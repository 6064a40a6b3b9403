"""Any history of bindings: the scripts on a real server beside the dictionary that `gateway replay` plays them with.

Processes admit, settle and move as they do in production: with what they remember, or with what some request read long
ago. Time passes, the store is lost, and is told again.
"""

from __future__ import annotations

from typing import Any

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gateway.core.routing.binding import Move, Record, moved, pack, unpack
from gateway.lab.replay import production
from gateway.store.ledger.ledger import pack_renewal, settled_of, to_bind, to_renew_binding
from gateway.store.scripts import REBIND, RECALL, Script

BEGIN = 1_800_000_000_000  # ms
MINUTE = 60_000
DAY = 86_400_000
SHORT = 650_000  # ms that a binding is remembered before its first answer
SLACK = 60_000  # ms that the test itself may take between two looks at an expiry

Place = tuple[str, str]  # conversation, model

PLACES = st.sampled_from([*[("{t:a}:b:1", "m1")] * 4, ("{t:a}:b:1", "m2"), ("{t:a}:b:2", "m1")])  # mostly one
PROCESSES = st.integers(0, 2)
WORKSPACES = st.sampled_from(["w1", "w2", "w3"])
LIVES = st.sampled_from([DAY, 30 * DAY])
AGO = st.sampled_from([0, 0, 0, 1, 2, 4, 8])  # how many others have read since


def renew(admin: Any, key: str, renewal: tuple[Any, ...], now: int) -> bool:
    """Whether the binding was renewed."""
    model, *told, lifetime = renewal
    script, args = to_renew_binding((key, model, lifetime, b"", b"", pack_renewal(told)), now)
    _, (renewed,) = settled_of(admin.eval(script.text, *args))
    return bool(renewed)


class Twin(production.Store):
    """The dictionary, and when its records expire."""

    def __init__(self) -> None:
        super().__init__()
        self.lives: dict[str, int] = {}  # by conversation, in ms from now

    def get(self, place: Place) -> Record | None:
        return self._records.get(_name(place))

    def places(self) -> set[Place]:
        return {(key.decode().partition("|")[0], key.decode().partition("|")[2]) for key in self._records}

    def written(self, place: Place, life: int) -> None:
        self.lives[place[0]] = max(self.lives.get(place[0], 0), life)

    def expire(self, conversation: str) -> None:
        del self.lives[conversation]
        for place in self.places():
            if place[0] == conversation:
                del self._records[_name(place)]


def _name(place: Place) -> bytes:
    return "|".join(place).encode()


def _copy(record: Record) -> Record:
    return unpack(pack(record))


class Bindings(RuleBasedStateMachine):
    """Two conversations, two models, three processes."""

    admin: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.admin.flushall()
        self.now = BEGIN
        self.twin = Twin()
        self.memories: list[dict[Place, Record]] = [{}, {}, {}]
        self.read: dict[Place, list[Record]] = {}  # whatever some request knew when it began
        self.greatest: dict[Place, int] = {}  # generation of each record that lives

    def run_script(self, script: Script, place: Place, *args: Any) -> Any:
        return self.admin.eval(script.text, 1, place[0], *args)

    def stored(self, place: Place) -> bytes | None:
        found: Any = self.run_script(RECALL, place, place[1])
        return found

    def remember(self, process: int, place: Place, record: Record) -> None:
        self.memories[process][place] = _copy(record)
        self.read.setdefault(place, []).append(_copy(record))

    def known(self, place: Place, ago: int) -> Record | None:
        """What a request read that began so many requests ago."""
        read = self.read.get(place)
        return read[-1 - ago % len(read)] if read else None

    # What processes do.

    def admit_with(self, place: Place, proposed: Record, life: int, in_flight: int = 0) -> Record:
        """By script and by dictionary; the binding as it then stands."""
        before = self.stored(place)
        script, args = to_bind((*place, pack(proposed), proposed.generation, life, in_flight), self.now)
        admin: Any = self.admin
        [(created, packed, now)] = admin.eval(script.text, *args)
        expected_created, expected = self.twin.admit(_name(place), proposed, self.now, in_flight)
        assert (bool(created), unpack(packed), now) == (expected_created, expected, self.now)
        if created:
            self.twin.written(place, life)
        else:
            assert before == packed
            after = self.stored(place)
            assert after is not None and (after == before or (in_flight and expected.is_cold(self.now)))
        return expected

    @rule(process=PROCESSES, place=PLACES, workspace=WORKSPACES)
    def admit(self, process, place, workspace):
        """A request begins: its process proposes what it remembers, else what the ranking says."""
        proposed = self.memories[process].get(place)
        if proposed is None:
            proposed = Record(workspace, group=f"group of {place[0]}", in_flight_until=self.now + production.IN_FLIGHT)
        self.remember(process, place, self.admit_with(place, proposed, SHORT, production.IN_FLIGHT))

    @rule(process=PROCESSES)
    def reseed(self, process):
        """A process tells the store what it remembers of conversations that were answered."""
        for place, record in self.memories[process].items():
            if record.tokens:
                self.admit_with(place, record, DAY)

    @rule(
        place=PLACES, ago=AGO, process=PROCESSES, served=WORKSPACES, at_home=st.booleans(), life=LIVES,
        age=st.sampled_from([0, 4_000, 10 * MINUTE]), ttl=st.sampled_from([5 * MINUTE, 60 * MINUTE]),
        tokens=st.sampled_from([0, 100, 150_000]),
    )  # fmt: skip
    def settle(self, place, ago, process, served, at_home, life, age, ttl, tokens):
        """A request ends that knew the binding of some time."""
        known = self.known(place, ago)
        if known is None:
            return
        served = known.workspace if at_home else served
        before, twin_before = self.stored(place), self.twin.get(place)
        stale = twin_before is not None and twin_before.generation > known.generation
        renewal = (
            place[1], served, known.generation, known.workspace, age, ttl, tokens, tokens * production._BYTES_A_TOKEN,
            0, life,
        )  # fmt: skip
        renewed = renew(self.admin, place[0], renewal, self.now)
        self.twin.settle(_name(place), known, served, self.now - age + ttl, tokens)
        assert renewed == (not stale)
        if stale:
            assert self.stored(place) == before
        else:
            self.twin.written(place, life)
        mine = self.memories[process].get(place)
        if mine is not None and mine.generation == known.generation:
            production.renew(mine, served, self.now - age + ttl, tokens)

    @rule(
        place=PLACES,
        ago=AGO,
        process=PROCESSES,
        workspace=WORKSPACES,
        reason=st.sampled_from(["limited", "out", "home"]),
    )
    def rebind(self, place, ago, process, workspace, reason):
        """A request that knew the binding of some time moves its conversation."""
        known = self.known(place, ago)
        if known is None or known.workspace == workspace:
            return
        before, twin_before = self.stored(place), self.twin.get(place)
        moved, packed = self.run_script(
            REBIND, place, self.now, place[1], known.generation, known.workspace, workspace, reason, DAY,
            int(reason == "home"), production.IN_FLIGHT,
        )  # fmt: skip
        expected_moved, expected = self.twin.rebind(_name(place), known, workspace, reason, self.now)
        assert (bool(moved), unpack(packed)) == (expected_moved, expected)
        if moved:
            self.twin.written(place, DAY)
            assert expected.generation == known.generation + 1
            assert (expected.workspace, expected.moves[-1].target) == (workspace, workspace)
            assert 1 <= len(expected.moves) <= 5
        else:
            assert twin_before is not None and twin_before.generation >= known.generation
            if twin_before.generation == known.generation:  # of another life of the store
                assert twin_before.workspace != known.workspace
            assert self.stored(place) == before
        self.remember(process, place, expected)

    @rule(process=PROCESSES, place=PLACES, workspace=WORKSPACES)
    def move_without_the_store(self, process, place, workspace):
        """A process to which the store is away goes on alone."""
        record = self.memories[process].get(place)
        if record is not None and record.workspace != workspace:
            self.remember(process, place, moved(record, workspace, "out", self.now, production.IN_FLIGHT))

    # What happens to all of them.

    @rule(process=PROCESSES)
    def restart(self, process):
        self.memories[process].clear()

    @rule()
    def flush(self):
        self.admin.flushall()
        self.twin.flush()
        self.twin.lives.clear()

    @rule(step=st.sampled_from([1, 1_000, MINUTE, MINUTE, 5 * MINUTE, 5 * MINUTE, 60 * MINUTE, DAY]))
    def time_passes(self, step):
        """The server's clock cannot be set, so lives are shortened."""
        self.now += step
        for conversation, life in list(self.twin.lives.items()):
            if life > step:
                self.twin.lives[conversation] = life - step
                self.admin.pexpire(conversation, life - step)
            else:
                self.twin.expire(conversation)
                self.admin.delete(conversation)

    # What always holds.

    @invariant()
    def the_store_holds_what_the_dictionary_does_and_one_binding_for_each_conversation_and_model(self):
        found = {}
        keys: Any = self.admin.keys()
        for key in keys:
            fields: Any = self.admin.hgetall(key)
            for model, packed in fields.items():
                found[key.decode(), model.decode()] = unpack(packed)
        assert found == {place: self.twin.get(place) for place in self.twin.places()}

    @invariant()
    def generations_only_grow_while_a_record_lives(self):
        for place in list(self.greatest):
            if self.twin.get(place) is None:
                del self.greatest[place]
        for place in self.twin.places():
            packed = self.stored(place)
            assert packed is not None
            generation = unpack(packed).generation
            assert generation >= self.greatest.get(place, 1)
            self.greatest[place] = generation

    @invariant()
    def a_binding_is_remembered_as_long_as_the_longest_writer_asked_for(self):
        for conversation, life in self.twin.lives.items():
            left: Any = self.admin.pttl(conversation)
            assert life - SLACK < left <= life


def test_any_history_of_admissions_settlements_and_moves_is_as_the_replay_plays_it(server):
    Bindings.admin = server.admin
    run_state_machine_as_test(
        Bindings,
        settings=settings(
            deadline=None,
            max_examples=120,
            stateful_step_count=40,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


# One step from any state, which histories reach seldom.

TIMES = st.sampled_from([0, BEGIN - MINUTE, BEGIN, BEGIN + 1, BEGIN + MINUTE])
TOKENS = st.sampled_from([0, 100, 150_000])
RECORDS = st.builds(
    Record, WORKSPACES, st.integers(1, 3), TIMES, TOKENS, TOKENS, st.integers(0, 1), WORKSPACES | st.just(""), TIMES,
    TOKENS, WORKSPACES | st.just(""), TIMES, TIMES,
    st.lists(st.builds(Move, TIMES, WORKSPACES, WORKSPACES, st.just("out")), max_size=5), st.sampled_from(["", "g"]),
    TIMES,
)  # fmt: skip
STEPS = settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLACE: Place = ("{t:a}:b:1", "m1")


def beginning_with(admin: Any, stored: Record | None) -> Twin:
    """Both stores hold this binding."""
    admin.delete(PLACE[0])
    twin = Twin()
    if stored is not None:
        admin.hset(*PLACE, pack(stored))
        twin.admit(_name(PLACE), stored, BEGIN, 0)
    return twin


def both(admin: Any, twin: Twin) -> tuple[Record | None, Record | None]:
    packed = admin.hget(*PLACE)
    return None if packed is None else unpack(packed), twin.get(PLACE)


@STEPS
@given(stored=st.none() | RECORDS, proposed=RECORDS, in_flight=st.sampled_from([0, production.IN_FLIGHT]))
def test_any_proposal_to_any_binding_is_admitted_as_the_replay_does(server, stored, proposed, in_flight):
    twin = beginning_with(server.admin, stored)
    script, args = to_bind((*PLACE, pack(proposed), proposed.generation, DAY, in_flight), BEGIN)
    [(created, packed, _)] = server.admin.eval(script.text, *args)
    assert (bool(created), unpack(packed)) == twin.admit(_name(PLACE), proposed, BEGIN, in_flight)
    binding, expected = both(server.admin, twin)
    assert binding == expected
    assert binding is not None and binding.generation >= max(proposed.generation, stored.generation if stored else 0)


@STEPS
@given(
    stored=st.none() | RECORDS, read=RECORDS, served=WORKSPACES, age=st.sampled_from([0, MINUTE, 1 << 52]),
    ttl=st.sampled_from([MINUTE, 5 * MINUTE]), tokens=TOKENS,
)  # fmt: skip
def test_any_settlement_of_any_binding_is_as_in_the_replay(server, stored, read, served, age, ttl, tokens):
    twin = beginning_with(server.admin, stored)
    size = tokens * production._BYTES_A_TOKEN
    renewal = (PLACE[1], served, read.generation, read.workspace, age, ttl, tokens, size, 0, DAY)
    renewed = renew(server.admin, PLACE[0], renewal, BEGIN)
    twin.settle(_name(PLACE), read, served, BEGIN - age + ttl, tokens)
    binding, expected = both(server.admin, twin)
    assert binding == expected
    stale = stored is not None and stored.generation > read.generation
    assert renewed == (not stale)
    if stale:
        assert binding == stored


@STEPS
@given(
    stored=st.none() | RECORDS, read=RECORDS, target=WORKSPACES, reason=st.sampled_from(["out", "home"]),
)  # fmt: skip
def test_any_move_of_any_binding_is_as_in_the_replay(server, stored, read, target, reason):
    twin = beginning_with(server.admin, stored)
    moved, packed = server.admin.eval(
        REBIND.text, 1, PLACE[0], BEGIN, PLACE[1], read.generation, read.workspace, target, reason, DAY,
        int(reason == "home"), production.IN_FLIGHT,
    )  # fmt: skip
    assert (bool(moved), unpack(packed)) == twin.rebind(_name(PLACE), read, target, reason, BEGIN)
    binding, expected = both(server.admin, twin)
    assert binding == expected
    assert binding is not None
    if moved:
        assert (binding.workspace, binding.generation) == (target, read.generation + 1)
    else:
        assert binding == stored
