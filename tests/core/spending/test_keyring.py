"""Who may call: files and what was made at run time together, and what a gateway gives back to a store."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.spending.keyring import KEPT, CallerRecord, KeyRecord, Keyring, Stored, missing, stale, usable

NOW = 1_800_000_000_000  # ms


class Caller(msgspec.Struct, frozen=True):
    """What a configuration would say of one."""

    id: str
    digests: tuple[str, ...] = ()
    expires: float | None = None
    team: str | None = None


def hexed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def record(caller: str, key: str, **fields) -> KeyRecord:
    return KeyRecord(caller, hexed(key), **fields)


def made(name: str, found: CallerRecord) -> Caller | None:
    return None if found.team == "nonsense" else Caller(name, team=found.team)


def ring(*configured: Caller, callers: dict[str, CallerRecord] | None = None, **keys: KeyRecord) -> Keyring[Caller]:
    return Keyring(configured, Stored("1-a", callers or {}, keys), made)


def found(keyring: Keyring[Caller], key: str, now: float = NOW / 1000) -> str | None:
    caller = keyring.find(digest(key), now)
    return None if caller is None else caller.id


def test_keys_of_the_file_and_keys_made_at_run_time_both_open():
    keyring = ring(
        Caller("alice", (hexed("a1"), hexed("a2"))),
        callers={"bob": CallerRecord(team="blue")},
        k1=record("bob", "b1"),
        k2=record("alice", "a3", of_file=True),
    )
    assert [found(keyring, key) for key in ("a1", "a2", "a3", "b1", "b2")] == ["alice", "alice", "alice", "bob", None]
    assert keyring.callers.keys() == {"alice", "bob"}
    assert (keyring.count(NOW / 1000), repr(keyring)) == (4, "<Keyring of 2 callers, 4 keys>")


def test_what_the_file_says_of_a_caller_wins():
    keyring = ring(Caller("bob", team="red"), callers={"bob": CallerRecord(team="blue")}, k1=record("bob", "b1"))
    caller = keyring.find(digest("b1"), NOW / 1000)
    assert caller == keyring.callers["bob"] == Caller("bob", team="red")


def test_a_key_in_the_file_is_the_files_whoever_else_has_it():
    keyring = ring(
        Caller("alice", (hexed("same"),)), callers={"bob": CallerRecord()}, k1=record("bob", "same", revoked_at=NOW)
    )
    assert found(keyring, "same") == "alice"


def test_a_key_counts_until_it_expires_or_is_revoked():
    keyring = ring(
        Caller("alice", (hexed("a1"),), expires=NOW / 1000 + 5),
        callers={"bob": CallerRecord()},
        k1=record("bob", "soon", expires_at=NOW + 10_000),
        k2=record("bob", "revoked", expires_at=NOW + 10_000, revoked_at=NOW - 1),
        k3=record("bob", "ever"),
    )
    times = (0, 4.999, 5, 9.999, 10)
    open_at = {
        key: [after for after in times if found(keyring, key, NOW / 1000 + after)]
        for key in ("a1", "soon", "revoked", "ever")
    }
    assert open_at == {"a1": [0, 4.999], "soon": [0, 4.999, 5, 9.999], "revoked": [], "ever": list(times)}
    assert [keyring.count(NOW / 1000 + after) for after in (0, 5, 10)] == [3, 2, 1]


def test_a_key_of_a_caller_whom_no_file_defines_any_more_opens_nothing():
    """Even if somebody makes a caller of that name later."""
    key = record("alice", "a1", of_file=True)
    assert found(ring(Caller("alice"), k1=key), "a1") == "alice"
    assert found(ring(k1=key), "a1") is None
    assert found(ring(callers={"alice": CallerRecord()}, k1=key), "a1") is None


def test_a_key_without_a_caller_or_with_one_that_makes_no_sense_opens_nothing():
    keyring = ring(callers={"odd": CallerRecord(team="nonsense")}, k1=record("odd", "o"), k2=record("none", "n"))
    assert (found(keyring, "o"), found(keyring, "n"), keyring.callers) == (None, None, {})


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "ab" * 31])
def test_a_record_without_a_digest_is_no_record(text):
    with pytest.raises(ValueError):
        KeyRecord("bob", text)


def test_the_keys_of_a_deleted_caller_open_nothing_even_if_nobody_has_ended_them():
    gone = CallerRecord(team="blue", revision=2, deleted_at=5)
    stored = Stored("1-x", {"bob": gone}, {"k": record("bob", "1")})
    assert stored.present == {} and usable(stored, NOW).callers == {}
    for each in (stored, usable(stored, NOW)):
        keyring = Keyring[Caller]([], each, made)
        assert (keyring.callers, keyring.count(NOW / 1000), found(keyring, "1")) == ({}, 0, None)


def test_workers_need_only_the_keys_that_have_not_ended():
    stored = Stored(
        "7-x",
        {"bob": CallerRecord()},
        {
            "live": record("bob", "1", expires_at=NOW + 1),
            "over": record("bob", "2", expires_at=NOW),
            "gone": record("bob", "3", revoked_at=NOW - 9),
        },
    )
    needed = usable(stored, NOW)
    assert (needed.version, needed.callers, list(needed.keys)) == ("7-x", stored.callers, ["live"])


def test_a_key_is_shown_for_a_while_after_its_end():
    keys = {
        "live": record("bob", "1"),
        "expired": record("bob", "2", expires_at=NOW - KEPT),
        "revoked": record("bob", "3", revoked_at=NOW - KEPT, expires_at=NOW + KEPT),
        "lately": record("bob", "4", revoked_at=NOW - KEPT + 1),
    }
    assert stale(Stored(keys=keys), NOW) == ["expired", "revoked"]
    assert set(missing(Stored(), Stored(keys=keys), NOW).keys) == {"live", "lately"}


def test_what_a_store_has_lost_is_what_somebody_knows_and_it_does_not():
    known = Stored("5-k", {"a": CallerRecord(team="x"), "b": CallerRecord()}, {"k1": record("a", "1")})
    assert missing(Stored("1-n"), known, NOW) == Stored("", known.callers, known.keys)
    assert not missing(known, known, NOW)
    other = Stored("1-n", {"a": CallerRecord(team="y")}, known.keys)
    assert missing(other, known, NOW) == Stored("", {"b": CallerRecord()}, {})  # of two callers the store's stays


TIMES = st.sampled_from([0, NOW - 2, NOW - 1, NOW, NOW + 1, NOW + 2])
ENDS = st.tuples(TIMES, TIMES)
TABLES = st.dictionaries(st.sampled_from("abc"), ENDS, max_size=3).map(
    lambda ends: Stored(
        "1-x",
        {},
        {n: record("bob", n, expires_at=expires, revoked_at=revoked) for n, (expires, revoked) in ends.items()},
    )
)


@given(TABLES, TABLES)
def test_an_end_that_somebody_knows_earlier_is_offered_and_no_other(stored: Stored, known: Stored):
    offered = missing(stored, known, NOW).keys
    for name, key in known.keys.items():
        present = stored.keys.get(name)
        if present is None or key.end < present.end:
            assert name in offered
        elif (key.expires_at, key.revoked_at) == (present.expires_at, present.revoked_at):
            assert name not in offered
    assert offered.keys() <= known.keys.keys()


def test_a_later_record_of_a_caller_is_given_back_and_an_earlier_one_is_not():
    old, new = CallerRecord(team="blue"), CallerRecord(team="blue", limits={"concurrency": 1}, revision=2)
    assert missing(Stored("", {"bob": old}), Stored("", {"bob": new}), NOW).callers == {"bob": new}
    assert not missing(Stored("", {"bob": new}), Stored("", {"bob": old}), NOW)
    assert not missing(Stored("", {"bob": new}), Stored("", {"bob": new}), NOW)
