"""Which account serves a conversation, over several gateways on one store: always the same one."""

from __future__ import annotations

import copy
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.e2e.rig import (
    ALICE,
    ALICE_TOO,
    BOB,
    CAROL,
    Answer,
    Gateway,
    Simulator,
    Store,
    Wire,
    accounts_of,
    ask,
    at_once,
    conversation,
    message,
)

POOL = 4
Launch = Callable[..., Gateway]


@pytest.fixture(scope="module")
def pair(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Two gateways on one store."""
    config = {"redis": f"{store.url}/3", "accounts": accounts_of(simulator, POOL)}
    pair = [Gateway(tmp_path_factory.mktemp(name), dict(config)).launch() for name in ("left", "right")]
    for gateway in pair:
        gateway.ready()
    yield pair
    for gateway in pair:
        gateway.stop()


async def talk(pair: Sequence[Gateway], name: str, turns: int, begin: int = 0) -> list[Answer]:
    """`turns` turns of one conversation, each with another gateway than the one before."""
    said = [f"{name} begins"]
    for turn in range(begin):
        said += [f"answer {turn}", f"question {turn}"]
    answers = []
    for turn in range(begin, begin + turns):
        answers.append(await ask(pair[turn % len(pair)], message(*said), {"X-Conversation-Id": name, "x-mark": name}))
        assert answers[-1].status == 200, answers[-1].body
        said += [f"answer {turn}", f"question {turn}"]
    return answers


def served_by(simulator: Simulator, since: int) -> dict[str, Counter[str]]:
    """By the simulator's records: which accounts served each marked conversation, and how often."""
    seen: dict[str, Counter[str]] = {}
    for record in simulator.records(since):
        mark = dict(record["headers"]).get("x-mark")
        if mark is not None:
            seen.setdefault(mark, Counter())[record["account"]] += 1
    return seen


def names(count: int) -> list[str]:
    group = uuid.uuid4().hex[:8]
    return [f"{group}-{number}" for number in range(count)]


async def test_each_of_sixty_conversations_stays_on_one_account_whichever_gateway_it_asks(
    pair: list[Gateway], sim: Simulator
):
    since = sim.mark()
    those = names(60)
    turns = dict(
        zip(those, await at_once(talk(pair, name, 5, index % 2) for index, name in enumerate(those)), strict=True)
    )
    seen = served_by(sim, since)
    for name, answers in turns.items():
        assert [answer.route for answer in answers] == ["new", "bound", "bound", "bound", "bound"]
        assert seen[name] == Counter({answers[0].account: 5})
        assert {answer.account for answer in answers} == {answers[0].account}
    assert len({answers[0].account for answers in turns.values()}) == POOL


async def test_of_eight_first_requests_at_once_one_is_new_and_all_go_to_one_account(
    pair: list[Gateway], sim: Simulator
):
    for name in names(10):
        since = sim.mark()
        headers = {"X-Conversation-Id": name, "x-mark": name}
        answers = await at_once(ask(pair[number % 2], message("All at once"), headers) for number in range(8))
        assert sorted(answer.route for answer in answers) == ["bound"] * 7 + ["new"]
        assert served_by(sim, since)[name] == Counter({answers[0].account: 8})


async def test_six_hundred_conversations_are_spread_evenly(launch: Launch, simulator: Simulator, store: Store):
    config = {"redis": f"{store.url}/8", "accounts": accounts_of(simulator, POOL)}
    pair = [launch(**config), launch(**config)]  # to which nothing has come that they would have to level

    async def some(number: int) -> list[str]:
        async with Wire.open(pair[number % 2]) as wire:
            found = []
            for each in range(50):
                answer = await wire.ask(message(), {"X-Conversation-Id": f"spread-{number}-{each}"})
                assert answer.route in ("new", "bound")
                found.append(answer.account)
            return found

    counts = Counter(account for accounts in await at_once(map(some, range(12))) for account in accounts)
    assert counts.total() == 600
    assert max(counts.values()) / (600 / POOL) <= 1.25, counts


async def test_conversations_are_where_they_were_after_both_gateways_have_been_restarted(
    pair: list[Gateway], sim: Simulator
):
    those = names(60)
    before = await at_once(talk(pair, name, 1) for name in those)
    for gateway in pair:
        gateway.stop()
    for gateway in pair:
        gateway.launch()
    for gateway in pair:
        gateway.ready()
    since = sim.mark()
    after = await at_once(talk(pair, name, 2, 1) for name in those)
    seen = served_by(sim, since)
    for name, [first], later in zip(those, before, after, strict=True):
        assert [answer.route for answer in later] == ["bound", "bound"]
        assert seen[name] == Counter({first.account: 2})


async def test_a_fifth_account_that_joins_gateway_by_gateway_moves_no_conversation(pair: list[Gateway], sim: Simulator):
    those = names(60)
    before = await at_once(talk(pair, name, 1) for name in those)
    fifth = sim.accounts[POOL]["id"]
    begin = 1
    for gateway in pair:
        gateway.stop()
        gateway.config["accounts"] = accounts_of(sim, POOL + 1)
        gateway.start()
        since = sim.mark()
        after = await at_once(talk(pair, name, 2, begin) for name in those)
        begin += 2
        seen = served_by(sim, since)
        for name, [first], later in zip(those, before, after, strict=True):
            assert [answer.route for answer in later] == ["bound", "bound"]
            assert seen[name] == Counter({first.account: 2})

    async def newcomers() -> set[str]:
        return {answers[0].account for answers in await at_once(talk(pair, name, 1) for name in names(60))}

    for _ in range(50):  # both gateways have said that they hold it; the document follows within a heartbeat
        if fifth in (accounts := await newcomers()):
            break
    assert fifth in accounts


# -- Conversations that are recognised otherwise ----------------------------------------------------------------------


async def stays(
    gateway: Gateway, bodies: list[Any], headers: list[dict[str, str]] | None = None, keys: list[str] | None = None
) -> list[str]:
    """That these requests are one conversation; returns their routes."""
    headers = headers or [{}] * len(bodies)
    keys = keys or [ALICE] * len(bodies)
    answers = [await ask(gateway, *each, key=key) for *each, key in zip(bodies, headers, keys, strict=True)]
    assert {answer.status for answer in answers} == {200}, answers
    assert len({answer.account for answer in answers}) == 1
    return [answer.route for answer in answers]


def turns(begin: str, count: int = 4) -> list[list[str]]:
    said = [begin]
    made = []
    for turn in range(count):
        made.append(list(said))
        said += [f"answer {turn}", f"question {turn}"]
    return made


def fresh(text: str = "") -> str:
    return f"{text} {uuid.uuid4().hex}"


async def test_a_claude_code_session_header_is_a_conversation(gateway: Gateway):
    session = {"x-claude-code-session-id": str(uuid.uuid4())}
    bodies = [message(fresh("another first message every time")) for _ in range(6)]
    assert await stays(gateway, bodies, [session] * 6) == ["new"] + ["bound"] * 5


async def test_an_agent_within_a_session_is_a_conversation_of_its_own(gateway: Gateway):
    session = {"x-claude-code-session-id": str(uuid.uuid4())}
    agent = {**session, "x-claude-code-agent-id": "agent-7"}
    assert await stays(gateway, [message()] * 2, [session] * 2) == ["new", "bound"]
    assert await stays(gateway, [message()] * 2, [agent] * 2) == ["new", "bound"]


@pytest.mark.parametrize("form", ["json", "legacy"])
async def test_the_session_inside_the_user_id_is_a_conversation(form: str, gateway: Gateway):
    def user_id(session: str, turn: int) -> str:
        if form == "legacy":
            return f"user_{'0' * 64}_account__session_{session}"
        return json.dumps({"device_id": "d", "account_uuid": "", "session_id": session, "extra": turn})

    for _ in range(2):  # two sessions of one user are two conversations
        session = str(uuid.uuid4())
        bodies = [message(fresh("anything"), metadata={"user_id": user_id(session, turn)}) for turn in range(6)]
        assert await stays(gateway, bodies) == ["new"] + ["bound"] * 5


async def test_the_session_is_the_same_in_the_header_and_in_the_user_id(gateway: Gateway):
    session = str(uuid.uuid4())
    bodies = [message(fresh()), message(fresh(), metadata={"user_id": json.dumps({"session_id": session})})]
    assert await stays(gateway, bodies, [{"x-claude-code-session-id": session}, {}]) == ["new", "bound"]


def with_moving_cache_control(said: list[str], system: str, tools: list[dict[str, Any]]) -> dict[str, Any]:
    """A turn as agents send it: the breakpoint is on the last block, earlier turns are sent without."""
    body = message(*said, tools=copy.deepcopy(tools), system=[{"type": "text", "text": system}])
    for each in body["messages"]:
        each["content"] = [{"type": "text", "text": each["content"]}]
    body["messages"][-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
    if len(said) % 4 == 1:
        body["system"][-1]["cache_control"] = {"type": "ephemeral", "ttl": "1h"}
        body["tools"][-1]["cache_control"] = {"type": "ephemeral", "ttl": "1h"}
    return body


TOOLS = [{"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}]


async def test_a_conversation_without_any_name_is_known_by_its_beginning_while_cache_control_moves(gateway: Gateway):
    bodies = [with_moving_cache_control(said, "You are helpful.", TOOLS) for said in turns(fresh("begin"), 6)]
    assert await stays(gateway, bodies) == ["new"] + ["bound"] * 5


async def test_text_as_a_string_and_as_a_block_is_one_beginning(gateway: Gateway):
    begin = fresh("begin")
    bodies: list[Any] = [
        message(begin, system="Short."),
        message(begin, "well", "then", system=[{"type": "text", "text": "Short."}]),
        message(begin, "well", "then", "so", "on", system="Short."),
    ]
    bodies[1]["messages"][0]["content"] = [{"type": "text", "text": begin, "cache_control": {"type": "ephemeral"}}]
    assert await stays(gateway, bodies) == ["new", "bound", "bound"]


async def test_a_billing_block_that_changes_does_not_change_the_beginning(gateway: Gateway):
    begin = fresh("begin")

    def body(number: int) -> dict[str, Any]:
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2; cch={number};"}
        return message(begin, system=[billing, {"type": "text", "text": "You are helpful."}])

    assert await stays(gateway, [body(number) for number in range(4)]) == ["new"] + ["bound"] * 3


async def test_a_shared_system_prompt_does_not_make_one_conversation_of_many(
    launch: Launch, simulator: Simulator, store: Store
):
    gateway = launch(redis=f"{store.url}/12", accounts=accounts_of(simulator, 4))  # to which nothing larger has come
    answers = await at_once(
        ask(gateway, message(fresh("begin"), system="The company's own prompt.")) for _ in range(24)
    )
    assert {answer.route for answer in answers} == {"new"}
    assert len({answer.account for answer in answers}) > 1


async def test_callers_do_not_share_conversations_even_within_a_team(gateway: Gateway):
    name = conversation()
    routes = [(await ask(gateway, message(), name, key=key)).route for key in (ALICE, BOB, CAROL) * 2]
    assert routes == ["new"] * 3 + ["bound"] * 3


async def test_callers_with_equal_ids_are_spread_like_strangers(gateway: Gateway):
    pairs = [
        [(await ask(gateway, message(), name, key=key)).account for key in (ALICE, BOB)]
        for name in ({"X-Conversation-Id": f"equal-{number}"} for number in range(20))
    ]
    assert any(left != right for left, right in pairs)


async def test_two_keys_of_one_caller_are_in_the_same_conversation(gateway: Gateway):
    routes = await stays(gateway, [message()] * 4, [conversation()] * 4, [ALICE, ALICE_TOO] * 2)
    assert routes == ["new", "bound", "bound", "bound"]


async def test_counting_tokens_asks_the_account_of_the_conversation(gateway: Gateway):
    name = conversation()
    first = await ask(gateway, message(), name)
    count = {"model": message()["model"], "messages": message()["messages"]}
    counted = await ask(gateway, count, name, path="/v1/messages/count_tokens")
    assert (counted.status, counted.account, counted.route) == (200, first.account, "bound")


async def test_a_request_without_messages_has_no_conversation(gateway: Gateway):
    answer = await ask(gateway, path="/v1/models")
    assert (answer.status, answer.route) == (200, "none")
