"""`gateway serve --demo` and `gateway demo`, as somebody meets them who has nothing but the package."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import msgspec
import pytest
import typer
from rich.console import Console

from gateway.commands import demo as command
from gateway.lab.demo import load as demo_load
from gateway.lab.demo import serve_demo as demo
from gateway.lab.demo import world as demo_world
from gateway.lab.demo.plan import make_plan
from gateway.lab.demo.report import Comparison, Run, conclude, introduce
from gateway.lab.demo.run import compare

ROOT = Path(__file__).parents[3]
PATIENCE = 60
WELCOME = demo.Welcome("http://127.0.0.1:8082", "sk-" + "k" * 48, "http://127.0.0.1:8083", "t" * 32, (8080, 8081))


def gateway(*arguments, **options):
    """The command as a process, its output as text."""
    return subprocess.Popen([sys.executable, "-m", "gateway", *arguments], cwd=ROOT, text=True, **options)


def descendants(pid):
    """Every process below `pid`."""
    rows = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, rows[::2]), map(int, rows[1::2]), strict=True))
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pid):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def eventually(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def folder():
    """Its name is short: a longer one has no room for the store's socket, which then lies elsewhere."""
    with tempfile.TemporaryDirectory(prefix="gw", dir="/tmp", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.fixture
def running(folder):
    """A running `gateway serve --demo` and what it has printed."""
    env = {**os.environ, "TMPDIR": str(folder)}
    with gateway("serve", "--demo", stdout=subprocess.PIPE, env=env) as process:
        try:
            text = ""
            for line in process.stdout:
                text += line
                if "nothing is kept" in line:
                    break
            yield process, text
        finally:
            process.kill()


def pasted(text, pattern, program):
    """The output of the part of `text` that matches, run as it is."""
    found = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    assert found, text
    return subprocess.run([*program, found[0]], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


def test_the_printed_snippets_work_as_they_are(running):
    _, text = running
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    answer = json.loads(pasted(text, r"^curl .*?\}'$", ["sh", "-c"]))
    assert answer["type"] == "message" and answer["content"][0]["text"]
    said = pasted(text, r"^from anthropic .*?^print\(.*?$", [sys.executable, "-c"])
    assert said.strip() == answer["content"][0]["text"]  # the same question in the same conversation
    assert "gateway_build_info" in pasted(text, r"^curl -H .*?/metrics$", ["sh", "-c"])
    claude = pasted(text, r"^ANTHROPIC_BASE_URL=.*? claude$", ["sh", "-c", 'eval "claude() { env; }; $1"', "sh"])
    assert re.search(r"^ANTHROPIC_AUTH_TOKEN=sk-\w{48}$", claude, re.MULTILINE)
    assert re.search(r"^ANTHROPIC_BASE_URL=http://127\.0\.0\.1:\d+$", claude, re.MULTILINE)


def test_it_writes_plain_text_where_there_is_no_terminal(running):
    _, text = running
    assert "\x1b" not in text and "╭" not in text
    assert re.search(r"^Base URL +http://127\.0\.0\.1:\d+$", text, re.MULTILINE)
    assert re.search(r"^Key +sk-[A-Za-z0-9]{48}$", text, re.MULTILINE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind_when_it_ends(running, folder, number):
    process, _ = running
    children = descendants(process.pid)
    assert len(children) >= 3 and list(folder.iterdir())
    process.send_signal(number)
    assert process.wait(PATIENCE) == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    eventually(lambda: not any(map(alive, children)))
    eventually(lambda: not list(folder.iterdir()))


def test_a_port_that_is_taken_is_passed_over():
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = first.getsockname()[1]
        assert port < demo.free_port(port) < port + 100


def test_the_panel_has_a_frame_and_snippets_have_none():
    out = io.StringIO()
    demo.show(Console(file=out, force_terminal=True, width=100, highlight=False, no_color=True), WELCOME)
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert re.search(r"^│ Base URL +http://127.0.0.1:8082 +│$", text, re.MULTILINE)
    assert "ports 8080 and 8081 taken" in text
    for snippet in demo.snippets(WELCOME):
        assert f"\n{snippet.code}\n" in text
    assert max(map(len, text.splitlines())) <= 100
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", out.getvalue())


def test_without_a_store_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(demo_world, "servers_of_this_machine", lambda: iter(()))
    for run in (demo.serve_demo, command.demo):
        with pytest.raises(typer.Exit) as end:
            run()
        assert end.value.exit_code == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "install redis-server" in said


def test_without_the_sdk_the_snippet_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert any("pip install anthropic" in snippet.title for snippet in demo.snippets(WELCOME))


def test_a_plan_depends_on_its_seed_alone():
    assert make_plan(5, 3) == make_plan(5, 3) != make_plan(6, 3)
    plan = make_plan(5, 3)
    assert len(plan.conversations) == 3 and all(4 <= len(turns) <= 8 for turns in plan.conversations)
    kept, wandering = ([list(islice(plan.placement(n, wander), 8)) for n in range(3)] for wander in (False, True))
    assert [len(set(idents)) for idents in kept] == [1, 1, 1]
    assert len({ident for idents in wandering for ident in idents}) == 24


def test_conversations_kept_together_read_more_from_caches_and_cost_less():
    with gateway("demo", "--conversations", "12", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=2 * PATIENCE)
    assert (process.returncode, err) == (0, "")
    found = msgspec.json.decode(out, type=Comparison)
    kept, wandering = found.affinity, found.random
    assert found.conversations == 12
    assert kept.requests == wandering.requests == sum(map(len, make_plan(1, 12).conversations))
    assert kept.input_tokens == wandering.input_tokens
    assert kept.output_usd == wandering.output_usd > 0
    assert kept.cache_read_share > wandering.cache_read_share + 0.1
    assert kept.input_usd < 0.8 * wandering.input_usd
    assert kept.upstream_429 == kept.client_429 == 0


def test_requests_that_fail_are_an_error_and_no_numbers(monkeypatch):
    monkeypatch.setattr(demo_load, "RETRIES", 0)
    plan = msgspec.structs.replace(make_plan(1, 2), limit=1)
    with pytest.raises(
        demo_world.DemoError, match=rf"^{plan.requests} of {plan.requests} requests were not answered; "
    ):
        compare(plan, lambda wander, answered: None)


def test_the_report_is_a_table_with_one_sentence():
    plan = make_plan(1, 2)
    kept = Run(10, 1000, 0.9, 1.5, 0.25, 0, 0, 0.3, 0.4, 2.0)
    wandering = Run(10, 1000, 0.5, 4.0, 0.25, 30, 7, 0.3, None, 3.0)
    out = io.StringIO()
    console = Console(file=out, width=80)
    introduce(console, plan)
    conclude(console, Comparison.of(plan, kept, wandering))
    *lines, sentence = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines if "clients saw" in line] == [["429s", "that", "clients", "saw", "0", "7"]]
    saved = "Keeping each conversation on one account saved $2.50 of $4.00 of input cost (62%) and 7 refusals."
    assert sentence == saved
