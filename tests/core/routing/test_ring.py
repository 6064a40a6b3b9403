"""The ring: the same ranking everywhere, shares as weights say, and no key moves without need."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.core.routing.conversation import key as conversation_key
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.ring import Ring

RUNS = settings(deadline=None, max_examples=100)
KEYS = [random.Random(n).randbytes(16) for n in range(100)]


def ring(*accounts: Entry, epoch: int = 1) -> Ring:
    return Ring(PoolDocument(epoch, tuple(sorted(accounts))))


def account(name: str, workspace: str = "", weight: float = 1.0) -> Entry:
    return Entry(name, workspace or name, "org", weight)


def homes(of: Ring, keys: list[bytes] = KEYS) -> list[str]:
    return [of.rank(key)[0] for key in keys]


NAMES = st.text(st.sampled_from("abcdefg-.\u00e9"), min_size=1, max_size=5)
WEIGHTS = st.floats(0.01, 1000) | st.sampled_from([1.0, 2.0, 1e-6, 1e9])


@st.composite
def pools(draw: st.DrawFn) -> list[Entry]:
    """One to eight accounts in one to eight workspaces."""
    names = draw(st.lists(NAMES, min_size=1, max_size=8, unique=True))
    return [Entry(name, draw(st.sampled_from(names)), "org", draw(WEIGHTS)) for name in names]


PROGRAM = """
import sys
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.ring import Ring
names = set("abcdefghij")  # its order differs with the hash seed
accounts = tuple(Entry(name, "w" + str(ord(name) % 4), "o", 1.0 + ord(name) % 3) for name in names)
for accounts in (accounts, accounts[::-1]):
    ring = Ring(PoolDocument(3, accounts))
    for n in range(20):
        key = b"key %d" % n
        print(ring.rank(key), [entry.id for entry in ring.order(key)])
"""


def test_a_fresh_interpreter_with_another_hash_seed_ranks_the_same():
    outputs = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        outputs.append(run.stdout.splitlines())
    lines = outputs[0]
    assert lines == outputs[1]
    assert lines[:20] == lines[20:]  # nor does the order of accounts in the document matter
    assert len(set(lines)) > 5


def test_the_ranking_of_a_known_document_never_changes():
    known = ring(account("a", "w1", 2.0), account("b", "w1"), account("c", "w2"), account("d", "w3", 0.5))
    orders = ["".join(entry.id for entry in known.order(b"conversation %d" % n)) for n in range(8)]
    assert orders == ["abdc", "bacd", "badc", "cabd", "abdc", "cabd", "badc", "cbad"]


@RUNS
@given(pools(), st.randoms(use_true_random=False))
def test_the_order_of_accounts_in_the_document_does_not_matter(accounts, rnd):
    shuffled = accounts[:]
    rnd.shuffle(shuffled)
    one, other = Ring(PoolDocument(1, tuple(accounts))), Ring(PoolDocument(9, tuple(shuffled)))
    for key in KEYS[:10]:
        assert one.rank(key) == other.rank(key)
        assert one.order(key) == other.order(key)


@RUNS
@given(pools())
def test_the_order_names_every_account_once_workspace_by_workspace(accounts):
    made = ring(*accounts)
    assert len(made) == len({entry.workspace for entry in accounts})
    for key in KEYS[:10]:
        order = made.order(key)
        assert sorted(order) == sorted(accounts)
        workspaces = list(dict.fromkeys(entry.workspace for entry in order))
        assert workspaces == made.rank(key)
        assert [entry for name in workspaces for entry in made.members(name, key)] == order


@RUNS
@given(pools(), NAMES, WEIGHTS)
def test_an_added_workspace_takes_keys_and_moves_none_among_the_others(accounts, name, weight):
    assume(name not in {entry.workspace for entry in accounts})
    before, after = ring(*accounts), ring(*accounts, Entry(name + "+", name, "org", weight))
    for key in KEYS:
        assert [each for each in after.rank(key) if each != name] == before.rank(key)
    for old, new in zip(homes(before), homes(after), strict=True):
        assert new in (old, name)


@RUNS
@given(pools(), st.integers(0, 7))
def test_a_removed_workspace_moves_only_its_own_keys(accounts, index):
    gone = accounts[index % len(accounts)].workspace
    left = [entry for entry in accounts if entry.workspace != gone]
    assume(left)
    for old, new in zip(homes(ring(*accounts)), homes(ring(*left)), strict=True):
        assert new == old or old == gone


@RUNS
@given(pools(), st.integers(0, 7), st.floats(1.001, 100))
def test_a_raised_weight_moves_keys_only_to_its_workspace(accounts, index, factor):
    index %= len(accounts)
    raised = accounts[:]
    raised[index] = Entry(raised[index].id, raised[index].workspace, "org", raised[index].weight * factor)
    gainer = raised[index].workspace
    for old, new in zip(homes(ring(*accounts)), homes(ring(*raised)), strict=True):
        assert new in (old, gainer)


@RUNS
@given(pools(), st.integers(0, 7), st.floats(1.001, 100), NAMES)
def test_inside_a_workspace_accounts_move_keys_as_little_as_workspaces_do(accounts, index, factor, name):
    one = [Entry(entry.id, "w", "org", entry.weight) for entry in accounts]
    index %= len(one)
    raised = [*one[:index], Entry(one[index].id, "w", "org", one[index].weight * factor), *one[index + 1 :]]
    before, after = ring(*one), ring(*raised)
    for key in KEYS:
        old, new = before.members("w", key)[0], after.members("w", key)[0]
        assert new.id in (old.id, one[index].id)
    assume(name not in {entry.id for entry in one})
    after = ring(*one, account(name, "w"))
    for key in KEYS:
        assert [entry for entry in after.members("w", key) if entry.id != name] == before.members("w", key)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1, 2, 3, 4), (0.5, 0.25, 8), (1, 1000), (5,)])
@pytest.mark.parametrize("level", ["workspaces", "accounts"])
def test_shares_are_proportional_to_weights(weights, level):
    rnd = random.Random(20_000)
    keys = [rnd.randbytes(16) for _ in range(10_000)]
    if level == "workspaces":
        made = ring(*(account(f"w{n}", weight=weight) for n, weight in enumerate(weights)))
        counts = Counter(homes(made, keys))
    else:
        made = ring(*(account(f"w{n}", "one", weight) for n, weight in enumerate(weights)))
        counts = Counter(made.members("one", key)[0].id for key in keys)
    for n, weight in enumerate(weights):
        share = weight / sum(weights)
        error = (share * (1 - share) / len(keys)) ** 0.5
        assert abs(counts[f"w{n}"] / len(keys) - share) <= 4.5 * error


def test_a_workspace_weighs_the_sum_of_its_accounts():
    rnd = random.Random(7)
    keys = [rnd.randbytes(16) for _ in range(1000)]
    split = ring(account("a", "w", 1.5), account("b", "w", 0.5), account("c"))
    whole = ring(account("x", "w", 2.0), account("c"))
    assert homes(split, keys) == homes(whole, keys)


def test_a_ring_tells_its_workspaces_and_what_they_weigh():
    made = ring(account("a", "w", 1.5), account("b", "w", 0.5), account("c"))
    assert sorted(made) == ["c", "w"]
    assert (made.weight("w"), made.weight("c"), made.weight("other")) == (2.0, 1.0, 0.0)


def test_the_account_inside_a_workspace_is_chosen_independently_of_the_workspace():
    made = ring(*(account(f"{w}{n}", w) for w in "abcd" for n in range(4)))
    rnd = random.Random(11)
    firsts = Counter(made.order(rnd.randbytes(16))[0].id for _ in range(10_000))
    assert len(firsts) == 16
    assert max(firsts.values()) < 1.25 * 10_000 / 16


@pytest.mark.parametrize(
    "secret", [b"a secret of more than thirty-two characters", b"another one, just as long as it has to be"]
)
def test_a_few_hundred_conversations_spread_evenly_over_equal_workspaces(secret):
    made = ring(*(account(name) for name in ("alpha", "beta", "gamma", "delta")))
    rnd = random.Random(600)
    keys = [conversation_key(secret, f"user {n % 40}", b"header", rnd.randbytes(12).hex().encode()) for n in range(600)]
    counts = Counter(homes(made, keys))
    assert max(counts.values()) / (600 / 4) <= 1.25


def test_state_and_models_do_not_change_the_ranking():
    plain = ring(account("a"), account("b"), account("c"))
    other = ring(
        account("a"), Entry("b", "b", "o2", 1.0, ("claude-x",), "draining"), Entry("c", "c", "o", state="disabled")
    )
    assert [plain.rank(key) for key in KEYS] == [other.rank(key) for key in KEYS]


def test_an_unknown_workspace_has_no_accounts():
    made = ring(account("a"), epoch=17)
    assert made.members("b", b"k") == []
    assert "a" in made and "b" not in made
    assert made.epoch == 17


def test_an_empty_pool_ranks_nothing():
    made = ring()
    assert made.rank(b"k") == [] == made.order(b"k")
    assert len(made) == 0 == len(list(made))
