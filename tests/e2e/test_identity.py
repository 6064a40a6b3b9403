"""Workloads with tokens of their own, from a real authorization server, with real SDKs and real processes."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from tests.e2e.clients import rigs
from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    BOB,
    CALLERS,
    Answer,
    Gateway,
    Program,
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
from tests.e2e.test_objects import upload

AUTHORIZED = {"authorization": f"Bearer {ADMIN_TOKEN}"}
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
Launch = Callable[..., Gateway]


class Issuer(Program):
    """The authorization server. Started again it has other keys."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "issuer")
        self.port = 0

    def start(self) -> Issuer:
        node, rig = rigs.need("node"), rigs.node()
        self.out.write_bytes(b"")
        self.run([node, rig / "issuer.mjs", str(self.port)], stdin=subprocess.PIPE)
        until(lambda: self.out.read_bytes().endswith(b"\n") or not self.alive(), "the issuer's start", 60.0)
        assert self.alive(), self.err.read_text()
        said = json.loads(self.out.read_text())
        self.url, self.port = said["issuer"], said["port"]
        return self

    def mint(self, subject: str, **claims: Any) -> str:
        """A token for a gateway, as a client gets it."""
        form = {"grant_type": "client_credentials", "claims": json.dumps({"sub": subject, "aud": "gateway", **claims})}
        connection = http.client.HTTPConnection("localhost", self.port, timeout=20)
        try:
            headers = {"content-type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/token", urllib.parse.urlencode(form), headers)
            return str(json.loads(connection.getresponse().read())["access_token"])
        finally:
            connection.close()

    def entry(self, **changes: Any) -> dict[str, Any]:
        said = {"id": "k8s", "issuer": self.url, "audiences": ["gateway"], "jwks_uri": f"{self.url}/jwks"}
        return {**said, **changes}


@pytest.fixture(scope="module")
def shared_issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    issuer = Issuer(tmp_path_factory.mktemp("issuer")).start()
    yield issuer
    issuer.end()


@pytest.fixture(scope="module")
def federated(
    simulator: Simulator, store: Store, shared_issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Gateway]]:
    """Two gateways of one store that know the issuer."""
    config = {
        "redis": f"{store.url}/9",
        "accounts": accounts_of(simulator, 2),
        "teams": [{"id": "platform"}, {"id": "research"}],
        "issuers": [
            shared_issuer.entry(team="platform", require={"sub": ["system:serviceaccount:ml:*"]}),
            shared_issuer.entry(id="ci", caller="{repository}", require={"repository": "my-org/*"}),
            shared_issuer.entry(id="teams", team="{team}", require={"team": "*"}),
            shared_issuer.entry(
                id="small", require={"sub": "small-*"}, models=["claude-haiku-*"], limits={"requests_per_minute": 2}
            ),
            shared_issuer.entry(id="plain", require={"sub": "plain-*"}),
        ],
        "log": {"level": "debug"},
    }
    folder = tmp_path_factory.mktemp("federated")
    gateways = [Gateway(folder / str(number), config).launch() for number in range(2)]
    for gateway in gateways:
        gateway.ready()
    yield gateways
    for gateway in gateways:
        gateway.stop()


@pytest.fixture
def gateway(federated: list[Gateway], sim: Simulator) -> Gateway:
    return federated[0]


def pod(issuer: Issuer, name: str, **claims: Any) -> str:
    return issuer.mint(f"system:serviceaccount:ml:{name}", **claims)


def who(gateway: Gateway, answer: Answer) -> tuple[str, str]:
    record = gateway.record(answer.request_id)
    return record["caller"], record.get("team", "")


async def exchanged(gateway: Gateway, token: str, rule: str | None = "k8s", **more: Any) -> Answer:
    body = {"grant_type": GRANT, "assertion": token, "federation_rule_id": rule, **more}
    said = {name: value for name, value in body.items() if value is not None}
    return await ask(gateway, said, key=None, path="/v1/oauth/token")


@pytest.mark.parametrize(
    "headers",
    [
        lambda token: {"x-api-key": token},
        lambda token: {"authorization": f"Bearer {token}"},
        lambda token: {"x-api-key": token, "authorization": f"Bearer {token}"},
    ],
    ids=["x-api-key", "authorization", "both"],
)
async def test_a_token_is_a_credential_in_either_header(gateway: Gateway, shared_issuer: Issuer, headers):
    token = pod(shared_issuer, "train")
    for _ in range(2):
        answer = await ask(gateway, message(), headers(token), key=None)
        assert answer.status == 200
        assert who(gateway, answer) == ("k8s/system:serviceaccount:ml:train", "platform")


async def test_who_is_right_and_not_let_in_is_told_so(gateway: Gateway, shared_issuer: Issuer):
    refused = await ask(gateway, message(), key=shared_issuer.mint("system:serviceaccount:web:a"))
    assert "Your token" in assert_error(refused, 403, "permission_error")
    nowhere = await ask(gateway, message(), key=shared_issuer.mint("x", team="unheard-of"))
    assert "team" in assert_error(nowhere, 403, "permission_error")
    member = await ask(gateway, message(), key=shared_issuer.mint("x", team="research"))
    assert who(gateway, member) == ("teams/x", "research")


async def test_a_wrong_token_is_refused(gateway: Gateway, shared_issuer: Issuer):
    token = pod(shared_issuer, "train", aud="other")
    assert "audience" in assert_error(await ask(gateway, message(), key=token), 401, "authentication_error")
    head, body, signature = pod(shared_issuer, "train").split(".")
    cut = f"{head}.{body}.{signature[:-8]}AAAAAAAA"
    assert "signature" in assert_error(await ask(gateway, message(), key=cut), 401, "authentication_error")


async def test_two_gateways_agree_on_a_caller_and_its_limits(federated: list[Gateway], shared_issuer: Issuer):
    name = f"small-{uuid4().hex[:8]}"
    answers = [await ask(gateway, message(), key=shared_issuer.mint(name)) for gateway in (*federated, *federated)]
    assert sorted(answer.status for answer in answers) == [200, 200, 429, 429]
    other = await ask(federated[0], message(model="claude-opus-4-8"), key=shared_issuer.mint(f"{name}-two"))
    assert_error(other, 403, "permission_error")


async def test_a_caller_by_token_shares_nothing_with_a_file_s_caller_of_its_name(
    launch: Launch, sim: Simulator, shared_issuer: Issuer
):
    limits = {"requests_per_minute": 2}
    gateway = launch(
        accounts=accounts_of(sim, 2),
        keys=[{"id": "alice", "key": ALICE, "limits": limits}, {"id": "bob", "key": BOB}],
        issuers=[shared_issuer.entry(id="alice", limits=limits), shared_issuer.entry(id="x", audiences=["x"])],
    )
    token = shared_issuer.mint("alice")
    told = conversation()
    first = await ask(gateway, message(), told, key=ALICE)
    assert first.route == "new"
    foreign = await ask(gateway, message(), told, key=token)
    assert (foreign.status, foreign.route) == (200, "new")  # another conversation, though its id is the same
    created = await upload(gateway, key=ALICE)
    assert created.status == 200, created.body
    path = f"/v1/files/{created.json()['id']}"
    assert (await ask(gateway, key=token, path=path)).status == 404
    assert (await ask(gateway, key=ALICE, path=path)).status == 200
    assert (await ask(gateway, message(), key=ALICE)).status == 200
    assert (await ask(gateway, message(), key=ALICE)).status == 429
    assert (await ask(gateway, message(), key=token)).status == 200
    assert (await ask(gateway, message(), key=token)).status == 429
    usage = await ask(gateway.admin_port, headers=AUTHORIZED, key=None, path="/admin/v1/usage?group_by=key")
    assert {row["key"]: row["requests"] for row in usage.json()["data"]} == {"alice": 2, "alice/alice": 2}


async def test_what_a_caller_by_token_used_is_known_after_the_store_has_lost_everything(
    launch: Launch, sim: Simulator, store: Store, shared_issuer: Issuer
):
    gateway = launch(redis=f"{store.url}/10", accounts=accounts_of(sim, 2), issuers=[shared_issuer.entry()])
    token = shared_issuer.mint("plain")

    def requests() -> int:
        usage = gateway.get("/admin/v1/usage?group_by=key", admin=True, headers=AUTHORIZED)
        return next((row["requests"] for row in usage.json()["data"] if row["key"] == "k8s/plain"), 0)

    assert (await ask(gateway, message(), key=token)).status == 200
    assert requests() == 1
    with redis.Redis.from_url(f"{store.url}/10") as client:
        client.flushdb()
        await eventually(lambda: client.dbsize(), "what the gateway gives back")
    assert (await ask(gateway, message(), key=token)).status == 200
    await eventually(lambda: requests() == 2, "both requests in the usage")


# The gateway's own tokens.


async def test_a_token_is_exchanged_for_the_gateway_s_own(federated: list[Gateway], shared_issuer: Issuer):
    token = pod(shared_issuer, "train")
    answer = await exchanged(federated[0], token, organization_id="any")
    assert answer.status == 200 and answer["cache-control"] == "no-store" and answer["request-id"]
    said = answer.json()
    assert (said["token_type"], said["expires_in"]) == ("Bearer", 3600)
    assert said["access_token"].startswith("gwt_")
    for gateway in federated:
        served = await ask(gateway, message(), {"authorization": f"Bearer {said['access_token']}"}, key=None)
        assert who(gateway, served) == ("k8s/system:serviceaccount:ml:train", "platform")
    line = federated[0].record(answer.request_id)
    assert (line["endpoint"], line["caller"]) == ("token", "k8s/system:serviceaccount:ml:train")


async def test_what_is_being_answered_to_a_caller_by_token_ends_with_its_team(
    federated: list[Gateway], shared_issuer: Issuer
):
    one, other = federated

    def admin(method: str, path: str, body: bytes = b"") -> int:
        return one.get(f"/admin/v1/{path}", method=method, headers=AUTHORIZED, body=body, admin=True).status

    assert admin("POST", "teams", b'{"id": "brief"}') == 201
    token = shared_issuer.mint("pod", team="brief")
    bearer = {"authorization": f"Bearer {token}"}

    def opens(status: int) -> bool:
        return other.get("/v1/me", headers=bearer).status == status

    await eventually(lambda: opens(200))
    stream = asyncio.create_task(
        ask(other, message("Tell me", stream=True), {**bearer, **conversation()}, key=None, fault="stall=4")
    )
    await eventually(lambda: other.metrics().total("gateway_requests_in_flight") == 1)
    assert admin("DELETE", "teams/brief") == 200
    cut = await asyncio.wait_for(stream, 30)
    assert b"Your access to this gateway has ended" in cut.body and cut.ended
    await eventually(lambda: opens(403))


@pytest.mark.parametrize("end", ["", "\n", " \r\n"], ids=["bare", "of a file", "of a file with blanks"])
async def test_a_form_does_as_well(end: str, gateway: Gateway, shared_issuer: Issuer):
    form = urllib.parse.urlencode({"grant_type": GRANT, "assertion": pod(shared_issuer, "train") + end}).encode()
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    connection.request("POST", "/v1/oauth/token", form, headers)
    assert json.loads(connection.getresponse().read())["access_token"].startswith("gwt_")
    connection.close()


async def test_a_token_may_come_with_the_line_end_of_its_file(gateway: Gateway, shared_issuer: Issuer):
    assert (await exchanged(gateway, f"{pod(shared_issuer, 'train')}\n")).status == 200


async def test_what_cannot_be_exchanged_is_refused_as_oauth_says(gateway: Gateway, shared_issuer: Issuer):
    good = pod(shared_issuer, "train")
    own = (await exchanged(gateway, good)).json()["access_token"]
    refusals = [
        (await exchanged(gateway, "eyJ.x.y"), 401, "invalid_grant"),
        (await exchanged(gateway, ALICE), 401, "invalid_grant"),
        (await exchanged(gateway, own), 401, "invalid_grant"),
        (await exchanged(gateway, good, "unheard-of"), 401, "invalid_grant"),
        (await exchanged(gateway, good, "ci"), 403, "access_denied"),
        (await exchanged(gateway, good, grant_type="password"), 400, "unsupported_grant_type"),
        (await ask(gateway, {"grant_type": GRANT}, key=None, path="/v1/oauth/token"), 400, "invalid_request"),
        (await ask(gateway, b"{", key=None, path="/v1/oauth/token"), 400, "invalid_request"),
        (await ask(gateway, b'{"x":' * 3000, key=None, path="/v1/oauth/token"), 400, "invalid_request"),
        (await ask(gateway, b"x" * 20_000, key=None, path="/v1/oauth/token"), 413, "invalid_request"),
        (await ask(gateway, key=None, path="/v1/oauth/token"), 405, "invalid_request"),
    ]
    for answer, status, error in refusals:
        assert (answer.status, answer.json()["error"]) == (status, error), answer.body
        assert answer.json()["error_description"]


async def test_the_admin_listener_knows_no_such_token(gateway: Gateway, shared_issuer: Issuer):
    token = pod(shared_issuer, "train")
    for each in (token, (await exchanged(gateway, token)).json()["access_token"]):
        headers = {"authorization": f"Bearer {each}"}
        assert (await ask(gateway.admin_port, headers=headers, key=None, path="/admin/v1/usage")).status == 401


async def test_without_issuers_nothing_is_exchanged(launch: Launch, sim: Simulator, shared_issuer: Issuer):
    gateway = launch(accounts=accounts_of(sim, 1), keys=CALLERS)
    token = pod(shared_issuer, "train")
    assert_error(await ask(gateway, message(), key=token), 401, "authentication_error")
    assert_error(await exchanged(gateway, token), 401, "authentication_error")


# What is told to nobody.


async def test_no_token_goes_upstream_or_into_the_log(gateway: Gateway, sim: Simulator, shared_issuer: Issuer):
    since = sim.mark()
    token = pod(shared_issuer, "canary-of-a-pod")
    own = (await exchanged(gateway, token)).json()["access_token"]
    wrong = pod(shared_issuer, "train", aud="canary-of-an-audience")
    last = None
    for credential in (token, own, wrong, f"{own}x", f"{token}x"):
        for fault in (None, "status=401", "cut=300", "status=500"):
            headers = {"authorization": f"Bearer {credential}", "anthropic-beta": "oauth-2025-04-20,other-beta"}
            last = await ask(gateway, message(stream=True), headers, key=credential, fault=fault)
        await exchanged(gateway, credential)
    assert last is not None
    gateway.record(last.request_id)
    until(lambda: gateway.text().endswith("\n"))
    text = gateway.text() + gateway.err.read_text()
    parts = [part for each in (token, own, wrong) for part in each.removeprefix("gwt_").split(".")[1:]]
    assert not [part for part in (token, own, wrong, *parts) if part in text]
    assert "canary-of-an-audience" not in text
    records = [each for each in sim.records(since, bodies=True) if each["path"].startswith("/v1/messages")]
    assert len(records) >= 4
    for record in records:
        said = str(record)
        assert not [part for part in parts if part in said]
        assert "gwt_" not in said and "oauth-2025-04-20" not in said
        assert ["anthropic-beta", "other-beta"] in [list(pair) for pair in record["headers"]]


# The issuer.


async def test_while_the_issuer_was_never_there_nobody_s_token_is_called_wrong(
    launch: Launch, sim: Simulator, tmp_path: Path
):
    issuer = Issuer(tmp_path / "issuer").start()
    try:
        gateway = launch(wait=False, accounts=accounts_of(sim, 1), keys=CALLERS, issuers=[issuer.entry()])
        token = issuer.mint("pod")
        issuer.end()
        gateway.ready()
        if (await ask(gateway, message(), key=token)).status == 200:
            pytest.fail("the gateway asked for the keys before they were gone")
        answer = await ask(gateway, message(), key=token)
        assert_error(answer, 529, "overloaded_error")
        assert 1 <= int(answer["retry-after"]) <= 60
        assert (await ask(gateway, message(), key=ALICE)).status == 200
        assert gateway.metrics().total("gateway_degraded", mode="issuers") == 1
        issuer.start()  # with other keys
        token = issuer.mint("pod")

        def served() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
            headers = {"x-api-key": token, "content-type": "application/json"}
            connection.request("POST", "/v1/messages", json.dumps(message()), headers)
            status = connection.getresponse().status
            connection.close()
            return status == 200

        until(served, "the issuer's keys")
        until(lambda: gateway.metrics().total("gateway_degraded", mode="issuers") == 0)
    finally:
        if issuer.alive():
            issuer.end()


async def test_an_issuer_s_keys_stay_known_while_it_is_away(launch: Launch, sim: Simulator, tmp_path: Path):
    issuer = Issuer(tmp_path / "issuer").start()
    gateway = launch(accounts=accounts_of(sim, 1), issuers=[issuer.entry()])
    assert (await ask(gateway, message(), key=issuer.mint("one"))).status == 200
    token = issuer.mint("two")
    issuer.end()
    assert (await ask(gateway, message(), key=token)).status == 200


# SDKs, unchanged: a workload whose token file is rotated under way.

WORKLOADS: dict[str, Callable[[], list[str | Path]]] = {
    "python": lambda: [sys.executable, rigs.HERE / "python" / "federation.py"],
    "typescript": lambda: [rigs.need("node"), rigs.node() / "federation.mjs"],
    "go": lambda: [rigs.go("federation")],
}


@pytest.mark.parametrize("language", WORKLOADS)
def test_an_sdk_federates_by_environment_alone_and_follows_its_token_file(
    launch: Launch, sim: Simulator, store: Store, shared_issuer: Issuer, tmp_path: Path, language: str
):
    command = WORKLOADS[language]()
    gateway = launch(redis=store.url, accounts=accounts_of(sim, 1), issuers=[shared_issuer.entry()])
    file = tmp_path / "token"
    file.write_text(shared_issuer.mint("first"))
    env = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ANTHROPIC_BASE_URL": gateway.base_url,
        "ANTHROPIC_IDENTITY_TOKEN_FILE": str(file), "ANTHROPIC_FEDERATION_RULE_ID": "k8s",
        "ANTHROPIC_ORGANIZATION_ID": "00000000-0000-0000-0000-000000000000",
    }  # fmt: skip
    with (tmp_path / "err").open("wb") as err:
        workload = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err)
    assert workload.stdin is not None and workload.stdout is not None

    def called() -> None:
        line = workload.stdout.readline()  # type: ignore[union-attr]
        assert line, (tmp_path / "err").read_text()
        assert json.loads(line)["stop_reason"] in ("end_turn", "max_tokens")

    def go_on() -> None:
        assert workload.stdin is not None
        workload.stdin.write(b"\n")
        workload.stdin.flush()

    try:
        called()
        file.write_text(shared_issuer.mint("second"))
        gateway.stop()
        gateway.config["secret"] = "another-secret-" * 3  # ends what the gateway gave
        gateway.start()
        go_on()
        called()
        go_on()
        called()
        file.write_text(shared_issuer.mint("third"))
        go_on()
        called()
        go_on()
        assert workload.wait(20) == 0, (tmp_path / "err").read_text()
    finally:
        workload.kill()
        workload.wait()
        workload.stdin.close()
        workload.stdout.close()
    gateway.stop()
    requests = [line for line in gateway.lines() if line["event"] == "request"]
    assert [line["caller"] for line in requests if line["endpoint"] == "messages" and line["status"] == 200] == [
        "k8s/first", "k8s/second", "k8s/second", "k8s/third",
    ]  # fmt: skip
    assert [line["caller"] for line in requests if line["endpoint"] == "token"] == ["k8s/first", "k8s/second"]


async def test_an_operator_finds_the_conversations_of_a_caller_by_token(gateway: Gateway, shared_issuer: Issuer):
    callers = {"k8s/system:serviceaccount:ml:train": pod(shared_issuer, "train")}
    callers |= {"teams/x": shared_issuer.mint("x", team="research"), "plain/plain-1": shared_issuer.mint("plain-1")}
    for caller, token in callers.items():
        told = conversation()
        served = await ask(gateway, message(), told, key=token)
        name = urllib.parse.quote(caller, safe="")
        path = f"/admin/v1/conversations/{name}/{told['X-Conversation-Id']}"
        shown = gateway.get(path, admin=True, headers=AUTHORIZED)
        assert shown.status == 200, shown.body
        assert shown.json()["caller"] == caller
        assert served.account in str(shown.json()["bindings"])
        flushed = gateway.get(path, admin=True, headers=AUTHORIZED, method="DELETE")
        assert flushed.json()["flushed"] == 1
        assert gateway.get(path, admin=True, headers=AUTHORIZED).status == 404
