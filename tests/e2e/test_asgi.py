"""The gateway behind another ASGI server: the data path's own tests again, and what only such a gateway is asked."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e import test_bodies_and_headers, test_streams
from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    ROOT,
    Gateway,
    Simulator,
    Store,
    Wire,
    accounts_of,
    ask,
    conversation,
    events,
    eventually,
    free_port,
    message,
    request,
    until,
)

UVICORN = (sys.executable, "-m", "uvicorn", "gateway.asgi:app", "--no-server-header", "--log-level", "warning")


class AsgiGateway(Gateway):
    """One under uvicorn, whose log is on standard error."""

    def launch(self) -> Self:
        own = [*UVICORN, "--host", "127.0.0.1", "--port", str(self.port)]
        self.run(["env", f"GATEWAY_CONFIG={self.write()}", *own])
        return self

    def stop(self) -> None:
        assert self.end() == -signal.SIGTERM  # uvicorn hands the signal on when all is done
        assert "Traceback" not in self.err.read_text(), self.err.read_text()
        assert not [line for line in self.lines() if "exception" in line]
        assert self.lines()[-1]["event"] == "stopped"


@pytest.fixture(scope="module")
def shared_gateway(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """In place of the gateway that other modules share."""
    config = {
        "redis": f"{store.url}/5",
        "accounts": accounts_of(simulator, 4),
        "timeouts": {"ping": 1},
        "log": {"level": "debug"},
    }
    gateway = AsgiGateway(tmp_path_factory.mktemp("asgi"), config).start()
    yield gateway
    gateway.stop()


# What another server does in its own way: trailers, control characters, pipelines, HTTP/1.0.
OTHERWISE = {
    "test_what_stands_behind_a_chunked_body_is_no_header",
    "test_a_conversation_id_that_cannot_be_one_is_a_400",
    "test_a_client_that_goes_with_requests_in_the_queue_leaves_nothing_running",
    "test_a_client_of_http_1_0_is_answered_and_its_connection_closed",
}
for module in (test_bodies_and_headers, test_streams):
    for name, value in vars(module).items():
        if name.startswith("test_") and name not in OTHERWISE and "gateway" in inspect.signature(value).parameters:
            globals()[name] = value
whole = test_streams.whole


@pytest.fixture
def launch_asgi(tmp_path: Path, simulator: Simulator) -> Iterator[Callable[..., AsgiGateway]]:
    """Starts one of a test's own, on the embedded store."""
    started: list[AsgiGateway] = []

    def start(**config: Any) -> AsgiGateway:
        accounts = {"accounts": accounts_of(simulator, 2)}
        started.append(AsgiGateway(tmp_path / f"gateway{len(started)}", accounts | config))
        return started[-1].start()

    yield start
    for gateway in started:
        if gateway.alive():
            gateway.stop()


async def test_a_stream_ends_well_before_the_server_does(launch_asgi: Callable[..., AsgiGateway], sim: Simulator):
    gateway = launch_asgi()
    async with Wire.open(gateway) as wire:
        await wire.send(request(test_streams.STREAM, conversation(), fault="slow=0.2"))
        head = await wire.head()
        await wire.until_events(2)
        gateway.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        answer = await wire.rest(head)
    assert answer.ended
    assert events(answer.body)[-1][0] == "message_stop"
    until(lambda: not gateway.alive(), "its end")
    assert gateway.lines()[-1]["event"] == "stopped"
    assert "Traceback" not in gateway.err.read_text()


async def test_a_server_that_ends_at_once_has_logged_what_it_cut_off(
    launch_asgi: Callable[..., AsgiGateway], sim: Simulator
):
    gateway = launch_asgi()
    async with Wire.open(gateway) as wire:
        await wire.send(request(test_streams.STREAM, conversation(), fault="stall=3"))
        head = await wire.head()
        await wire.until_events(3)
        for _ in range(2):  # the second one says that it is not to wait
            gateway.process.send_signal(signal.SIGINT)  # type: ignore[union-attr]
            await asyncio.sleep(1.0)
        await eventually(lambda: not gateway.alive(), "its end")
    assert gateway.record(head.request_id)["status"] == 200


async def test_what_it_counts_is_there_for_the_operator_and_after_a_restart(launch_asgi: Callable[..., AsgiGateway]):
    gateway = launch_asgi()
    for _ in range(3):
        assert (await ask(gateway, message(), conversation())).status == 200
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}

    def counted() -> int:
        rows = json.loads(gateway.get("/admin/v1/usage?group_by=key", admin=True, headers=headers).body)["data"]
        return sum(row["requests"] for row in rows)

    assert counted() == 3
    assert gateway.metrics().total("gateway_requests_total", code="200") == 3
    gateway.stop()
    gateway.start()
    assert counted() == 3


def test_a_second_one_of_a_data_dir_says_why_it_cannot_start(launch_asgi: Callable[..., AsgiGateway]):
    first = launch_asgi()
    other = AsgiGateway(first.folder.parent / "other", {**first.config, "listen": f"127.0.0.1:{free_port()}"})
    other.launch()
    until(lambda: not other.alive(), "its end")
    lines = [line for line in other.err.read_text().splitlines() if "gateway:" in line]
    assert len(lines) == 1
    assert "is in use by another gateway" in lines[0]


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path):
    env = {**os.environ, "GATEWAY_CONFIG": str(tmp_path / "none.yaml"), "PYTHONPATH": str(ROOT)}
    run = subprocess.run([*UVICORN, "--port", str(free_port())], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode != 0
    assert "none.yaml: no such file" in run.stderr
    assert "Traceback" not in run.stderr


async def test_without_a_lifespan_every_request_says_so():
    from gateway.asgi import Application  # the process's own may be running

    sent: list[Any] = []

    async def send(what: Any) -> None:
        sent.append(what)

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "POST", "path": "/v1/messages", "headers": [(b"x-api-key", ALICE.encode())]}
    await Application()(scope, receive, send)
    assert sent[0]["status"] == 500
    error = json.loads(sent[1]["body"])["error"]
    assert error["type"] == "api_error"
    assert "lifespan" in error["message"]
