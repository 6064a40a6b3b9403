"""Admissions that are sent as one do what they do one after the other: the same replies, and the same is stored."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.routing.binding import Record, pack
from gateway.core.spending.quota import COUNT, MESSAGE, Plan, Quota
from gateway.store.client.connection import Call as Sent
from gateway.store.client.connection import Joined
from gateway.store.ledger.ledger import to_bind
from tests.store.ledger.test_ledger import AT, CENT, admission

QUOTAS = st.builds(
    Quota,
    requests=st.none() | st.integers(1, 6),
    input_tokens=st.none() | st.integers(1, 300),
    concurrency=st.none() | st.integers(1, 4),
    day_nano=st.none() | st.integers(0, 40).map(CENT.__mul__),
    week_nano=st.none() | st.integers(0, 50).map(CENT.__mul__),
    soft=st.sampled_from([(), (0.5,)]),
    month_nano=st.none() | st.integers(0, 60).map(CENT.__mul__),
)
TENANTS = ("t:research", "t:sales")
MOMENTS = st.sampled_from([AT, AT + 5_000, AT + 50_000, AT + 86_400_000])
ASKED = st.tuples(
    st.integers(0, 3),  # whose plan
    st.integers(1, 12),  # id: some twice
    st.sampled_from([0, 1, 3, 10]),  # cents
    st.sampled_from([0, 0, 1]),  # of them not needed
    st.integers(0, 2),  # conversation
    st.sampled_from(["m1", "m2"]),
    st.sampled_from([1, 1, 2]),  # generation
    st.sampled_from([0, 600_000]),  # in flight
    st.sampled_from([MESSAGE, MESSAGE, MESSAGE, COUNT, "nothing"]),
)


def sent(plans: list[Plan], asked: tuple[Any, ...], now: int) -> Sent:
    whose, number, cents, less, conversation, model, generation, in_flight, endpoints = asked
    plan = plans[whose]
    key = f"{{{plan.tenant}}}:b:{conversation:032x}"
    proposal = (key, model, pack(Record(f"w{number}", generation)), generation, 600_000, in_flight)
    if endpoints == "nothing":
        script, args = to_bind(proposal, now)
    else:
        discount = CENT * min(less, cents) if endpoints == MESSAGE else 0
        cost = CENT * cents if endpoints == MESSAGE else 0
        script, args = admission(
            plan, f"{plan.tenant}-r{number}", cost, endpoints, now, binding=proposal, discount=discount
        )  # fmt: skip
    return Sent(script, args, None)


def stored(admin: Any) -> dict[bytes, Any]:
    read = {
        b"hash": admin.hgetall,
        b"zset": lambda key: admin.zrange(key, 0, -1, withscores=True),
        b"string": admin.get,
    }
    return {key: read[kind](key) for key in admin.scan_iter() if (kind := admin.type(key)) in read}


@settings(max_examples=150, deadline=None)
@given(
    quotas=st.lists(QUOTAS, min_size=6, max_size=6),
    ticks=st.lists(st.tuples(MOMENTS, st.lists(ASKED, min_size=1, max_size=8)), min_size=1, max_size=5),
)
def test_admissions_that_are_joined_are_those_that_are_not(shared_server, quotas, ticks):
    plans = [
        Plan(tenant, [(f"c:{name}", quotas[3 * team + place]), (tenant, quotas[3 * team + 2])])
        for team, tenant in enumerate(TENANTS) for place, name in enumerate(("ada", "bob"))
    ]  # fmt: skip
    admin = shared_server.admin
    found = []
    for joined in (False, True):
        admin.flushall()
        replies: list[Any] = []
        for now, asked in ticks:
            calls = [sent(plans, each, now) for each in asked]
            if joined:
                one = Joined(calls)
                replies += admin.eval(one.script.text, *one.args)
            else:
                for call in calls:
                    replies += admin.eval(call.script.text, *call.args)
        found.append((replies, stored(admin)))
    alone, together = found
    assert together == alone
