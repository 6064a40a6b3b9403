"""`gateway replay` as somebody runs it: arguments, output, exit codes, and figures that an outsider can recompute."""

import importlib.util
import json
import random

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.lab.replay import policies
from gateway.lab.replay.strawmen import Hash, Random
from tests.lab.replay.replay_kit import write_trace

STRAWMEN = [word for name in policies.STRAWMEN for word in ("--policy", name)]


def gateway_replay(*arguments):
    return CliRunner().invoke(app, ["replay", *map(str, arguments)])


@pytest.fixture(scope="module")
def rows():
    """300 requests of 40 conversations over 10 minutes, some of them at the same time."""
    rnd = random.Random(5)
    depth = [2] * 40
    made = []
    for at in sorted(rnd.randrange(0, 600_000, 500) for _ in range(300)):
        who = rnd.randrange(40)
        depth[who] += 1
        blocks = [who % 4, *(100 * who + step for step in range(10, 10 + depth[who]))]
        made.append((at, 512 * len(blocks) - rnd.randrange(512), rnd.randrange(1, 400), blocks))
    return made


@pytest.fixture(scope="module")
def trace(rows, tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("trace") / "small.jsonl", rows)


def figures(*arguments):
    done = gateway_replay(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_json_holds_parameters_oracle_and_policies(trace):
    found = figures(trace, "--accounts", 4, "--tight", *STRAWMEN)
    assert set(found) == {"parameters", "oracle", "policies"}
    assert list(found["policies"]) == ["random", "round_robin", "hash", "sticky_cooldown"]
    for each in found["policies"].values():
        assert set(each) >= {
            "R", "C", "peak_to_mean", "window_peak_to_mean", "rate_limited", "moves", "wait_p99_s", "requests",
        }  # fmt: skip
    parameters, oracle = found["parameters"], found["oracle"]
    assert (parameters["source"], parameters["requests"], parameters["accounts"]) == ("small.jsonl", 300, 4)
    assert (parameters["ttl_s"], parameters["seed"], parameters["tight"], parameters["events"]) == (300, 1, True, [])
    limit = 1.3 * oracle["fresh_tokens_per_minute"] / 4
    assert limit <= parameters["limit_tokens_per_minute"] < limit + 1


def recomputed(rows, decisions, ttl):
    """(cached tokens, new tokens by workspace) of a trace served as the decisions say: what `gateway replay` does to
    caches, written anew. The name of a block is its whole prefix."""
    moments = sorted(
        [(each["sent"], 1, each) for each in decisions] + [(each["started"], 0, each) for each in decisions],
        key=lambda moment: moment[:2],
    )
    expires: dict[tuple, float] = {}
    new: dict[str, int] = {}
    cached = 0
    for now, sending, each in moments:
        _, tokens, _, blocks = rows[each["index"]]
        names = [(each["workspace"], tuple(blocks[: n + 1])) for n in range(len(blocks))]
        if sending:
            readable = next((n for n, name in enumerate(names) if expires.get(name, 0) <= now), len(names))
            read = min(512 * readable, tokens)
            assert read == each["read"]
            cached += read
            new[each["workspace"]] = new.get(each["workspace"], 0) + tokens - read
            names = names[:readable]
        for name in names:
            expires[name] = now + ttl
    return cached, new


@pytest.mark.parametrize("extra", [(), ("--tight",)])
def test_r_and_balance_can_be_recomputed_from_the_decisions(rows, trace, tmp_path, extra):
    path = tmp_path / "decisions.jsonl"
    found = figures(trace, "--accounts", 4, "--policy", "sticky_cooldown", "--decisions", path, *extra)
    decisions = [json.loads(line) for line in path.read_text().splitlines()]
    assert [each["index"] for each in decisions] == list(range(300))
    assert all(each["route"] and each["reason"] and each["account"] for each in decisions)
    cached, new = recomputed(rows, decisions, 300.0)
    assert cached / found["oracle"]["cache_read_tokens"] == pytest.approx(found["policies"]["sticky_cooldown"]["R"])
    peak = max(new.values()) / (sum(new.values()) / 4)
    assert peak == pytest.approx(found["policies"]["sticky_cooldown"]["peak_to_mean"])


def test_accounts_at_clouds_count_by_provider_and_share_no_cache(rows, trace, tmp_path):
    path = tmp_path / "decisions.jsonl"
    found = figures(trace, "--accounts", 2, "--clouds", 1, "--policy", "gateway", "--decisions", path, "--tight")
    clouds = ("bedrock", "vertex", "foundry", "aws-platform")
    assert found["parameters"]["accounts"] == 6
    assert found["parameters"]["providers"] == {"anthropic": 2, **dict.fromkeys(clouds, 1)}
    decisions = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({(each["account"], each["workspace"]) for each in decisions}) == 6
    cached, new = recomputed(rows, decisions, 300.0)
    figure = found["policies"]["gateway"]["by_provider"]
    assert sum(each["cache_read_tokens"] for each in figure.values()) == cached
    assert sum(each["requests"] for each in figure.values()) == 300
    for cloud in clouds:
        assert figure[cloud]["new_tokens"] == new[f"ws-{cloud}-1"]
    done = gateway_replay(trace, "--accounts", 2, "--clouds", 1, "--policy", "gateway")
    assert "gateway by provider:" in done.stdout and "aws-platform  1 accounts" in done.stdout


def test_several_seeds_show_the_worst_of_each_figure_too(trace):
    found = figures(trace, "--accounts", 4, "--policy", "hash", "--seeds", 3, "--seed", 5)
    assert [each["seed"] for each in found["runs"]] == [5, 6, 7]
    peaks = [each["policies"]["hash"]["peak_to_mean"] for each in found["runs"]]
    assert len(set(peaks)) == 3
    assert found["worst"]["hash"]["peak_to_mean"] == max(peaks)
    assert found["worst"]["hash"]["R"] == min(each["policies"]["hash"]["R"] for each in found["runs"])
    assert found["policies"]["hash"]["peak_to_mean"] == peaks[0]


def test_the_table_shows_parameters_figures_and_targets(trace):
    done = gateway_replay(trace, "--accounts", 4, *STRAWMEN, "--seeds", 2)
    assert done.exit_code == 0, done.stderr
    for word in ("small.jsonl: 300 requests", "4 accounts", "TTL 300 s", "limits: none", "sticky_cooldown", "≥ 0.99",
                 "≤ 1.3", "worst of 2 seeds", "moves of random: chance"):  # fmt: skip
        assert word in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--policy", "hash"], ["hash"]),
        (["--policy", "hash,gateway"], ["gateway", "hash"]),
        (["--policy", "random,hash", "--policy", "round_robin"], ["random", "round_robin", "hash"]),
        ([], ["gateway", "random", "round_robin", "hash", "sticky_cooldown"]),
    ],
)
def test_policies_are_chosen_by_name(trace, arguments, shown):
    assert list(figures(trace, *arguments)["policies"]) == shown


def test_events_come_from_a_file_and_are_accounted_for(trace, tmp_path):
    path = tmp_path / "events.json"
    happens = [
        {"at": 200, "event": "burst", "account": "account-1", "seconds": 60, "retry_after": 7},
        {"at": 100, "event": "add", "account": "late", "weight": 3},
    ]
    path.write_text(json.dumps(happens))
    found = figures(trace, "--accounts", 3, "--policy", "hash", "--events", path)
    assert found["parameters"]["events"] == happens[::-1]
    assert found["policies"]["hash"]["rate_limited"] > 0
    assert [each["event"] for each in found["policies"]["hash"]["after_events"]] == ["add", "burst"]
    done = gateway_replay(trace, "--accounts", 3, "--policy", "hash", "--events", path)
    assert "hash in the 300 s after each event" in done.stdout


def test_synthetic_agents_bring_events_unless_told_not_to():
    found = figures("--synthetic", "--policy", "hash")
    assert (found["parameters"]["source"], found["parameters"]["accounts"]) == ("synthetic", 8)
    assert len(found["parameters"]["events"]) == 12
    assert found["parameters"]["agents"]["conversations"] == found["parameters"]["conversations"] == 400
    calm = figures("--synthetic", "--policy", "hash", "--events", "none")
    assert calm["parameters"]["events"] == []
    assert calm["policies"]["hash"]["C"] < found["policies"]["hash"]["C"]


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_the_plot_is_a_png(trace, tmp_path):
    path = tmp_path / "plot.png"
    events = tmp_path / "events.json"
    events.write_text('[{"at": 10, "event": "flush"}, {"at": 20, "event": "add", "account": "late"}]')
    done = gateway_replay(trace, "--policy", "hash", "--policy", "random", "--plot", path, "--events", events)
    assert done.exit_code == 0, done.stderr
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_one_line_says_how_to_get_it(trace, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    done = gateway_replay(trace, "--policy", "hash", "--plot", tmp_path / "plot.png")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "pip install 'conversation-gateway[plot]'" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ((), "name a trace, or use --synthetic"),
        (("TRACE", "--synthetic"), "--synthetic goes without a trace"),
        (("nowhere.jsonl",), "nowhere.jsonl: No such file or directory; name a trace"),
        (("BROKEN",), "line 2: "),
        (("TRACE", "--policy", "magic"), "no policy 'magic'; there are "),
        (("TRACE", "--policy", "hash,"), "no policy ''; there are "),
        (("TRACE", "--accounts", "0"), "--accounts must be at least 1"),
        (("TRACE", "--seeds", "0"), "--seeds must be at least 1"),
        (("TRACE", "--ttl", "0"), "--ttl must be above 0"),
        (("TRACE", "--seed", "-1"), "--seed must be at least 0"),
        (("TRACE", "--events", "nowhere.json"), "nowhere.json: No such file or directory; name a file of events"),
        (("TRACE", "--events", "BROKEN"), "line 2: "),
        (("TRACE", "--policy", "hash", "--policy", "random", "--decisions", "x"), "--decisions are of one policy"),
        (("TRACE", "--policy", "hash", "--decisions", "no/where"), "name a file that can be written"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_to_do(trace, tmp_path, monkeypatch, arguments, advice):
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken.jsonl"
    broken.write_text(trace.read_text().splitlines()[0] + "\nnonsense\n")
    names = {"TRACE": trace, "BROKEN": broken}
    done = gateway_replay(*(names.get(word, word) for word in arguments))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("replay: ") and done.stderr.count("\n") == 1
    assert advice in done.stderr


def test_a_policy_at_fault_is_one_line_and_no_figures(trace, monkeypatch):
    class Stubborn(Random):
        def happened(self, event, now):
            pass

    monkeypatch.setitem(policies.STRAWMEN, "random", Stubborn)
    done = gateway_replay("--synthetic", "--policy", "random")
    assert done.exit_code == 1
    assert done.stderr.startswith("replay: request ") and "not in the pool" in done.stderr


def test_the_production_policy_comes_first_where_it_exists():
    names = list(policies.factories())
    assert names[-4:] == list(policies.STRAWMEN)
    assert names[0] in (policies.PRODUCTION, Random.name)
    assert Hash.name in names
