"""Teams, callers, keys and boosts over the admin API, as a program would manage them: two gateways agree throughout."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
import redis
from typer.testing import CliRunner

from gateway.cli import app
from tests.e2e.rig import (
    ADMIN_TOKEN,
    WAIT_SECONDS,
    Answer,
    Gateway,
    Simulator,
    Store,
    accounts_of,
    ask,
    assert_error,
    conversation,
    eventually,
    message,
    until,
)

ADA = "ada@acme.example"
WARNING = "x-gateway-budget-warning"
FILE_TEAM = {"id": "filed", "limits": {"budget_usd": {"day": 100}}}


class Admin:
    """Asks the admin listener of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def ask(self, method: str, path: str, body: Any = None, match: str = "") -> tuple[int, Any, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.admin_port, timeout=WAIT_SECONDS)
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}", **({"if-match": match} if match else {})}
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, f"/admin/v1/{path}", text, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read()), response.headers.get("etag", "")
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, found, _ = self.ask("GET", path)
        return found if status == 200 else None


class Script:
    """What a program does that is told what there should be: it looks, and makes or changes what is not so."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin
        self.changes = 0
        self.keys: dict[str, str] = {}  # by caller, as they were shown

    def want(self, kind: str, name: str, fields: dict[str, Any]) -> None:
        path = f"{kind}/{quote(name, safe='')}"
        status, found, tag = self.admin.ask("GET", path)
        if status == 404:
            status, made, _ = self.admin.ask("POST", kind, {"id": name, **fields})
            assert status == 201, made
        elif any(found[field] != value for field, value in fields.items()):
            status, changed, _ = self.admin.ask("PATCH", path, fields, tag)
            assert status == 200, changed
        else:
            return
        self.changes += 1

    def key(self, caller: str, label: str) -> None:
        path = f"callers/{quote(caller, safe='')}/keys"
        if any(key["label"] == label and key["state"] == "active" for key in self.admin.get(path)["data"]):
            return
        status, made, _ = self.admin.ask("POST", path, {"label": label, "expires_in": 86_400})
        assert status == 201, made
        self.keys[caller] = made["key"]
        self.changes += 1

    def run(self) -> int:
        """How much was not so."""
        self.changes = 0
        limits = {"budget_usd": {"week": 20, "soft": [0.8], "message": "Ask Ann."}}
        policy = {"max_keys": 2, "max_lifetime_days": 30}
        self.want("teams", "blue", {"name": "Blue", "limits": limits, "key_policy": policy})
        self.want("callers", ADA, {"team": "blue", "kind": "person", "label": "Ada", "email": ADA})
        self.want("callers", "bot", {"team": "blue", "limits": {"requests_per_minute": 600}})
        self.key(ADA, "laptop")
        self.key("bot", "ci")
        return self.changes


@pytest.fixture(scope="module")
def pair(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    config = {
        "redis": f"{store.url}/15", "accounts": accounts_of(simulator, 2), "workers": 1, "teams": [FILE_TEAM],
    }  # fmt: skip
    gateways = [Gateway(tmp_path_factory.mktemp(f"teams{number}"), config).launch() for number in range(2)]
    for gateway in gateways:
        gateway.ready()
    until(lambda: all(len(Admin(each).get("pool")["accounts"]) == 2 for each in gateways), "the pool")
    yield gateways
    for gateway in gateways:
        gateway.stop()


async def served(gateway: Gateway, key: str, **fields: Any) -> Answer:
    return await ask(gateway, message(**fields), conversation(), key=key)


async def agree(pair: list[Gateway], key: str, status: int) -> list[Answer]:
    """Wait until both answer the key so."""
    answers: list[Answer] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while {answer.status for answer in answers} != {status}:
            answers = [await served(gateway, key) for gateway in pair]
    return answers


def same(pair: list[Gateway]) -> Any:
    """What both say there is, once they say the same."""
    seen: list[Any] = []

    def look() -> bool:
        seen[:] = [[Admin(each).get(path) for path in ("teams", "callers", "keys", "boosts")] for each in pair]
        return bool(seen[0] == seen[1])

    until(look, "agreement")
    return seen[0]


async def test_a_program_manages_teams_callers_and_keys_from_first_to_last(
    pair: list[Gateway], sim: Simulator, store: Store
):
    one, other = map(Admin, pair)
    script = Script(one)
    assert script.run() == 5
    ada, bot = script.keys[ADA], script.keys["bot"]
    same(pair)
    await agree(pair, ada, 200)
    assert Script(other).run() == 0  # a second run, by whichever gateway, changes nothing
    audit = one.get("audit?limit=10")["data"]
    assert {each["action"] for each in audit} == {"team.create", "caller.create", "key.create"}
    assert [each["resource"] for each in audit if each["action"] == "team.create"] == ["teams/blue"]

    # Limits are raised and lowered, and a lost race is a 412.
    tag = one.ask("GET", "teams/blue")[2]
    assert tag and tag == other.ask("GET", "teams/blue")[2]
    lowered = {"limits": {"budget_usd": {"week": 0.0001}}}
    assert one.ask("PATCH", "teams/blue", lowered, tag)[0] == 200
    status, lost, _ = other.ask("PATCH", "teams/blue", {"limits": {"budget_usd": {"week": 50}}}, tag)
    assert (status, lost["error"]["type"]) == (412, "conflict_error")
    for refused in await agree(pair, ada, 429):
        assert_error(refused, 429, "billing_error")
        assert "your team's budget of $0.0001 per week, which resets" in refused.json()["error"]["message"]
        assert refused.json()["error"]["message"].endswith("Ask Ann.")
    until_ = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    boost = {"id": "more", "team": "blue", "usd": 5, "until": until_, "reason": "launch"}
    assert other.ask("POST", "boosts", boost)[0] == 201
    await agree(pair, ada, 200)
    assert one.get("boosts/more")["by"] == "admin" and one.ask("POST", "boosts", boost)[0] == 409
    assert one.ask("DELETE", "boosts/more")[0] == 200
    await agree(pair, ada, 429)
    assert one.ask("PATCH", "teams/blue", {"limits": {"budget_usd": {"week": 30}}})[0] == 200
    await agree(pair, ada, 200)

    # One is suspended, which is said clearly, and is let in again.
    assert other.ask("PATCH", "callers/bot", {"status": "suspended"})[0] == 200
    for refused in await agree(pair, bot, 403):
        assert_error(refused, 403, "permission_error")
        assert "bot is suspended" in refused.json()["error"]["message"]
    assert other.ask("PATCH", "callers/bot", {"status": "active"})[0] == 200
    await agree(pair, bot, 200)

    # Nothing of it is lost with the store's data, and what was deleted stays so.
    assert one.ask("POST", "teams", {"id": "gone"})[0] == 201 and one.ask("DELETE", "teams/gone")[0] == 200
    before = same(pair)
    with database(store) as client:
        client.flushdb()
        await eventually(lambda: client.hlen("{pool}:teams") == 2, "what was flushed")
    assert same(pair) == before
    pair[1].stop()
    pair[1].launch().ready()
    assert same(pair) == before
    await agree(pair, ada, 200)

    # A move takes along what the caller has spent, and neither team's spend changes by it.
    assert one.ask("POST", "teams", {"id": "red", "models": ["claude-opus-*"]})[0] == 201
    assert one.ask("PATCH", f"callers/{quote(ADA)}", {"limits": {"budget_usd": {"day": 5}}})[0] == 200

    def is_counted() -> bool:
        """Whether what is left of its budget is the budget without all that the ledger has of it today."""
        return abs(left(one, "caller", ADA) - (5 - spent_by(one, ADA))) < 1e-9

    until(is_counted, "what it has spent")
    spent = spent_by(one, ADA)
    assert 0 < spent < 5
    assert one.ask("PATCH", f"callers/{quote(ADA)}", {"team": "red"})[0] == 200
    refused = (await agree(pair, ada, 403))[0]  # the team's models bind as well
    assert "may not use the model" in refused.json()["error"]["message"]
    until(is_counted, "the same in the other team")
    assert one.ask("PATCH", "teams/red", {"models": ["*"]})[0] == 200
    await agree(pair, ada, 200)
    until(lambda: is_counted() and spent_by(one, ADA) > spent, "what it spends there")
    # Its own budget binds by what it spent before: with a budget of just that, nothing is left.
    assert one.ask("PATCH", f"callers/{quote(ADA)}", {"limits": {"budget_usd": {"day": spent}}})[0] == 200
    await agree(pair, ada, 429)
    assert one.ask("PATCH", f"callers/{quote(ADA)}", {"limits": {"budget_usd": None}})[0] == 200
    await agree(pair, ada, 200)

    # All of it goes: keys end at once, the ledger stays.
    members = one.get("teams/red")["members"]
    assert members == [ADA]
    status, gone, _ = other.ask("DELETE", "teams/red")
    assert (status, gone["callers"], gone["revoked"]) == (200, [ADA], 1)
    await agree(pair, ada, 401)
    assert one.ask("DELETE", "callers/bot")[0] == 200 and one.ask("DELETE", "teams/blue")[0] == 200
    await agree(pair, bot, 401)
    assert [each["id"] for each in same(pair)[0]["data"]] == ["filed"]
    costs = {each["team"]: each["cost_usd"] for each in one.get("usage?group_by=team")["data"]}
    assert costs["blue"] > 0 and costs["red"] > 0
    with database(store) as client:
        client.flushdb()
        await eventually(lambda: client.hlen("{pool}:teams") == 3, "what was flushed")
    assert [each["id"] for each in same(pair)[0]["data"]] == ["filed"]
    await agree(pair, ada, 401)


def database(store: Store) -> redis.Redis:
    """That of the pair."""
    return redis.Redis.from_url(f"{store.url}/15", decode_responses=True, socket_timeout=WAIT_SECONDS)


def spent_by(admin: Admin, caller: str) -> float:
    """Dollars of today, in whatever team."""
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    rows = admin.get(f"usage?group_by=key&key={quote(caller)}&from={today}")["data"]
    return float(rows[0]["cost_usd"]) if rows else 0.0


def left(admin: Admin, kind: str, name: str, limit: str = "budget_usd_day") -> float:
    """What is left of a limit, by a look that is not an earlier one."""
    rows = {(each["kind"], each["id"]): each["limits"] for each in admin.get("limits")["data"]}
    found = {each["limit"]: each for each in rows.get((kind, name), [])}
    return float(found[limit]["remaining"] if limit in found and found[limit]["remaining"] is not None else -1)


async def test_what_the_file_defines_is_shown_and_stays(pair: list[Gateway], sim: Simulator):
    one = Admin(pair[0])
    status, refused, _ = one.ask("PATCH", "teams/filed", {"name": "x"})
    assert status == 409 and "at teams[0]" in refused["error"]["message"]
    assert one.ask("DELETE", "teams/filed")[0] == 409 and one.ask("POST", "teams", {"id": "filed"})[0] == 409
    shown = one.get("teams/filed")
    assert (shown["source"], shown["limits"], shown["shadows_stored"]) == ("file", FILE_TEAM["limits"], False)
    # Its budget can be raised for a while all the same.
    status, boost, _ = one.ask("POST", "boosts", {"team": "filed", "usd": 7, "seconds": 60, "reason": "demo"})
    assert status == 201 and boost["active"]
    until(lambda: left(one, "team", "filed") == 107, "the boost")
    assert one.ask("DELETE", f"boosts/{boost['id']}")[0] == 200


async def test_a_policy_bounds_callers_and_keys(pair: list[Gateway], sim: Simulator):
    one = Admin(pair[0])
    policy = {"max_keys": 1, "max_lifetime_days": 1, "max_budget_usd": {"day": 2}, "models": ["claude-haiku-*"]}
    assert one.ask("POST", "teams", {"id": "tight", "key_policy": policy})[0] == 201
    status, made, _ = one.ask("POST", "callers", {"id": "carl", "team": "tight"})
    assert (status, made["models"], made["limits"]) == (201, ["claude-haiku-*"], {"budget_usd": {"day": 2}})
    for body in ({"limits": {"budget_usd": {"day": 3}}}, {"models": ["claude-opus-*"]}):
        status, refused, _ = one.ask("PATCH", "callers/carl", body)
        assert status == 400 and "key_policy allows" in refused["error"]["message"]
    assert one.ask("POST", "callers/carl/keys", {"expires_in": 2 * 86_400})[0] == 400
    status, key, _ = one.ask("POST", "callers/carl/keys")
    life = datetime.fromisoformat(key["expires_at"]) - datetime.fromisoformat(key["created_at"])
    assert (status, life) == (201, timedelta(days=1))
    status, refused, _ = one.ask("POST", "callers/carl/keys")
    assert status == 409 and "as many keys" in refused["error"]["message"]
    tag = one.ask("GET", f"keys/{key['id']}")[2]
    assert one.ask("POST", f"keys/{key['id']}/rotate", {"overlap": 0}, tag)[0] == 201
    assert one.ask("DELETE", f"keys/{key['id']}", match=tag)[0] == 412
    assert one.ask("DELETE", "teams/tight")[0] == 200


async def test_any_key_sees_its_own_limits_and_spend_and_nothing_of_others(pair: list[Gateway], sim: Simulator):
    one = Admin(pair[0])
    limits = {"requests_per_minute": 60, "budget_usd": {"day": 3}}
    assert one.ask("POST", "teams", {"id": "own", "name": "Own", "limits": {"budget_usd": {"month": 9}}})[0] == 201
    keys = {}
    for name in ("eve", "mallory", "eve2"):
        made = {"id": name, "team": "own", "limits": limits, "label": f"label of {name}"}
        assert one.ask("POST", "callers", made)[0] == 201
        keys[name] = one.ask("POST", f"callers/{name}/keys")[1]["key"]
    for _ in range(2):
        assert (await served(pair[0], keys["eve"])).status == 200
    assert (await served(pair[0], keys["mallory"], model="claude-opus-4-8")).status == 200

    async def own(name: str, path: str) -> Any:
        answer = await ask(pair[0], None, method="GET", path=path, key=keys[name])
        assert answer.status == 200, answer.body
        return answer.json()

    me = await own("eve", "/v1/me")
    assert (me["id"], me["label"], me["team"], me["team_name"]) == ("eve", "label of eve", "own", "Own")
    rows = {(row["scope"], row["limit"]): row for row in me["limits"]}
    assert set(rows) == {("caller", "requests_per_minute"), ("caller", "budget_usd_day"), ("team", "budget_usd_month")}
    day, month = rows["caller", "budget_usd_day"], rows["team", "budget_usd_month"]
    usage = await own("eve", "/v1/me/usage?days=2")
    assert [(row["model"], row["requests"]) for row in usage["data"]] == [("claude-haiku-4-5", 2)]
    assert usage["cost_usd"] > 0 and day["of"] - day["remaining"] == pytest.approx(usage["cost_usd"])
    assert month["of"] - month["remaining"] > usage["cost_usd"]  # a team's is all of its callers'
    assert day["resets_at"].endswith("T00:00:00Z")
    others = await own("mallory", "/v1/me/usage")
    assert [row["model"] for row in others["data"]] == ["claude-opus-4-8"] and "eve" not in json.dumps(others)
    assert (await own("eve2", "/v1/me/usage"))["data"] == []  # whose id begins with another's
    # Moving takes the view along.
    assert one.ask("POST", "teams", {"id": "next"})[0] == 201
    assert one.ask("PATCH", "callers/eve", {"team": "next"})[0] == 200
    assert (await own("eve", "/v1/me/usage?days=2"))["data"] == usage["data"]
    assert (await ask(pair[0], None, method="GET", path="/v1/me/usage?days=0", key=keys["eve"])).status == 400
    assert (await ask(pair[0], None, method="GET", path="/v1/me", key="sk-nobody")).status == 401
    assert (await ask(pair[0], message(), path="/v1/me", key=keys["eve"])).status == 405
    assert one.ask("DELETE", "teams/own")[0] == 200 and one.ask("DELETE", "teams/next")[0] == 200


async def test_a_threshold_that_is_passed_is_told_to_the_caller_and_once_to_operators(
    pair: list[Gateway], sim: Simulator
):
    one = Admin(pair[0])
    limits = {"budget_usd": {"day": 0.05, "soft": [0.005, 0.9]}}
    assert one.ask("POST", "teams", {"id": "warned", "limits": limits})[0] == 201
    assert one.ask("POST", "callers", {"id": "wendy", "team": "warned"})[0] == 201
    key = one.ask("POST", "callers/wendy/keys")[1]["key"]
    first = await served(pair[0], key)
    assert first.status == 200 and WARNING not in dict(first.headers)
    async with asyncio.timeout(WAIT_SECONDS):
        while WARNING not in dict((answer := await served(pair[1], key)).headers):
            assert answer.status == 200
    words = dict(answer.headers)[WARNING]
    assert re.match(r"\d+% of your team's budget of \$0.05 per day is used; it resets \d{4}-\d\d-\d\d 00:00 UTC", words)

    def said() -> list[Any]:
        return [each for each in one.get("audit?limit=50")["data"] if each["action"] == "budget.threshold"]

    until(lambda: said() != [], "the audit log")

    def seen() -> list[float]:
        return [each.metrics().total("gateway_team_budget_soft_threshold_ratio", team="warned") for each in pair]

    until(lambda: seen() == [0.005, 0.005], "the metric")
    (entry,) = said()
    assert (entry["resource"], entry["who"], list(entry["changes"])) == ("teams/warned", "gateway", ["budget_usd_day"])
    assert one.ask("DELETE", "teams/warned")[0] == 200


async def test_what_is_being_answered_ends_with_its_caller(pair: list[Gateway], sim: Simulator):
    one, other = map(Admin, pair)
    assert one.ask("POST", "teams", {"id": "brief"})[0] == 201
    streams = {}
    for name, gateway in (("gone", pair[0]), ("dismissed", pair[1]), ("suspended", pair[0])):
        assert one.ask("POST", "callers", {"id": name, "team": None if name == "gone" else "brief"})[0] == 201
        key = one.ask("POST", f"callers/{name}/keys")[1]["key"]
        await agree([gateway], key, 200)
        fault = "slow=0.3" if name == "suspended" else "stall=4"
        streams[name] = asyncio.create_task(
            ask(gateway, message("Tell me", stream=True), conversation(), key=key, fault=fault)
        )
    await eventually(lambda: sum(each.metrics().total("gateway_requests_in_flight") for each in pair) == 3)
    assert one.ask("PATCH", "callers/suspended", {"status": "suspended"})[0] == 200  # what runs goes on
    assert other.ask("DELETE", "callers/gone")[0] == 200
    cut = await asyncio.wait_for(streams["gone"], WAIT_SECONDS)
    assert b"Your access to this gateway has ended" in cut.body and cut.ended
    whole = await asyncio.wait_for(streams["suspended"], WAIT_SECONDS)
    assert whole.events[-1][0] == "message_stop"
    assert one.ask("DELETE", "teams/brief")[0] == 200
    cut = await asyncio.wait_for(streams["dismissed"], WAIT_SECONDS)
    assert b"Your access to this gateway has ended" in cut.body and cut.ended


def test_teams_callers_and_boosts_are_managed_from_the_command_line(pair: list[Gateway], sim: Simulator):
    def run(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*words, "--config", str(pair[0].folder / "gateway.yaml")])
        assert done.exit_code == code, done.stderr
        return done.stdout

    made = json.loads(
        run("teams", "create", "green", "--name", "Green", "--week", "9.5", "--soft", "0.8", "--message", "Ask Ann.",
            "--rpm", "60", "--max-keys", "1", "--json")
    )  # fmt: skip
    budget = {"week": 9.5, "soft": [0.8], "message": "Ask Ann."}
    assert (made["limits"], made["key_policy"]) == ({"requests_per_minute": 60, "budget_usd": budget}, {"max_keys": 1})
    assert "$12/week, warns at 80%" in run(
        "teams", "set", "green", "--week", "12", "--rpm", "none", "--model", "claude-*"
    )
    run("teams", "set", "green", code=2)
    assert "person" in run("callers", "create", ADA, "--team", "green", "--person", "--label", "Ada L", "--email", ADA)
    key = run("keys", "create", ADA, "--label", "laptop").strip()
    assert asyncio.run(served(pair[0], key)).status == 200
    assert ADA in run("callers", "list") and "members: " + ADA in run("teams", "show", "green")
    assert "suspended" in run("callers", "suspend", ADA) and asyncio.run(served(pair[0], key)).status == 403
    assert "active" in run("callers", "resume", ADA)
    for group, whose in (("teams", "green"), ("callers", ADA)):
        words = ("boost", whose, "--usd", "50", "--for", "2h", "--reason", "launch", "--json")
        boost = json.loads(run(group, *words))
        assert boost["id"] in run("teams", "boosts")
        run("teams", "end-boost", boost["id"])
    run("callers", "set", ADA, "--team", "nowhere")
    assert json.loads(run("callers", "show", ADA, "--json"))["team"] == "nowhere"
    run("callers", "set", ADA, "--team", "none")
    assert json.loads(run("callers", "show", ADA, "--json"))["team"] is None
    run("callers", "delete", ADA)
    run("teams", "delete", "green")
    assert "green" not in run("teams", "list") and json.loads(run("teams", "list", "--json"))[0]["id"] == "filed"
    run("teams", "delete", "filed", code=1)
