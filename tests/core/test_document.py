"""The pool document: what follows from announcements and overrides, the same for everyone who looks."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.document import Announcement, Entry, PoolDocument, reconcile

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
    for announced, overrides in rounds:
        live = [Announcement(process, since, tuple(accounts)) for process, (since, accounts) in announced.items()]
        before = document
        document = reconcile(before, live, overrides)
        shuffled = live[:]
        rnd.shuffle(shuffled)
        assert reconcile(before, shuffled, dict(reversed(overrides.items()))) == document

        known = set(ids(before)) if before else set()
        held: list[set[str]] = [{each.id for each in one.accounts} for one in live]
        if live:
            expected = held[0].intersection(*held) | (known & held[0].union(*held))
            assert set(ids(document)) == expected
            for each in document.accounts:
                defined = [one for announcement in live for one in announcement.accounts if one.id == each.id]
                state = overrides.get(each.id, {}).get("state", "active")
                assert each in [msgspec.structs.replace(one, state=state) for one in defined]
        assert ids(document) == sorted(ids(document))
        if before is None:
            assert document.epoch == (1 if live else 0)
        else:
            assert document.epoch == before.epoch + (document.accounts != before.accounts)
        assert reconcile(document, live, overrides) is document


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
