"""The production rules in the replay: two processes, one store, and what a conversation meets there."""

import pytest

from gateway.lab.replay.engine import replay
from gateway.lab.replay.pool import Pace, Pool
from gateway.lab.replay.production import Production
from tests.lab.replay.replay_kit import accounts, request

SLOW = Pace(first_token=1.0, prefill=20_000.0, decode=100.0, refusal=0.05)


def played(stream, names="abcd", *, limit=None, ttl=300.0, seed=1):
    pool = accounts(*names)
    return replay(Production(pool, ttl, seed), Pool(pool, ttl, limit), SLOW, stream)


@pytest.mark.parametrize("indexes", [(0, 2, 4), (0, 1, 2), (1, 2, 3)])
def test_a_cold_conversation_is_written_once_however_soon_and_where_its_next_request_comes(indexes):
    # 300 blocks take 8 s to compute; the next request comes after 3 s, on the same process or the other one.
    large = tuple(range(300))
    first, cold, soon = indexes
    stream = [
        request(first, 0, large),
        request(cold, 400, large),
        request(soon, 403, (*large, 300)),
        request(soon + 1, 403, (*large, 301)),
        request(90, 420, (*large, 302)),
    ]
    run = played(stream)
    assert len({served.workspace for served in run.served}) == 1
    assert run.moves == {}
    assert run.served[-1].read == 300 * 512


def test_those_that_wait_for_a_conversations_first_answer_read_what_it_wrote():
    stream = [request(0, 0, range(20)), request(2, 0.2, range(20)), request(4, 0.4, range(20))]
    run = played(stream)
    start = run.served[0].started
    assert [served.sent for served in run.served] == [0.0, start, start]
    assert [served.read for served in run.served] == [0, 20 * 512, 20 * 512]
