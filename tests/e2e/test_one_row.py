"""Adding one of a kind is adding one row: a copy of the program is given one more of each, and runs.

`ROWS` says which files that takes, what is found there, and what is put in front of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from tests.e2e.rig import ADMIN_TOKEN, ALICE, MODEL, ROOT, Gateway, ask, message, until

ROWS = {
    "a metered endpoint": {
        "worker/endpoints.py": (
            '    **_about("/v1/complete"',
            '    **_about("/v1/answers", "answers", "POST", At.CONVERSATION, body=Body.HELD, peeks=True,\n'
            "             metered=True),\n",
        ),
    },
    "an endpoint that is not metered": {
        "worker/endpoints.py": (
            '    **_about("/v1/complete"',
            '    **_about("/v1/guess", "guess", "POST", At.CONVERSATION, body=Body.HELD, peeks=True),\n',
        ),
    },
    "a metric over requests": {
        "telemetry/metric_table.py": (
            "\nALL = ",
            '\nMETHODS = Measure("gateway_methods", "Requests by method.", ("method",))\n',
        ),
        "telemetry/metrics.py": (
            "        usage = record.usage\n        if usage.output or",
            "        self._of.count(measures.METHODS, record.method).inc()\n",
        ),
    },
    "a meaning of an answer": {
        "core/routing/outcomes.py": ("    529: ", "    418: Outcome.OVERLOADED,\n"),
    },
    "an admin endpoint": {
        "admin/api.py": (
            "        *account_routes(",
            "        *greeting_routes(),\n",
        ),
        "admin/greeting.py": (
            "",
            "from gateway.admin.routes import Good, Route, json\n\n\n"
            "def greeting_routes():\n"
            "    async def greet(call):\n"
            '        return json({"hello": call.who.grant.id})\n\n'
            '    return [Route(method="GET", path="/admin/v1/greeting", handler=greet, about="Greet whoever asks",\n'
            '                  good={200: Good("A greeting")})]\n',
        ),
    },
    "a command": {
        "cli.py": ('    "doctor": ', '    "greet": "gateway.commands.greet:greet",\n'),
        "commands/greet.py": (
            "",
            'def greet(name: str) -> None:\n    """Greet somebody."""\n    print("Hello", name)\n',
        ),
    },
}
MOST_FILES = {  # that one of each may take
    "a metered endpoint": 1, "an endpoint that is not metered": 1, "a metric over requests": 2,
    "a meaning of an answer": 1, "an admin endpoint": 2, "a command": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a copy that has one more of each."""
    folder = tmp_path_factory.mktemp("copy")
    copytree(ROOT / "gateway", folder / "gateway", ignore=ignore_patterns("__pycache__"))
    for changes in ROWS.values():
        for name, (place, row) in changes.items():
            path = folder / "gateway" / name
            text = path.read_text() if path.exists() else ""
            assert not text or text.count(place) == 1, f"{name} has {place!r} {text.count(place)} times"
            path.write_text(text.replace(place, row + place) if text else row)
    api = folder / "gateway" / "admin" / "api.py"
    first = "from gateway.admin.management import "
    api.write_text(api.read_text().replace(first, f"from gateway.admin.greeting import greeting_routes\n{first}"))
    return folder


@pytest.mark.parametrize("kind", ROWS)
def test_one_more_takes_so_many_files(kind: str):
    assert len(ROWS[kind]) <= MOST_FILES[kind]


class Upstream(BaseHTTPRequestHandler):
    """An account that answers everything, with usage."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["content-length"] or 0))
        usage = {"input_tokens": 10, "output_tokens": 5}
        said = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "stop_reason": "end_turn",
                "content": [{"type": "text", "text": self.path}], "usage": usage}  # fmt: skip
        body = json.dumps(said).encode()
        self.send_response(418 if b"teapot" in asked else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def upstream() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


async def test_one_more_endpoint_and_metric_are_there(launch: Callable[..., Gateway], grown: Path, upstream: int):
    account = {"id": "a", "base_url": f"http://127.0.0.1:{upstream}", "api_key": "sk-ant-one"}
    gateway = launch(prefix=("env", f"PYTHONPATH={grown}"), accounts=[account])
    for path in ("/v1/answers", "/v1/guess"):
        answer = await ask(gateway, message(), path=path, key=ALICE)
        assert (answer.status, answer.account) == (200, "a"), answer.body
        assert answer.json()["content"][0]["text"] == path
    until(lambda: gateway.metrics().total("gateway_methods_total", method="POST") == 2, "the new metric")
    series = gateway.metrics()
    for endpoint in ("answers", "guess"):
        assert series.total("gateway_requests_total", endpoint=endpoint, code="200") == 1
    assert series.total("gateway_tokens_total", type="output") == 5
    assert series.total("gateway_time_to_first_token_seconds_count") == 1
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    usage = gateway.get("/admin/v1/usage?group_by=key", admin=True, headers=headers)
    (row,) = usage.json()["data"]
    assert (row["key"], row["requests"], row["input_tokens"], row["output_tokens"]) == ("alice", 1, 10, 5)


async def test_one_more_meaning_of_an_answer_is_understood(launch: Callable[..., Gateway], grown: Path, upstream: int):
    accounts = [{"id": each, "base_url": f"http://127.0.0.1:{upstream}", "api_key": f"sk-{each}"} for each in "ab"]
    gateway = launch(prefix=("env", f"PYTHONPATH={grown}"), accounts=accounts)
    answer = await ask(gateway, message("I am a teapot"), key=ALICE)
    assert answer["x-gateway-attempts"] == "2"
    until(lambda: gateway.metrics().total("gateway_failovers_total", reason="overloaded") == 1, "the failover")


def test_one_more_admin_endpoint_is_there(launch: Callable[..., Gateway], grown: Path, upstream: int):
    account = {"id": "a", "base_url": f"http://127.0.0.1:{upstream}", "api_key": "sk-ant-one"}
    gateway = launch(prefix=("env", f"PYTHONPATH={grown}"), accounts=[account])
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    assert gateway.get("/admin/v1/greeting", admin=True, headers=headers).json() == {"hello": "admin"}
    assert gateway.get("/admin/v1/greeting", admin=True).status == 401
    described = gateway.get("/admin/v1/openapi.json", admin=True, headers=headers).json()
    assert described["paths"]["/admin/v1/greeting"]["get"]["summary"] == "Greet whoever asks"


def test_one_more_command_is_there(grown: Path):
    command = [sys.executable, "-m", "gateway", "greet", "Ada"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(grown)}, cwd=grown, capture_output=True, text=True, check=True
    )
    assert done.stdout == "Hello Ada\n"
