"""The supervisor's own memory and numbers; what it does is tested with whole gateways."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.exposition import generate_latest

from gateway import log
from gateway.config.file import loads
from gateway.config.schema import Caller, Team
from gateway.core.spending.keyring import CallerRecord, Stored, TeamRecord
from gateway.supervisor.supervisor import Supervisor


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    """One without workers and without a store."""
    config = loads(
        "secret: 0123456789abcdef0123456789abcdef\nlisten: 127.0.0.1:0\n"
        f"data_dir: {tmp_path}\nadmin: {{token: token-of-the-operator, listen: 127.0.0.1:0}}\n"
        "keys: [{id: k, key: sk-0123456789abcdef0123456789abcdef}]\n"
        "accounts: [{id: a, api_key: sk-ant-one}]\n",
        {},
    )
    made = Supervisor(config, f"unix://{tmp_path}/none", lambda: None)
    yield made
    for listener in (*made.listeners, made.admin.socket):
        listener.close()


async def test_who_may_call_is_looked_up_once_until_the_file_or_the_store_says_otherwise(supervisor):
    """Anybody may ask about readiness."""
    first = supervisor._directory.keyring()
    assert [supervisor._directory.keyring() for _ in range(5)] == [first] * 5
    supervisor.keys.stored = Stored("another")
    second = supervisor._directory.keyring()
    assert second is not first and supervisor._directory.keyring() is second
    supervisor.config = msgspec.structs.replace(supervisor.config, keys=())
    assert supervisor._directory.keyring().callers == {}


async def test_a_file_that_begins_to_hide_what_was_made_at_run_time_is_warned_of_once(supervisor, monkeypatch):
    async def agreed():
        """Nobody else is there."""

    monkeypatch.setattr(supervisor.pool, "agree", agreed)
    supervisor.keys.stored = Stored("one", {"ada": CallerRecord(team="blue")}, {}, {"blue": TeamRecord()})

    async def said(**sections):
        with log.captured() as lines:
            await supervisor._reload(msgspec.structs.replace(supervisor.config, **sections))
        return [line["event"] for line in lines if line["log_level"] == "warning"]

    caller, team = Caller(id="ada"), Team(id="blue")
    assert await said() == []
    hidden = "of the configuration file hides one that was made at run time"
    assert await said(keys=(caller,), teams=(team,)) == [f"the caller ada {hidden}", f"the team blue {hidden}"]
    assert await said(teams=(team, Team(id="red"))) == []
    assert await said(keys=()) == []
    assert await said(keys=(caller,)) == [f"the caller ada {hidden}"], "for it was not so meanwhile"


async def test_the_supervisors_own_lateness_is_among_that_of_the_loops(supervisor):
    supervisor.admin.lag._observe(0.3)
    for _ in range(2):
        lines = (await supervisor.admin.exposition.encoded(generate_latest)).decode().splitlines()
        assert "gateway_event_loop_lag_seconds_count 1.0" in lines
        assert 'gateway_event_loop_lag_seconds_bucket{le="0.25"} 0.0' in lines
