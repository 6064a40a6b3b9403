"""Teams, callers and boosts as operators see and change them, over a table in memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.admin.desks.boosts import Boosts
from gateway.admin.desks.callers import CHANGE as OF_CALLER
from gateway.admin.desks.records import ANY, Match, etag
from gateway.admin.desks.teams import CHANGE as OF_TEAM
from gateway.admin.desks.teams import Teams
from gateway.config.schema import Budget, Caller, CallerLimits, KeyPolicy, Team
from gateway.core.spending.keyring import CARRIED_FOR, CallerRecord, TeamRecord
from gateway.errors import ApiError
from tests.admin.desks.test_keys import Desk

FILED = Team(id="filed", limits=CallerLimits(budget_usd=Budget(day=5)), key_policy=KeyPolicy(max_keys=1))


class House(Desk):
    """A desk with the other desks beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.config = msgspec.structs.replace(self.config, teams=(FILED,))
        clock = lambda: self.table.now / 1000  # noqa: E731
        self.teams = Teams(self.table, self.callers, lambda: self.config, self._settle, clock)
        self.boosts = Boosts(self.table, self.callers, self._settle, clock)

    async def team(self, **fields: Any) -> dict[str, Any]:
        return await self.teams.create(body(**fields))

    async def caller(self, **fields: Any) -> dict[str, Any]:
        return await self.callers.create(body(**fields))


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.fixture
def house() -> House:
    return House()


async def refused(work: Any) -> tuple[int, str]:
    with pytest.raises(ApiError) as error:
        await work
    return error.value.status, error.value.message


async def test_a_team_is_made_changed_and_deleted_with_its_callers(house):
    made = await house.team(id="blue", name="Blue", limits={"budget_usd": {"week": 20, "soft": 0.8}})
    assert (made["source"], made["members"], made["key_policy"], made["models"]) == ("store", [], {}, ["*"])
    assert made["limits"] == {"budget_usd": {"week": 20, "soft": [0.8]}}
    await house.caller(id="ada@acme.example", team="blue")
    changed = await house.teams.change(
        "blue", body(limits={"budget_usd": {"soft": None, "day": 3}}, models=["claude-*"])
    )
    assert changed["limits"] == {"budget_usd": {"week": 20, "day": 3}} and changed["models"] == ["claude-*"]
    assert changed["members"] == ["ada@acme.example"] and changed["name"] == "Blue"
    assert (await house.teams.delete("blue"))["callers"] == ["ada@acme.example"]
    assert [each["id"] for each in house.teams.all()] == ["filed"] and house.callers.find("ada@acme.example") is None
    status, words = await refused(house.caller(id="bob", team="blue"))
    assert status == 409 and "was deleted" in words
    assert (await house.team(id="blue"))["limits"] == {}  # made anew, it has nothing of before
    assert house.table.stored.teams["blue"].revision == 4


async def test_what_says_what_is_so_changes_nothing(house):
    await house.team(id="blue", limits={"concurrency": 3})
    await house.caller(id="bob", team="blue")
    before = house.table.stored
    await house.teams.change("blue", body(limits={"concurrency": 3}, models=["*"]))
    await house.callers.change("bob", body(team="blue", status="active"))
    assert house.table.stored == before


async def test_what_is_null_is_again_as_if_nothing_had_been_said_of_it(house):
    fresh = await house.team(id="blue")
    said = {
        "name": "Blue", "models": ["claude-*"], "limits": {"concurrency": 3}, "metadata": {"cc": "1"},
        "key_policy": {"max_keys": 2},
    }  # fmt: skip
    assert OF_TEAM.keys() == set(said)
    for field, value in said.items():
        assert (await house.teams.change("blue", body(**{field: value})))[field] == value
        assert (await house.teams.change("blue", body(**{field: None})))[field] == fresh[field]
    await house.teams.change("blue", body(**said))
    assert {**await house.teams.change("blue", body(**dict.fromkeys(said))), "warnings": []} == {
        **fresh,
        "warnings": [],
    }

    fresh = await house.caller(id="bob")
    said = {
        "team": "blue", "kind": "person", "label": "Bob", "email": "bob@acme.example", "status": "suspended",
        "models": ["claude-*"], "limits": {"budget_usd": {"day": 5}}, "metadata": {"desk": "4"},
    }  # fmt: skip
    assert OF_CALLER.keys() == set(said)
    for field, value in said.items():
        assert (await house.callers.change("bob", body(**{field: value})))[field] == value
        assert (await house.callers.change("bob", body(**{field: None})))[field] == fresh[field]
    before = house.table.stored
    await house.callers.change("bob", body(**dict.fromkeys(said)))
    assert house.table.stored == before  # as it was already


async def test_a_caller_without_limits_of_its_own_has_those_of_its_team_s_policy(house):
    await house.team(id="blue", key_policy={"models": ["claude-haiku-*"], "max_budget_usd": {"day": 3}})
    await house.caller(id="bob", team="blue", models=["claude-haiku-4-5"], limits={"budget_usd": {"day": 1}})
    changed = await house.callers.change("bob", body(models=None, limits=None))
    assert (changed["models"], changed["limits"]) == (["claude-haiku-*"], {"budget_usd": {"day": 3}})


async def test_a_name_in_a_policy_means_every_name_of_its_model(house):
    await house.team(id="blue", key_policy={"models": ["claude-haiku-4-5"]})
    await house.team(id="red", key_policy={"models": ["claude-haiku-4-5-20251001"]})
    await house.caller(id="bob", team="blue", models=["claude-haiku-4-5-20251001"])
    await house.caller(id="carol", team="red", models=["claude-haiku-4-5"])
    for team in ("blue", "red"):
        assert (await refused(house.caller(id="dave", team=team, models=["claude-opus-5"])))[0] == 400


async def test_who_names_an_entity_tag_loses_a_race_and_who_names_none_changes_what_is_there(house):
    await house.team(id="blue")
    tag = Match(etag(house.teams.shown("blue")))
    await house.teams.change("blue", body(name="first"), tag)
    assert (await refused(house.teams.change("blue", body(name="second"), tag)))[0] == 412
    assert (await refused(house.teams.delete("blue", tag)))[0] == 412

    def quicker() -> None:
        house.table.rival = lambda: None
        record = house.table.stored.teams["blue"]
        later = msgspec.structs.replace(record, name="rival", metadata={"by": "rival"}, revision=record.revision + 1)
        house.table.stored = msgspec.structs.replace(house.table.stored, teams={"blue": later})

    house.table.rival = quicker  # it changes between the look and the write
    fresh = Match(etag(house.teams.shown("blue")))
    assert (await refused(house.teams.change("blue", body(name="third"), fresh)))[0] == 412
    house.table.rival = quicker
    merged = await house.teams.change("blue", body(name="fourth"), ANY)
    assert (merged["name"], merged["metadata"]) == ("fourth", {"by": "rival"})


async def test_several_entity_tags_and_any_may_be_named(house):
    await house.team(id="blue")
    tag = etag(house.teams.shown("blue"))
    await house.teams.change("blue", body(name="a"), Match(f'"other", {tag}'))
    await house.teams.change("blue", body(name="b"), Match("*"))
    assert (await refused(house.teams.change("blue", body(name="c"), Match(f"W/{tag}"))))[0] == 412


async def test_what_the_file_defines_hides_what_was_made_and_is_told_so(house):
    await house.team(id="later")
    await house.caller(id="later")
    assert house.teams.one("later")["shadows_stored"] is False
    config = house.config
    house.config = msgspec.structs.replace(
        config, teams=(*config.teams, Team(id="later", name="of the file")), keys=(*config.keys, Caller(id="later"))
    )
    for desk in (house.teams, house.callers):
        shown = desk.one("later")
        assert (shown["source"], shown["shadows_stored"]) == ("file", True)
        status, words = await refused(desk.change("later", body(models=["claude-*"])))
        assert status == 409 and "in the configuration file, at " in words and "[1]" in words
        assert (await refused(desk.delete("later")))[0] == 409
    house.config = config
    assert house.teams.one("later")["source"] == "store"


async def test_a_team_in_which_the_file_has_callers_stays(house):
    await house.team(id="research")  # alice's, of the file
    status, words = await refused(house.teams.delete("research"))
    assert status == 409 and words.startswith("alice of the configuration file is in the team research")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "x"}, "Give the id"), ({"id": "a/b"}, "id must be"), ({"id": "x", "hue": "blue"}, "Unknown fields"),
        ({"id": "x", "key_policy": {"max_keys": 0}}, "key_policy.max_keys"),
        ({"id": "x", "limits": {"budget_usd": {"soft": [1.5]}}}, "soft"),
    ],
)  # fmt: skip
async def test_a_team_that_makes_no_sense_is_refused(house, fields, words):
    status, said = await refused(house.team(**fields))
    assert status == 400 and words in said


async def test_a_policy_binds_the_successors_of_keys_too(house):
    made = [await house.create(caller="bob"), await house.create(caller="bob", expires_in=7200)]
    await house.team(id="tight", key_policy={"max_lifetime_days": 1, "max_keys": 2})
    await house.callers.change("bob", body(team="tight"))
    heir = await house.keys.rotate(made[0]["id"], b"{}")
    assert heir["expires_at"] == "2027-01-16T08:00:00Z"  # what would have had no end
    status, said = await refused(house.keys.rotate(made[0]["id"], b"{}"))
    assert (
        status == 409 and said == f"{made[0]['id']} has a successor: {heir['id']}; rotate that one, or revoke it first"
    )
    status, said = await refused(house.keys.rotate(made[1]["id"], b"{}"))
    assert status == 409 and "more keys than its team's key_policy allows" in said
    await house.keys.revoke(made[0]["id"])
    assert (await house.keys.rotate(made[1]["id"], b"{}"))["expires_at"] == "2027-01-15T10:00:00Z"  # its own life


async def test_a_policy_gives_its_bounds_to_who_asks_for_nothing_and_refuses_more(house):
    policy = {"max_lifetime_days": 1, "max_budget_usd": {"day": 2}, "models": ["claude-haiku-*"]}
    await house.team(id="tight", key_policy=policy)
    made = await house.caller(id="bob", team="tight", models=["claude-haiku-4-5"], limits={"budget_usd": {"month": 9}})
    assert made["models"] == ["claude-haiku-4-5"] and made["limits"] == {"budget_usd": {"month": 9, "day": 2}}
    key = await house.create(caller="bob")
    assert key["expires_at"] == "2027-01-16T08:00:00Z"
    for work in (
        house.caller(id="eve", team="tight", models=["claude-*"]),
        house.callers.change("bob", body(limits={"budget_usd": {"day": 2.5}})),
        house.create(caller="bob", expires_in=90_000),
    ):
        status, said = await refused(work)
        assert status == 400 and "key_policy allows" in said
    # It binds who is moved there, too.
    await house.caller(id="carl")
    assert (await house.callers.change("carl", body(team="tight")))["limits"] == {"budget_usd": {"day": 2}}


async def test_keys_of_the_files_callers_are_bounded_by_the_files_policy(house):
    house.config = msgspec.structs.replace(house.config, keys=(Caller(id="alice", team="filed"),))
    await house.create(caller="alice", label="laptop")
    status, said = await refused(house.create(caller="alice", label="laptop"))
    assert status == 409 and "labelled laptop" in said
    assert (await refused(house.create(caller="alice")))[0] == 409


async def test_a_key_that_the_file_names_too_is_told_to_go_on_by_whatever_would_end_it(house):
    await house.team(id="blue")
    await house.caller(id="bob", team="blue")
    kept, ended = [await house.keys.create_of("bob", b"{}") for _ in range(2)]
    digest = house.table.stored.keys[kept["id"]].digest
    filed = Caller(id="carol", digests=(digest,))
    house.config = msgspec.structs.replace(house.config, keys=(filed,))
    words = f"{kept['id']} is among the keys of carol in the configuration file, and counts there until it is taken out"
    assert (await house.callers.change("bob", body(status="suspended")))["warnings"] == [words]
    assert (await house.callers.change("bob", body(status="active")))["warnings"] == []
    before = house.table.stored
    every = await house.keys.revoke_all("bob")
    assert (every["revoked"], every["warnings"]) == (1, [words])
    house.table.stored = before
    gone = await house.callers.delete("bob")
    assert (gone["revoked"], gone["warnings"]) == (1, [words])
    house.table.stored = before
    gone = await house.teams.delete("blue")
    assert (gone["revoked"], gone["warnings"]) == (1, [words])
    assert house.keys.find(ended["id"])["state"] == "revoked"


async def test_what_a_policy_would_not_allow_by_now_is_told_to_who_moves_a_caller_or_changes_the_policy(house):
    await house.team(id="blue", key_policy={"max_keys": 1, "max_lifetime_days": 30})
    await house.caller(id="bob")
    endless, year, short = [
        await house.keys.create_of("bob", text) for text in (b"{}", b'{"expires_in": 31536000}', b'{"expires_in": 60}')
    ]
    moved = await house.callers.change("bob", body(team="blue"))
    said = [
        f"bob: made for longer than the team's key_policy allows (30 days): {endless['id']}, {year['id']}",
        "bob: has 3 keys, and the team's key_policy allows 1",
    ]
    assert moved["warnings"][-2:] == said and short["id"] not in said[0]
    for key in (endless, year):
        await house.keys.revoke(key["id"])
    assert not [each for each in (await house.callers.change("bob", body(label="x")))["warnings"] if "policy" in each]
    await house.team(id="red")
    await house.caller(id="carol", team="red", limits={"budget_usd": {"day": 9}})
    key = await house.keys.create_of("carol", b"{}")
    policy = {"max_lifetime_days": 1, "max_budget_usd": {"day": 5}}
    assert (await house.teams.change("red", body(key_policy=policy)))["warnings"] == [
        f"carol: made for longer than the team's key_policy allows (1 days): {key['id']}",
        "carol: may use more models or money than the team's key_policy allows",
    ]


async def test_who_moves_remembers_where_it_was_for_as_long_as_that_counts(house):
    for team in ("blue", "red"):
        await house.team(id=team)
    await house.caller(id="bob")
    carried: list[tuple[str, dict[str, int]]] = []

    async def carry(name: str, record: CallerRecord) -> None:
        carried.append((record.team or "", dict(record.former)))

    house.callers._carry = carry
    now = house.table.now
    await house.callers.change("bob", body(team="blue"))
    await house.callers.change("bob", body(team="red"))
    await house.callers.change("bob", body(team="blue"))
    assert house.table.stored.callers["bob"].former == {"": now, "red": now}
    assert [team for team, _ in carried] == ["blue", "blue", "red", "red", "blue", "blue"]  # before each move and after
    await house.callers.change("bob", body(label="Bob"))
    assert len(carried) == 6
    assert (await house.callers.change("bob", body(team=None)))["team"] is None  # to no team
    await house.callers.change("bob", body(team="blue"))
    await house.callers.delete("bob")
    await house.caller(id="bob", team="red")  # made anew elsewhere: it is the same caller to the ledger
    assert house.table.stored.callers["bob"].former == {"": now, "blue": now}
    house.table.now += CARRIED_FOR
    await house.callers.change("bob", body(team="blue"))
    assert set(house.table.stored.callers["bob"].former) == {"red"}


async def test_a_boost_names_whom_how_much_until_when_and_why(house):
    until = "2027-01-16T08:00:00Z"
    made = await house.boosts.create(body(id="b1", team="filed", usd=5, until=until, reason="launch"), "ops")
    assert made == {
        "id": "b1", "team": "filed", "caller": None, "usd": 5, "until": until, "reason": "launch", "by": "ops",
        "active": True, "created_at": "2027-01-15T08:00:00Z",
    }  # fmt: skip
    await house.boosts.create(body(caller="alice", usd=1.5, seconds=60, reason="a try"), "ops")
    assert [each["caller"] for each in house.boosts.all()] == [None, "alice"] or len(house.boosts.all()) == 2
    house.table.now += 61_000
    assert [each["active"] for each in house.boosts.all() if each["caller"]] == [False]
    gone = await house.boosts.delete("b1")
    assert gone["active"] is False and (await refused(house.boosts.delete("b1")))[0] == 404


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"usd": 5, "seconds": 60, "reason": "x"}, 400),
        ({"team": "filed", "caller": "alice", "usd": 5, "seconds": 60, "reason": "x"}, 400),
        ({"team": "filed", "seconds": 60, "reason": "x"}, 400),
        ({"team": "filed", "usd": 5, "seconds": 60}, 400),
        ({"team": "filed", "usd": 5, "reason": "x"}, 400),
        ({"team": "filed", "usd": 5, "until": "2027-01-15T07:59:59Z", "reason": "x"}, 400),
        ({"team": "nobody", "usd": 5, "seconds": 60, "reason": "x"}, 404),
    ],
)
async def test_a_boost_that_makes_no_sense_is_refused(house, fields, status):
    assert (await refused(house.boosts.create(body(**fields), "ops")))[0] == status
    assert house.boosts.all() == []


async def test_a_boost_with_an_id_can_be_asked_for_again(house):
    asked = body(id="b1", team="filed", usd=5, seconds=60, reason="launch")
    await house.boosts.create(asked, "ops")
    assert (await refused(house.boosts.create(asked, "ops")))[0] == 409
    assert [each["id"] for each in house.boosts.all()] == ["b1"]


async def test_the_documented_boost_is_given_in_any_year(house):
    page = (Path(__file__).parents[3] / "docs" / "teams.md").read_text()
    (example,) = re.findall(r"""admin/v1/boosts" \\\s+-d '([^']*)'""", page)
    for number in range(8):
        asked = {**json.loads(example), "id": f"b{number}", "team": "filed"}
        assert (await house.boosts.create(body(**asked), "ops"))["active"]
        house.table.now += 366 * 86_400_000


async def test_a_record_that_this_version_does_not_understand_lets_nobody_spend(house):
    house.table.stored = msgspec.structs.replace(
        house.table.stored, teams={"odd": TeamRecord(limits={"watts": 5}, key_policy={"max_keys": "many"})}
    )
    shown = house.teams.one("odd")
    assert shown["limits"] == {"budget_usd": {"day": 0}} and shown["key_policy"] == {"max_keys": 1}
