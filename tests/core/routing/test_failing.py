"""Failing accounts: one pool with one bad account, calm and at full speed, in one process and in two."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.core.routing import broadcast
from gateway.core.routing.binding import Record
from gateway.core.routing.conduct import FIRST_PAUSE, Fault
from gateway.core.routing.outcomes import DISPUTED, WORDED, Outcome
from gateway.core.routing.route import Refuse, Route, Send, Wait
from gateway.core.routing.router import Router
from tests.core.routing.routing_kit import (
    HOME,
    MODEL,
    NOW,
    OTHER,
    THIRD,
    TTL,
    WALL,
    account,
    document,
    fail,
    known,
    new,
    play,
    record,
    router,
    routers,
)

BAD, SECOND = "a0", "a1"
DISTURBED = [
    Outcome.FAILED, Outcome.DECLINED, Outcome.DENIED, Outcome.IMPROPER, Outcome.UNAUTHORIZED, Outcome.UNEXPLAINED,
    Outcome.UNSENT,
]  # fmt: skip
POOLS = {
    "two": (1, 1), "one to two": (1, 2), "two to one": (2, 1), "three": (1, 1, 1), "four": (1, 1, 1, 1),
    "ten": (1,) * 10,
}  # fmt: skip


@dataclass
class Pool:
    """Accounts of these weights in `processes` processes that hear each other at once; the first answers as `bad` says,
    the second as `second` does, the others well, each after `latency` seconds."""

    weights: tuple[float, ...]
    bad: Outcome
    processes: int = 1
    latency: float = 0.2
    second: Outcome = Outcome.SERVED
    seen: Counter[str] = field(default_factory=Counter)  # what clients got
    asked: list[tuple[float, str]] = field(default_factory=list)  # (when, account)

    def __post_init__(self) -> None:
        accounts = [account(f"a{n}", weight=weight) for n, weight in enumerate(self.weights)]
        self.routers = [Router(lambda model: model) for _ in range(self.processes)]
        for one in self.routers:
            one.apply(document(accounts), NOW, WALL)
            one.tell = lambda fact, one=one: self._told(one, fact)  # type: ignore[misc]
        self.now = NOW
        self._queue: list[tuple[float, int, Any]] = []
        self._count = 0

    def _told(self, teller: Router, fact: broadcast.Fact) -> None:
        for other in self.routers:
            if other is not teller:
                other.heard(fact, self.now)

    def _later(self, seconds: float, what: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, what))

    def conversations(self, count: int, every: float) -> None:
        """So many new conversations of one request, one `every` so many seconds."""
        for n in range(count):
            self._later(n * every, n)
        while self._queue:
            self.now, _, what = heapq.heappop(self._queue)
            if isinstance(what, int):
                self._begin(what)
            else:
                what()

    def _begin(self, n: int) -> None:
        over = self.routers[n % self.processes]
        key = b"conversation %d %d" % (n, int(self.now))
        route = Route(over, key, MODEL, 4_000, TTL, self.now + 600.0)
        route.caller = f"caller {n}"
        workspace = route.propose(self.now)
        if workspace is not None:
            route.found(Record(workspace, warm_until=int(self.now * 1000) + 60_000), True, int(self.now * 1000))
        self._step(over, route)

    def _step(self, over: Router, route: Route) -> None:
        step = route.next(self.now, 0.5)
        if isinstance(step, Refuse):
            route.unserved(self.now)
            self.seen[f"refused {step.status}"] += 1
        elif isinstance(step, Wait):
            self._later(step.seconds, lambda: self._step(over, route))
        else:
            assert isinstance(step, Send)
            entry = step.entry
            self.asked.append((self.now, entry.id))
            route.sent(entry, self.now)
            self._later(self.latency, lambda: self._answer(over, route, entry))

    def _answer(self, over: Router, route: Route, entry: Any) -> None:
        outcome = {BAD: self.bad, SECOND: self.second}.get(entry.id, Outcome.SERVED)
        if outcome is Outcome.SERVED:
            route.served(entry, self.now)
            route.settle(1000.0, 0.0, 10, self.now)
            route.completed(entry, self.now)
            self.seen["served"] += 1
        elif route.answered(entry, outcome, None, self.now, 0.5, kind=entry.id):
            self._step(over, route)
        else:
            route.unserved(self.now)
            self.seen[outcome.value] += 1


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("every", [3.0, 0.01], ids=["calm", "fast"])
@pytest.mark.parametrize("bad", DISTURBED, ids=lambda each: each.value)
@pytest.mark.parametrize("weights", POOLS.values(), ids=POOLS)
def test_what_one_account_does_to_all_no_client_sees_and_it_is_left(weights, bad, every, processes):
    pool = Pool(weights, bad, processes)
    pool.conversations(100, every)
    under_way = 0 if every > 1 else round(2 * 0.2 / every)  # until another account has shown that it could be served
    # A budget bounds what is sent again after a failure, so that some of those on their way may be seen.
    seen = under_way if bad in (Outcome.FAILED, Outcome.IMPROPER) else 0
    assert pool.seen["served"] >= 100 - seen and pool.seen.total() == 100
    if bad is Outcome.DENIED:  # the model is closed there
        assert any(over.health(BAD).models for over in pool.routers)
    elif bad is not Outcome.UNEXPLAINED:  # which closes the class for a while, again and again
        assert any(BAD in over.failing for over in pool.routers)
        trials = 0 if every < 1 else 6  # after 10, 20, 40, 80 and 160 s of 300
        assert sum(name == BAD for _, name in pool.asked) <= 3 * processes + under_way + trials


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("weights", POOLS.values(), ids=POOLS)
def test_of_an_account_that_cuts_every_answer_clients_see_three_and_one_for_each_trial(weights, processes):
    pool = Pool(weights, Outcome.BROKEN, processes)
    pool.conversations(200, 3.0)
    seen = pool.seen["broken"]
    trials = 6  # after 10, 20, 40, 80, 160 and 300 s of 600
    assert seen <= 3 + trials
    assert pool.seen == Counter({"served": 200 - seen, "broken": seen})


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("every", [0.5, 0.05], ids=["calm", "fast"])
@pytest.mark.parametrize("second", [Outcome.BROKEN, Outcome.FAILED, Outcome.DECLINED], ids=lambda each: each.value)
@pytest.mark.parametrize("accounts", [3, 4, 10])
def test_of_two_bad_accounts_neither_hides_behind_the_other(accounts, second, every, processes):
    pool = Pool((1,) * accounts, Outcome.BROKEN, processes, second=second)
    pool.conversations(20 * accounts, every)
    assert all(over.failing.marked == {BAD, SECOND} for over in pool.routers)
    pool.seen.clear()
    pool.now += 1.0
    pool.conversations(15, every)
    assert pool.seen["served"] >= 13  # but for trials


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("weights", POOLS.values(), ids=POOLS)
def test_at_full_speed_those_on_their_way_are_added(weights, processes):
    pool = Pool(weights, Outcome.BROKEN, processes)
    pool.conversations(1000, 0.01)
    share = weights[0] / sum(weights)
    assert pool.seen["broken"] <= 3 + 0.2 / 0.01 * max(share, 0.5)


def test_a_pool_that_is_well_again_recovers_by_itself():
    pool = Pool((1, 1, 1), Outcome.BROKEN)
    pool.conversations(100, 0.5)
    assert BAD in pool.routers[0].failing
    pool.bad = Outcome.SERVED
    pool.routers[0].failing.due = None
    before = len(pool.asked)
    answer = pool._answer

    def well(over: Router, route: Route, entry: Any) -> None:
        route.served(entry, pool.now)
        route.settle(1000.0, 0.0, 10, pool.now)
        route.completed(entry, pool.now)

    pool._answer = well  # type: ignore[method-assign]
    pool.now += 300.0
    pool.conversations(100, 0.5)
    assert answer is not pool._answer
    assert BAD not in pool.routers[0].failing
    assert sum(name == BAD for _, name in pool.asked[before:]) >= 15


def test_a_pool_of_one_goes_on_serving():
    over = router(HOME)
    for n in range(20):
        over.failing.bad("home", Fault.ERROR, b"%d" % n, NOW)
    assert "home" not in over.failing
    assert play(new(over), {}) == ("home", "")


def test_where_all_accounts_fail_none_does():
    over = router()
    for n in range(20):
        for name in ("home", "other"):
            over.failing.bad(name, Fault.ERROR, b"%d %d" % (n, name == "home"), NOW)
    assert len(over.failing.marked) <= 1  # the first to fail, at most
    assert play(new(over), {})[0] in ("home", "other")


def test_one_conversation_that_always_fails_moves_nobody_else():
    over = router(HOME, OTHER)
    for n in range(50):
        over.failing.bad("home", Fault.CUT, b"the same", NOW + n)
    assert "home" not in over.failing


def test_what_a_second_account_confirms_counts_against_neither_and_is_not_asked_twice():
    over = router(HOME, OTHER, THIRD)
    for n in range(30):
        route = known(over, record(), caller="a client of bad requests")
        both = {"home": [Outcome.DECLINED], "other": [Outcome.DECLINED]}
        expected = "home, other, pass" if n == 0 else "home, pass"
        assert play(route, both) == (expected, "")
    assert not over.failing.marked
    another = known(over, record(), caller="another")
    assert play(another, {"home": [Outcome.DECLINED]})[0].startswith("home, ")


@pytest.mark.parametrize(("first", "second"), [*itertools.product(sorted(DISPUTED), repeat=2)])
def test_two_refusals_confirm_each_other_only_where_they_are_alike(first: Outcome, second: Outcome):
    over = router(HOME, OTHER, THIRD)
    steps, _ = play(known(over, record()), {"home": [first], "other": [second]})
    assert steps == ("home, other, pass" if first is second else "home, other, third")
    assert over.failing.is_confirmed("", "", NOW) == (first is second)


UNLIKE = {"home": "400 suspended", "other": "405 ", "third": "400 no such flag"}  # kinds of refusals


@pytest.mark.parametrize("refusal", sorted(WORDED))
@pytest.mark.parametrize("bad", [1, 2])
def test_accounts_that_refuse_everything_in_unlike_words_hide_behind_no_one(refusal: Outcome, bad: int):
    over = router(HOME, OTHER, THIRD, account("fourth"))
    refused = {name: [refusal] for name in [*UNLIKE][:bad]}
    for n in range(60):
        route = new(over, conversation=b"%d" % n, caller="one for all", now=NOW + n / 10)
        steps, _ = play(route, refused, kinds=UNLIKE, now=NOW + n / 10)
        assert steps.rpartition(", ")[2] not in (*refused, "pass"), n
    if refusal is Outcome.DECLINED:
        assert over.failing.marked == {*refused}
    assert steps in ("third", "fourth", "other")


@pytest.mark.parametrize("refusal", sorted(WORDED))
@pytest.mark.parametrize("every", [0.1, 3.0])
def test_two_accounts_that_refuse_everything_alike_are_found_out(refusal: Outcome, every: float):
    over = router(HOME, OTHER, THIRD, account("fourth"))
    refused, passed = {"home": [refusal], "other": [refusal]}, []
    for n in range(int(180 / every)):
        now = NOW + n * every
        route = new(over, conversation=b"%d" % n, caller="one for all", now=now)
        steps, _ = play(route, refused, now=now)
        passed.append(steps.endswith("pass"))
    assert not any(passed[len(passed) // 2 :])
    assert sum(passed) <= len(passed) / 6


@pytest.mark.parametrize("refusal", sorted(WORDED))
def test_a_caller_s_own_mistake_asks_a_second_account_every_ten_seconds_at_most(refusal: Outcome):
    over, asked = router(HOME, OTHER, THIRD), 0
    for n in range(600):
        route = known(over, record(), caller="a client of bad requests", now=NOW + n / 10)
        steps, _ = play(route, {name: [refusal] for name in ("home", "other", "third")}, now=NOW + n / 10)
        asked += steps.count(", ")
        assert steps.endswith("pass")
    assert 600 <= asked <= 606


@pytest.mark.parametrize("refusal", sorted(WORDED))
def test_what_three_accounts_refuse_in_whatever_words_is_the_request_s_own(refusal: Outcome):
    over = router(HOME, OTHER, THIRD, account("fourth"))
    route = known(over, record())
    assert play(route, {name: [refusal] for name in UNLIKE}, kinds=UNLIKE)[0] == "home, other, third, pass"
    assert not over.failing.marked
    assert over.failing.is_confirmed("", UNLIKE["third"], NOW)


@pytest.mark.parametrize("limited", [Outcome.OVERSIZED, Outcome.UNEXPLAINED])
def test_the_words_of_a_429_which_name_an_organization_tell_nothing(limited: Outcome):
    over = router(HOME, OTHER, THIRD)
    route = known(over, record())
    assert play(route, {name: [limited] for name in UNLIKE}, kinds=UNLIKE)[0] == "home, other, pass"


@pytest.mark.parametrize("refusal", sorted(DISPUTED))
@pytest.mark.parametrize("failure", [Outcome.FAILED, Outcome.IMPROPER, Outcome.OVERLOADED])
@pytest.mark.parametrize("refused_first", [True, False])
def test_a_failure_beside_a_refusal_ends_no_request_that_another_account_serves(
    refusal: Outcome, failure: Outcome, refused_first: bool
):
    over = router(HOME, OTHER, THIRD)
    one, other = (refusal, failure) if refused_first else (failure, refusal)
    in_place = [failure] if failure is Outcome.OVERLOADED else []
    answers = {"home": [one, *in_place], "other": [other, *in_place]}
    assert play(known(over, record()), answers)[0].endswith("other, third")


def test_conversations_that_are_warm_stay_and_new_ones_go_elsewhere():
    over = router()
    fail(over, "home")
    assert play(known(over, record()), {}) == ("home", "")
    assert new(over).placement.workspace == "other"
    assert known(over, record(warm=False)).better(NOW) == ("other", "failing")


def test_a_warm_conversation_whose_own_answer_was_cut_leaves():
    over = router()
    fail(over, "home")
    route = known(over, record())
    assert route.better(NOW) is None
    over.failing.bad("home", Fault.CUT, route.conversation, NOW)
    assert known(over, record()).better(NOW) == ("other", "failing")
    assert known(over, record(account_bound=1)).better(NOW) is None  # nobody else reads its history


def test_a_failing_account_counts_neither_in_the_mean_nor_as_having_room():
    over = router(HOME, OTHER, THIRD)
    over.loads.add("other", 60_000.0, NOW)
    over.loads.add("third", 60_000.0, NOW)
    fail(over, "home")
    assert over.within_cap("other", MODEL, NOW)  # 40,000 would be the mean of three
    assert new(over).placement.workspace == "other"


def test_refused_and_broken_requests_count_as_load():
    over = router()
    for outcome in (Outcome.FAILED, Outcome.BROKEN, Outcome.DECLINED, Outcome.REFUSED):
        before = over.loads.of("home", NOW)
        play(known(over, record(tokens=5_000, warm=False), 0), {"home": [outcome]})
        assert over.loads.of("home", NOW) == before + 5_000.0


# Processes.


def test_evidence_is_told_and_each_process_judges_by_its_own_exchanges_as_well():
    one, two = routers(HOME, OTHER)
    for n in range(3):
        for _ in range(10):  # it serves the other process well
            two.failing.completed("home", b"well", NOW, NOW)
        one.failing.bad("home", Fault.CUT, b"%d" % n, NOW)
    assert "home" in one.failing and "home" not in two.failing


def test_what_a_process_concludes_from_another_one_s_exchanges_it_says_itself():
    """That one's word may be lost on its way."""
    one, two = routers(HOME, OTHER)
    told: list[broadcast.Fact] = []
    one.tell = lambda fact: two.heard(fact, NOW) if isinstance(fact, broadcast.Failed) else None
    two.tell = told.append
    for n in range(5):
        one.failing.bad("home", Fault.ERROR, b"%d" % n, NOW)
    assert "home" in two.failing
    assert [type(fact) for fact in told] == [broadcast.Failing]
    observer = router(HOME, OTHER)
    observer.heard(told[0], NOW)
    assert "home" in observer.failing


def test_connections_are_each_process_own_experience():
    one, two = routers(HOME, OTHER)
    fail(one, "home", fault=Fault.UNSENT)
    assert "home" in one.failing and "home" not in two.failing
    assert two.failing.of("home").units(NOW) == 0


def test_one_trial_at_a_time_over_all_processes_and_its_success_is_everybodys():
    one, two = routers(HOME, OTHER)
    fail(one, "home")
    assert "home" in two.failing
    now = NOW + FIRST_PAUSE
    one.failing.try_out("home", b"trial", now)
    two.failing.heard(broadcast.Trying("home"), now)
    assert not two.failing.try_out("home", b"another", now)
    one.failing.completed("home", b"trial", now, now + 1)
    assert not one.failing.marked and not two.failing.marked


def test_a_trial_that_ends_badly_doubles_the_pause_everywhere():
    one, two = routers(HOME, OTHER)
    fail(one, "home")
    now = NOW + FIRST_PAUSE
    assert one.failing.try_out("home", b"trial", now)
    two.tell = one.tell = lambda fact: None
    told: list[broadcast.Fact] = []
    one.tell = told.append
    one.failing.bad("home", Fault.ERROR, b"trial", now)
    for fact in told:
        two.heard(fact, now)
    assert one.failing.of("home").pause == two.failing.of("home").pause == 2 * FIRST_PAUSE


def test_a_trial_that_must_be_granted_waits_for_that():
    over = router()
    fail(over, "home")
    asked: list[str] = []
    over.failing.due = asked.append
    now = NOW + FIRST_PAUSE
    assert new(over, now=now).placement.workspace == "other"
    assert asked == ["home"]
    over.failing.grant("home", now)
    assert new(over, now=now).placement.workspace == "home"
    over.failing.of("home").tried = (b"somebody else",)
    assert new(over, now=now).placement.workspace == "other"


def test_a_trial_that_takes_longer_than_others_wait_for_it_counts_all_the_same():
    one, two = routers(HOME, OTHER)
    fail(one, "home")
    now = NOW + FIRST_PAUSE
    assert one.failing.try_out("home", b"slow", now)
    now += 40.0
    one.tell = lambda fact: None
    assert two.failing.try_out("home", b"another process's", now)
    one.heard(broadcast.Trying("home"), now)
    one.failing.completed("home", b"slow", NOW + FIRST_PAUSE, now + 5.0)
    assert "home" not in one.failing


@pytest.mark.parametrize("refusal", [*sorted(DISPUTED), Outcome.UNAUTHORIZED])
def test_a_trial_that_is_refused_and_that_nobody_else_serves_lets_another_be_it(refusal: Outcome):
    over = router()
    fail(over, "home")
    now = NOW + FIRST_PAUSE
    route = new(over, now=now)
    assert route.placement.workspace == "home" and not over.failing.of("home").due(now)
    play(route, {"home": [refusal], "other": [(Outcome.LIMITED, 60.0)] * 9}, now=now)
    assert over.failing.of("home").due(now)


def test_a_new_process_is_told_who_fails_and_believes_it():
    one, begun = router(), router()
    fail(one, "home")
    for fact in one.picture(NOW + 1):
        assert broadcast.decode(broadcast.encode(fact)) == fact
        begun.heard(fact, NOW + 1)
    assert "home" in begun.failing
    assert begun.failing.of("home").until == pytest.approx(NOW + FIRST_PAUSE)


def test_a_429_that_says_nothing_closes_the_class_everywhere_once_three_callers_have_had_it_of_all():
    over = router(HOME, OTHER, THIRD)

    def asks(caller: str) -> str:
        route = new(over, caller=caller, conversation=caller.encode())
        return play(route, {name: [Outcome.UNEXPLAINED] * 9 for name in ("home", "other", "third")})[0]

    for _ in range(6):  # one caller's own fault, perhaps
        assert asks("caller 0").endswith("pass")
    assert asks("caller 1").endswith("pass")
    assert all(over.state(each, MODEL, MODEL, 0.0, False, NOW)[0] == "" for each in (HOME, OTHER, THIRD))
    for n in range(2, 7):
        asks(f"caller {n}")
    assert all(over.state(each, MODEL, MODEL, 0.0, False, NOW)[0] == "limited" for each in (HOME, OTHER, THIRD))
    assert asks("caller 7") == "refuse 429 5"


def test_an_operator_may_have_it_forgotten():
    over = router()
    fail(over, "home")
    over.failing.confirmed("caller", "400 no", NOW)
    over.heard(broadcast.Back("home", wholly=True), NOW)
    assert not over.failing.marked and not over.failing.is_confirmed("caller", "400 no", NOW)


def test_an_account_that_does_well_for_a_while_is_no_longer_failing():
    over = router()
    fail(over, "home")
    for n in range(10):
        over.failing.completed("home", b"begun before %d" % n, NOW - 1, NOW)
    assert "home" in over.failing
    over.failing.completed("home", b"begun after", NOW + 1, NOW + 2)
    assert "home" not in over.failing


def test_a_key_that_is_refused_concerns_those_who_have_the_same():
    one, two = routers(HOME, OTHER)
    for n in range(3):
        play(new(one, conversation=b"key %d" % n, workspace=None), {"home": [Outcome.UNAUTHORIZED]})
    assert "home" in one.failing and "home" not in two.failing
