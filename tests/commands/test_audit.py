"""`gateway audit` and `gateway accounts list` on a gateway that runs."""

from __future__ import annotations

import json
from pathlib import Path

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
    assert "HEALTH" in head and "HEADROOM" in head and len(rows) == 3
    assert " available " in rows[0] and "draining: " in rows[1]
