"""The plain objects of Managed Agents and user profiles: their life, their links, and their workspace's walls."""

import threading
from hashlib import sha256
from typing import Any

import anthropic
import httpx
import pytest

from gateway.lab.simulator import World
from gateway.lab.simulator.kinds import KINDS
from tests.lab.simulator.simulator_kit import Clock, background, headers, last_finished, sdk_of

MODEL = "claude-sonnet-5"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sim(clock):
    # Accounts 1, 3 and 4 share an organization; 1 and 4 a workspace, too.
    with background(World.grid(4, 3, 2), clock=clock) as running:
        yield running


@pytest.fixture
def sdk(sim):
    with sdk_of(sim) as client:
        yield client


def agent_of(sdk: anthropic.Anthropic) -> Any:
    return sdk.beta.agents.create(model=MODEL, name="helper")


def session_of(sdk: anthropic.Anthropic, **fields: Any) -> Any:
    environment = sdk.beta.environments.create(name="sandbox")
    return sdk.beta.sessions.create(agent=agent_of(sdk).id, environment_id=environment.id, **fields)


def make(sdk: anthropic.Anthropic, kind: str) -> Any:
    """One object of a kind, by the real client."""
    beta = sdk.beta
    if kind == "sessions":
        return session_of(sdk)
    if kind in ("deployments", "deployment_runs"):
        environment = beta.environments.create(name="sandbox")
        events: Any = [{"type": "user.message", "content": [{"type": "text", "text": "go"}]}]
        made = beta.deployments.create(
            agent=agent_of(sdk).id, environment_id=environment.id, initial_events=events, name="nightly"
        )
        return made if kind == "deployments" else beta.deployments.run(made.id)
    if kind == "dreams":
        store = beta.memory_stores.create(name="notes")
        return beta.dreams.create(inputs=[{"type": "memory_store", "memory_store_id": store.id}], model=MODEL)
    makers: dict[str, Any] = {
        "agents": lambda: agent_of(sdk),
        "environments": lambda: beta.environments.create(name="sandbox"),
        "vaults": lambda: beta.vaults.create(display_name="safe"),
        "memory_stores": lambda: beta.memory_stores.create(name="notes"),
        "tunnels": lambda: beta.tunnels.create(display_name="in"),
        "user_profiles": lambda: sdk.user_profiles.create(name="Ann"),
    }
    return makers[kind]()


def get(sim: Any, account: int, path: str, method: str = "GET", **more: Any) -> httpx.Response:
    return httpx.request(method, f"{sim.base_url}/v1/{path}", headers=headers(sim.world.accounts[account]), **more)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_created_listed_got_changed_and_archived_in_the_sdks_shape(sim, sdk, kind):
    made = make(sdk, kind)
    type(made).model_validate(made.to_dict())
    assert made.id.startswith(KINDS[kind].prefix + "01") and made.type == KINDS[kind].type
    assert [one["id"] for one in get(sim, 0, kind).json()["data"]] == [made.id]
    assert get(sim, 0, f"{kind}/{made.id}").json()["id"] == made.id
    changed = get(sim, 0, f"{kind}/{made.id}", "POST", json={"metadata": {"a": "b"}, "id": "other"}).json()
    assert changed["metadata"] == {"a": "b"} and changed["id"] == made.id
    assert get(sim, 0, f"{kind}/{made.id}/archive", "POST").json()["archived_at"]
    assert get(sim, 0, kind).json()["data"] == []
    assert len(get(sim, 0, f"{kind}?include_archived=true").json()["data"]) == 1
    assert get(sim, 0, f"{kind}/{made.id}", "DELETE").json() == {"id": made.id, "type": f"{made.type}_deleted"}
    assert get(sim, 0, f"{kind}/{made.id}").status_code == 404


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_every_kind_is_unknown_beyond_its_scope(sim, sdk, kind, method):
    made = make(sdk, kind)
    wrong = get(sim, 1, f"{kind}/{made.id}", method, json={} if method == "POST" else None)
    unknown = get(sim, 0, f"{kind}/{made.id}x", method, json={} if method == "POST" else None)
    assert wrong.status_code == unknown.status_code == 404
    assert wrong.json()["error"]["type"] == "not_found_error"
    assert wrong.json()["error"]["message"] + "x" == unknown.json()["error"]["message"]
    assert get(sim, 1, kind).json()["data"] == []
    assert get(sim, 3, f"{kind}/{made.id}").status_code == 200, "another key of the same workspace"
    # Account 3 is in the same organization, but in another workspace.
    assert get(sim, 2, f"{kind}/{made.id}").status_code == (200 if kind == "user_profiles" else 404)


def test_ids_differ_from_one_simulator_to_the_next(sdk):
    with background() as other, sdk_of(other) as client:
        assert client.beta.vaults.create(display_name="a").id != sdk.beta.vaults.create(display_name="a").id


def test_lists_have_cursors_that_sdks_follow(sim, sdk):
    ids = [sdk.beta.vaults.create(display_name=str(index)).id for index in range(5)]
    assert [one.id for one in sdk.beta.vaults.list(limit=2)] == ids[::-1]
    assert get(sim, 0, "vaults?page=nonsense").status_code == 400


def test_a_session_needs_an_agent_and_an_environment_of_its_own_workspace(sim, sdk):
    made = session_of(sdk)
    assert made.agent.name == "helper" and made.agent.model.id == MODEL and made.status == "idle"
    with sdk_of(sim, 1) as foreign:
        own = foreign.beta.environments.create(name="mine").id
        for agent, environment in ((made.agent.id, own), (agent_of(foreign).id, made.environment_id)):
            with pytest.raises(anthropic.NotFoundError):
                foreign.beta.sessions.create(agent=agent, environment_id=environment)
    with pytest.raises(anthropic.BadRequestError):
        sdk.beta.sessions.create(agent=made.agent.id, environment_id=None)


def test_a_session_carries_resources_of_its_workspace(sim, sdk):
    file = sdk.files.upload(file=("a.txt", b"a"))
    made = session_of(sdk, resources=[{"type": "file", "file_id": file.id}])
    assert made.resources[0].file_id == file.id
    added = sdk.beta.sessions.resources.add(made.id, file_id=file.id, type="file")
    assert added.mount_path.endswith(file.id)
    assert len(list(sdk.beta.sessions.resources.list(made.id))) == 2
    assert sdk.beta.sessions.resources.delete(added.id, session_id=made.id).type == "session_resource_deleted"
    with sdk_of(sim, 1) as foreign, pytest.raises(anthropic.NotFoundError, match="File not found"):
        session_of(foreign, resources=[{"type": "file", "file_id": file.id}])


def message(text: str) -> Any:
    return {"type": "user.message", "content": [{"type": "text", "text": text}]}


def test_a_stream_replays_what_was_sent_and_goes_on_until_the_session_is_gone(sim, sdk):
    session = session_of(sdk)
    sent = sdk.beta.sessions.events.send(session.id, events=[message("one"), message("two")])
    assert sent.data is not None and [one.type for one in sent.data] == ["user.message"] * 2
    got: list[Any] = []
    two = threading.Event()
    three = threading.Event()

    def listen() -> None:
        with sdk_of(sim) as client, client.beta.sessions.events.stream(session.id) as stream:
            for event in stream:
                got.append(event)
                {2: two, 3: three}.get(len(got), threading.Event()).set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert two.wait(10)
    sdk.beta.sessions.events.send(session.id, events=[message("three")])
    assert three.wait(10)
    assert [one.id for one in got] == [one.id for one in sdk.beta.sessions.events.list(session.id)]
    sdk.beta.sessions.delete(session.id)
    listener.join(10)
    assert [one.type for one in got] == ["user.message"] * 3 + ["session.deleted"]
    assert got[2].content[0].text == "three"


def test_a_threads_stream_is_that_of_its_session_and_ends_when_its_time_is_up(sim, sdk):
    sim.configure(stream_seconds=0.05)
    session = session_of(sdk)
    sdk.beta.sessions.events.send(session.id, events=[message("one")])
    [thread] = sdk.beta.sessions.threads.list(session.id)
    with sdk.beta.sessions.threads.events.stream(thread.id, session_id=session.id) as stream:
        assert [event.type for event in stream] == ["user.message"]
    with sdk_of(sim, 1) as foreign, pytest.raises(anthropic.NotFoundError):
        foreign.beta.sessions.events.stream(session.id)
    with pytest.raises(anthropic.NotFoundError):
        sdk.beta.sessions.threads.events.stream("sthr_none", session_id=session.id)


def test_a_run_of_a_deployment_makes_a_session(sdk):
    run = make(sdk, "deployment_runs")
    assert sdk.beta.sessions.retrieve(run.session_id).deployment_id == run.deployment_id
    assert [one.id for one in sdk.beta.deployment_runs.list(deployment_id=run.deployment_id)] == [run.id]
    assert list(sdk.beta.deployment_runs.list(deployment_id="depl_none")) == []
    assert sdk.beta.deployments.pause(run.deployment_id).status == "paused"
    assert sdk.beta.deployments.unpause(run.deployment_id).status == "active"


def test_an_agent_remembers_its_versions(sdk):
    agent = agent_of(sdk)
    changed = sdk.beta.agents.update(agent.id, version=1, name="better")
    assert (changed.version, changed.name) == (2, "better")
    assert [(one.version, one.name) for one in sdk.beta.agents.versions.list(agent.id)] == [
        (2, "better"),
        (1, "helper"),
    ]


def test_sub_resources_live_and_die_with_their_owner(sim, sdk):
    store = sdk.beta.memory_stores.create(name="notes")
    memory = sdk.beta.memory_stores.memories.create(store.id, content="hello", path="/a")
    assert memory.content_size_bytes == 5 and memory.memory_store_id == store.id
    [version] = sdk.beta.memory_stores.memory_versions.list(store.id)
    assert version.id == memory.memory_version_id and version.memory_id == memory.id
    got = sdk.beta.memory_stores.memories.retrieve(memory.id, memory_store_id=store.id)
    assert got.content == "hello"
    assert sdk.beta.memory_stores.memories.delete(memory.id, memory_store_id=store.id).type == "memory_deleted"

    vault = sdk.beta.vaults.create(display_name="safe")
    bearer: Any = {"type": "static_bearer", "token": "t", "mcp_server_url": "https://example.com"}
    credential = sdk.beta.vaults.credentials.create(vault.id, auth=bearer)
    assert sdk.beta.vaults.credentials.archive(credential.id, vault_id=vault.id).archived_at
    other = sdk.beta.vaults.create(display_name="other")
    with pytest.raises(anthropic.NotFoundError):
        sdk.beta.vaults.credentials.retrieve(credential.id, vault_id=other.id)
    sdk.beta.vaults.delete(vault.id)
    with pytest.raises(anthropic.NotFoundError):
        sdk.beta.vaults.credentials.retrieve(credential.id, vault_id=vault.id)
    assert credential.id not in {one["id"] for one in httpx.get(f"{sim.base_url}/_sim/objects").json()["data"]}

    tunnel = sdk.beta.tunnels.create()
    token = sdk.beta.tunnels.reveal_token(tunnel.id).tunnel_token
    assert sdk.beta.tunnels.reveal_token(tunnel.id).tunnel_token == token
    assert sdk.beta.tunnels.rotate_token(tunnel.id).tunnel_token != token
    assert sdk.beta.tunnels.certificates.create(tunnel.id, ca_certificate_pem="x").tunnel_id == tunnel.id
    profile = sdk.user_profiles.create()
    assert sdk.beta.user_profiles.create_enrollment_url(profile.id).type == "enrollment_url"


def test_a_poll_for_work_waits_its_time_and_a_queued_item_ends_it(sim, sdk):
    sim.configure(poll_seconds=0.05)
    environment = sdk.beta.environments.create(name="own", config={"type": "self_hosted"})
    assert sdk.beta.environments.work.poll(environment.id) is None
    session = session_of(sdk)
    path = f"environments/{environment.id}/work"
    queued = get(sim, 0, path, "POST", json={"data": {"type": "session", "id": session.id}}).json()
    sim.configure(poll_seconds=3600)
    found = sdk.beta.environments.work.poll(environment.id)
    assert found is not None and found.id == queued["id"] and found.data.id == session.id
    assert sdk.beta.environments.work.stats(environment.id).depth == 1
    assert sdk.beta.environments.work.ack(found.id, environment_id=environment.id).state == "starting"
    assert sdk.beta.environments.work.heartbeat(found.id, environment_id=environment.id).lease_extended
    assert sdk.beta.environments.work.stats(environment.id).depth == 0
    with sdk_of(sim, 1) as foreign, pytest.raises(anthropic.NotFoundError):
        foreign.beta.environments.work.poll(environment.id)


def test_a_client_that_leaves_a_stream_leaves_nothing_open():
    with background() as sim, sdk_of(sim) as sdk:
        session = session_of(sdk)
        sdk.beta.sessions.events.send(session.id, events=[message("one")])
        with sdk.beta.sessions.events.stream(session.id) as stream:
            assert next(iter(stream)).type == "user.message"
        assert last_finished(sim).aborted and sim.service.serving == 0


def test_the_control_plane_lists_objects_and_forgets_them_only_when_told(sim, sdk):
    made = sdk.beta.vaults.create(display_name="safe")
    file = sdk.files.upload(file=b"x")
    url = f"{sim.base_url}/_sim"
    listed = httpx.get(f"{url}/objects").json()["data"]
    assert [(one["kind"], one["id"]) for one in listed] == [("vaults", made.id), ("files", file.id)]
    assert [one["sha256"] for one in listed] == [None, sha256(b"x").hexdigest()]
    assert {(one["workspace"], one["account"]) for one in listed} == {("wrkspc_sim_1", "sim-account-1")}
    httpx.post(f"{url}/reset", json={})
    assert len(httpx.get(f"{url}/objects").json()["data"]) == 2
    httpx.post(f"{url}/reset", json={"objects": True})
    assert httpx.get(f"{url}/objects").json()["data"] == []
    with pytest.raises(anthropic.NotFoundError):
        sdk.files.download(file.id)


def test_an_endpoint_of_next_month_says_what_it_was_asked_and_others_are_unknown(sim):
    answer = get(sim, 1, "next_month/things?a=b", "POST", content=b"12345")
    assert answer.json() == {
        "method": "POST",
        "path": "/v1/next_month/things",
        "query": "a=b",
        "account": "sim-account-2",
        "body_size": 5,
    }
    assert get(sim, 0, "last_month").json()["error"]["type"] == "not_found_error"
    assert get(sim, 0, "agents", "PUT").status_code == 405


@pytest.mark.parametrize("path", ["organizations/me", "organizations", "oauth/token"])
def test_what_no_gateway_may_let_through_answers_anybody(sim, path):
    assert httpx.post(f"{sim.base_url}/v1/{path}").json() == {"leak": True}


def test_the_version_header_is_required_of_objects(sim):
    key = {"x-api-key": sim.world.accounts[0].api_key}
    for path in ("vaults", "files", "skills", "messages/batches"):
        assert "anthropic-version" in httpx.get(f"{sim.base_url}/v1/{path}", headers=key).json()["error"]["message"]


def test_status_faults_strike_objects_too(sim, sdk):
    sim.faults.add("status", 503, path="/v1/vaults", times=1)
    with pytest.raises(anthropic.InternalServerError):
        sdk.beta.vaults.create(display_name="safe")
    assert sdk.beta.vaults.create(display_name="safe").id
