"""`gateway audit` and `gateway accounts list` on a gateway that runs."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gateway.commands import accounts
from tests.commands.conftest import Run
from tests.e2e.rig import ADMIN_TOKEN, Gateway


def test_changes_are_listed_the_latest_first(run: Run, gateway: Gateway, file: Path):
    assert run("accounts", "weight", "sim-account-1", "3", "--config", file)[0] == 0
    assert run("accounts", "weight", "sim-account-1", "--config", file)[0] == 0
    code, out, err = run("audit", "--json", "--limit", "2", "--config", file)
    assert (code, err) == (0, "")
    entries = json.loads(out)
    assert [(each["who"], each["method"], each["status"]) for each in entries] == [("admin", "PATCH", 200)] * 2
    assert entries[0]["changes"] == {"weight": [3, 1]} and entries[1]["changes"] == {"weight": [1, 3]}
    code, out, err = run("audit", "--config", file)
    assert (code, err) == (0, "")
    head, first, *_ = out.splitlines()
    assert head.split()[:3] == ["AT", "WHO", "ROLE"]
    assert "weight: 3 → 1" in first and "sim-account-1" in first and "done" in first
    assert ADMIN_TOKEN not in out


def test_accounts_are_listed_with_how_they_are_and_why(run: Run, gateway: Gateway, file: Path):
    assert run("accounts", "drain", "sim-account-2", "--config", file)[0] == 0
    try:
        code, out, err = run("accounts", "list", "--config", file)
    finally:
        assert run("accounts", "enable", "sim-account-2", "--config", file)[0] == 0
    assert (code, err) == (0, "") and "\x1b" not in out
    head, *rows = out.splitlines()
    assert "HEALTH" in head and "HEADROOM" in head and len(rows) >= 4
    assert rows[0].split()[:2] == ["sim-account-2", "draining"]  # who needs somebody comes first
    assert rows[1].startswith("    It is being drained") and " available " in rows[-1]


def account(name: str, state: str = "available", **fields: Any) -> dict[str, Any]:
    told = {"state": "active", "weight": 1, "in_flight": 7, "drain_until": None, "overridden": {}}
    levels = [{"class": f"claude-{each}-4-5", "limit": "input_tokens", "ratio": 0.5} for each in ("opus", "haiku")]
    why = "The upstream says that its organization is out of credit, over its spending limit or on hold. " * 2
    return {
        "id": name, **told, "health": {"state": state, "why": why}, "headroom": levels, "workspace": f"w-{name}",
        "organization": "an-organization-of-many-words", "models": ["*"], "in_pool": True, "held": True, **fields,
    }  # fmt: skip


@pytest.mark.parametrize(("width", "length"), [(120, 8), (120, 24), (120, 64), (80, 24), (200, 24)])
def test_many_accounts_fit_the_terminal_a_line_each_the_sick_first(
    width: int, length: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if width != 120:  # that of what is no terminal
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))
    states = {"limited": 3, "out": 11, "failing": 9, "disabled": 4, "draining": 5}
    sick = {number: state for state, number in states.items()}
    names = [f"{number:02}".ljust(length, "-") for number in range(40)]
    accounts._print_table([account(name, sick.get(number, "available")) for number, name in enumerate(names)])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("ID") and ("WORKSPACE" in head) == (width >= 120 and length < 64)
    assert max(map(len, [head, *lines])) <= width
    rows = [line for line in lines if not line.startswith(" ")]
    assert len(rows) == 40 and [line[:2] for line in rows[:6]] == ["11", "09", "03", "05", "04", "00"]
    assert [line.split()[0] for line in rows] == [names[int(line[:2])] for line in rows]  # nothing of an id is cut
    assert len(lines) - len(rows) == 5 * len(textwrap.wrap(account("x")["health"]["why"].rstrip(" ."), width - 4))


def test_a_failing_account_says_what_happened_who_judged_when_it_is_tried_and_who_cannot_reach_it(
    capsys: pytest.CaptureFixture[str],
):
    why = (
        "It fails where other accounts do not: errors of the upstream's in 3 conversations within a minute. New "
        "conversations go elsewhere; one of them tries it then. Judged by gateway-host-1-4711-0a1b2c.1."
    )
    health = {"state": "failing", "why": why, "until": "2026-11-22T07:00:10+00:00", "unreachable_from": ["there-2"]}
    accounts._print_table([account("one", health=health)])
    _, row, *note = capsys.readouterr().out.splitlines()
    assert " failing " in row and max(map(len, [row, *note])) <= 120
    said = " ".join(line.strip() for line in note)
    assert said.startswith(why.rstrip(".")) and "tried again at " in said
    assert said.endswith("; there-2 cannot reach it")
