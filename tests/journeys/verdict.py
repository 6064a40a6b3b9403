"""Whether a client got what it should have, and whether the record of its request says so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from gateway.records import Finished
from tests.journeys.clouds import same
from tests.journeys.http import Asked, Call, parts
from tests.journeys.journey import Ask


def unlike(ask: Ask, call: Call, record: Finished | None) -> Iterator[str]:
    """Where a client's answer and its record are not as wanted."""
    want = ask.want

    def compare(what: str, found: Any, wanted: Any) -> Iterator[str]:
        if wanted is not None and found != wanted:
            yield f"{what} is {found!r}, not {wanted!r}"

    yield from compare("the status", call.status, want.status)
    yield from compare(
        "the end", call.ended, ("whole" if ask.gone is None else "gone") if want.ended == "" else want.ended
    )
    yield from compare("x-gateway-account", call.header("x-gateway-account"), want.by)
    attempts = call.header("x-gateway-attempts")
    yield from compare("x-gateway-attempts", None if attempts is None else int(attempts), want.attempts)
    yield from compare("x-gateway-route", call.header("x-gateway-route"), want.route)
    yield from compare("the body", call.body, want.body)
    for name, value in want.headers.items():
        if call.header(name) != value:
            yield f"{name} is {call.header(name)!r}, not {value!r}"
    events = parts(call.body) if (call.header("content-type") or "").startswith("text/event-stream") else []
    if want.events is not None:
        names = " ".join(name or "-" for name, _ in events)
        if not re.fullmatch(want.events.replace("ping+", "ping( ping)*"), names):
            yield f"the stream is {names!r}, not {want.events!r}"
    if want.content is not None:
        yield from compare("the content", _content(events, call.body), want.content)
    if want.error is not None or want.says:
        kind, words = _error(events, call.body)
        yield from compare("the error", kind, want.error)
        if want.says not in words:
            yield f"the message is {words!r}, not {want.says!r}"
    if want.within is not None:
        took = call.began_at - call.asked_at
        if not want.within[0] <= took <= want.within[1]:
            yield f"the answer began after {took:.2f} s, not {want.within}"
    if want.record is None:
        if record is not None:
            yield "there is a record"
        return
    if record is None:
        yield "there is no record"
        return
    for name, value in want.record.items():
        yield from compare(f"record.{name}", getattr(record, name), value)
    if call.status:
        yield from compare("record.status", record.status, want.record.get("status", call.status))
        yield from compare("record.attempts", record.attempts, want.attempts)
        yield from compare("record.route", record.route, want.route)
        yield from compare("record.account", record.account, want.by)
    usage = record.usage
    tokens = (usage.input, usage.cache_read, usage.cache_write_5m, usage.cache_write_1h, usage.output)
    if want.used is not None:
        yield from compare("usage", tokens if len(want.used) == 5 else (usage.total_input, usage.output), want.used)
    yield from compare("the cost", record.cost_nano_usd, want.money)


# What an account never hears: whom the gateway serves, and from where.
_SECRET = (
    "x-conversation-id",
    "cookie",
    "forwarded",
    "via",
    "x-real-ip",
    "proxy-authorization",
    "connection",
    "expect",
)
_SECRETS = ("x-gateway-", "x-forwarded-")


def improper(asked: Asked, asks: list[Ask], cloud: bool = False) -> Iterator[str]:
    """What is wrong with a request as an account has seen it: not the client's bytes, or somebody else's credential. To
    a `cloud` the client's bytes go in its own form."""
    where = f"{asked.account} was asked"
    if asked.header("host") != f"{asked.account}.test":
        yield f"{where} as {asked.header('host')!r}"
    credentials = [value for name, value in asked.headers if name.lower() in ("x-api-key", "authorization", "api-key")]
    probed = cloud and asked.method == "GET"  # whether anybody is there
    if not probed and credentials not in ([f"key-of-{asked.account}"], [f"Bearer key-of-{asked.account}"]):
        yield f"{where} with {credentials}"
    for name, value in asked.headers:
        if name.lower() in _SECRET or name.lower().startswith(_SECRETS) or "-of-journeys" in value:
            yield f"{where} with {name}: {value!r}"
    bodies = {b"", *(each.on_its_way for each in asks)}  # the gateway's own probes have none
    if cloud and any(same(body, asked.body) for body in bodies):
        return
    if asked.whole and not any(each.chunked for each in asks) and asked.body not in bodies:
        yield f"{where} with another body: {asked.body[:200]!r}"


def _content(events: list[tuple[str, bytes]], body: bytes) -> str:
    if events:
        return "".join(
            json.loads(data)["delta"].get("text", "") for name, data in events if name == "content_block_delta"
        )
    return "".join(block.get("text", "") for block in json.loads(body)["content"])


def _error(events: list[tuple[str, bytes]], body: bytes) -> tuple[str, str]:
    try:
        data = json.loads(events[-1][1] if events else body)
        return data["error"]["type"], data["error"]["message"]
    except (ValueError, KeyError, TypeError, IndexError):
        return "none", ""
