"""One scrape for all who ask at once."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter

from gateway.telemetry.scrapes import KEPT, Encode, Scrapes

# As Prometheus 3 asks.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


class Scraped:
    """Scrapes that give their number, once `may_end` is set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.begun = 0
        self.error: Exception | None = None
        self.may_end = asyncio.Event()
        self.scrapes = Scrapes(self._scrape, lambda: self.now)

    async def _scrape(self, encode: Encode) -> bytes:
        self.begun += 1
        number = self.begun
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return b"%d" % number

    def ask(self, of_now: bool = False, accept: str = "") -> asyncio.Task[tuple[bytes, str]]:
        return asyncio.create_task(self.scrapes.get(accept, of_now))

    async def get(self, of_now: bool = False) -> bytes:
        return (await self.scrapes.get("", of_now))[0]


@pytest.fixture
async def scraped() -> Scraped:
    return Scraped()


async def let_them() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_who_ask_at_once_share_one_scrape_and_those_right_after_too(scraped: Scraped):
    asked = [scraped.ask() for _ in range(50)]
    await let_them()
    assert scraped.begun == 1
    scraped.may_end.set()
    assert {(await each)[0] for each in asked} == {b"1"}
    scraped.now += KEPT - 0.1
    assert await scraped.get() == b"1"
    scraped.now += 0.1
    assert (await scraped.get(), scraped.begun) == (b"2", 2)


async def test_who_hangs_up_takes_it_from_nobody(scraped: Scraped):
    first, second = scraped.ask(), scraped.ask()
    await let_them()
    first.cancel()
    await let_them()
    scraped.may_end.set()
    assert ((await second)[0], scraped.begun) == (b"1", 1)
    assert first.cancelled()


async def test_what_must_be_of_now_began_after_it_was_asked_for(scraped: Scraped):
    scraped.may_end.set()
    assert await scraped.get() == b"1"
    assert await scraped.get(of_now=True) == b"2"
    scraped.may_end.clear()
    early = scraped.ask(of_now=True)
    await let_them()
    late = [scraped.ask(of_now=True) for _ in range(10)]
    await let_them()
    scraped.may_end.set()
    assert (await early)[0] == b"3"
    assert {(await each)[0] for each in late} == {b"4"} and scraped.begun == 4


async def test_a_scrape_that_fails_is_not_kept(scraped: Scraped):
    scraped.may_end.set()
    scraped.error = RuntimeError("no")
    with pytest.raises(RuntimeError):
        await scraped.get()
    scraped.error = None
    assert await scraped.get() == b"2"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (PROMETHEUS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text;version=0.0.1,text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=x", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=1.0.0;escaping=values", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
async def test_the_format_is_that_which_was_asked_for(accept: str, content_type: str):
    registry = CollectorRegistry()
    Counter("asked", "How often", registry=registry).inc()

    async def scrape(encode: Encode) -> bytes:
        return encode(registry)

    body, given = await Scrapes(scrape).get(accept)
    assert given == content_type
    assert b"asked_total 1.0" in body and body.endswith(b"# EOF\n") == given.startswith("application/openmetrics")


async def test_no_header_makes_a_scrape_that_is_not_shared(scraped: Scraped):
    for number in range(20):
        scraped.ask(accept=f"application/openmetrics-text;version=1.0.{number}")
        scraped.ask(accept=f"text/plain;version=1.0.{number}")
    await let_them()
    assert scraped.begun == 2  # of each format one
    scraped.may_end.set()
    await let_them()
