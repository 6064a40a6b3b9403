"""The pool document: what follows from announcements and overrides, the same for everyone who looks."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.routing.document import Announcement, Entry, PoolDocument, reconcile, resume

RUNS = settings(deadline=None, max_examples=200)


def entry(name: str, **fields: Any) -> Entry:
    return Entry(name, fields.pop("workspace", name), fields.pop("organization", name), **fields)


def said(process: str, *accounts: Entry | str, since: float = 1.0) -> Announcement:
    return Announcement(process, since, tuple(entry(each) if isinstance(each, str) else each for each in accounts))


def ids(document: PoolDocument) -> list[str]:
    return [each.id for each in document.accounts]


def test_an_account_joins_when_every_live_process_holds_it():
    first = reconcile(None, [said("p1", "a", "b"), said("p2", "a")])
    assert ids(first) == ["a"]
    second = reconcile(first, [said("p1", "a", "b"), said("p2", "a", "b")])
    assert ids(second) == ["a", "b"]


def test_an_account_leaves_when_no_live_process_holds_it():
    both = reconcile(None, [said("p1", "a", "b"), said("p2", "a", "b")])
    half = reconcile(both, [said("p1", "a", "b"), said("p2", "a")])
    assert half is both
    assert ids(reconcile(half, [said("p1", "a"), said("p2", "a")])) == ["a"]


def test_an_account_that_left_joins_again_only_when_all_hold_it():
    document = reconcile(None, [said("p1", "a")])
    document = reconcile(document, [said("p1", "b"), said("p2", "b")])
    assert ids(document) == ["b"]
    assert ids(reconcile(document, [said("p1", "a", "b"), said("p2", "b")])) == ["b"]


def test_the_definition_that_was_loaded_later_counts():
    old, new = entry("a", weight=1.0), entry("a", weight=5.0, models=("claude-x",))
    for live in itertools.permutations([said("p1", new, since=20.0), said("p2", old, since=10.0)]):
        assert reconcile(None, list(live)).accounts == (new,)
    for live in itertools.permutations([said("p1", new, since=10.0), said("p2", old, since=20.0)]):
        assert reconcile(None, list(live)).accounts == (old,)


def test_of_definitions_loaded_at_one_moment_the_same_one_counts_everywhere():
    live = [said("p1", entry("a", weight=1.0)), said("p2", entry("a", weight=2.0)), said("p3", entry("a", weight=3.0))]
    documents = {reconcile(None, list(order)) for order in itertools.permutations(live)}
    assert len(documents) == 1


def test_overrides_of_operators_win_over_files():
    live = [said("p1", entry("a", weight=3.0), entry("b"))]
    document = reconcile(None, live, {"a": {"state": "draining"}, "b": {"weight": 2.5, "state": "disabled"}})
    assert document.accounts == (entry("a", weight=3.0, state="draining"), entry("b", weight=2.5, state="disabled"))
    again = reconcile(document, live, {})
    assert again.accounts == (entry("a", weight=3.0), entry("b"))
    assert again.epoch == document.epoch + 1


def test_an_override_of_an_unknown_account_adds_nothing():
    assert ids(reconcile(None, [said("p1", "a")], {"z": {"state": "disabled"}})) == ["a"]


def test_an_override_of_state_brings_its_own_deadline():
    live = [said("p1", entry("a", state="draining", drain_until=50.0), entry("b"))]
    assert reconcile(None, live).accounts[0].drain_until == 50.0
    document = reconcile(None, live, {"a": {"state": "draining"}, "b": {"state": "draining", "drain_until": 70}})
    assert [each.drain_until for each in document.accounts] == [0.0, 70.0]
    document = reconcile(None, live, {"a": {"drain_until": 90.0}})
    assert (document.accounts[0].state, document.accounts[0].drain_until) == ("draining", 90.0)


def test_only_a_drain_has_a_deadline():
    live = [said("p1", entry("a", state="draining", drain_until=50.0), entry("b", drain_until=50.0))]
    document = reconcile(None, live, {"a": {"state": "disabled", "drain_until": 60.0}})
    assert [each.drain_until for each in document.accounts] == [0.0, 0.0]


@pytest.mark.parametrize(
    "values",
    [
        {"mood": "good"}, {"state": "resting"}, {"state": None}, {"state": ["active"]}, {"weight": 0}, {"weight": -1},
        {"weight": "2"}, {"weight": True}, {"weight": float("nan")}, {"weight": float("inf")}, {"drain_until": -1},
        {"since": 5.0}, {"id": "z"}, {"models": []},
    ],
)  # fmt: skip
def test_what_only_a_newer_version_can_override_is_passed_over(values):
    live = [said("p1", "a", "b")]
    document = reconcile(None, live)
    assert reconcile(document, live, {"a": values}) is document
    assert reconcile(document, live, {"a": {**values, "drain_until": 0.0}}) is document


def test_the_accounts_of_the_first_document_have_always_been_there():
    assert [each.since for each in reconcile(None, [said("p1", "a", "b")], now=100.0).accounts] == [0.0, 0.0]
    assert [each.since for each in reconcile(PoolDocument(7), [said("p1", "a")], now=100.0).accounts] == [0.0]


def test_an_account_that_joins_a_running_pool_says_since_when():
    first = reconcile(None, [said("p1", "a")], now=100.0)
    second = reconcile(first, [said("p1", "a", "b"), said("p2", "a")], now=200.0)
    assert second is first  # it is not in the pool before all hold it
    third = reconcile(second, [said("p1", "a", "b"), said("p2", "a", "b")], now=300.0)
    assert {each.id: each.since for each in third.accounts} == {"a": 0.0, "b": 300.0}
    assert reconcile(third, [said("p1", "a", "b")], now=400.0) is third
    changed = reconcile(third, [said("p1", "a", entry("b", weight=9.0))], now=500.0)
    assert {each.id: each.since for each in changed.accounts} == {"a": 0.0, "b": 300.0}


def test_an_account_that_left_and_returns_is_new_again():
    document = reconcile(None, [said("p1", "a", "b")], now=100.0)
    document = reconcile(document, [said("p1", "a")], now=200.0)
    document = reconcile(document, [said("p1", "a", "b")], now=300.0)
    assert {each.id: each.since for each in document.accounts} == {"a": 0.0, "b": 300.0}


def test_accounts_that_replace_all_others_are_a_first_document_again():
    document = reconcile(None, [said("p1", "a", "b")], now=100.0)
    document = reconcile(document, [said("p1", "c", "d")], now=200.0)
    assert {each.id: each.since for each in document.accounts} == {"c": 0.0, "d": 0.0}


def test_a_start_without_the_others_keeps_what_they_may_hold_and_waits_with_what_is_new():
    last = reconcile(None, [said("p1", "a", "b")], {"a": {"state": "disabled"}, "b": {"weight": 3.0}})
    own = said("p1", "a", entry("z"), since=50.0)
    assert resume(last, {"a": {"state": "disabled"}}, own) is last
    again = resume(last, {"a": {"state": "disabled"}}, said("p1", entry("a", weight=7.0), since=50.0))
    assert again == PoolDocument(2, (entry("a", weight=7.0, state="disabled"), entry("b", weight=3.0)))


def test_a_start_with_other_accounts_than_ever_goes_by_the_file():
    last = reconcile(None, [said("p1", "a", "b")])
    own = said("p1", "y", "z")
    assert resume(last, {}, own) == PoolDocument(2, (entry("y"), entry("z")))
    assert resume(PoolDocument(), {}, own) == reconcile(None, [own])


def test_a_store_that_lost_everything_loses_no_account_that_only_others_hold():
    """The first to notice is the only one there; the others come in their own time."""
    last = reconcile(None, [said("p1", "a", "b"), said("p2", "a", "b")])
    first = said("p1", "a", entry("z"), since=2.0)
    assert resume(last, {}, first, [first]) is last
    assert ids(reconcile(last, [first, said("p2", "a", "b")])) == ["a", "b"]


def test_a_document_of_an_older_version_is_read_as_it_was_meant():
    text = b'{"epoch":3,"accounts":[{"id":"a","workspace":"a","organization":"a","weight":1.0,"models":["*"]}]}'
    stored = msgspec.json.decode(text, type=PoolDocument)
    assert reconcile(stored, [said("p1", "a")], now=100.0) is stored


def test_without_live_processes_nothing_changes():
    assert reconcile(None, []) == PoolDocument()
    document = reconcile(None, [said("p1", "a")])
    assert reconcile(document, []) is document


def test_an_unchanged_pool_keeps_its_document_and_epoch():
    live = [said("p1", "a", "b")]
    document = reconcile(None, live)
    assert document.epoch == 1
    assert reconcile(document, live) is document
    assert reconcile(document, [said("p9", "b", "a", since=99.0)]) is document


def test_a_document_read_back_from_the_store_is_the_same_document():
    live = [said("p1", entry("a", weight=2.0), entry("b", models=("x", "y")))]
    overrides: dict[str, dict[str, object]] = {"a": {"weight": 3}}
    document = reconcile(None, live, overrides)
    stored = msgspec.json.decode(msgspec.json.encode(document), type=PoolDocument)
    assert reconcile(stored, live, overrides) is stored


ENTRIES = st.builds(
    lambda name, workspace, weight: entry(name, workspace=workspace, weight=weight),
    st.sampled_from("abcd"), st.sampled_from("wv"), st.sampled_from([1.0, 2.0]),
)  # fmt: skip
ROUNDS = st.lists(
    st.tuples(
        st.dictionaries(
            st.sampled_from(["p1", "p2", "p3"]),
            st.tuples(st.sampled_from([1.0, 2.0, 3.0]), st.lists(ENTRIES, max_size=4, unique_by=lambda each: each.id)),
            max_size=3,
        ),
        st.dictionaries(
            st.sampled_from("abz"), st.fixed_dictionaries({"state": st.sampled_from(["active", "draining"])})
        ),
    ),
    max_size=6,
)


@RUNS
@given(ROUNDS, st.integers(0, 1000))
def test_over_any_history_the_rules_hold_and_the_epoch_tells_every_change(rounds, seed):
    document: PoolDocument | None = None
    rnd = random.Random(seed)
    now = 1.0
    for announced, overrides in rounds:
        live = [Announcement(process, since, tuple(accounts)) for process, (since, accounts) in announced.items()]
        before = document
        now += 1.0
        document = reconcile(before, live, overrides, now)
        shuffled = live[:]
        rnd.shuffle(shuffled)
        assert reconcile(before, shuffled, dict(reversed(overrides.items())), now) == document

        earlier = {each.id: each.since for each in before.accounts} if before else {}
        known = set(earlier)
        held: list[set[str]] = [{each.id for each in one.accounts} for one in live]
        if live:
            expected = held[0].intersection(*held) | (known & held[0].union(*held))
            assert set(ids(document)) == expected
            for each in document.accounts:
                defined = [one for announcement in live for one in announcement.accounts if one.id == each.id]
                state = overrides.get(each.id, {}).get("state", "active")
                since = earlier.get(each.id, now if known & set(ids(document)) else 0.0)
                assert each in [msgspec.structs.replace(one, state=state, since=since) for one in defined]
        assert ids(document) == sorted(ids(document))
        if before is None:
            assert document.epoch == (1 if live else 0)
        else:
            assert document.epoch == before.epoch + (document.accounts != before.accounts)
        assert reconcile(document, live, overrides, now + 0.5) is document


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_a_rolling_change_of_accounts_never_offers_what_some_process_lacks(processes):
    """Old files hold a and b, new ones b and c; processes are replaced one after the other."""
    document = reconcile(None, [said(f"p{n}", "a", "b") for n in range(processes)])
    for replaced in range(1, processes + 1):
        live = [
            said(f"p{n}", *("bc" if n < replaced else "ab"), since=2.0 if n < replaced else 1.0)
            for n in range(processes)
        ]
        document = reconcile(document, live)
        assert "b" in ids(document)
        assert ("c" in ids(document)) == (replaced == processes)
        assert ("a" in ids(document)) == (replaced < processes)
