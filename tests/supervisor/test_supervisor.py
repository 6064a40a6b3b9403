"""The supervisor's own memory and numbers; what it does is tested with whole gateways."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.exposition import generate_latest

from gateway.config.file import loads
from gateway.core.spending.keyring import Stored
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


async def test_the_supervisors_own_lateness_is_among_that_of_the_loops(supervisor):
    supervisor.admin.lag._observe(0.3)
    for _ in range(2):
        lines = (await supervisor.admin.exposition.encoded(generate_latest)).decode().splitlines()
        assert "gateway_event_loop_lag_seconds_count 1.0" in lines
        assert 'gateway_event_loop_lag_seconds_bucket{le="0.25"} 0.0' in lines
