"""What operators are told of a conversation, and what they make everybody forget."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest

from gateway.admin.desks.conversations import Conversations, Wanted, closed_words, duration, wanted, why
from gateway.config.schema import Account, Admin, Caller, Config
from gateway.core.routing.binding import Move, Record, record_key
from gateway.core.routing.broadcast import Closed, Forget, decode
from gateway.core.routing.conversation import MAX_ID, key
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.router import Router
from gateway.errors import ApiError
from gateway.store.bindings import Stored
from gateway.store.client.client import StoreDown
from gateway.telemetry.metric_table import MOVES
from tests.admin.admin_kit import admin_app

NOW = 1_800_000_000_000  # ms
SECRET, FORMER = "s" * 32, "f" * 32
MODEL, OTHER = "claude-haiku-4-5", "claude-opus-4-6"
ID = "a secret / id: zoë"
TOKEN = "token-of-the-operator"
ALICE = Caller(id="alice", team="research")
BOB = Caller(id="bob")
PATH = "/admin/v1/conversations/"


class Bindings:
    """A store of conversations."""

    def __init__(self) -> None:
        self.kept: dict[str, Stored] = {}
        self.away = False
        self.log: list[Any] = []

    def _ask(self, *words: Any) -> None:
        if self.away:
            raise StoreDown("connection refused")
        self.log.append(words)

    async def read(self, key: str) -> Stored | None:
        self._ask("read", key)
        return self.kept.get(key)

    async def flush(self, key: str) -> int:
        self._ask("flush", key)
        gone = self.kept.pop(key, None)
        return len(gone.records) if gone is not None else 0

    async def flush_workspace(self, workspace: str) -> int:
        self._ask("flush workspace", workspace)
        return 7


class Desk:
    """A pool of three workspaces, the second of two accounts, and what operators ask of it."""

    def __init__(self, *secrets: str) -> None:
        self.bindings = Bindings()
        self.health: dict[str, dict[str, Any]] = {}
        self.router = Router(lambda model: model)
        accounts = [Entry(name, workspace, f"org-{workspace}") for name, workspace in
                    (("a", "w1"), ("b", "w2"), ("c", "w2"), ("d", "w3"))]  # fmt: skip
        self.accounts = {entry.id: entry for entry in accounts}
        self.apply()
        config = Config(
            admin=Admin(token=TOKEN), secret=secrets or (SECRET,), keys=(ALICE, BOB),
            accounts=(Account(id="a", api_key="sk-x"),),
        )  # fmt: skip
        callers = {caller.id: caller for caller in config.keys}
        self.conversations = Conversations(
            self.bindings, lambda: config, lambda: callers, self.router, self.health.get, self.forget, lambda: 100.0
        )
        self.secret = config.secret[0]

    def apply(self, **states: str) -> None:
        accounts = [
            msgspec.structs.replace(entry, state=states.get(entry.id, "active")) for entry in self.accounts.values()
        ]
        self.router.apply(PoolDocument(1, tuple(accounts)), 100.0)

    async def forget(self, data: bytes) -> None:
        self.bindings.log.append(decode(data))

    def keep(
        self, *records: Record, caller: Caller = ALICE, kind: str = "header", secret: str = "", value: str = ID,
        models: tuple[str, ...] = (MODEL, OTHER),
    ) -> bytes:  # fmt: skip
        digest = key((secret or self.secret).encode(), caller.id, kind.encode(), value.encode())
        stored = Stored(dict(zip(models, records, strict=False)), NOW + 5000, NOW)
        self.bindings.kept[record_key(caller.tenant, digest)] = stored
        return digest

    async def show(self, kind: str = "", caller: str = "alice", value: str = ID, agent: str = "") -> dict[str, Any]:
        return await self.conversations.show(Wanted(caller, value.encode(), kind, agent.encode()))

    async def flush(self, kind: str = "", caller: str = "alice") -> dict[str, Any]:
        return await self.conversations.flush(Wanted(caller, ID.encode(), kind))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def moved(reason: str, at: int = NOW - 40_000) -> Record:
    return Record("w2", 2, moves=[Move(at - 9, "w3", "w1", "out"), Move(at, "w1", "w2", reason)], previous="w1")


# -- In words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "home", "sentence"),
    [
        (Record("w2"), "w2", "at its home, the first workspace of its ranking"),
        (
            Record("w2"),
            "w1",
            "not at its home w1, which had no room for it or was failing when it was placed or has come first only "
            "since",
        ),
        (
            Record("w2", group="g"),
            "w1",
            "not at its home w1, which had no room for it or was failing when it was placed, did not hold its tools "
            "and system prompt, or has come first only since",
        ),
        (Record("w2"), None, "at w2, because it was placed there; no active account serves this model now"),
        (moved("limited"), "w1", "moved from w1 40 s ago because w1 was at its rate limit"),
        (moved("limited"), "w2", "moved from w1 40 s ago because w1 was at its rate limit; this is its home"),
        (moved("errors"), "w1", "moved from w1 40 s ago because w1 failed in it, as it did in others"),
        (moved("failing"), "w1", "moved from w1 40 s ago because w1 failed where others did not"),
        (moved("refused"), "w1", "moved from w1 40 s ago because w1 refused what another account served"),
        (
            moved("cold"),
            "w1",
            "placed anew, away from w1 40 s ago because it was cold and w1 had no room for it",
        ),
        (
            moved("home"),
            "w2",
            "went back from w1 40 s ago because w1 had more than its share and the cache here was still warm",
        ),
        (moved("a new one {0}", NOW - 7_300_000), "w1", "moved from w1 2 h ago because of: a new one w1"),
        (
            Record("w2", 3, previous="w1", moves=[Move(1, "w3", "w1", "out")]),
            "w1",
            "at w2; it came from w1 while the store was away, so nobody wrote down why",
        ),
    ],
)
def test_the_reason_is_one_sentence(record, home, sentence):
    assert why(record, home, NOW) == sentence


@pytest.mark.parametrize(
    ("seconds", "words"), [(-3, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_durations_are_round(seconds, words):
    assert duration(seconds) == words


def test_what_lasts_for_ever_has_no_end():
    assert closed_words("disabled", float("inf")) == "disabled"
    assert closed_words("limited", 12.3) == "at its rate limit for another 12 s"
    assert closed_words("of the future", 0.0) == "of the future"


# -- Which one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "a/b", "/", "//a//", "ä ö", "..", "a?b#c%d", "日本", "x" * 256])
def test_any_id_can_be_named(name):
    for path in (quote(name, safe=""), quote(name)):
        assert wanted(f"{PATH}alice/{path}".encode(), {}) == Wanted("alice", name.encode())


def test_spaces_before_an_id_do_not_count_as_in_a_header():
    assert wanted(f"{PATH}alice/%20a%20b%20".encode(), {}).id == b"a b "


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("", {}, 404), ("alice", {}, 404), ("alice/", {}, 404), ("alice/%20", {}, 404),
        ("alice/" + "x" * (MAX_ID + 1), {}, 400), ("alice/a%0Ab", {}, 400),
        ("alice/x", {"kind": "prefix"}, 400), ("alice/x", {"agent": "x"}, 400),
        ("alice/x", {"kind": "session", "agent": "\n"}, 400),
    ],
)  # fmt: skip
def test_what_cannot_be_an_id_is_refused(path, query, status):
    with pytest.raises(ApiError) as caught:
        wanted((PATH + path).encode(), query)
    assert caught.value.status == status


async def test_a_header_counts_before_a_session_and_each_can_be_asked_for(desk: Desk):
    session = desk.keep(Record("w1"), kind="session")
    assert (await desk.show())["conversation"] == session.hex()[:12]
    header = desk.keep(Record("w1"))
    assert (await desk.show())["conversation"] == (await desk.show("header"))["conversation"] == header.hex()[:12]
    shown = await desk.show("session")
    assert (shown["conversation"], shown["kind"]) == (session.hex()[:12], "session")


async def test_an_agent_of_a_session_has_a_conversation_of_its_own(desk: Desk):
    desk.keep(Record("w1"), kind="session", value="s\0agent")
    assert (await desk.show("session", value="s", agent="agent"))["kind"] == "session"
    with pytest.raises(ApiError):
        await desk.show("session", value="s")


async def test_after_a_new_secret_it_is_found_under_the_former_one_and_ranked_by_the_new():
    desk = Desk(SECRET, FORMER)
    former = desk.keep(Record("w1"), secret=FORMER)
    shown = await desk.show()
    assert shown["conversation"] == former.hex()[:12]
    assert shown["bindings"][0]["home"] == desk.router.ranked(key(SECRET.encode(), "alice", b"header", ID.encode()), "")
    current = desk.keep(Record("w1"))
    assert (await desk.show())["conversation"] == current.hex()[:12]


@pytest.mark.parametrize("caller", ["bob", "nobody"])
async def test_a_conversation_means_nothing_under_another_key(caller: str, desk: Desk):
    desk.keep(Record("w1"))
    for asked in (desk.show(caller=caller), desk.flush(caller=caller)):
        with pytest.raises(ApiError) as caught:
            await asked
        assert caught.value.status == 404
        assert ID not in caught.value.message and caller not in caught.value.message


# -- What is shown ----------------------------------------------------------------------------------------------------


def test_every_reason_to_move_has_words():
    reasons = {reason for (reason,) in MOVES.known} - {"account_bound"}  # a label of the metric alone
    for reason in reasons:
        assert "because of: " not in why(moved(reason), "w1", NOW), reason


async def test_accounts_that_are_avoided_where_it_lives_or_at_its_home_say_why(desk: Desk):
    home = desk.router.ranked(key(SECRET.encode(), "alice", b"header", ID.encode()), MODEL)
    at_home, elsewhere = (
        next(each for each in desk.accounts.values() if (each.workspace == home) is at) for at in (True, False)
    )
    told = {"why": "It fails.", "judged_by": "here-1.1", "until": "2026-11-22T07:00:10Z"}
    desk.health[at_home.id] = {"state": "failing", **told, "faults": {"errors": 3}}
    for workspace in (at_home.workspace, elsewhere.workspace):
        desk.keep(Record(workspace), models=(MODEL,))
        [binding] = (await desk.show())["bindings"]
        assert binding["avoided"] == [{"account": at_home.id, "workspace": home, "state": "failing", **told}]
    desk.health[elsewhere.id] = desk.health.pop(at_home.id)
    desk.keep(Record(at_home.workspace), models=(MODEL,))
    [binding] = (await desk.show())["bindings"]
    assert binding["avoided"] == []


async def test_all_that_is_known_of_two_models(desk: Desk):
    warm = Record(
        "w1", 3, NOW + 60_000, 1234, 5000, 1, "w2", NOW - 1000, 1200, "w3", NOW + 1000, 0,
        [Move(NOW - 5000, "w2", "w1", "limited")], "g",
    )  # fmt: skip
    desk.keep(warm, Record("w9"))
    shown = await desk.show()
    bindings = shown.pop("bindings")
    home = desk.router.ranked(key(SECRET.encode(), "alice", b"header", ID.encode()), MODEL)
    assert shown.pop("home") == {"workspace": home}
    assert len(shown.pop("conversation")) == 12
    assert shown == {"caller": "alice", "team": "research", "kind": "header"}
    assert bindings[0].pop("why").startswith("moved from w2 5 s ago because w2 was at its rate limit")
    assert bindings[0] == {
        "model": MODEL, "workspace": "w1", "account": "a", "closed": None, "home": home, "avoided": [], "generation": 3,
        "tokens": 1234, "warm": True, "warm_until": "2027-01-15T08:01:00.000Z",
        "record_expires": "2027-01-15T08:00:05.000Z",
        "account_bound": True, "previous": {"workspace": "w2", "warm_until": "2027-01-15T07:59:59.000Z"},
        "last_detour": {"workspace": "w3", "warm_until": "2027-01-15T08:00:01.000Z"},
        "moves": [{"at": "2027-01-15T07:59:55.000Z", "from": "w2", "to": "w1", "reason": "limited"}],
    }  # fmt: skip
    fresh = bindings[1]
    assert (fresh["model"], fresh["account"], fresh["closed"]) == (OTHER, None, "no longer in the pool")
    assert (fresh["warm"], fresh["warm_until"], fresh["moves"]) == (False, None, [])
    assert fresh["previous"] is fresh["last_detour"] is None


async def test_the_account_is_the_one_that_would_serve_now(desk: Desk):
    digest = desk.keep(Record("w2", 1, NOW + 1, 10))
    first, second = (entry.id for entry in desk.router.ring.members("w2", digest))

    async def now() -> tuple[Any, Any]:
        binding = (await desk.show())["bindings"][0]
        return binding["account"], binding["closed"]

    assert await now() == (first, None)
    desk.apply(**{first: "disabled"})
    assert await now() == (second, None)
    desk.apply(**{first: "disabled", second: "disabled"})
    assert await now() == (None, "disabled")
    desk.apply(**{first: "draining", second: "disabled"})
    assert await now() == (first, None)
    desk.keep(Record("w2", 1, NOW - 1, 10))
    assert await now() == (None, "draining, and the conversation is cold")
    desk.apply()
    desk.router.heard(Closed("org-w2", MODEL, 30.0), 100.0)
    assert await now() == (None, "at its rate limit for another 30 s")


async def test_no_home_where_nobody_serves(desk: Desk):
    desk.keep(Record("w1"))
    desk.apply(**dict.fromkeys("abcd", "disabled"))
    shown = await desk.show()
    assert shown["home"] == {"workspace": None} and shown["bindings"][0]["home"] is None


# -- What is forgotten ------------------------------------------------------------------------------------------------


async def test_a_flush_takes_the_record_first_and_then_tells_everybody(desk: Desk):
    digest = desk.keep(Record("w1"), Record("w2"))
    place = record_key(ALICE.tenant, digest)
    assert await desk.flush() == {
        "conversation": digest.hex()[:12], "caller": "alice", "team": "research", "kind": "header", "flushed": 2,
    }  # fmt: skip
    assert desk.bindings.log == [("flush", place), Forget(key=place)]
    with pytest.raises(ApiError) as caught:
        await desk.flush()
    assert caught.value.status == 404


async def test_a_flush_reaches_what_was_kept_under_the_former_secret():
    desk = Desk(SECRET, FORMER)
    desk.keep(Record("w1"))
    desk.keep(Record("w1"), secret=FORMER)
    session = desk.keep(Record("w1"), kind="session")
    assert (await desk.flush())["flushed"] == 2
    assert list(desk.bindings.kept) == [record_key(ALICE.tenant, session)]
    assert (await desk.flush())["kind"] == "session"


async def test_what_only_some_process_remembers_is_forgotten_too(desk: Desk):
    with pytest.raises(ApiError):
        await desk.flush("header")
    assert [each for each in desk.bindings.log if isinstance(each, Forget)]


async def test_an_account_is_flushed_with_all_who_share_its_workspace(desk: Desk):
    flushed = await desk.conversations.flush_account("c")
    assert flushed == {"account": "c", "workspace": "w2", "accounts": ["b", "c"], "flushed": 7}
    assert desk.bindings.log == [("flush workspace", "w2"), Forget(workspace="w2")]


async def test_nobody_forgets_anything_while_the_store_is_away(desk: Desk):
    desk.keep(Record("w1"))
    desk.bindings.away = True
    for asked in (desk.show(), desk.flush(), desk.conversations.flush_account("a")):
        with pytest.raises(ApiError) as caught:
            await asked
        assert caught.value.status == 503
    assert desk.bindings.log == []


async def test_a_record_that_cannot_be_read_is_said_to_be_so(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    async def garbage(key: str) -> Stored | None:
        raise msgspec.ValidationError("something")

    monkeypatch.setattr(desk.bindings, "read", garbage)
    with pytest.raises(ApiError) as caught:
        await desk.show()
    assert caught.value.status == 500


# -- Over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def console(desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    app = admin_app(conversations=desk.conversations)
    headers = {"authorization": f"Bearer {TOKEN}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin/admin/v1", headers=headers) as client:
        yield client


async def test_show_and_flush_by_url(desk: Desk, console: httpx.AsyncClient):
    desk.keep(Record("w1"))
    path = f"conversations/alice/{quote(ID, safe='')}"
    shown = await console.get(path)
    assert (shown.status_code, shown.json()["bindings"][0]["workspace"]) == (200, "w1")
    assert (await console.get(f"{path}?kind=session")).status_code == 404
    assert (await console.delete(path)).json()["flushed"] == 1
    assert (await console.delete("accounts/a/bindings")).json()["flushed"] == 7


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "conversations/alice/x%0Ay", 400, "invalid_request_error"),
        ("DELETE", "conversations/alice/x%0Ay", 400, "invalid_request_error"),
        ("GET", "conversations/alice/x?kind=y", 400, "invalid_request_error"),
        ("GET", "conversations/nobody/x", 404, "not_found_error"),
        ("GET", "conversations/alice", 404, "not_found_error"),
        ("GET", "conversations", 404, "not_found_error"),
        ("GET", "conversations/alice/x?kinds=session", 400, "invalid_request_error"),
        ("POST", "conversations/alice/x", 405, "invalid_request_error"),
        ("DELETE", "accounts/zz/bindings", 404, "not_found_error"),
        ("GET", "any%0Athing", 404, "not_found_error"),
    ],
)
async def test_errors_are_shaped_as_all_others(method, path, status, kind, console: httpx.AsyncClient):
    answer = await console.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == kind
    assert answer.headers["request-id"] == answer.headers["x-gateway-request-id"] == "req_1"


async def test_a_store_that_is_away_is_said_to_be_so(desk: Desk, console: httpx.AsyncClient):
    desk.bindings.away = True
    for method, path in (("GET", "conversations/alice/x"), ("DELETE", "conversations/alice/x"),
                         ("DELETE", "accounts/a/bindings")):  # fmt: skip
        answer = await console.request(method, path)
        assert answer.status_code == 503 and "store is away" in answer.json()["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_nothing_is_told_without_the_token(method: str, console: httpx.AsyncClient):
    for path in ("conversations/alice/x", "accounts/a/bindings"):
        answer = await console.request(method, path, headers={"authorization": "Bearer wrong"})
        assert answer.status_code == 401
