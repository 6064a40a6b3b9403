"""The gateway as it is measured: everything on, limits and budgets of every kind, none of them ever reached."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from gateway.lab.bench.plan import Upstream
from gateway.lab.bench.processes import BenchError, Child

START_WAIT = 30.0  # seconds it may take until it serves
_LIMITS = {
    "requests_per_minute": 10**9,
    "input_tokens_per_minute": 10**12,
    "output_tokens_per_minute": 10**12,
    "concurrency": 10**6,
    "budget_usd": {"day": 10**8, "month": 10**9},
}


def configuration(upstreams: Iterable[Upstream], *, keys: Iterable[str], data: Path, redis: str) -> bytes:
    """The file: the model of a lane leads to the accounts of its upstream, each key is a tenant. JSON is YAML."""
    accounts = []
    for upstream in upstreams:
        lane = upstream.lane
        for number, api_key in enumerate(upstream.keys):
            account: dict[str, Any] = {
                "id": f"bench-{lane.name}-{number}",
                "base_url": f"{'https' if lane.certificate else 'http'}://127.0.0.1:{upstream.port}",
                "api_key": api_key,
                "models": [lane.model],
            }
            if lane.certificate:
                account["ca_file"] = str(lane.certificate)
            if lane.bedrock:
                aws = {"access_key_id": account.pop("api_key"), "secret_access_key": secrets.token_hex(20)}
                account |= {"provider": "bedrock", "region": "us-east-1", "aws": aws}
            accounts.append(account)
    return msgspec.json.encode(
        {
            "listen": "127.0.0.1:0",
            "admin": {"listen": "127.0.0.1:0", "token": secrets.token_hex(16)},
            "workers": 1,
            "redis": redis,
            "data_dir": str(data),
            "secret": secrets.token_hex(32),
            "accounts": accounts,
            "keys": [
                {"id": f"bench-{number}", "team": f"bench-{number}", "key": key, "limits": _LIMITS}
                for number, key in enumerate(keys)
            ],
            "timeouts": {"drain_delay": 0, "drain": 1},
            "log": {"format": "json"},
        }
    )


def serving(gateway: Child) -> int:
    """The port on which the gateway serves, as soon as it does; asked from outside too."""
    deadline = time.monotonic() + START_WAIT
    for said in _log_lines(gateway, deadline):
        if said.get("event") == "serving":
            port = int(str(said["address"]).rpartition(":")[2])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return port
            finally:
                connection.close()
            raise BenchError(f"the gateway serves and is not ready; {gateway.last_words()}")
    raise BenchError(f"the gateway does not start; {gateway.last_words()}")


def _log_lines(child: Child, deadline: float) -> Iterator[dict[str, Any]]:
    with open(child.log, "rb") as log:
        while time.monotonic() < deadline and child.process.poll() is None:
            line = log.readline()
            if not line.endswith(b"\n"):
                log.seek(-len(line), os.SEEK_CUR)
                time.sleep(0.01)
                continue
            with contextlib.suppress(msgspec.DecodeError):
                said = msgspec.json.decode(line)
                if isinstance(said, dict):
                    yield said
