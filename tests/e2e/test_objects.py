"""Objects that belong to whoever created them: all kinds of them, the home where a caller's are made, teams that share,
and a store that goes away or forgets. Files, batches and lists have modules of their own, which borrow helpers here."""

from __future__ import annotations

import json
import os
import signal
import string
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import choices
from typing import Any

import pytest
import redis

from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    ALICE_TOO,
    BOB,
    CALLERS,
    CAROL,
    Answer,
    Gateway,
    Headers,
    Simulator,
    Store,
    Wire,
    accounts_of,
    ask,
    assert_error,
    at_once,
    conversation,
    events,
    eventually,
    free_port,
    message,
    request,
    until,
)

Launch = Callable[..., Gateway]
AUTHORIZED = {"authorization": f"Bearer {ADMIN_TOKEN}"}
CURSORS = {"anthropic-version": "2026-10-21"}  # lists of files and skills in pages by cursors
BY_IDS = {"anthropic-beta": "files-api-2025-04-14"}  # and by ids, as old clients have them


def nowhere(prefix: str) -> str:
    """An id as the upstream makes them, of nothing."""
    return f"{prefix}_01{''.join(choices(string.ascii_letters + string.digits, k=22))}"


def alike(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
    """What of an answer must not tell a stranger's object from none: everything but the request's own id."""
    ours = answer.request_id
    headers = [(name, value) for name, value in answer.headers if value != ours]
    return answer.status, headers, answer.body.replace(ours.encode(), b"")


def held(sim: Simulator) -> dict[str, dict[str, Any]]:
    """What the upstream holds, by id."""
    found: list[dict[str, Any]] = sim.control("GET", "objects")["data"]
    return {each["id"]: each for each in found}


async def post(to: Gateway | Simulator, body: bytes, headers: Headers, **options: Any) -> Answer:
    """One POST whose body is no JSON; `headers` are the pairs of a dict."""
    sent = {**dict(headers), "content-length": str(len(body))}
    async with Wire.open(to) as wire:
        await wire.send(request(headers=sent, method="POST", **options) + body)
        return await wire.answer()


def form(content: bytes, name: str = "note.txt", mime: str = "text/plain") -> tuple[bytes, dict[str, str]]:
    """A form with one file, and its headers."""
    mark = uuid.uuid4().hex
    part = f'--{mark}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\ncontent-type: {mime}\r\n\r\n'
    body = part.encode() + content + f"\r\n--{mark}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={mark}"}


async def upload(to: Gateway | Simulator, content: bytes = b"Hello", key: str = ALICE, **names: str) -> Answer:
    """Upload a file that is accepted."""
    body, headers = form(content, **names)
    answer = await post(to, body, headers, key=key, path="/v1/files")
    assert answer.status == 200, answer.body
    return answer


def with_file(*files: str, text: str = "What is this?", **fields: Any) -> dict[str, Any]:
    """A message about these files."""
    blocks: list[dict[str, Any]] = [{"type": "document", "source": {"type": "file", "file_id": each}} for each in files]
    body = message(**fields)
    body["messages"] = [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]
    return body


async def listed(gateway: Gateway, kind: str = "files", key: str = ALICE, **headers: str) -> list[str]:
    """The ids on the one large page of a list."""
    answer = await ask(gateway, headers=headers, path=f"/v1/{kind}?limit=1000", key=key)
    assert answer.status == 200, answer.body
    return [each["id"] for each in answer.json()["data"]]


def told(gateways: list[Gateway]) -> None:
    """Wait until what one worker has said so far is known to the others of its gateway."""
    for gateway in gateways:
        gateway.metrics()  # each worker has answered after it had said it,
        gateway.metrics()  # and now after it has heard it


def set_state(gateways: list[Gateway], account: str, state: str) -> None:
    """As an operator does; all workers of these gateways go by it when this returns."""
    path = f"/admin/v1/accounts/{account}"
    body = f'{{"state": "{state}"}}'.encode()
    assert gateways[0].get(path, admin=True, headers=AUTHORIZED, method="PATCH", body=body).status == 200
    for gateway in gateways:
        until(
            lambda: gateway.get(path, admin=True, headers=AUTHORIZED).json()["state"] == state,  # noqa: B023
            f"{account} {state}",
        )
    told(gateways)


# -- Every kind -------------------------------------------------------------------------------------------------------

BODIES: dict[str, dict[str, Any]] = {
    "agents": {"model": "claude-haiku-4-5", "name": "helper"},
    "environments": {"name": "box"},
    "sessions": {},
    "vaults": {"display_name": "keys"},
    "memory_stores": {"name": "diary"},
    "user_profiles": {"name": "somebody"},
    "deployments": {"name": "nightly", "initial_events": [{"type": "user.message", "content": []}]},
    "dreams": {"model": "claude-haiku-4-5"},
    "tunnels": {},
}
NEEDS = {"agent": "agents", "environment_id": "environments"}
# What lies below one, and what creates it; with no body it is there by itself.
BELOW: dict[str, dict[str, dict[str, Any] | None]] = {
    "agents": {"versions": None},
    "sessions": {"threads": None, "resources": {"type": "github_repository", "url": "https://example.com/a"}},
    "environments": {"work": {}},
    "vaults": {"credentials": {"display_name": "one", "auth": {"type": "static_bearer", "token": "t"}}},
    "memory_stores": {"memories": {"path": "/a", "content": "remember"}},
    "tunnels": {"certificates": {"ca_certificate_pem": "-----"}},
}


async def create(gateway: Gateway, kind: str, key: str = ALICE, **fields: Any) -> dict[str, Any]:
    """Create one, with all that it needs."""
    body = {**BODIES[kind], **fields}
    if kind in ("sessions", "deployments"):
        for field, other in NEEDS.items():
            if field not in body:
                body[field] = (await create(gateway, other, key))["id"]
    if kind == "dreams":
        memory = await create(gateway, "memory_stores", key)
        body["inputs"] = [{"type": "memory_store", "memory_store_id": memory["id"]}]
    answer = await ask(gateway, body, path=f"/v1/{kind}", key=key)
    assert answer.status == 200, answer.body
    made: dict[str, Any] = answer.json()
    return made


@pytest.mark.parametrize("kind", BODIES)
async def test_whoever_creates_one_may_do_everything_with_it(kind: str, gateway: Gateway, sim: Simulator):
    made = await create(gateway, kind)
    path = f"/v1/{kind}/{made['id']}"
    found = await ask(gateway, path=path, key=ALICE_TOO)
    assert (found.status, found.route, found.json()) == (200, "pinned", made)
    assert found.account == held(sim)[made["id"]]["account"]
    changed = await ask(gateway, {"metadata": {"a": "b"}}, path=path)
    assert (changed.status, changed.json()["metadata"]) == (200, {"a": "b"})
    assert made["id"] in await listed(gateway, kind)
    for name, body in BELOW.get(kind, {}).items():
        if body is not None:
            below = await ask(gateway, body, path=f"{path}/{name}")
            assert below.status == 200, below.body
            one = f"{path}/{name}/{below.json()['id']}"
            assert (await ask(gateway, path=one)).json() == below.json()
            assert (await ask(gateway, {"metadata": {"c": "d"}}, path=one)).status == 200
        inside = await ask(gateway, path=f"{path}/{name}")
        assert inside.status == 200 and len(inside.json()["data"]) == (2 if name == "versions" else 1)
        if body is not None:
            assert (await ask(gateway, method="DELETE", path=one)).status == 200
    archived = await ask(gateway, {}, path=f"{path}/archive")
    assert archived.status == 200 and archived.json()["archived_at"]
    gone = await ask(gateway, method="DELETE", path=path)
    assert (gone.status, gone.json()["id"]) == (200, made["id"])
    assert_error(await ask(gateway, path=path), 404, "not_found_error")
    assert made["id"] not in await listed(gateway, kind)
    assert made["id"] not in held(sim)


@pytest.mark.parametrize("kind", BODIES)
async def test_for_others_it_does_not_exist(kind: str, gateway: Gateway, sim: Simulator):
    made = (await create(gateway, kind))["id"]
    none = nowhere(made.rpartition("_01")[0])
    below = [("GET", name) for name in BELOW.get(kind, {})] + [("POST", name) for name in BELOW.get(kind, {})]
    before, since = held(sim), sim.mark()
    for method, rest in [("GET", ""), ("POST", ""), ("DELETE", ""), ("POST", "archive"), ("HEAD", ""), *below]:
        theirs, nobodys = [
            await ask(
                gateway, {} if method == "POST" else None, method=method, path=f"/v1/{kind}/{each}/{rest}".rstrip("/"),
                key=BOB,
            )
            for each in (made, none)
        ]  # fmt: skip
        assert theirs.status == 404
        assert alike(theirs) == alike(nobodys)
        assert made.encode() not in theirs.body
    assert sim.records(since) == []
    assert made not in await listed(gateway, kind, BOB)
    assert held(sim) == before


async def test_a_skill_and_its_versions_are_the_callers(gateway: Gateway, sim: Simulator):
    body, headers = skill("first")
    made = (await post(gateway, body, {**headers, **CURSORS}, path="/v1/skills")).json()
    path = f"/v1/skills/{made['id']}"
    body, headers = skill("second")
    version = (await post(gateway, body, {**headers, **CURSORS}, path=f"{path}/versions")).json()
    assert version["description"] == "second"
    versions = (await ask(gateway, headers=CURSORS, path=f"{path}/versions")).json()["data"]
    assert [each["description"] for each in versions] == ["second", "first"]
    content = await ask(gateway, headers=CURSORS, path=f"{path}/versions/{version['id']}/content")
    assert content["content-type"] == "application/zip" and content.body.startswith(b"PK") and content.ended
    none = nowhere("skill")
    for method, rest in (
        ("GET", ""), ("DELETE", ""), ("GET", "/versions"), ("GET", f"/versions/{version['id']}"),
        ("GET", f"/versions/{version['id']}/content"), ("DELETE", f"/versions/{version['id']}"),
    ):  # fmt: skip
        theirs, nobodys = [
            await ask(gateway, headers=CURSORS, method=method, path=f"/v1/skills/{each}{rest}", key=BOB)
            for each in (made["id"], none)
        ]
        assert theirs.status == 404 and alike(theirs) == alike(nobodys)
    refused = await post(gateway, body, {**headers, **CURSORS}, path=f"{path}/versions", key=BOB)
    assert_error(refused, 404, "not_found_error")
    assert made["id"] in await listed(gateway, "skills", **CURSORS)
    assert made["id"] not in await listed(gateway, "skills", BOB, **CURSORS)
    for rest in (f"/versions/{version['id']}", ""):
        assert (await ask(gateway, headers=CURSORS, method="DELETE", path=path + rest)).status == 200
    assert_error(await ask(gateway, headers=CURSORS, path=path), 404, "not_found_error")


def skill(description: str) -> tuple[bytes, dict[str, str]]:
    """A form with a custom skill."""
    mark = uuid.uuid4().hex
    body = (
        f'--{mark}\r\ncontent-disposition: form-data; name="files[]"; filename="my-skill/SKILL.md"\r\n\r\n'
        f"---\nname: my-skill\ndescription: {description}\n---\nDo it.\n\r\n--{mark}--\r\n"
    )
    return body.encode(), {"content-type": f"multipart/form-data; boundary={mark}"}


async def test_a_run_of_a_deployment_and_its_session_are_the_callers(gateway: Gateway, sim: Simulator):
    deployment = await create(gateway, "deployments")
    for action in ("pause", "unpause"):
        assert (await ask(gateway, {}, path=f"/v1/deployments/{deployment['id']}/{action}")).status == 200
    assert_error(
        await ask(gateway, {}, path=f"/v1/deployments/{deployment['id']}/run", key=BOB), 404, "not_found_error"
    )
    run = (await ask(gateway, {}, path=f"/v1/deployments/{deployment['id']}/run")).json()
    assert (await ask(gateway, path=f"/v1/deployment_runs/{run['id']}")).json() == run
    assert_error(await ask(gateway, path=f"/v1/deployment_runs/{run['id']}", key=BOB), 404, "not_found_error")
    mine = f"deployment_runs?deployment_id={deployment['id']}&"
    assert [each["id"] for each in (await ask(gateway, path=f"/v1/{mine}limit=5")).json()["data"]] == [run["id"]]
    assert (await ask(gateway, path=f"/v1/{mine}limit=5", key=BOB)).json()["data"] == []
    # The answer names the session that the run has begun: it must lead somewhere.
    session = await ask(gateway, path=f"/v1/sessions/{run['session_id']}")
    assert session.status == 200 and session.json()["deployment_id"] == deployment["id"]
    assert run["session_id"] in await listed(gateway, "sessions")
    assert run["session_id"] not in await listed(gateway, "sessions", BOB)
    assert_error(await ask(gateway, path=f"/v1/sessions/{run['session_id']}", key=BOB), 404, "not_found_error")


async def test_what_the_schedule_of_a_deployment_starts_is_its_owners(gateway: Gateway, sim: Simulator):
    """Nobody asks through the gateway for what an account starts by itself."""
    deployment = await create(gateway, "deployments")
    account = held(sim)[deployment["id"]]["account"]
    key = next(each["api_key"] for each in sim.accounts if each["id"] == account)
    direct = await ask(sim, {}, CURSORS, path=f"/v1/deployments/{deployment['id']}/run", key=key)
    run = direct.json()
    for kind, name in (("deployment_runs", run["id"]), ("sessions", run["session_id"])):
        assert name not in await listed(gateway, kind, BOB)
        assert name in await listed(gateway, kind)
        assert (await ask(gateway, path=f"/v1/{kind}/{name}")).status == 200
        assert_error(await ask(gateway, path=f"/v1/{kind}/{name}", key=BOB), 404, "not_found_error")


FOREIGN: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "agent": lambda own, theirs: {"agent": theirs, "environment_id": own},
    "agent by reference": lambda own, theirs: {"agent": {"type": "agent", "id": theirs}, "environment_id": own},
    "resource": lambda own, theirs: {
        "environment_id": own, "resources": [{"type": "memory_store", "memory_store_id": theirs}]
    },
    "vault": lambda own, theirs: {"environment_id": own, "vault_ids": [theirs]},
}  # fmt: skip
FOREIGN_KINDS = {"resource": "memory_stores", "vault": "vaults"}


@pytest.mark.parametrize("field", FOREIGN)
async def test_a_session_cannot_be_made_of_what_is_anothers(field: str, gateway: Gateway, sim: Simulator):
    theirs = (await create(gateway, FOREIGN_KINDS.get(field, "agents"), BOB))["id"]
    own = (await create(gateway, "environments"))["id"]
    agent = (await create(gateway, "agents"))["id"]
    before, since = held(sim), sim.mark()
    answers = [
        await ask(gateway, {"agent": agent, **FOREIGN[field](own, each)}, path="/v1/sessions")
        for each in (theirs, nowhere(theirs.partition("_")[0]))
    ]
    assert_error(answers[0], 404, "not_found_error")
    # What never was may be asked for upstream; the answer is the same kind of refusal.
    assert_error(answers[1], 404, "not_found_error")
    assert theirs not in str([record["path"] for record in sim.records(since)])
    assert held(sim) == before
    session = await create(gateway, "sessions", agent=agent)
    refused = await ask(gateway, FOREIGN[field](own, theirs), path=f"/v1/sessions/{session['id']}")
    assert_error(refused, 404, "not_found_error")


async def test_events_of_a_session_pass_as_they_come(gateway: Gateway, sim: Simulator):
    session = (await create(gateway, "sessions"))["id"]
    path = f"/v1/sessions/{session}/events"
    async with Wire.open(gateway) as stream:
        await stream.send(request(path=f"{path}/stream"))
        head = await stream.head()
        assert (head.status, head.route) == (200, "pinned")
        assert head["content-type"].startswith("text/event-stream")
        for number in range(5):
            said = {"type": "user.message", "content": [{"type": "text", "text": f"no. {number}"}]}
            sent = await ask(gateway, {"events": [said]}, path=path)
            [(name, data)] = events(await stream.until_events(1))  # before the next one is sent
            assert (name, data) == ("user.message", sent.json()["data"][0])
        for method, rest, body in (("GET", "/stream", None), ("GET", "", None), ("POST", "", {"events": []})):
            refused = await ask(gateway, body, method=method, path=path + rest, key=BOB)
            assert_error(refused, 404, "not_found_error")
        assert (await ask(gateway, method="DELETE", path=f"/v1/sessions/{session}")).status == 200
        last = await stream.rest(head)
        assert last.ended and [name for name, _ in last.events] == ["session.deleted"]


async def test_a_client_that_leaves_a_stream_of_events_leaves_nothing_behind(gateway: Gateway, sim: Simulator):
    session = (await create(gateway, "sessions"))["id"]
    since = sim.mark()
    async with Wire.open(gateway) as stream:
        await stream.send(request(path=f"/v1/sessions/{session}/events/stream"))
        assert (await stream.head()).status == 200
    await eventually(lambda: [each["aborted"] for each in sim.records(since)] == [True], "its end upstream")
    await eventually(lambda: gateway.metrics().total("gateway_requests_in_flight") == 0, "its end here")


async def test_a_user_profile_in_a_header_must_be_the_callers(gateway: Gateway, sim: Simulator):
    mine = (await create(gateway, "user_profiles"))["id"]
    theirs = (await create(gateway, "user_profiles", BOB))["id"]

    async def asked(profile: str) -> tuple[Answer, list[dict[str, Any]]]:
        since = sim.mark()
        answer = await ask(gateway, message(), {"anthropic-user-profile-id": profile, **conversation()})
        return answer, sim.records(since)

    answer, [record] = await asked(mine)
    assert (answer.status, answer.route, record["account"]) == (200, "pinned", held(sim)[mine]["account"])
    assert ["anthropic-user-profile-id", mine] in record["headers"]
    answer, [record] = await asked(nowhere("uprof"))
    assert (answer.status, answer.route) == (200, "new")
    assert "anthropic-user-profile-id" not in dict(record["headers"])
    answer, records = await asked(theirs)
    assert not [record for record in records if "anthropic-user-profile-id" in dict(record["headers"])]
    assert answer.status == 200 or (answer.status == 404 and not records)


ODD = [
    "/v1/files/file%5F{rest}", "/v1/files/%66ile_{rest}", "/v1/%66iles/file_{rest}", "/v1/files//file_{rest}",
    "/v1/files/./file_{rest}", "/v1/files/x/../file_{rest}", "/v1/files/x/%2e%2e/file_{rest}", "/v1/Files/file_{rest}",
    "/v1/files/file_{rest}/", "/v1/files/file_{rest}%2Fcontent", "/v1/files/x%2f..%2ffile_{rest}",
    "//v1/files/file_{rest}",
    "/v1/files;a=b/file_{rest}", "/v1/files/file_{rest};a=b", "/v1/files/file_{rest}%00", "/v1/v1/files/file_{rest}",
    "/v1/files/file_{rest}%20", "/v1/files\\file_{rest}", "http://api.anthropic.com/v1/files/%66ile_{rest}",
]  # fmt: skip


@pytest.mark.parametrize("path", ODD)
async def test_no_odd_path_leads_to_an_object(path: str, gateway: Gateway, sim: Simulator):
    file = (await upload(gateway)).json()["id"]
    target = path.format(rest=file.removeprefix("file_"))
    since = sim.mark()
    for method in ("GET", "DELETE"):
        answer = await ask(gateway, method=method, path=target, key=BOB)
        assert answer.status in (400, 404)
    assert sim.records(since) == []
    assert file in held(sim)


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/octet-stream", "text/plain"])
async def test_a_body_is_looked_through_whatever_it_is_called(kind: str, gateway: Gateway, sim: Simulator):
    agent = (await create(gateway, "agents"))["id"]
    own = (await create(gateway, "environments", BOB))["id"]
    before = held(sim)
    body = json.dumps({"agent": agent, "environment_id": own}).encode()
    refused = await post(gateway, body, {"content-type": kind}, path="/v1/sessions", key=BOB)
    assert_error(refused, 404, "not_found_error")
    assert held(sim) == before


async def test_an_object_in_a_path_of_next_month_is_reached_by_its_owner_alone(gateway: Gateway, sim: Simulator):
    mine = (await create(gateway, "agents"))["id"]
    path = f"/v1/next_month/{mine}/things"
    found = await ask(gateway, path=path)
    assert (found.status, found.route, found.account) == (200, "pinned", held(sim)[mine]["account"])
    since = sim.mark()
    assert_error(await ask(gateway, path=path, key=BOB), 404, "not_found_error")
    assert_error(await ask(gateway, {"about": mine}, path="/v1/next_month", key=BOB), 404, "not_found_error")
    assert sim.records(since) == []


# -- Homes ------------------------------------------------------------------------------------------------------------


class Pair:
    """Two gateways, the first with two workers, on one store that is theirs alone and may be ill-treated.

    `caller` gives the id and key of a caller that has never asked for anything."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self.store = Store(folder / "store")
        fresh = [(f"fresh-{number}", f"sk-fresh-{number}-{'x' * 36}") for number in range(64)]
        self._fresh = iter(fresh)
        keys = [*CALLERS, *({"id": name, "key": key} for name, key in fresh)]
        config = {"redis": self.store.url, "accounts": accounts_of(simulator, 4), "keys": keys}
        self.gateways = [
            Gateway(folder / "left", {**config, "workers": 2}),
            Gateway(folder / "right", dict(config)),
        ]

    def start(self) -> None:
        for gateway in self.gateways:
            gateway.launch()
        for gateway in self.gateways:
            gateway.ready()
        until(self.well, "the store connected")

    def stop(self) -> None:
        for gateway in self.gateways:
            gateway.stop()

    def caller(self) -> tuple[str, str]:
        return next(self._fresh)

    def away(self) -> bool:
        """Whether every worker has noticed that the store is away."""
        wanted = [2, 1]
        found = [gateway.metrics().total("gateway_degraded", mode="store") for gateway in self.gateways]
        return all(0 < number <= most for number, most in zip(found, wanted, strict=True))

    def well(self) -> bool:
        return all(gateway.metrics().total("gateway_degraded", mode="store") == 0 for gateway in self.gateways)

    def keys(self, pattern: str) -> dict[bytes, bytes]:
        """What the store holds under such keys."""
        found: dict[bytes, bytes] = {}
        with closing(redis.Redis(port=self.store.port)) as client:
            for key in client.scan_iter(pattern, 1000):
                value: Any = client.get(key)
                found[key] = value or b""
        return found

    def flush(self) -> None:
        with closing(redis.Redis(port=self.store.port)) as client:
            client.flushall()


@pytest.fixture(scope="module")
def running(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("objects"), simulator)
    pair.store.start()
    pair.start()
    yield pair
    pair.stop()
    assert pair.store.end() == 0


@pytest.fixture
def pair(running: Pair, sim: Simulator) -> Pair:
    until(running.well, "the store connected")
    running.gateways[0].mend()
    told(running.gateways)
    return running


async def test_first_creates_at_once_over_two_gateways_end_in_one_workspace(pair: Pair, sim: Simulator):
    for _ in range(5):
        _, key = pair.caller()
        answers = await at_once(upload(pair.gateways[number % 2], key=key) for number in range(12))
        assert len({answer.account for answer in answers}) == 1
        objects = held(sim)
        assert len({objects[answer.json()["id"]]["workspace"] for answer in answers}) == 1


async def test_homes_of_different_callers_are_spread(pair: Pair):
    answers = [await upload(pair.gateways[0], key=pair.caller()[1]) for _ in range(16)]
    assert len({answer.account for answer in answers}) > 1


async def test_a_home_stays_through_restarts_of_all_gateways(pair: Pair):
    keys = [pair.caller()[1] for _ in range(6)]
    homes = [(await upload(pair.gateways[0], key=key)).account for key in keys]
    files = [(await upload(pair.gateways[1], key=key)).json()["id"] for key in keys]
    pair.stop()
    pair.start()
    for gateway in pair.gateways:
        assert [(await upload(gateway, key=key)).account for key in keys] == homes
        for key, home, file in zip(keys, homes, files, strict=True):
            answer = await ask(gateway, path=f"/v1/files/{file}", key=key)
            assert (answer.status, answer.account) == (200, home)


async def test_a_home_that_drains_is_left_and_what_lives_there_stays_in_reach(pair: Pair, sim: Simulator):
    left, right = pair.gateways
    _, key = pair.caller()
    first = await upload(left, key=key)
    old, home = first.json()["id"], first.account
    set_state(pair.gateways, home, "draining")
    after = [await upload(gateway, key=key) for gateway in (right, left)]
    assert len({answer.account for answer in after}) == 1 and after[0].account != home
    new = after[0].json()["id"]

    for gateway in pair.gateways:
        assert (await ask(gateway, path=f"/v1/files/{old}", key=key)).account == home
        used = await ask(gateway, with_file(old), conversation(), key=key)
        assert (used.status, used.route, used.account) == (200, "pinned", home)
        for style in (CURSORS, BY_IDS):
            assert set(await listed(gateway, key=key, **style)) == {old, *(each.json()["id"] for each in after)}

    since = sim.mark()
    for body, path in (
        (with_file(old, new), "/v1/messages"),
        (with_file(old, new), "/v1/messages/count_tokens"),
        (batch_of(with_file(old), with_file(new)), "/v1/messages/batches"),
    ):
        words = assert_error(await ask(right, body, key=key, path=path), 400, "invalid_request_error")
        assert "different accounts" in words
    assert sim.records(since) == []

    set_state(pair.gateways, home, "disabled")
    since = sim.mark()
    for gateway in pair.gateways:
        for answer in (
            await ask(gateway, path=f"/v1/files/{old}", key=key),
            await ask(gateway, with_file(old), key=key),
        ):
            assert_error(answer, 529, "overloaded_error")
        assert (await ask(gateway, path=f"/v1/files/{new}", key=key)).status == 200
    assert {record["account"] for record in sim.records(since)} == {after[0].account}

    set_state(pair.gateways, home, "active")
    assert (await ask(right, path=f"/v1/files/{old}", key=key)).status == 200
    assert (await upload(right, key=key)).account == after[0].account  # the home is where it is now


async def test_a_gateway_that_missed_a_change_of_home_creates_where_the_others_do(pair: Pair, sim: Simulator):
    left, right = pair.gateways
    _, key = pair.caller()
    old = (await upload(right, key=key)).account
    set_state(pair.gateways, old, "draining")
    new = await upload(left, key=key)
    set_state(pair.gateways, old, "active")
    later = await upload(right, key=key)
    assert old != new.account == later.account
    both = with_file(new.json()["id"], later.json()["id"])
    assert (await ask(right, both, key=key)).status == 200


def batch_of(*params: dict[str, Any]) -> dict[str, Any]:
    """A batch of these messages."""
    return {"requests": [{"custom_id": f"item-{number}", "params": each} for number, each in enumerate(params)]}


async def test_pages_go_through_all_homes_and_each_object_comes_once(pair: Pair):
    left, right = pair.gateways
    _, key = pair.caller()
    first = await upload(left, key=key)
    files = [first.json()["id"], *[(await upload(left, key=key)).json()["id"] for _ in range(3)]]
    set_state(pair.gateways, first.account, "draining")
    files += [(await upload(right, key=key)).json()["id"] for _ in range(4)]
    for limit in (1, 3, 4, 8):
        for style, cursor in ((CURSORS, "page"), (BY_IDS, "after_id")):
            seen: list[str] = []
            query = f"limit={limit}"
            for _ in range(9):
                page = (await ask(right, headers=style, path=f"/v1/files?{query}", key=key)).json()
                assert 0 < len(page["data"]) <= limit
                seen += [each["id"] for each in page["data"]]
                after = page["next_page"] if "next_page" in page else page["has_more"] and page["last_id"]
                if not after:
                    break
                query = f"limit={limit}&{cursor}={after}"
            assert sorted(seen) == sorted(files)
            assert seen == [*files[:3:-1], *files[3::-1]]  # the present home first


# -- Sharing ----------------------------------------------------------------------------------------------------------


async def test_a_team_shares_nothing_unless_told_to(gateway: Gateway):
    file = (await upload(gateway)).json()["id"]
    for key in (CAROL, BOB):
        assert_error(await ask(gateway, path=f"/v1/files/{file}", key=key), 404, "not_found_error")
        assert_error(await ask(gateway, with_file(file), key=key), 404, "not_found_error")
        assert file not in await listed(gateway, key=key)


async def test_a_team_that_shares_uses_lists_and_deletes_its_members_files(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 4), share="team")
    answer = await upload(gateway)
    file = answer.json()["id"]
    assert (await upload(gateway, key=CAROL)).account == answer.account  # one home
    for key in (ALICE, ALICE_TOO, CAROL):
        assert (await ask(gateway, path=f"/v1/files/{file}/content", key=key)).body == b"Hello"
        used = await ask(gateway, with_file(file), conversation(), key=key)
        assert (used.status, used.route, used.account) == (200, "pinned", answer.account)
        assert len(await listed(gateway, key=key)) == 2
    assert_error(await ask(gateway, path=f"/v1/files/{file}", key=BOB), 404, "not_found_error")
    assert_error(await ask(gateway, with_file(file), key=BOB), 404, "not_found_error")
    assert_error(await ask(gateway, method="DELETE", path=f"/v1/files/{file}", key=BOB), 404, "not_found_error")
    assert await listed(gateway, key=BOB) == []
    assert (await ask(gateway, method="DELETE", path=f"/v1/files/{file}", key=CAROL)).status == 200
    assert_error(await ask(gateway, path=f"/v1/files/{file}"), 404, "not_found_error")


async def test_keys_say_for_themselves_whether_they_share(launch: Launch, sim: Simulator):
    keys = [
        {"id": "one", "key": ALICE, "team": "t", "share": "team"},
        {"id": "two", "key": CAROL, "team": "t", "share": "team"},
        {"id": "alone", "key": BOB, "team": "t"},
        {"id": "other", "key": ALICE_TOO, "team": "u", "share": "team"},
    ]
    gateway = launch(accounts=accounts_of(sim, 4), keys=keys)
    files = {each["id"]: (await upload(gateway, key=str(each["key"]))).json()["id"] for each in keys}
    seen = {"one": {"one", "two"}, "two": {"one", "two"}, "alone": {"alone"}, "other": {"other"}}
    for each in keys:
        name, key = str(each["id"]), str(each["key"])
        found = {
            owner
            for owner, file in files.items()
            if (await ask(gateway, path=f"/v1/files/{file}", key=key)).status == 200
        }
        assert found == seen[name]
        assert set(await listed(gateway, key=key)) == {files[owner] for owner in found}


async def test_what_was_made_before_a_team_shared_stays_its_makers(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 4))
    files = [(await upload(gateway, key=key)).json()["id"] for key in (ALICE, CAROL)]
    gateway.stop()
    gateway.config["share"] = "team"
    gateway.start()
    for key, own in zip((ALICE, CAROL), files, strict=True):
        assert own in await listed(gateway, key=key)
        assert (await ask(gateway, with_file(own), key=key)).route == "pinned"
    for own in files:
        assert_error(await ask(gateway, path=f"/v1/files/{own}", key=BOB), 404, "not_found_error")


# -- A store that is away ---------------------------------------------------------------------------------------------


async def test_without_the_store_what_is_remembered_works_and_nobody_guesses_at_the_rest(pair: Pair, sim: Simulator):
    left, right = pair.gateways
    _, key = pair.caller()
    home = (await upload(right, key=key)).account
    workers: set[str] = set()  # each must have made something, to know where
    while len(workers) < 2:
        made = await upload(left, key=key)
        assert made.account == home
        workers.add(made.request_id[:-6])
    file = (await upload(left, key=key)).json()["id"]
    _, stranger = pair.caller()
    told(pair.gateways)
    pair.store.end(signal.SIGKILL)
    try:
        await eventually(pair.away, "the store away")
        for _ in range(8):  # by either worker
            answer = await ask(left, path=f"/v1/files/{file}", key=key)
            assert (answer.status, answer.account) == (200, home)
            assert (await ask(left, with_file(file), conversation(), key=key)).route == "pinned"
            assert_error(await ask(left, path=f"/v1/files/{file}", key=BOB), 404, "not_found_error")

        # What is made now is known where it was made.
        made = await upload(left, b"made without", key=key)
        away = made.json()["id"]
        assert made.account == home
        told([left])
        for _ in range(8):
            assert (await ask(left, path=f"/v1/files/{away}/content", key=key)).body == b"made without"
            assert (await ask(left, with_file(away), key=key)).status == 200

        # The other gateway has not heard of it, and must not ask an account whose it is.
        since = sim.mark()
        for options in (
            {"path": f"/v1/files/{away}"}, {"path": f"/v1/files/{away}", "method": "DELETE"},
            {"body": with_file(away)}, {"body": batch_of(with_file(away)), "path": "/v1/messages/batches"},
        ):  # fmt: skip
            for asker in (key, BOB):
                refused = await ask(right, **options, key=asker)
                assert_error(refused, 529, "overloaded_error")
                assert 0 < int(refused["retry-after"]) <= 60
        # Nor where the first objects of a caller shall be made.
        body, headers = form(b"first")
        for gateway in pair.gateways:
            refused = await post(gateway, body, headers, path="/v1/files", key=stranger)
            assert_error(refused, 529, "overloaded_error")
        assert sim.records(since) == []
    finally:
        pair.store.start()
    await eventually(pair.well, "the store again")
    await eventually(lambda: f"{{o:{away}}}".encode() in pair.keys("{o:*"), "its owner in the store")
    assert (await ask(right, path=f"/v1/files/{away}", key=key)).status == 200
    assert_error(await ask(right, path=f"/v1/files/{away}", key=BOB), 404, "not_found_error")


async def test_what_was_deleted_without_the_store_stays_deleted(pair: Pair, sim: Simulator):
    left = pair.gateways[0]
    _, key = pair.caller()
    file = (await upload(left, key=key)).json()["id"]
    told(pair.gateways)
    pair.store.end(signal.SIGKILL)
    try:
        await eventually(pair.away, "the store away")
        assert (await ask(left, path=f"/v1/files/{file}", method="DELETE", key=key)).status == 200
    finally:
        pair.store.start()
    await eventually(pair.well, "the store again")
    await eventually(lambda: not pair.keys("{o:*").get(f"{{o:{file}}}".encode()), "no owner in the store")
    for gateway in pair.gateways:
        assert_error(await ask(gateway, path=f"/v1/files/{file}", key=key), 404, "not_found_error")
        assert_error(await ask(gateway, with_file(file), key=key), 404, "not_found_error")


async def test_owners_and_homes_come_back_to_a_store_that_forgot_them(pair: Pair, sim: Simulator):
    left, right = pair.gateways
    made = []
    for gateway in (left, right) * 3:
        _, key = pair.caller()
        answer = await upload(gateway, key=key)
        made.append((key, answer.json()["id"], answer.account))
    gone = (await upload(left, key=made[0][0])).json()["id"]
    assert (await ask(left, path=f"/v1/files/{gone}", method="DELETE", key=made[0][0])).status == 200
    kept = pair.keys("{o:*") | pair.keys("{h:*")
    owned = {key for key, value in kept.items() if value}
    assert {f"{{o:{file}}}".encode() for _, file, _ in made} < owned
    pair.flush()
    await eventually(lambda: (pair.keys("{o:*") | pair.keys("{h:*")).keys() >= owned, "owners and homes again")
    back = pair.keys("{o:*") | pair.keys("{h:*")
    assert {key: back[key] for key in owned} == {key: kept[key] for key in owned}
    # Again, while nobody is there who would remember.
    pair.stop()
    pair.flush()
    pair.start()
    await eventually(lambda: (pair.keys("{o:*") | pair.keys("{h:*")).keys() >= owned, "owners and homes again")
    for gateway in pair.gateways:
        for key, file, account in made:
            answer = await ask(gateway, path=f"/v1/files/{file}", key=key)
            assert (answer.status, answer.account) == (200, account)
            assert_error(await ask(gateway, path=f"/v1/files/{file}", key=BOB), 404, "not_found_error")
            assert (await upload(gateway, key=key)).account == account
        assert_error(await ask(gateway, path=f"/v1/files/{gone}", key=made[0][0]), 404, "not_found_error")


async def test_right_after_a_flush_a_process_that_remembers_shows_what_there_is(pair: Pair, sim: Simulator):
    gateway = pair.gateways[1]  # it has one process
    for _ in range(3):
        _, key = pair.caller()
        made = await upload(gateway, key=key)
        pair.flush()
        listed = await ask(gateway, path="/v1/files", key=key)
        assert [each["id"] for each in listed.json()["data"]] == [made.json()["id"]]
        assert (await upload(gateway, key=key)).account == made.account
        await eventually(lambda: pair.keys("{h:*"), "homes again")


async def test_the_first_objects_are_made_where_something_can_be_made(launch: Callable[..., Gateway], sim: Simulator):
    accounts = accounts_of(sim, 3)
    accounts[0]["base_url"] = f"http://127.0.0.1:{free_port()}"
    keys: list[dict[str, Any]] = [{"id": f"new-{n}", "key": f"sk-new-{n}-{'x' * 36}"} for n in range(20)]
    gateway = launch(accounts=accounts, keys=[*CALLERS, *keys])
    for _ in range(60):  # until somebody has been sent there
        await ask(gateway, message(), conversation())
    path = f"/admin/v1/accounts/{accounts[0]['id']}"

    def left() -> bool:
        answer = gateway.get(path, admin=True, headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
        return answer.json()["health"]["state"] in ("failing", "out")

    await eventually(left, "an account that is left")
    homes = [(await upload(gateway, key=each["key"])).account for each in keys]
    assert accounts[0]["id"] not in homes and len(set(homes)) == 2


# -- Processes --------------------------------------------------------------------------------------------------------


async def test_two_workers_see_each_others_objects(pair: Pair):
    left = pair.gateways[0]
    _, key = pair.caller()
    workers = set()
    for _ in range(6):
        file = (await upload(left, key=key)).json()["id"]
        answers = await at_once(ask(left, path=f"/v1/files/{file}", key=key) for _ in range(10))
        workers |= {answer.request_id[:-6] for answer in answers}
        assert {answer.status for answer in answers} == {200}
        assert (await ask(left, path=f"/v1/files/{file}", method="DELETE", key=key)).status == 200
        told([left])
        answers = await at_once(ask(left, path=f"/v1/files/{file}", key=key) for _ in range(10))
        assert {answer.status for answer in answers} == {404}
    assert len(workers) == 2


@pytest.mark.parametrize("store", ["there", "away"])
async def test_a_worker_that_is_killed_right_after_a_create_takes_nothing_with_it(
    store: str, pair: Pair, sim: Simulator
):
    right = pair.gateways[1]
    _, key = pair.caller()
    home = (await upload(right, key=key)).account
    if store == "away":
        pair.store.end(signal.SIGKILL)
        await eventually(pair.away, "the store away")
    try:
        [worker] = right.workers()
        body, headers = form(b"then it was killed")
        file = (await post(right, body, headers, path="/v1/files", key=key)).json()["id"]
        os.kill(worker, signal.SIGKILL)
        await eventually(lambda: right.workers() and worker not in right.workers(), "another worker")
    finally:
        if store == "away":
            pair.store.start()
    await eventually(lambda: all(right.get("/readyz", admin=True).json()["workers"].values()), "its readiness")
    await eventually(pair.well, "the store")
    await eventually(lambda: pair.keys("{o:*").get(f"{{o:{file}}}".encode()), "its owner in the store")
    for gateway in pair.gateways:
        answer = await ask(gateway, path=f"/v1/files/{file}/content", key=key)
        assert (answer.body, answer.account) == (b"then it was killed", home)
        assert_error(await ask(gateway, path=f"/v1/files/{file}", key=BOB), 404, "not_found_error")
