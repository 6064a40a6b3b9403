"""The walk through the first hour, typed as it stands into one shell: only keys and addresses are others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.rig import ROOT, START_SECONDS, Simulator, free_port

PAGE = (ROOT / "docs/first-hour.md").read_text()
BLOCKS = re.findall(r"^```(sh|yaml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    """Two keys of one organization, each of a workspace of its own."""
    simulator = Simulator(tmp_path / "simulator", 2, "--organizations", "1", "--workspaces", "2")
    yield simulator
    assert simulator.end() == 0


def test_each_command_does_what_the_page_says(simulator: Simulator, tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    one, two = (account["api_key"] for account in simulator.accounts[:2])
    script = ["set -e", "set -m", "exec 2>&1"]
    for kind, text in BLOCKS:
        if "pip install" in text:
            text = text.replace("pip install conversation-gateway\n", "")
            text = text.replace("KEY_A=sk-ant-…", f"KEY_A={one}").replace("KEY_B=sk-ant-…", f"KEY_B={two}")
            assert "sk-ant-…" not in text
        if kind == "yaml" and text.startswith("accounts:"):
            # What somebody edits: the accounts belong together as the page says, at the simulated upstream.
            edited = yaml.safe_load(text)["accounts"]
            accounts = yaml.safe_dump([{**each, "base_url": simulator.base_url} for each in edited])
            written = "import sys, yaml; c = yaml.safe_load(open('gateway.yaml'))"
            ids = "[a['id'] for a in c['accounts']]"
            listening = f"c['listen'] = '127.0.0.1:{port}'; c['admin']['listen'] = '127.0.0.1:{admin}'"
            program = (
                f"{written}; assert {ids} == {[each['id'] for each in edited]!r}, c; {listening}; "
                "c['accounts'] = yaml.safe_load(sys.stdin.read()); "
                "c['timeouts'] = {'drain_delay': 0}; yaml.safe_dump(c, open('gateway.yaml', 'w'), sort_keys=False)"
            )
            script.append(f"{sys.executable} -c \"{program}\" <<'END'\n{accounts}END")
        elif kind == "sh":
            script.append(text.replace(":8080", f":{port}"))
        if text.startswith("gateway serve &"):
            script.append(
                f"curl -sS --retry 100 --retry-delay 1 --retry-all-errors -o ready http://127.0.0.1:{port}/readyz"
            )
    script.append("echo the end")
    programs = Path(sys.executable).parent
    environ = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, env=environ, text=True, stdout=subprocess.PIPE,
        timeout=3 * START_SECONDS,
    )  # fmt: skip
    assert done.stdout.endswith("the end\n") and done.returncode == 0, done.stdout
    routes = re.findall(r"^x-gateway-route: (\w+)", done.stdout, re.MULTILINE)
    accounts_of = re.findall(r"^x-gateway-account: (\S+)", done.stdout, re.MULTILINE)
    assert routes[:2] == ["new", "bound"] and len(routes) == 3
    assert accounts_of[0] == accounts_of[1] and accounts_of[2] == "anthropic-b"
    for said in ("alice", "research", "drain"):
        assert said in done.stdout
