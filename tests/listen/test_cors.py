"""Pages in browsers: preflights of configured origins need no key, and others are told nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gateway.config.schema import Admin, Config
from gateway.config.schema import Cors as CorsConfig
from gateway.listen.cors import Cors

PAGE = "https://chat.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}


async def asked(origins: Sequence[str], method: str, **headers: str) -> tuple[int, dict[str, str]]:
    """The answer's status and headers; the application itself refuses whoever asks."""

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    told: list[Any] = []

    async def send(event: Any) -> None:
        told.append(event)

    config = Config(
        admin=Admin(token="t" * 20), secret=("s" * 32,), accounts=(), cors=CorsConfig(origins=tuple(origins))
    )
    said = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/v1/messages", "headers": said}
    await Cors(refusing, config)(scope, None, send)  # type: ignore[arg-type]
    return told[0]["status"], {name.decode(): value.decode() for name, value in told[0]["headers"]}


async def test_a_preflight_of_a_configured_origin_needs_no_key():
    status, headers = await asked([PAGE], "OPTIONS", origin=PAGE, **PREFLIGHT)
    assert status == 200 and headers["access-control-allow-origin"] == PAGE
    assert "POST" in headers["access-control-allow-methods"]
    assert headers["access-control-allow-headers"] == "x-api-key"


@pytest.mark.parametrize(("origins", "status"), [([], 401), (["https://other.example"], 400)])
async def test_another_origin_is_told_of_none_that_may(origins: list[str], status: int):
    found, headers = await asked(origins, "OPTIONS", origin=PAGE, **PREFLIGHT)
    assert found == status and "access-control-allow-origin" not in headers
    found, headers = await asked(origins, "POST", origin=PAGE)
    assert found == 401 and "access-control-allow-origin" not in headers


async def test_a_page_may_read_refusals_and_what_the_gateway_says_beside_them():
    status, headers = await asked([PAGE], "POST", origin=PAGE)
    assert status == 401 and headers["access-control-allow-origin"] == PAGE
    readable = headers["access-control-expose-headers"].split(", ")
    assert {"request-id", "retry-after", "x-gateway-account", "x-gateway-budget-warning"} <= set(readable)
