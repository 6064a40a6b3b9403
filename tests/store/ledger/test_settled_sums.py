"""What requests add up to is told beside their records: the store counts the same by either."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.spending.quota import Plan, Quota
from gateway.store.ledger.ledger import Ended, Entry, pack, to_settle
from tests.store.ledger.test_joined_admissions import stored
from tests.store.ledger.test_ledger import AT, CENT, admission

NAMES = ("ada", "bob")
SOME = Quota(
    requests=100, input_tokens=1000, output_tokens=100, concurrency=9, day_nano=90 * CENT, month_nano=90 * CENT
)
QUOTAS = st.sampled_from([Quota(), Quota(output_tokens=50), SOME])
ENTRIES = st.builds(
    Entry,
    id=st.integers(1, 9).map(lambda number: f"r{number}"),
    at=st.just(AT),
    ended=st.just(AT + 1000),
    caller=st.sampled_from(NAMES),
    team=st.just("research"),
    model=st.sampled_from(["m1", "m2"]),
    account=st.sampled_from(["a", "b"]),
    endpoint=st.just("messages"),
    provisional=st.sampled_from([False] * 5 + [True]),
    requests=st.sampled_from([1, 1, 1, 0]),
    estimated=st.integers(0, 1),
    input=st.sampled_from([0, 10, 700]),
    output=st.sampled_from([0, 3, 90]),
    cost_nano=st.sampled_from([0, 1, 3 * CENT]),
    savings_nano=st.sampled_from([0, CENT]),
)
BATCHES = st.lists(st.lists(ENTRIES, min_size=1, max_size=7), min_size=1, max_size=4)


def without_sums(args: tuple[Any, ...]) -> tuple[Any, ...]:
    place = int(args[0]) + 8
    return (*args[:place], b"", *args[place + 1 :])


@settings(max_examples=150, deadline=None)
@given(quotas=st.tuples(QUOTAS, QUOTAS, QUOTAS), admitted=st.sets(st.integers(1, 9)), batches=BATCHES)
def test_sums_and_records_count_the_same(shared_server, quotas, admitted, batches):
    admin = shared_server.admin
    ada, bob, team = quotas
    plans = {
        name: Plan("t:research", [(f"c:{name}", own), ("t:research", team)])
        for name, own in zip(NAMES, (ada, bob), strict=True)
    }
    found = []
    for whole in (True, False):
        admin.flushall()
        replies = []
        for number in sorted(admitted):
            script, args = admission(plans[NAMES[number % 2]], f"r{number}", CENT)
            admin.eval(script.text, *args)
        for batch in batches:
            script, args = to_settle([Ended(each, pack(each), plans[each.caller].debits) for each in batch], AT + 2000)
            replies.append(admin.eval(script.text, *(args if whole else without_sums(args))))
        kept = stored(admin)
        records = [fields[b"r"] for key in admin.scan_iter("*}:s") for _, fields in admin.xrange(key)]
        found.append((replies, kept, records))
    assert found[0] == found[1]
