"""Lists over a made-up upstream: workspaces that hold everybody's objects, in pages of either form."""

from __future__ import annotations

import json
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.schema import Caller
from gateway.errors import ApiError
from gateway.store.owners import Owner
from gateway.worker.objects.listing import EMPTY, Listing
from gateway.worker.objects.owners import UNKNOWN, Owners

ALICE, BOB = Caller(id="alice"), Caller(id="bob")
SECRETS = (b"s" * 32,)


class World:
    """`objects` are (id, workspace, caller), newest first; also the Owners that a listing asks."""

    def __init__(self, objects: list[tuple[str, str, str]], homes: tuple[str, ...] = ("w1", "w2")) -> None:
        self.objects = objects
        self.given = homes
        self.owners = {name: Owner(workspace, caller, "", 0) for name, workspace, caller in objects if caller}
        self.queries: list[dict[str, str]] = []

    async def homes(self, caller: Caller) -> tuple[str, ...]:
        return self.given

    async def find(self, ids: list[str]) -> list[Owner | None]:
        return [self.owners.get(each) for each in ids]

    def visible(self, caller: Caller, owner: Owner) -> bool:
        return owner.caller == caller.id

    async def where(self, caller: Caller, ids: list[str]) -> str:
        owner = self.owners.get(ids[0])
        if owner is None or owner.caller != caller.id:
            raise ApiError(404, UNKNOWN)
        return owner.workspace

    async def adopt(self, name: str, owner: Owner, lifetime: int) -> Owner:
        self.owners[name] = owner
        return owner

    # The upstream.

    def entries(self, workspace: str) -> list[str]:
        return [name for name, where, _ in self.objects if where == workspace]

    async def by_id(self, workspace: str, query: bytes) -> bytes | None:
        asked = dict(parse_qsl(query.decode()))
        self.queries.append(asked)
        names, limit = self.entries(workspace), int(asked.get("limit", "20"))
        if "before_id" in asked:
            end = names.index(asked["before_id"])
            page, more = names[max(0, end - limit) : end], end > limit
        else:
            start = names.index(asked["after_id"]) + 1 if "after_id" in asked else 0
            page, more = names[start : start + limit], start + limit < len(names)
        ends = {"first_id": page[0] if page else None, "last_id": page[-1] if page else None}
        return json.dumps({"data": [{"id": name, "n": 1.0} for name in page], "has_more": more, **ends}).encode()

    async def by_cursor(self, workspace: str, query: bytes) -> bytes | None:
        asked = dict(parse_qsl(query.decode()))
        self.queries.append(asked)
        names, limit = self.entries(workspace), int(asked.get("limit", "20"))
        start = int(asked.get("page", "0"))
        page = names[start : start + limit]
        following = str(start + limit) if start + limit < len(names) else None
        return json.dumps({"data": [{"id": name} for name in page], "next_page": following}).encode()


async def ask(world: World, caller: Caller, style: str = "by_id", **query: Any) -> dict[str, Any]:
    listing = Listing(caller, urlencode(query).encode(), cast(Owners, world), getattr(world, style), SECRETS)
    body = await listing.page()
    assert body is not None
    found: dict[str, Any] = json.loads(body)
    return found


def ids(page: dict[str, Any]) -> list[str]:
    return [each["id"] for each in page["data"]]


async def walk(world: World, caller: Caller, style: str, limit: int) -> list[str]:
    """All entries as a client walks them, page by page."""
    seen: list[str] = []
    query: dict[str, Any] = {"limit": limit}
    for _ in range(1000):
        page = await ask(world, caller, style, **query)
        assert len(page["data"]) <= limit
        seen += ids(page)
        if style == "by_cursor":
            if page["next_page"] is None:
                return seen
            query["page"] = page["next_page"]
        else:
            names = ids(page)
            assert (page["first_id"], page["last_id"]) == ((names[0], names[-1]) if names else (None, None))
            if not page["has_more"]:
                return seen
            assert page["data"]
            query["after_id"] = page["last_id"]
    raise AssertionError("no end")


def own(world: World, caller: Caller) -> list[str]:
    return [
        name
        for workspace in world.given
        for name in world.entries(workspace)
        if (owner := world.owners.get(name)) and owner.caller == caller.id
    ]


worlds = st.lists(
    st.tuples(st.sampled_from(["w1", "w2", "w3"]), st.sampled_from(["alice", "bob", ""])), max_size=60
).map(lambda made: World([(f"x_{number}", workspace, caller) for number, (workspace, caller) in enumerate(made)]))


@given(worlds, st.integers(1, 25), st.sampled_from(["by_id", "by_cursor"]))
async def test_walking_a_list_shows_everything_of_ones_own_once_and_nothing_else(world: World, limit: int, style: str):
    for caller in (ALICE, BOB):
        assert await walk(world, caller, style, limit) == own(world, caller)


@given(worlds, st.integers(1, 25))
async def test_walking_backwards_shows_a_workspaces_own_too(world: World, limit: int):
    mine = [name for name in world.entries("w1") if (owner := world.owners.get(name)) and owner.caller == "alice"]
    if not mine:
        return
    seen: list[str] = []
    before = mine[-1]
    while True:
        page = await ask(world, ALICE, before_id=before, limit=limit)
        seen = ids(page) + seen
        if not page["has_more"]:
            break
        before = page["first_id"]
    assert seen == mine[:-1]


async def test_a_full_page_says_whether_there_is_more_of_ones_own():
    objects = [("a1", "w1", "alice"), ("b1", "w1", "bob"), ("a2", "w1", "alice"), ("b2", "w1", "bob")]
    page = await ask(World(objects), ALICE, limit=2)
    assert (ids(page), page["has_more"], page["first_id"], page["last_id"]) == (["a1", "a2"], False, "a1", "a2")
    page = await ask(World(objects), ALICE, limit=1)
    assert (ids(page), page["has_more"]) == (["a1"], True)


async def test_entries_stay_as_they_came():
    world = World([("a1", "w1", "alice")])
    listing = Listing(ALICE, b"", cast(Owners, world), world.by_id, SECRETS)
    assert b'{"id": "a1", "n": 1.0}' in (await listing.page() or b"")


async def test_who_has_no_home_gets_an_empty_list_and_nobody_is_asked():
    world = World([], homes=())
    listing = Listing(ALICE, b"limit=5", cast(Owners, world), world.by_id, SECRETS)
    assert await listing.page() == EMPTY
    assert world.queries == []


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "many", "1e3"])
async def test_who_has_no_home_is_told_of_a_limit_that_an_upstream_would_refuse(limit):
    with pytest.raises(ApiError, match="limit: Input should be") as refused:
        await ask(World([], homes=()), ALICE, limit=limit)
    assert refused.value.status == 400


async def test_filters_go_on_to_the_upstream_and_cursors_of_ours_do_not():
    world = World([("a1", "w1", "alice")], homes=("w1",))
    await ask(world, ALICE, limit=7, status="ended")
    assert world.queries == [{"limit": "7", "status": "ended"}]
    world.queries.clear()
    await ask(world, ALICE)
    assert world.queries == [{}]


@pytest.mark.parametrize("name", ["after_id", "before_id"])
@pytest.mark.parametrize("cursor", ["b1", "x_none"])
async def test_a_strangers_id_is_no_cursor(name: str, cursor: str):
    world = World([("a1", "w1", "alice"), ("b1", "w1", "bob")])
    with pytest.raises(ApiError) as refused:
        await ask(world, ALICE, **{name: cursor})
    assert (refused.value.status, refused.value.message) == (404, UNKNOWN)
    assert world.queries == []


async def test_a_cursor_is_only_good_for_whom_it_was_made():
    world = World([(f"a{n}", "w1", "alice") for n in range(5)] + [(f"b{n}", "w1", "bob") for n in range(5)])
    cursor = (await ask(world, ALICE, "by_cursor", limit=2))["next_page"]
    assert ids(await ask(world, ALICE, "by_cursor", limit=2, page=cursor)) == ["a2", "a3"]
    for caller, given_ in (
        (BOB, cursor),
        (ALICE, cursor[:-4] + "AAAA"),
        (ALICE, "page_1"),
        (ALICE, "%%"),
        (ALICE, "é"),
    ):
        with pytest.raises(ApiError) as refused:
            await ask(world, caller, "by_cursor", page=given_)
        assert refused.value.status == 400


async def test_a_cursor_goes_on_though_the_page_has_another_size():
    world = World([(f"a{n}", "w1", "alice" if n % 2 else "bob") for n in range(20)])
    mine = own(world, ALICE)
    first = await ask(world, ALICE, "by_cursor", limit=5)
    second = await ask(world, ALICE, "by_cursor", limit=2, page=first["next_page"])
    third = await ask(world, ALICE, "by_cursor", limit=20, page=second["next_page"])
    assert ids(first) + ids(second) + ids(third) == mine


async def test_what_an_account_made_by_itself_belongs_to_whose_it_comes_from():
    world = World([("depl_1", "w1", "alice"), ("drun_1", "w1", "")], homes=("w1",))

    async def fetch(workspace: str, query: bytes) -> bytes | None:
        return json.dumps({"data": [{"id": "drun_1", "deployment_id": "depl_1"}], "next_page": None}).encode()

    for caller, seen in ((BOB, []), (ALICE, ["drun_1"])):
        listing = Listing(caller, b"", cast(Owners, world), fetch, SECRETS)
        assert ids(json.loads(await listing.page() or b"")) == seen
    assert world.owners["drun_1"].caller == "alice"


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"data": 1}', b'{"data": [1]}'])
async def test_what_is_no_list_is_a_502(body: bytes):
    world = World([])

    async def fetch(workspace: str, query: bytes) -> bytes | None:
        return body

    with pytest.raises(ApiError) as refused:
        await Listing(ALICE, b"", cast(Owners, world), fetch, SECRETS).page()
    assert refused.value.status == 502


@pytest.mark.parametrize("limit", ["9" * 4400, "0" * 4399 + "5"])
async def test_a_limit_of_many_digits_is_refused(limit):
    with pytest.raises(ApiError, match=r"^limit: ") as refused:
        await ask(World([]), ALICE, limit=limit)
    assert refused.value.status == 400
