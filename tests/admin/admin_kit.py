"""An admin listener with only those desks that a test is about."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, cast

from gateway.admin.access import Access
from gateway.admin.admin import AdminApp
from gateway.admin.api import Desks, api_routes
from gateway.admin.dashboard.browser import browser_routes
from gateway.admin.openapi import documented
from gateway.admin.routes import Route
from gateway.config.schema import Account, Admin, Config
from gateway.telemetry.scrapes import Encode

TOKEN = "token-of-the-operator"
NOW = 1_800_000_000.0


def config_of(**changes: Any) -> Config:
    account = Account(id="a", api_key="sk-ant-a")
    return Config(**{"admin": Admin(token=TOKEN), "secret": ("s" * 32,), "accounts": (account,), **changes})


def routes_of(access: Access, **desks: Any) -> list[Route]:
    async def scrape(encode: Encode) -> bytes:
        return b""

    async def empty() -> dict[str, Any]:
        return {"ready": True}

    absent = dict.fromkeys(
        ("accounts", "conversations", "keys", "callers", "teams", "boosts", "usage", "live", "audit")
    )
    common = {
        "scrape": scrape, "readiness": empty, "pool": empty, "metrics_open": lambda: False,
    }  # fmt: skip
    made = Desks(**cast(Any, {**absent, **common, **desks}))
    return documented([*browser_routes(access), *api_routes(made, access)])


def admin_app(
    config: Callable[[], Config] | None = None, now: Callable[[], float] = lambda: NOW, audit: Any = None, **desks: Any
) -> AdminApp:
    """Desks as `Desks` names them; its request ids are req_1, req_2 …"""
    ids = itertools.count(1)
    ours = config_of()
    access = Access(config or (lambda: ours), now)
    return AdminApp(routes_of(access, audit=audit, **desks), access, audit, lambda: f"req_{next(ids)}", now)
