"""`gateway top`: in a real pseudo-terminal, on a gateway that runs, and on one that comes and goes."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, ConsoleDimensions

from gateway.commands import top_view
from gateway.commands.top_view import Picture, view
from gateway.supervisor.pool.diagnosis import STATES
from gateway.telemetry.metric_table import OVERHEAD, TTFT
from tests.commands.conftest import Run
from tests.e2e.rig import ADMIN_TOKEN, ALICE, SECRET, WAIT_SECONDS, Gateway, free_port, message, until

OVERVIEW: dict[str, Any] = {
    "at": "2026-11-22T07:00:00Z", "uptime_seconds": 93_784, "workers": {"alive": 1, "configured": 2},
    "requests_per_second": 12.3, "errors_per_second": 0.25, "in_flight": 7,
    "tokens_per_second": {"input": 1200.0, "cache_read": 45_000.0, "cache_write": 0.0, "output": 800.0},
    "ttft_seconds": {"p50": 0.8, "p95": None}, "overhead_seconds": {"p50": 0.0004, "p99": 0.002},
    "cache_hit_rate": 0.974, "spent": None, "degraded": ["store"],
    "history": [{"requests_per_second": rate} for rate in (0.0, 5.0, None, 10.0)],
}  # fmt: skip


def account(name: str, state: str = "available", **fields: Any) -> dict[str, Any]:
    health = {"state": state, "why": "The upstream does not accept its key.", "until": None}
    return {"id": name, "state": "active", "health": health, "in_flight": 1, "bindings": 12, "headroom": [], **fields}


REQUEST = {
    "at": "2026-11-22T07:00:00Z", "key": "alice", "model": "claude-haiku-4-5", "account": "acct", "route": "bound",
    "status": 529, "tokens": {"input": 3, "cache_read": 1, "cache_write": 0, "output": 9}, "cost_usd": 0.0001,
    "ttft_seconds": None, "duration_seconds": 1.5,
}  # fmt: skip


def drawn(picture: Picture, size: tuple[int, int] | None = None) -> list[str]:
    console = Console(width=size[0] if size else 200, markup=False, highlight=False, color_system=None)
    with console.capture() as seen:
        console.print(view(picture, "http://gw:8081", None if size is None else ConsoleDimensions(*size)))
    return seen.get().splitlines()


def test_everything_that_matters_is_in_the_picture():
    headroom = [
        {"class": "haiku", "limit": "requests", "ratio": 0.5},
        {"class": "haiku", "limit": "input_tokens", "ratio": 0.12},
        {"class": "opus", "limit": "requests", "ratio": None},
    ]
    fails = {"state": "failing", "why": "It fails where others do not.", "until": "2026-11-22T07:00:10+00:00"}
    accounts = [account("one", headroom=headroom), account("two", "out"), account("three", health=fails)]
    text = "\n".join(drawn(Picture(OVERVIEW, accounts, [REQUEST])))
    for part in (
        "up 1d 2h", "workers 1/2", "degraded: store", "requests/s 12.3", "errors/s 0.25", "in flight 7", "97%",
        "p50 0.80 s", "p95 -", "p50 < 0.5 ms", "cache read 45,000", "today -", "▁▅ █", "haiku 12% input_tokens",
        "The upstream does not accept its key", "It fails where others do not (tried again at ",
        "alice", "529", "$0.000100", "1.50 s",
    ):  # fmt: skip
        assert part in text, part
    assert "opus" not in text


def test_until_when_has_its_date_unless_that_is_today():
    noon = datetime.now().astimezone().replace(hour=12, minute=0, second=0, microsecond=0)
    later = noon + timedelta(days=3)
    for moment, shown in ((noon, "12:00:00"), (later, f"{later:%Y-%m-%d} 12:00:00")):
        drains = {"state": "draining", "why": "It is being drained.", "until": moment.isoformat()}
        assert top_view.why(account("one", health=drains)) == f"It is being drained (until {shown})"


def test_what_the_gateway_does_not_know_is_a_dash():
    assert drawn(Picture({"uptime_seconds": None}, [{"id": "bare", "state": "active"}], [{"key": None}]))
    assert drawn(Picture(trouble="no gateway answers")) == [
        "gateway http://gw:8081",
        "no gateway answers; trying again",
    ]


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (200, 60), (20, 6)])
def test_it_fits_its_terminal(size: tuple[int, int]):
    accounts = [account(f"account-{number}", "out" if number == 29 else "available") for number in range(30)]
    lines = drawn(Picture(OVERVIEW, accounts, [REQUEST] * 100), size)
    assert max(map(len, lines)) <= size[0]
    if size[1] >= 20:
        assert len(lines) <= size[1]
        text = "\n".join(lines)
        assert "account-29  out " in text, "the one that needs somebody is shown first"
        assert "HEADROOM" in text and "The upstream" in text
        assert "alice" in text[text.index("AT") :]


def test_accounts_that_need_somebody_come_first_and_every_state_has_a_colour():
    states = [state for state in STATES if state != "available"]
    sorted_ = top_view.sick_first([account("well"), *(account(state, state) for state in states)])
    assert [each["id"] for each in sorted_] == ["out", "failing", "limited", "draining", "disabled", "well"]
    assert set(top_view._COLOURS) == set(STATES)


def test_numbers_are_for_people():
    assert [top_view.number(value) for value in (None, 0, 7, 0.0, 0.123, 12.34, 1234.5)] == [
        "-", "0", "7", "0", "0.12", "12.3", "1,234",
    ]  # fmt: skip
    assert [top_view.span(value) for value in (0, 59, 61, 3600, 90_061)] == ["0s", "59s", "1m 1s", "1h", "1d 1h"]


def test_a_percentile_within_the_first_bucket_is_no_more_exact_than_that():
    shown = [top_view.percentile(value, TTFT) for value in (None, 0.0, 0.05, 0.095, 0.1, 0.3)]
    assert shown == ["-", "< 100 ms", "< 100 ms", "< 100 ms", "0.10 s", "0.30 s"]
    assert top_view.percentile(0.00025, OVERHEAD) == "< 0.5 ms"


# On a gateway that runs.


def test_once_and_json_print_what_is_now(run: Run, gateway: Gateway, file: Path):
    body = json.dumps(message("Hello")).encode()
    assert gateway.get("/v1/messages", headers={"x-api-key": ALICE}, method="POST", body=body).status == 200

    def known() -> dict[str, Any]:
        code, out, err = run("top", "--json", "--config", file)
        assert (code, err) == (0, "")
        said: dict[str, Any] = json.loads(out)
        return said if said["requests"] else {}

    said = until(known, "the request among the latest")
    assert said["requests"][0]["key"] == "alice"
    assert {each["id"] for each in said["accounts"]} == {each["id"] for each in gateway.config["accounts"]}
    assert said["overview"]["workers"] == {"alive": 1, "configured": 1}
    code, out, err = run("top", "--once", "--config", file)
    assert (code, err) == (0, "") and "\x1b" not in out
    assert "workers 1/1" in out and "sim-account-1" in out and "claude-haiku-4-5" in out


def test_a_gateway_whose_file_is_elsewhere_is_watched_by_its_address(run: Run, gateway: Gateway, tmp_path: Path):
    words = ["top", "--json", "--url", f"http://127.0.0.1:{gateway.admin_port}/"]
    assert run(*words, env={"GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN})[0] == 0
    assert run(*words, "--token-file", "-", stdin=f"{ADMIN_TOKEN}\n")[0] == 0
    code, out, err = run(*words, env={"GATEWAY_ADMIN_TOKEN": "another-token-entirely"})
    assert (code, out) == (1, "") and "another admin.token" in err
    code, out, err = run(*words, "--token-file", tmp_path / "none")
    assert (code, out) == (2, "") and "cannot read" in err
    code, out, err = run("top", "--json", "--url", "127.0.0.1:8081")
    assert (code, out) == (2, "") and "--url" in err


def test_without_a_terminal_it_says_what_to_do(run: Run, file: Path):
    code, out, err = run("top", "--config", file)
    assert (code, out) == (2, "") and "--once" in err


# In a terminal, on a gateway that comes and goes.


class Door:
    """Something that answers as an admin listener does, on one port, when it is open."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server: http.server.ThreadingHTTPServer | None = None

    def open(self) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/admin/v1/").partition("?")[0]
                said = {"overview": OVERVIEW, "accounts": {"data": [account("one")]}, "requests": {"data": [REQUEST]}}
                body = json.dumps(said[name]).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


class Screen:
    """`gateway WORDS` in a pseudo-terminal, and all that it has written there."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.master, self.slave = pty.openpty()
        self.size(30, 120)
        env = {"PATH": os.environ["PATH"], "TERM": "xterm", "NO_COLOR": "1", "PYTHONPATH": str(Path.cwd())}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", *words], cwd=folder, env=env, stdin=self.slave, stdout=self.slave,
            stderr=self.slave, start_new_session=True,
        )  # fmt: skip
        self.text = ""

    def size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self, found: Callable[[str], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not found(self.text):
            assert time.monotonic() < deadline, f"{what}: {self.text[-2000:]!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += os.read(self.master, 65536).decode(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def screen(door: Door, tmp_path: Path) -> Iterator[Screen]:
    (tmp_path / "gateway.yaml").write_text(
        json.dumps({
            "admin": {"listen": f"127.0.0.1:{door.port}", "token": ADMIN_TOKEN}, "secret": SECRET,
            "accounts": [{"id": "one", "api_key": "sk-one"}],
        })
    )  # fmt: skip
    screen = Screen(tmp_path, "top", "--interval", "0.2")
    yield screen
    screen.close()


def test_it_waits_for_its_gateway_follows_the_window_and_leaves_the_terminal_as_it_was(door: Door, screen: Screen):
    before = termios.tcgetattr(screen.slave)
    screen.wait(lambda text: "no gateway answers" in text, "that there is none")
    door.open()
    screen.wait(lambda text: "requests/s 12.3" in text, "the gateway that has come")
    door.close()
    seen = len(screen.text)
    screen.wait(lambda text: "no gateway answers" in text[seen:] and "12.3" in text[seen:], "the last picture, and why")
    seen = len(screen.text)
    screen.size(12, 50)
    os.killpg(screen.process.pid, signal.SIGWINCH)
    screen.wait(lambda text: "…" in text[seen:], "a narrower picture")
    os.write(screen.master, b"q")
    screen.wait(lambda text: "\x1b[?1049l" in text, "the screen of before")
    assert screen.process.wait(WAIT_SECONDS) == 0
    assert termios.tcgetattr(screen.slave)[3] == before[3]


def test_the_word_to_stop_is_heard(screen: Screen):
    screen.wait(lambda text: "no gateway answers" in text, "its start")
    screen.process.send_signal(signal.SIGTERM)
    screen.wait(lambda text: "\x1b[?1049l" in text, "the screen of before")
    assert screen.process.wait(WAIT_SECONDS) == 0
