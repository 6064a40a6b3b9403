"""The virtual clock, the simulated pool and its caches: every number here is worked out by hand."""

import pytest

from gateway.lab.replay.cache import BlockCache
from gateway.lab.replay.engine import replay
from gateway.lab.replay.events import Event
from gateway.lab.replay.policy import Account, Answer, Refuse, Send, Wait
from gateway.lab.replay.pool import PolicyError, Pool
from gateway.lab.replay.strawmen import Hash, Random, RoundRobin, StickyCooldown
from gateway.lab.replay.trace import Prefixes
from tests.lab.replay.replay_kit import PACE, Scripted, accounts, play, request


def reads(run):
    return [served.read for served in run.served]


# The cache


def test_a_read_keeps_what_it_reads_for_another_ttl_and_nothing_else():
    cache = BlockCache(300.0)
    cache.write((1, 2, 3), 0.0)
    assert cache.read((1, 2, 9), 200.0) == 2
    assert cache.read((1, 2, 3), 300.0) == 2  # the third has just expired
    assert cache.read((1, 2), 599.9) == 2
    assert cache.read((1, 2), 900.0) == 0


def test_only_leading_blocks_are_read():
    cache = BlockCache(300.0)
    prefixes = Prefixes()
    cache.write(prefixes.intern([1, 2, 3]), 0.0)
    assert cache.read(prefixes.intern([7, 2, 3]), 1.0) == 0
    assert cache.read(prefixes.intern([1, 7, 3]), 1.0) == 1


def test_expired_blocks_are_swept_and_others_kept(monkeypatch):
    monkeypatch.setattr("gateway.lab.replay.cache._SWEEP", 10)
    cache = BlockCache(5.0)
    for at in range(100):
        cache.write((at,), float(at))
    assert len(cache) <= 11
    assert cache.read((99,), 99.0) == 1


# What is read, and when


def test_written_blocks_are_readable_from_the_response_start_on():
    # Two new blocks: the response starts 2 s after sending.
    stream = [request(0, 0, [1, 2]), request(1, 1.9, [1, 2]), request(2, 2, [1, 2])]
    _, run = play({n: ["a"] for n in range(3)}, stream)
    assert reads(run) == [0, 0, 1024]
    assert [served.started for served in run.served] == [2.0, 3.9, 3.0]


def test_a_prefix_lives_a_ttl_from_the_last_response_start_that_had_it():
    stream = [request(0, 0, [1, 2]), request(1, 301, [1, 2]), request(2, 601.9, [1, 2]), request(3, 902.95, [1, 2])]
    _, run = play({n: ["a"] for n in range(4)}, stream)
    assert reads(run) == [0, 1024, 1024, 0]  # started at 2, 302, 602.9; gone at 902.9


def test_workspaces_share_nothing_and_accounts_of_one_share_all():
    pool = Pool([Account("a", "w", "o"), Account("b", "w", "o"), Account("c", "x", "o")], 300.0)
    stream = [request(n, 10 * n, [1, 2]) for n in range(3)]
    _, run = play({0: ["a"], 1: ["b"], 2: ["c"]}, stream, pool=pool)
    assert reads(run) == [0, 1024, 0]


def test_the_last_block_counts_for_as_many_tokens_as_there_are_and_tokens_beyond_the_blocks_are_never_cached():
    short = request(0, 0, [1, 2], tokens=700)
    long = request(1, 0, [5, 6], tokens=1500)
    again = [request(2, 50, [1, 2], tokens=700), request(3, 50, [5, 6], tokens=1500)]
    _, run = play({n: ["a"] for n in range(4)}, [short, long, *again])
    assert [(each.read, each.written, each.fresh) for each in run.served] == [
        (0, 700, 0),
        (0, 1024, 476),
        (700, 0, 0),
        (1024, 0, 476),
    ]


# The policy's life


def test_a_policy_hears_of_everything_in_order():
    policy, run = play({0: [Wait(2.0), Refuse(1.2), "a"]}, [request(0, 1, [1])], events=[Event(2.0, "flush")])
    assert policy.log == [
        (1.0, "begin", 0),
        (2.0, "flush", None),
        (3.0, "waited", 0),
        (5.0, "begin", 0),  # clients are told whole seconds
        (6.5, Answer(200, written=512), 0),
        (7.5, "finished", 0),
    ]
    served = run.served[0]
    assert (served.arrived, served.sent, served.started, served.refused) == (1.0, 5.0, 6.5, 1)


def test_a_refusal_arrives_a_little_later_and_the_policy_says_what_then():
    burst = Event(0.0, "burst", account="a", seconds=10.0, retry_after=4.0)
    policy, run = play({0: ["a", "b"]}, [request(0, 1, [1])], events=[burst])
    assert policy.log[:2] == [(1.0, "begin", 0), (1.25, Answer(429, 4.0), 0)]
    assert (run.served[0].account, run.served[0].sent, run.served[0].limited) == ("b", 1.25, 1)


def test_a_session_sends_nothing_more_while_a_request_of_it_is_held_back_and_keeps_its_pauses():
    # The first is refused until 21; the pauses of 1 s and 30 s come after it, those of other sessions are their own.
    stream = [
        *(request(n, at, [1], conversation=b"s", session=True) for n, at in enumerate((1, 2, 32))),
        request(3, 2, [9], session=True),
    ]
    _, run = play({0: [Refuse(20.0), "a"], 1: ["a"], 2: ["a"], 3: ["b"]}, stream)
    assert [served.arrived for served in run.served] == [1.0, 22.0, 52.0, 2.0]
    assert [served.sent for served in run.served] == [21.0, 22.0, 52.0, 2.0]


def test_a_session_that_nothing_holds_back_comes_as_recorded_even_before_its_last_answer():
    stream = [request(n, at, [1, 2], session=True) for n, at in enumerate((1, 1, 1.5, 9))]
    _, run = play({n: ["a"] for n in range(4)}, stream)
    assert [served.arrived for served in run.served] == [1.0, 1.0, 1.5, 9.0]
    long = [request(n, 1, [1], session=True) for n in range(5000)]
    _, run = play({n: ["a"] for n in range(5000)}, long)
    assert {served.sent for served in run.served} == {1.0}


def test_clients_that_come_back_in_the_same_second_come_one_after_the_other():
    stream = [request(n, at, [n]) for n, at in enumerate((1, 1.25, 2, 2.75))]
    plan = {n: [Refuse(wait), "a"] for n, wait in enumerate((4.0, 2.5, 2.9, 1.0))}  # back by 5, 5, 5 and 4
    policy, _ = play(plan, stream)
    back = [(at, who) for at, what, who in policy.log if what == "begin"][4:]
    assert back == [(4.0, 3), (5.0, 0), (5.333333, 1), (5.666667, 2)]


def test_where_nobody_is_served_one_who_comes_back_is_told_for_all_behind_it():
    everybody = Refuse(3.0, everybody=True)
    stream = [request(n, 1, [n]) for n in range(4)]
    plan = {0: [everybody, "a"], 1: [everybody, everybody, "a"], 2: [everybody, "a"], 3: [everybody, "a"]}
    policy, run = play(plan, stream)
    assert [(at, who) for at, what, who in policy.log if what == "begin"][4:] == [
        (4.0, 0), (4.25, 1),  # and nobody asks for 2 and 3
        (8.0, 1), (8.333333, 2), (8.666667, 3),
    ]  # fmt: skip
    assert [served.refused for served in run.served] == [1, 2, 2, 2]


@pytest.mark.parametrize(
    ("leads", "goes_on"),
    [
        (["a"], 2.0),  # its response begins: one new block
        ([Wait(1.0), Refuse(9.0), "a"], 1.5),  # it is sent away
        ([Wait(30.0), "a"], 6.0),  # neither
    ],
)
def test_a_wait_behind_a_request_ends_with_its_response_or_refusal_or_by_itself(leads, goes_on):
    stream = [request(70, 0.5, [1]), request(80, 1, [1])]
    policy, run = play({70: leads, 80: [Wait(5.0, behind=70), "a"]}, stream)
    assert [at for at, what, who in policy.log if who == 80 and what == "waited"] == [goes_on]
    assert run.served[1].sent == goes_on


def test_turns_wait_for_the_answer_before_them_where_the_stream_says_so():
    stream = [request(0, 0, [1]), request(1, 1, [1, 2]), request(2, 1, [9])]
    plan = {n: ["a"] for n in range(3)}
    _, run = play(plan, stream, turns=True)
    assert [served.arrived for served in run.served] == [0.0, 2.5, 1.0]
    assert reads(run) == [0, 512, 0]
    _, run = play(plan, stream)
    assert [served.arrived for served in run.served] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("state", ["disable", "remove"])
def test_sending_where_nobody_may_send_is_a_fault_of_the_policy(state):
    with pytest.raises(PolicyError, match=r"request 0 was sent to a at 1\.000 s"):
        play({0: ["a"]}, [request(0, 1, [1])], events=[Event(0.5, state, account="a")])


def test_a_policy_that_never_serves_a_request_is_found_out(monkeypatch):
    monkeypatch.setattr("gateway.lab.replay.engine._MAX_STEPS", 11_000)
    with pytest.raises(PolicyError, match="still waiting"):
        play({0: [Refuse(60.0)] * 20_000}, [request(0, 0, [1])])
    with pytest.raises(PolicyError, match="steps"):
        play({0: [Wait(0.0)] * 12_000}, [request(0, 0, [1])])


# Limits and troubles


def test_a_request_larger_than_the_bucket_takes_all_of_it_and_no_more():
    stream = [request(0, 0, range(10)), request(1, 61, range(10, 20))]
    _, run = play({0: ["a"], 1: ["a"]}, stream, limit=1000)
    assert [served.limited for served in run.served] == [0, 0]


def test_a_bucket_of_one_minute_refuses_what_it_does_not_hold_and_says_when():
    # 1200 a minute are 20 a second. 1024 taken at 0; 1024 more need 848 that are not there: 42.4 s.
    stream = [request(0, 0, [1, 2]), request(1, 0, [5, 6]), request(2, 3, [1, 2])]
    policy, run = play({0: ["a"], 1: ["a", "b"], 2: ["a"]}, stream, limit=1200)
    told = [entry for _, entry, _ in policy.log if isinstance(entry, Answer)]
    assert Answer(429, 43.0, 1200, 0) in told  # 176 of 1200 are left: rounded to thousands
    assert run.served[1].account == "b"


def test_reads_take_nothing_from_the_bucket():
    stream = [request(0, 0, [1, 2]), *(request(n, 2 + n, [1, 2]) for n in range(1, 30))]
    _, run = play({n: ["a"] for n in range(30)}, stream, limit=1100)
    assert sum(served.limited for served in run.served) == 0


def test_a_request_larger_than_the_bucket_passes_when_it_is_full():
    stream = [request(0, 0, range(10)), request(1, 1, [77]), request(2, 400, range(20, 30))]
    _, run = play({0: ["a"], 1: ["a", "b"], 2: ["a"]}, stream, limit=1000)
    assert [served.limited for served in run.served] == [0, 1, 0]


def test_a_refused_request_refreshes_nothing():
    pool = Pool(accounts("a"), 300.0, 1024)
    pool.begin(pool.accounts["a"], request(0, 0, [1]), 1.5)
    assert pool.send("a", request(1, 299, [7, 8]), 299.0).status == 200  # the bucket is empty now
    assert pool.send("a", request(2, 300, [1, 2]), 300.0).status == 429
    later = pool.send("a", request(3, 302, [1], tokens=20), 302.0)
    assert (later.status, later.read) == (200, 0)


def test_organizations_hold_the_limits_not_accounts():
    pool = Pool([Account("a", "w", "o"), Account("b", "x", "o")], 300.0, 1000)
    _, run = play({0: ["a"], 1: ["b", Refuse(60.0), "b"]}, [request(0, 0, [1, 2]), request(1, 1, [5])], pool=pool)
    assert [served.limited for served in run.served] == [0, 1]


def test_a_cloud_does_not_say_what_is_left_of_limits_nor_when_to_come_back():
    silent, telling = Account.at("bedrock", 1), Account.at("aws-platform", 1)
    pool = Pool([silent, telling], 300.0, 1000)
    large, small = request(0, 0, [1, 2]), request(1, 1, [3])
    assert [pool.send(each.id, large, 0.0).limit for each in (silent, telling)] == [None, 1000]
    refused = [pool.send(each.id, small, 1.0) for each in (silent, telling)]
    assert refused[0] == Answer(429) and refused[1].retry_after and refused[1].limit == 1000


def test_a_burst_closes_the_organization_and_an_overload_the_account_or_all():
    pool = Pool([Account("a", "w", "o"), Account("b", "w", "o"), Account("c", "x", "p")], 300.0)
    pool.happened(Event(10.0, "burst", account="a", seconds=4.5), 10.0)
    one = request(0, 10, [1])
    assert pool.send("b", one, 10.0) == Answer(429, 5.0)
    assert pool.send("c", one, 10.0).status == 200
    assert pool.send("b", one, 14.5).status == 200
    pool.happened(Event(20.0, "overload", account="c", seconds=1.0), 20.0)
    assert [pool.send(name, one, 20.0).status for name in "abc"] == [200, 200, 529]
    pool.happened(Event(30.0, "overload", seconds=1.0), 30.0)
    assert [pool.send(name, one, 30.0).status for name in "abc"] == [529, 529, 529]


def test_shares_follow_the_pool():
    events = [
        Event(1.0, "add", account="c", weight=2.0),
        Event(2.0, "weight", account="a", weight=3.0),
        Event(3.0, "disable", account="b"),
        Event(4.0, "remove", account="a"),
        Event(5.0, "enable", account="b"),
    ]
    _, run = play({}, [], events=events)
    assert run.shares == [
        (0.0, {"ws-a": 0.5, "ws-b": 0.5}),
        (1.0, {"ws-a": 0.25, "ws-b": 0.25, "ws-c": 0.5}),
        (2.0, {"ws-a": 0.5, "ws-b": 1 / 6, "ws-c": 1 / 3}),
        (3.0, {"ws-a": 0.6, "ws-c": 0.4}),
        (4.0, {"ws-c": 1.0}),
        (5.0, {"ws-b": 1 / 3, "ws-c": 2 / 3}),
    ]


# The strawmen

CROWD = [request(n, n * 0.7, [n % 40, 1000 + n], conversation=b"c%d" % (n % 40)) for n in range(400)]


def crowd(made, *, events=(), limit=None, seed=1, names="abcd"):
    pool = accounts(*names)
    return replay(made(pool, 300.0, seed), Pool(pool, 300.0, limit), PACE, CROWD, events)


@pytest.mark.parametrize("made", [Random, RoundRobin, Hash, StickyCooldown])
def test_every_strawman_serves_all_through_trouble_and_does_the_same_again(made):
    events = [
        Event(10.0, "burst", account="a", seconds=20.0, retry_after=5.0),
        Event(20.0, "add", account="e", weight=2.0),
        Event(40.0, "disable", account="b"),
        Event(60.0, "overload", seconds=5.0),
        Event(80.0, "remove", account="a"),
        Event(90.0, "flush"),
        Event(100.0, "restart"),
        Event(110.0, "store_down"),
        Event(120.0, "enable", account="b"),
        Event(130.0, "store_up"),
        Event(140.0, "weight", account="c", weight=0.5),
        Event(150.0, "drain", account="d"),
    ]
    first, again = (crowd(made, events=events, limit=20_000) for _ in range(2))
    assert all(served.account for served in first.served)
    assert first == again
    late = {served.account for served in first.served if served.sent > 150}
    assert late == {"b", "c", "e"}


def test_random_and_hash_depend_on_the_seed_and_round_robin_takes_turns():
    where = {made: [[s.account for s in crowd(made, seed=seed).served] for seed in (1, 2)] for made in (Random, Hash)}
    assert all(one != two for one, two in where.values())
    assert [served.account for served in crowd(RoundRobin).served[:5]] == ["b", "c", "d", "a", "b"]


def test_hash_leaves_home_only_while_the_retry_after_lasts():
    calm = [served.account for served in crowd(Hash).served]
    burst = Event(50.0, "burst", account="a", seconds=40.0, retry_after=10.0)
    run = crowd(Hash, events=[burst])
    away = [served for served, home in zip(run.served, calm, strict=True) if served.account != home]
    assert away
    assert all(50.0 <= served.sent <= 100.5 for served in away)
    assert run.moves["limited"] >= run.moves["home"] > 0


def test_sticky_cooldown_cools_for_a_minute_and_never_goes_home():
    burst = Event(50.0, "burst", account="a", seconds=1.0, retry_after=1.0)
    run = crowd(StickyCooldown, events=[burst])
    cooled = [served.sent for served in run.served if served.limited]
    assert cooled
    assert not [s for s in run.served if s.account == "a" and cooled[0] + 0.25 < s.sent < cooled[0] + 60]
    assert set(run.moves) == {"cooling"}


def test_everything_closed_is_a_refusal_with_the_least_time_remaining():
    pool = accounts("a", "b")
    policy = Hash(pool, 300.0, 1)
    one = request(0, 0, [1])
    first = policy.begin(one, 0.0)
    assert isinstance(first, Send)
    second = policy.answered(one, first.account, Answer(429, 9.0), 1.0)
    assert isinstance(second, Send) and second != first
    assert policy.answered(one, second.account, Answer(429, 4.0), 2.0) == Refuse(4.0, everybody=True)
    assert policy.begin(one, 6.0) == second


def test_a_scripted_policy_fits_the_protocol():
    policy, _ = play({0: ["a"]}, [request(0, 0, [1])])
    assert isinstance(policy, Scripted)
