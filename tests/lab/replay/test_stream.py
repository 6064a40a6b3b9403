"""Where requests and events come from: traces, synthetic agents, files of events."""

import gzip
import json
import os
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median

import msgspec
import pytest

from gateway.lab.replay import events
from gateway.lab.replay.agents import Agents, stream
from gateway.lab.replay.events import Event, EventsError
from gateway.lab.replay.policy import Request
from gateway.lab.replay.pool import Pace
from gateway.lab.replay.run import Settings, run
from gateway.lab.replay.strawmen import Hash, Random
from gateway.lab.replay.trace import TraceError, load
from tests.lab.replay.replay_kit import write_trace

GOOD = '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0]}\n'
POOL = ["a", "b"]


# Traces


def test_a_trace_is_read_in_order_of_arrival_from_its_first_timestamp(tmp_path):
    path = write_trace(tmp_path / "t.jsonl", [(5000, 600, 7, [4, 5]), (4000, 512, 3, [4]), (5000, 1025, 1, [4, 6, 5])])
    first, second, third = load(path)
    assert [(each.index, each.at) for each in (first, second, third)] == [(1, 0.0), (0, 1.0), (2, 1.0)]
    assert (second.input, second.output, second.conversation) == (600, 7, b"4:5")
    assert (first.conversation, third.conversation) == (b"4", b"4:6")
    assert first.blocks == second.blocks[:1] == third.blocks[:1]
    assert len({*second.blocks, *third.blocks}) == 4  # block 5 after 4 is not block 5 after 6


def line(blocks, **more):
    return json.dumps({"timestamp": 0, "input_length": 900, "output_length": 1, "hash_ids": blocks} | more)


def test_a_session_is_the_conversation_whatever_its_blocks_are(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [([1, 2], "s"), ([3, 4], "s"), ([1, 2], "t"), ([1, 2], 7), ([1, 2], "7"), ([1, 2], "1:2"), ([1, 2], None)]
    path.write_text("\n".join(line(blocks, session_id=session) for blocks, session in rows) + "\n" + line([1, 2]))
    s, again, t, number, text, like_blocks, null, without = load(path)
    assert s.conversation == again.conversation != t.conversation
    assert number.conversation == text.conversation
    assert null.conversation == without.conversation == b"1:2" != like_blocks.conversation
    assert [each.session for each in (s, t, number, null, without)] == [True, True, True, False, False]


def test_a_block_has_the_size_that_the_trace_says(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join([line([1]), line([1], block_size=64), line([1]), line([1], block_size=128)]))
    assert [each.block for each in load(path)] == [512, 64, 64, 128]
    report = run(Settings(trace=path), {"hash": Hash}).plain()
    assert report["parameters"]["block_tokens"] == 512
    assert report["policies"]["hash"]["cache_written_tokens"] == 512 + 64 + 64 + 128  # nobody saw another's response


def test_gzip_and_blank_lines_are_read_too(tmp_path):
    plain = write_trace(tmp_path / "t.jsonl", [(0, 512, 1, [1]), (1, 512, 1, [1])])
    packed = tmp_path / "t.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\n" + plain.read_bytes() + b"\n\n"))
    assert load(packed) == load(plain)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 3: "),
        ("[]", "line 3: Expected `object`, got `array`"),
        ('{"timestamp": 1, "input_length": 1, "output_length": 1}', "missing required field `hash_ids`"),
        (GOOD.replace("[0]", '["a"]'), "Expected `int`, got `str`"),
        (GOOD.replace("[0]", "[]"), "hash_ids must name at least one block"),
        (GOOD.replace('th": 1, "out', 'th": 0, "out'), "input_length must be at least 1"),
        (GOOD.replace('th": 1, "out', 'th": true, "out'), "Expected `int`, got `bool`"),
        (GOOD.replace('put_length": 1, "hash', 'put_length": -1, "hash'), "output_length must not be negative"),
        (GOOD.replace('"timestamp": 0', '"timestamp": -1'), "timestamp must not be negative"),
        (GOOD.replace('"hash', '"block_size": 0, "hash'), "block_size must be at least 1"),
        (GOOD.replace('"hash', '"session_id": [1], "hash'), "Expected `int | str | null`, got `array`"),
        ("\udcff", "line 3: "),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, complaint):
    path = tmp_path / "t.jsonl"
    path.write_bytes((GOOD + "\n" + line.strip() + "\n").encode(errors="surrogateescape"))
    with pytest.raises(TraceError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: line 3: ")
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"", mtime=0)])
def test_an_empty_trace_is_no_trace(tmp_path, content):
    path = tmp_path / ("t.jsonl.gz" if content[:1] == b"\x1f" else "t.jsonl")
    path.write_bytes(content)
    with pytest.raises(TraceError, match="no requests in it"):
        load(path)


def test_a_file_that_is_missing_cut_or_no_gzip_is_one_line(tmp_path):
    with pytest.raises(TraceError, match="No such file or directory; name a trace"):
        load(tmp_path / "nowhere.jsonl")
    with pytest.raises(TraceError, match="name a trace"):
        load(tmp_path)
    path = tmp_path / "t.jsonl.gz"
    for content in (gzip.compress(GOOD.encode() * 100)[:-9], GOOD.encode()):
        path.write_bytes(content)
        with pytest.raises(TraceError, match="not a whole gzip file"):
            load(path)


# Agents


def test_equal_seeds_make_equal_agents():
    few = Agents(conversations=20)
    assert stream(few, 3, Pace()) == stream(few, 3, Pace())
    assert stream(few, 3, Pace()) != stream(few, 4, Pace())


def test_agents_are_as_described():
    found = stream(Agents(seconds=1e9), 1, Pace())  # nobody is cut short
    by_conversation = defaultdict(list)
    for request in found:
        by_conversation[request.conversation].append(request)
    assert len(by_conversation) == 400
    assert 11 <= median(map(len, by_conversation.values())) <= 15
    added = [b.input - a.input for turns in by_conversation.values() for a, b in pairwise(turns)]
    assert 1400 <= median(added) <= 1600
    pauses = []
    for turns in by_conversation.values():
        for before, after in pairwise(turns):
            assert after.blocks[: before.input // 512] == before.blocks[: before.input // 512]
            pauses.append(after.at - before.at)
    assert 0.02 <= sum(pause > 300 for pause in pauses) / len(pauses) <= 0.045
    assert all(request.at >= 0 and len(request.blocks) == -(-request.input // 512) for request in found)


def test_conversations_of_a_group_share_tools_and_system():
    firsts: dict[bytes, Request] = {}
    for request in stream(Agents(seconds=1e9), 1, Pace()):
        firsts.setdefault(request.conversation, request)
    groups = Counter(request.blocks[0] for request in firsts.values())
    assert len(groups) == 20
    (_, most), *_, (_, least) = groups.most_common()
    assert most > 5 * least
    one, other, *_ = [request for request in firsts.values() if request.blocks[0] == groups.most_common()[0][0]]
    shared = sum(a == b for a, b in zip(one.blocks, other.blocks, strict=False))
    assert 12_000 - 512 <= shared * 512 <= 20_000


def test_the_stream_ends_where_it_is_told():
    found = stream(Agents(conversations=50, seconds=100.0), 1, Pace())
    assert max(request.at for request in found) <= 100.0
    assert [request.index for request in found] == list(range(len(found)))


# Events


def test_events_are_read_from_a_file_and_put_in_order(tmp_path):
    path = tmp_path / "events.json"
    path.write_text('[{"at": 9, "event": "flush"}, {"at": 2.5, "event": "add", "account": "x", "weight": 2}]')
    assert events.check(events.load(path), POOL) == [
        Event(2.5, "add", account="x", weight=2.0),
        Event(9.0, "flush"),
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[\n{", "line 2: "),
        ("{}", "must be one JSON list"),
        ("[1]", "entry 1: Expected `object`"),
        ('[{"event": "flush"}]', "entry 1: Object missing required field `at`"),
        ('[{"at": 1, "event": "flush"}, {"at": 1, "event": "explode"}]', "entry 2: Invalid enum value 'explode'"),
        ('[{"at": 1, "event": "flush", "speed": 1}]', "unknown field `speed`"),
        ('[{"at": "1", "event": "flush"}]', "entry 1: Expected `float`"),
        ('[{"at": -1, "event": "flush"}]', "entry 1: at must not be negative"),
        ('[{"at": 1, "event": "burst", "account": "a"}]', "entry 1: burst needs seconds"),
        ('[{"at": 1, "event": "weight", "account": "a"}]', "entry 1: weight needs weight"),
        ('[{"at": 1, "event": "add", "account": ""}]', "entry 1: account must not be empty"),
        ('[{"at": 1, "event": "weight", "account": "a", "weight": 0}]', "weight must be above 0"),
        ('[{"at": 1, "event": "overload", "seconds": 0}]', "seconds must be above 0"),
        ('[{"at": 1, "event": "flush", "account": "a"}]', "flush takes no account"),
        (
            '[{"at": 1, "event": "drain", "account": "x"}]',
            "entry 1: no account x at 1 s; there are a, b",
        ),
        ('[{"at": 1, "event": "add", "account": "a"}]', "entry 1: a is no new account"),
        (
            '[{"at": 2, "event": "remove", "account": "a"}, {"at": 3, "event": "remove", "account": "b"}]',
            "entry 2: b is the last account",
        ),
        (
            '[{"at": 3, "event": "drain", "account": "a"}, {"at": 2, "event": "remove", "account": "a"}]',
            "entry 1: no account a at 3 s",
        ),
    ],
)
def test_a_wrong_event_is_named(tmp_path, content, complaint):
    path = tmp_path / "events.json"
    path.write_text(content)
    with pytest.raises(EventsError) as caught:
        events.check(events.load(path), POOL, str(path))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_built_in_events_fit_any_pool(count):
    names = [f"account-{n + 1}" for n in range(count)]
    found = events.check(events.churn(900.0, names), names)
    assert Counter(event.event for event in found) == {"add": 4, "burst": 4, "remove": 2, "flush": 1, "restart": 1}
    assert all(0 < event.at < 900 for event in found)


# A recorded trace: figures measured before with other code


@pytest.fixture(scope="module")
def mooncake():
    directory = os.environ.get("TRACE_DIR")
    path = Path(directory or ".") / "mooncake_conversation_trace.jsonl.gz"
    if directory is None or not path.exists():
        pytest.skip("trace: set TRACE_DIR to a directory with mooncake_conversation_trace.jsonl.gz")
    return run(Settings(trace=path), {"random": Random, "hash": Hash}).plain()


def test_calm_mooncake_figures_are_the_known_ones(mooncake):
    assert mooncake["parameters"]["requests"] == 12_031
    found = mooncake["policies"]
    assert found["random"]["R"] == pytest.approx(0.26, abs=0.02)
    assert found["hash"]["R"] == pytest.approx(1.0, abs=0.001)
    assert found["hash"]["peak_to_mean"] == pytest.approx(1.13, abs=0.05)


def test_equal_settings_make_equal_reports():
    settings = Settings(accounts=4, tight=True, agents=Agents(conversations=30, seconds=300.0))
    one, other = (run(settings, {"random": Random, "hash": Hash}) for _ in range(2))
    assert msgspec.json.encode(one.plain()) == msgspec.json.encode(other.plain())
    assert json.dumps(one.decisions("hash")) == json.dumps(other.decisions("hash"))
