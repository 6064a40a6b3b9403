"""The admin API under whatever its own document allows, and what it forbids: a real gateway, asked by Schemathesis."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.rig import ADMIN_TOKEN, Gateway, Simulator, accounts_of

# What no schema can say: a time must be before another, `agent` needs `kind=session`, either of two names is needed, a
# time must be in the future, an entity tag must be that of what is there.
CONFIG = """
[[operations]]
include-path-regex = "^/admin/v1/(usage|conversations|boosts)"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "409", "412"]
[[operations]]
include-path-regex = "^/admin/v1/(teams|callers|keys)"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "412"]
"""


@pytest.fixture(scope="module")
def target(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose accounts nobody else needs in order."""
    gateway = Gateway(tmp_path_factory.mktemp("target"), {"accounts": accounts_of(simulator, 2)}).start()
    yield gateway
    gateway.stop()


def test_no_request_that_can_be_made_up_finds_a_fault(target: Gateway, tmp_path: Path):
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "--config-file", tmp_path / "schemathesis.toml",
            "run", f"http://127.0.0.1:{target.admin_port}/admin/v1/openapi.json",
            "--header", f"Authorization: Bearer {ADMIN_TOKEN}", "--exclude-path", "/admin/v1/live",  # it never ends
            # Many wrong tokens are answered 429, which this check takes for being let in; test_admin asks each route.
            "--checks", "all", "--exclude-checks", "ignored_auth",
            "--max-examples", "6", "--seed", "1", "--generation-database", "none",
            "--continue-on-failure", "--no-color", "--warnings", "off",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    operations = re.search(r"Operations:\s+(\d+) selected / (\d+) total", done.stdout)
    assert operations is not None and int(operations[1]) == int(operations[2]) - 1 >= 20
    assert not [line for line in target.lines() if line["event"] == "unhandled error"]
