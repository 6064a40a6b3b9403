"""The gateway that runs with this file, if one does: its listeners, its version, what it says of itself."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import httpx

from gateway import __version__
from gateway.commands.checkup.finding import Finding, caused, failed, ok, warning
from gateway.commands.client import base_url
from gateway.config.schema import Config, parse_listen

SECONDS = 5.0
ABOUT = "gateway"
_IN_NEED = ("out", "failing", "limited")  # states of accounts that are worth a word


def check_running(config: Config) -> Iterator[Finding]:
    """Whether the ports are free or this gateway's; what it says, if it runs."""
    running = False
    for name, listen in (("listen", config.listen), ("admin.listen", config.admin.listen)):
        problem = _in_use(listen)
        if problem is None:
            yield ok("ports", name, f"{listen} is free")
            continue
        answer = _get(listen, "/healthz")
        if answer is not None and "x-gateway-request-id" in answer.headers:
            running = running or name == "admin.listen"
            yield ok("ports", name, f"{listen}: a gateway answers")
        else:
            yield failed("ports", name, f"{listen}: {problem}", "stop what uses it, or choose another address")
    if running:
        yield from _ask(config)


def _in_use(listen: str) -> str | None:
    """Why nobody could listen there now; None if one could."""
    host, port = parse_listen(listen)
    if port == 0:
        return None
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _get(listen: str, path: str, token: str = "") -> httpx.Response | None:
    """None where nobody answers."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{base_url(listen)}{path}", headers=headers, timeout=SECONDS, trust_env=False)
    return None


def _ask(config: Config) -> Iterator[Finding]:
    listen = config.admin.listen
    answer = _get(listen, "/admin/v1/me", config.admin.token)
    if answer is not None and answer.status_code == 401:
        yield failed(
            ABOUT,
            "admin.token",
            "the gateway that runs has another one",
            "is it this file's? Restart it, or name its file",
        )
        return
    yield _version(_json(answer).get("version"))
    ready = _json(_get(listen, "/readyz"))
    if ready.get("draining"):
        yield warning(ABOUT, "ready", "it drains", "wait for its successor")
    elif not ready.get("ready"):
        yield failed(ABOUT, "ready", "it is not", "see its log")
    else:
        yield ok(ABOUT, "ready", f"{sum(map(bool, dict(ready.get('workers') or {}).values()))} workers")
    if ready.get("store") == "away":
        yield failed(ABOUT, "store", "it has lost its store", "requests go on by its memory; bring the store back")
    metrics = _get(listen, "/metrics", config.admin.token)
    if metrics is not None and "\ngateway_config_last_reload_successful 0" in metrics.text:
        yield failed(ABOUT, "file", "it could not use the file it was given last", "gateway config check says why")
    for account in _json(_get(listen, "/admin/v1/accounts", config.admin.token)).get("data") or ():
        yield from _health(account)


def _health(account: dict[str, Any]) -> Iterator[Finding]:
    """How the gateway holds an account that it would not send everything now."""
    health = account.get("health") or {}
    state, until = health.get("state"), health.get("until")
    if state in _IN_NEED:
        message = f"the running gateway holds it {state} ({health.get('reason')}) since {health.get('since')}"
        message += f", until {until} at least" if until else ""
        found = warning(f"account {account.get('id')}", "health", message, str(health.get("why")))
        yield caused(f"{state} {health.get('reason')}", found)


def _version(version: object) -> Finding:
    if version == __version__:
        return ok(ABOUT, "version", f"{version} runs")
    words = f"{version or 'another version'} runs, this command is {__version__}"
    return warning(ABOUT, "version", words, "restart it, or use the command of its installation")


def _json(answer: httpx.Response | None) -> dict[str, Any]:
    try:
        found = answer.json() if answer is not None else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
