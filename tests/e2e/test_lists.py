"""Lists of objects: the caller's own among everybody's, in the upstream's two ways of paging, and nothing of others."""

from __future__ import annotations

import json
import random
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import anthropic
import pytest

from tests.e2e.rig import (
    ALICE,
    ALICE_TOO,
    BOB,
    CALLERS,
    CAROL,
    Gateway,
    Simulator,
    accounts_of,
    ask,
    assert_error,
    message,
)
from tests.e2e.test_objects import BY_IDS, CURSORS, alike, batch_of, create, nowhere, post, skill, upload

MINE, THEIRS = 7, 40
FRESH = "sk-" + "Fr3sh" * 9 + "one"  # has never created anything
WALKERS = [f"sk-walker-{number}-{'x' * 36}" for number in range(60)]  # for whoever changes lists
_walkers = iter(WALKERS)


async def _batch(gateway: Gateway, key: str) -> str:
    answer = await ask(gateway, batch_of(message("One")), path="/v1/messages/batches", key=key)
    return str(answer.json()["id"])


async def _file(gateway: Gateway, key: str) -> str:
    return str((await upload(gateway, key=key)).json()["id"])


async def _skill(gateway: Gateway, key: str) -> str:
    body, headers = skill("of lists")
    return str((await post(gateway, body, {**headers, **CURSORS}, path="/v1/skills", key=key)).json()["id"])


async def _agent(gateway: Gateway, key: str) -> str:
    return str((await create(gateway, "agents", key))["id"])


class Style(NamedTuple):
    """A list: its path, the headers that ask for this form, what makes an entry; `cursor` leads to the next page."""

    path: str
    headers: dict[str, str]
    make: Callable[[Gateway, str], Awaitable[str]]
    cursor: str

    def after(self, page: dict[str, Any]) -> str | None:
        """What follows `cursor` for the page after this one; None if there is none."""
        if self.cursor == "page":
            return page["next_page"] or None
        assert isinstance(page["has_more"], bool)
        return page["last_id"] if page["has_more"] else None


STYLES = {
    "batches": Style("/v1/messages/batches", {}, _batch, "after_id"),
    "files by ids": Style("/v1/files", BY_IDS, _file, "after_id"),
    "files by cursors": Style("/v1/files", CURSORS, _file, "page"),
    "skills": Style("/v1/skills", CURSORS, _skill, "page"),
    "skills of old": Style("/v1/skills", {"anthropic-beta": "skills-2025-10-02"}, _skill, "page"),
    "agents": Style("/v1/agents", CURSORS, _agent, "page"),
}


@pytest.fixture(scope="module")
def lone(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with one account, so that everybody's objects lie in one workspace."""
    walkers = [{"id": f"walker-{number}", "key": key} for number, key in enumerate(WALKERS)]
    keys = [*CALLERS, {"id": "fresh", "key": FRESH}, *walkers]
    config = {"accounts": accounts_of(simulator, 1), "keys": keys}
    gateway = Gateway(tmp_path_factory.mktemp("lone"), config).start()
    yield gateway
    gateway.stop()


_made: dict[str, dict[str, list[str]]] = {}


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest) -> Style:
    return STYLES[str(request.param)]


async def stock(lone: Gateway, style: Style) -> dict[str, list[str]]:
    """Key -> the ids of what its caller has in this list, newest first: some of Alice's among many of Bob's.

    Made once; whoever changes lists does so as somebody else."""
    known = _made.get(style.path)
    if known is None:
        known = {ALICE: [], BOB: []}
        keys = [ALICE] * (MINE - 2) + [BOB] * THEIRS
        random.Random(style.path).shuffle(keys)
        for key in [*keys[:20], ALICE, ALICE, *keys[20:]]:  # two that are neighbours
            known[key].insert(0, await style.make(lone, key))
        _made[style.path] = known
    return known


@pytest.fixture
async def made(style: Style, lone: Gateway) -> dict[str, list[str]]:
    return await stock(lone, style)


def somebody() -> str:
    """The key of a caller who has nothing yet."""
    return next(_walkers)


async def page_of(lone: Gateway, style: Style, query: str, key: str = ALICE) -> dict[str, Any]:
    answer = await ask(lone, headers=style.headers, path=f"{style.path}?{query}", key=key)
    assert answer.status == 200, answer.body
    page: dict[str, Any] = answer.json()
    return page


def ids(page: dict[str, Any]) -> list[str]:
    return [each["id"] for each in page["data"]]


async def walk(lone: Gateway, style: Style, limit: int, key: str = ALICE) -> list[list[str]]:
    """All pages, from the first to the last."""
    pages: list[list[str]] = []
    query = f"limit={limit}"
    while True:
        page = await page_of(lone, style, query, key)
        pages.append(ids(page))
        if style.cursor == "after_id":
            ends = (pages[-1][0], pages[-1][-1]) if pages[-1] else (None, None)
            assert (page["first_id"], page["last_id"]) == ends
        after = style.after(page)
        if after is None:
            return pages
        query = f"limit={limit}&{style.cursor}={after}"


async def whole(lone: Gateway, style: Style, key: str = ALICE, limit: int = 100) -> list[str]:
    return list(chain(*await walk(lone, style, limit, key)))


# -- Pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 20, 1000])
async def test_pages_hold_exactly_the_callers_own_in_order(
    limit: int, style: Style, lone: Gateway, made: dict[str, list[str]]
):
    own = made[ALICE]
    assert len(own) == MINE
    expected = [own[at : at + limit] for at in range(0, len(own), limit)]
    assert await walk(lone, style, limit) == expected


async def test_everybody_sees_a_whole_list_of_ones_own(style: Style, lone: Gateway, made: dict[str, list[str]]):
    assert await whole(lone, style, BOB, 11) == made[BOB]
    assert await whole(lone, style, ALICE_TOO, 2) == made[ALICE]
    assert await whole(lone, style, CAROL, 2) == []


async def test_without_a_limit_a_page_is_as_long_as_the_upstreams(
    style: Style, lone: Gateway, made: dict[str, list[str]]
):
    answer = await ask(lone, headers=style.headers, path=style.path, key=BOB)
    assert ids(answer.json()) == made[BOB][:20]
    assert style.after(answer.json())


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_pages_go_backwards_too(limit: int, lone: Gateway):
    style = STYLES["batches"]
    own = (await stock(lone, style))[ALICE]
    for end in range(len(own)):
        page = await page_of(lone, style, f"limit={limit}&before_id={own[end]}")
        assert ids(page) == own[max(0, end - limit) : end]
        assert page["has_more"] is (end > limit)


async def test_entries_come_as_the_upstream_shows_them(style: Style, lone: Gateway, made: dict[str, list[str]]):
    page = await page_of(lone, style, "limit=3")
    for entry in page["data"]:
        one = await ask(lone, headers=style.headers, path=f"{style.path}/{entry['id']}")
        assert one.json() == entry


async def test_a_page_says_nothing_of_others(style: Style, lone: Gateway, made: dict[str, list[str]]):
    for query in ("limit=1", "limit=4", "limit=1000"):
        answer = await ask(lone, headers=style.headers, path=f"{style.path}?{query}")
        assert answer["content-type"].startswith("application/json")
        text = answer.body.decode() + json.dumps(answer.headers)
        assert not [each for each in made[BOB] if each in text]
        assert "wrkspc" not in text


async def test_the_sdk_walks_through_all_pages(lone: Gateway):
    own = {style.path: (await stock(lone, style))[ALICE] for style in STYLES.values()}
    with anthropic.Anthropic(base_url=lone.base_url, api_key=ALICE, max_retries=0) as client:
        for limit in (1, 2, 7):
            assert [each.id for each in client.messages.batches.list(limit=limit)] == own["/v1/messages/batches"]
            assert [each.id for each in client.beta.messages.batches.list(limit=limit)] == own["/v1/messages/batches"]
            assert [each.id for each in client.files.list(limit=limit)] == own["/v1/files"]
            assert [each.id for each in client.beta.files.list(limit=limit)] == own["/v1/files"]
            assert [each.id for each in client.skills.list(limit=limit)] == own["/v1/skills"]
            assert [each.id for each in client.beta.agents.list(limit=limit)] == own["/v1/agents"]


# -- Cursors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["after_id", "before_id"])
@pytest.mark.parametrize("kind", ["batches", "files by ids"])
async def test_anothers_id_is_no_cursor_and_no_hint(kind: str, name: str, lone: Gateway, sim: Simulator):
    style = STYLES[kind]
    theirs = (await stock(lone, style))[BOB][0]
    none = nowhere(theirs.partition("_01")[0])
    since = sim.mark()
    answers = [
        await ask(lone, headers=style.headers, path=f"{style.path}?limit=2&{name}={each}") for each in (theirs, none)
    ]
    assert answers[0].status in (400, 404)
    assert alike(answers[0]) == alike(answers[1])
    assert sim.records(since) == []


FORGED = [
    "x", "page_MTo", "AAAA", "%00", "====", "page_" + "A" * 4000,
    "page_MzB3cmtzcGNfc2ltXzE",  # as the upstream writes them
]  # fmt: skip


@pytest.mark.parametrize("kind", ["files by cursors", "agents"])
async def test_a_cursor_is_of_use_to_who_got_it_alone(kind: str, lone: Gateway, sim: Simulator):
    style = STYLES[kind]
    await stock(lone, style)
    cursor = style.after(await page_of(lone, style, "limit=1"))
    assert cursor
    query = f"limit=1&page={cursor}"
    assert len(ids(await page_of(lone, style, query, ALICE_TOO))) == 1  # the same caller
    since = sim.mark()
    changed = cursor[:-6] + ("A" if cursor[-6] != "A" else "B") + cursor[-5:]
    for key, each in [(BOB, cursor), (CAROL, cursor), (ALICE, changed), *((ALICE, forged) for forged in FORGED)]:
        answer = await ask(lone, headers=style.headers, path=f"{style.path}?limit=1&page={each}", key=key)
        words = assert_error(answer, 400, "invalid_request_error")
        assert "cursor" in words and "alice" not in words
    assert sim.records(since) == []


async def test_a_cursor_says_nothing_of_workspaces(lone: Gateway):
    style = STYLES["agents"]
    await stock(lone, style)
    cursor = style.after(await page_of(lone, style, "limit=1"))
    assert cursor
    assert b"alice" not in urlsafe_b64decode(cursor)
    assert b"sim-account" not in urlsafe_b64decode(cursor)


@pytest.mark.parametrize("kind", ["files by cursors", "agents"])
@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_whoever_deletes_while_walking_misses_nothing(kind: str, limit: int, lone: Gateway):
    """As a clean-up does: delete each entry as it comes, and ask for the next page."""
    style, mine, theirs = STYLES[kind], somebody(), somebody()
    wanted = set()
    for owner in reversed("-+++-++++-++"):  # so that pages begin and end amid the upstream's
        name = await style.make(lone, mine if owner == "+" else theirs)
        if owner == "+":
            wanted.add(name)
    seen: list[str] = []
    query = f"limit={limit}"
    for _ in range(30):
        page = await page_of(lone, style, query, mine)
        for each in ids(page):
            seen.append(each)
            gone = await ask(lone, headers=style.headers, method="DELETE", path=f"{style.path}/{each}", key=mine)
            assert gone.status == 200
        after = style.after(page)
        if after is None:
            break
        query = f"limit={limit}&page={after}"
    assert len(seen) == len(set(seen))
    assert set(seen) == wanted
    assert ids(await page_of(lone, style, "limit=100", mine)) == []


@pytest.mark.parametrize("kind", ["batches", "files by ids", "files by cursors", "agents"])
async def test_what_others_delete_while_somebody_walks_hides_nothing(kind: str, lone: Gateway):
    style, mine, theirs = STYLES[kind], somebody(), somebody()
    order: list[tuple[str, str]] = []  # owner, id, newest first
    for owner in reversed("-+++-++++-++-+++"):
        order.insert(0, (owner, await style.make(lone, mine if owner == "+" else theirs)))
    wanted = [name for owner, name in order if owner == "+"]
    seen: list[str] = []
    query = "limit=2"
    for _ in range(20):
        page = await page_of(lone, style, query, mine)
        seen += ids(page)
        while order and order[0][1] != seen[-1]:  # what comes before it
            owner, name = order.pop(0)
            if owner == "-":
                gone = await ask(lone, headers=style.headers, method="DELETE", path=f"{style.path}/{name}", key=theirs)
                assert gone.status == 200
        after = style.after(page)
        if after is None:
            break
        query = f"limit=2&{style.cursor}={after}"
    assert seen == wanted


@pytest.mark.parametrize("kind", ["batches", "files by cursors", "files by ids"])
async def test_what_is_made_while_somebody_walks_disturbs_no_page(kind: str, lone: Gateway):
    style, mine, theirs = STYLES[kind], somebody(), somebody()
    before: list[str] = []
    for owner in reversed("-+++-++++-++"):
        name = await style.make(lone, mine if owner == "+" else theirs)
        if owner == "+":
            before.insert(0, name)
    seen: list[str] = []
    query = "limit=2"
    for _ in range(20):
        page = await page_of(lone, style, query, mine)
        seen += ids(page)
        await style.make(lone, theirs)
        await style.make(lone, mine)
        after = style.after(page)
        if after is None:
            break
        query = f"limit=2&{style.cursor}={after}"
    assert seen == before


# -- Edges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "many", "1e3", "99999999999999999999", "%31x"])
async def test_a_bad_limit_is_the_upstreams_to_refuse(limit: str, style: Style, lone: Gateway, sim: Simulator):
    await stock(lone, style)
    since = sim.mark()
    answer = await ask(lone, headers=style.headers, path=f"{style.path}?limit={limit}")
    assert "limit" in assert_error(answer, 400, "invalid_request_error")
    assert [record["status"] for record in sim.records(since)] == [400]


async def test_who_never_made_anything_has_empty_lists_and_no_account_is_asked(
    style: Style, lone: Gateway, sim: Simulator
):
    since = sim.mark()
    for query in ("", "?limit=5", "?limit=1000"):
        answer = await ask(lone, headers=style.headers, path=style.path + query, key=FRESH)
        assert (answer.status, answer["content-type"]) == (200, "application/json")
        page = answer.json()
        assert (page["data"], style.after(page)) == ([], None)
    assert sim.records(since) == []


def test_the_sdk_reads_empty_lists(lone: Gateway):
    with anthropic.Anthropic(base_url=lone.base_url, api_key=FRESH, max_retries=0) as client:
        assert list(client.messages.batches.list()) == []
        assert list(client.files.list()) == []
        assert list(client.skills.list()) == []
        assert list(client.beta.agents.list()) == []
        assert list(client.beta.sessions.list()) == []
        assert list(client.user_profiles.list()) == []


async def test_other_parameters_reach_the_upstream(lone: Gateway, sim: Simulator):
    key = somebody()
    agent, archived = [await _agent(lone, key) for _ in range(2)]
    await ask(lone, {}, path=f"/v1/agents/{archived}/archive", key=key)

    async def found(query: str) -> list[str]:
        answer = await ask(lone, headers=CURSORS, path=f"/v1/agents?limit=1000{query}", key=key)
        return ids(answer.json())

    assert agent in await found("") and archived not in await found("")
    assert archived in await found("&include_archived=true")
    session = (await create(lone, "sessions", key, agent=agent))["id"]
    other = (await create(lone, "sessions", key))["id"]
    path = "/v1/sessions?limit=1000"
    assert ids((await ask(lone, headers=CURSORS, path=f"{path}&agent_id={agent}", key=key)).json()) == [session]
    assert ids((await ask(lone, headers=CURSORS, path=f"{path}&order=asc", key=key)).json()) == [session, other]


async def test_an_account_that_fails_amid_a_list_is_an_error_and_no_short_page(lone: Gateway, sim: Simulator):
    style = STYLES["batches"]
    await stock(lone, style)
    before = await page_of(lone, style, "limit=4")
    for kind, value in (("status", 500), ("html", 502), ("cut", 200), ("reset", None)):
        sim.fault(kind, value, path=style.path)
        answer = await ask(lone, path=f"{style.path}?limit=4")
        sim.clear()
        lone.mend()
        assert answer.status >= 500
        assert answer.json()["type"] == "error"
    assert await page_of(lone, style, "limit=4") == before
