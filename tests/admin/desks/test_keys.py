"""What operators see of keys, what their requests mean, and `gateway keys`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
import uvicorn
import yaml
from typer.testing import CliRunner

from gateway.admin.desks.callers import Callers
from gateway.admin.desks.keys import Keys
from gateway.admin.desks.records import Match, etag
from gateway.admin.routes import MAX_BODY
from gateway.cli import app as command_line
from gateway.config.schema import Account, Admin, Caller, CallerLimits, Config, Team
from gateway.core.spending.keyring import CALLERS, CallerRecord, KeyRecord, Record, Stored
from gateway.errors import ApiError
from gateway.log import captured
from gateway.store.client.client import StoreDown
from gateway.store.pool.keyring import caller_of
from gateway.store.pool.keys import (
    KeyEnded,
    NewKey,
    OtherKey,
    RecordExists,
    TooManyKeys,
    UnknownKey,
    UnknownRecord,
    new_key,
)
from tests.admin.admin_kit import admin_app

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
TOKEN = "token-of-the-operator"
ALICE = Caller(
    id="alice", digests=("ab" * 32,), team="research", models=("claude-*",), metadata={"floor": "3"},
    limits=CallerLimits(concurrency=20),
)  # fmt: skip


class Table:
    """What a store would keep, in memory. `rival` makes somebody quicker: it is called before the next key is made."""

    def __init__(self) -> None:
        self.stored = Stored()
        self.now = int(NOW * 1000)
        self.away = False
        self.secrets: list[str] = []
        self.rival: Callable[[], None] = lambda: None

    def keep(self, id_: str, key: KeyRecord, **callers: CallerRecord) -> None:
        self._replace(callers={**self.stored.callers, **callers}, keys={**self.stored.keys, id_: key})

    def _replace(self, **changes: Any) -> None:
        self.stored = msgspec.structs.replace(self.stored, **changes)

    def _new(self, caller: str, lifetime: int, of_file: bool, label: str = "") -> NewKey:
        new = new_key()
        self.secrets.append(new.secret)
        ends = lifetime and self.now + lifetime
        created = self.now + len(self.secrets) - 1  # each later than the one before
        self.keep(new.id, KeyRecord(caller, new.digest, new.hint, created, ends, 0, lifetime, of_file, label=label))
        return new

    def _key(self, key: str) -> KeyRecord:
        if self.away:
            raise StoreDown("connection refused")
        if key not in self.stored.keys:
            raise UnknownKey
        return self.stored.keys[key]

    async def create(
        self,
        caller: str,
        record: CallerRecord | None,
        lifetime: int = 0,
        known: bool = False,
        label: str = "",
        most: int = 0,
    ) -> NewKey:
        if self.away:
            raise StoreDown("connection refused")
        self.rival()
        open_ = {id_: key for id_, key in self.stored.keys.items() if key.caller == caller and self.now < key.end}
        for id_, key in open_.items():
            if label and key.label == label:
                raise TooManyKeys(id_)
        if most and len(open_) >= most:
            raise TooManyKeys
        if record is not None:
            there = self.stored.callers.get(caller)
            anew = there is None or (there.deleted_at and record.revision == there.revision + 1)
            if there is not None and not anew and (there.deleted_at or not known):
                raise RecordExists(there)
            if anew:
                self._replace(callers={**self.stored.callers, caller: record})
        return self._new(caller, lifetime, record is None, label)

    async def put(self, kind: str, name: str, record: Record) -> None:
        if self.away:
            raise StoreDown("connection refused")
        self.rival()
        records = self.stored.records(kind)
        present = records.get(name)
        if present is None and record.revision != 1:
            raise UnknownRecord
        if present is not None and present.revision != record.revision - 1:
            raise RecordExists(present)
        self._replace(**{kind: {**records, name: record}})

    async def rotate(
        self, key: str, overlap: int, lifetime: int | None = None, was: KeyRecord | None = None, most: int = 0
    ) -> NewKey:
        old = self._key(key)
        if was not in (None, old):
            raise OtherKey
        if self.now >= old.end:
            raise KeyEnded
        if old.replaced_by and self.now < self.stored.keys[old.replaced_by].end:
            raise TooManyKeys(old.replaced_by)
        if most and sum(key.caller == old.caller and self.now < key.end for key in self.stored.keys.values()) > most:
            raise TooManyKeys
        new = self._new(old.caller, old.lifetime if lifetime is None else lifetime, old.of_file)
        self.keep(key, msgspec.structs.replace(old, expires_at=self.now + overlap, replaced_by=new.id))
        return new

    async def revoke(self, key: str, was: KeyRecord | None = None) -> None:
        if was not in (None, self._key(key)):
            raise OtherKey
        self.keep(key, msgspec.structs.replace(self._key(key), revoked_at=self.now))

    async def finish(self, caller: str, record: CallerRecord | None = None, was: int = 0) -> int:
        self.rival()
        present = self.stored.callers.get(caller)
        if record is None and was and present is not None and present.revision != was:
            raise RecordExists(present)
        if record is not None:
            await self.put(CALLERS, caller, record)
        elif self.away:
            raise StoreDown("connection refused")
        open_ = [id_ for id_, key in self.stored.keys.items() if key.caller == caller and self.now < key.end]
        for each in open_:
            await self.revoke(each)
        return len(open_)


class Desk:
    """An operator's place, with callers of the file and a table."""

    def __init__(self, *callers: Caller) -> None:
        self.table = Table()
        self.config = Config(
            admin=Admin(token=TOKEN), secret=("s" * 32,), keys=callers or (ALICE,),
            accounts=(Account(id="a", api_key="sk-x"),),
        )  # fmt: skip
        self.applied = 0
        clock = lambda: self.table.now / 1000  # noqa: E731
        self.callers = Callers(self.table, lambda: self.config, self._settle, clock)
        self.keys = Keys(self.table, self.callers, self._settle, clock)

    async def _settle(self) -> None:
        self.applied += 1

    async def create(self, **body: Any) -> dict[str, Any]:
        return await self.keys.create(json.dumps(body).encode())

    def one(self, caller: str) -> dict[str, Any]:
        return next(each for each in self.keys.all() if each["caller"] == caller)


@pytest.fixture
def desk() -> Desk:
    return Desk()


# -- What is made -----------------------------------------------------------------------------------------------------


async def test_a_new_caller_gets_a_key_that_is_shown_once(desk):
    made = await desk.create(
        caller="bob", team="blue", models=["claude-haiku-*"], expires_in=60,
        limits={"requests_per_minute": 5, "budget_usd": {"day": 2.5}}, metadata={"cost_center": "7"},
    )  # fmt: skip
    secret = made.pop("key")
    assert re.fullmatch("sk-[A-Za-z0-9]{48}", secret)
    assert made == {
        "caller": "bob", "source": "store", "team": "blue", "models": ["claude-haiku-*"],
        "limits": {"requests_per_minute": 5, "budget_usd": {"day": 2.5}}, "metadata": {"cost_center": "7"},
        "id": made["id"], "hint": secret[-4:], "digest": hashlib.sha256(secret.encode()).hexdigest()[:8] + "…",
        "state": "active", "created_at": "2027-01-15T08:00:00Z", "expires_at": "2027-01-15T08:01:00Z",
        "revoked_at": None, "replaced_by": None, "label": "", "kind": "service", "email": "", "status": "active",
        "shadows_stored": False,
        "warnings": ['team "blue" is not defined under teams, so that it has no limits'],
    }  # fmt: skip
    assert desk.applied == 1
    assert secret not in json.dumps(desk.keys.all())
    shown = desk.one("bob")
    assert [key["id"] for key in shown.pop("keys")] == [made["id"]]
    assert shown.items() <= {**made, "id": "bob", "source": "store"}.items()


async def test_models_that_are_none_are_warned_about_when_they_are_given(desk):
    made = await desk.create(caller="bob", models=["claude-opsu-*", "claude-haiku-4-5-20251001"])
    words = 'key bob: models: claude-opsu-* fits no model of the catalogue; did you mean "claude-opus-5"?'
    assert made["warnings"] == [words]
    changed = await desk.callers.change("bob", b'{"models": ["claude-opsu-*"]}')
    assert changed["warnings"] == [words]
    assert (await desk.callers.change("bob", b'{"models": ["claude-opus-*"]}'))["warnings"] == []


async def test_a_caller_without_more_may_use_all_models_without_limits_for_ever(desk):
    made = await desk.create(caller="bob", team=None, expires_in=None)
    assert (made["team"], made["models"], made["limits"], made["expires_at"]) == (None, ["*"], {}, None)


async def test_another_key_of_a_caller_agrees_with_the_first(desk):
    await desk.create(caller="bob", team="blue", limits={"concurrency": 3})
    more = await desk.create(caller="bob")
    same = await desk.create(caller="bob", team="blue", limits={"concurrency": 3}, models=["*"])
    assert (more["team"], same["limits"]) == ("blue", {"concurrency": 3})
    assert len(desk.one("bob")["keys"]) == 3
    for other in ({"team": "red"}, {"limits": {"concurrency": 4}}, {"models": ["x"]}, {"metadata": {"a": "b"}}):
        with pytest.raises(ApiError, match=f"another value of {next(iter(other))}") as caught:
            await desk.create(caller="bob", **other)
        assert caught.value.status == 409
    assert len(desk.one("bob")["keys"]) == 3


@pytest.mark.parametrize(("theirs", "made"), [("blue", True), ("red", False)])
async def test_a_caller_whom_somebody_else_makes_meanwhile_is_theirs(desk, theirs, made):
    def rival() -> None:
        desk.table.stored = Stored("", {"bob": CallerRecord(team=theirs, created_at=1)}, {})
        desk.table.rival = lambda: None

    desk.table.rival = rival
    if made:
        assert (await desk.create(caller="bob", team="blue"))["team"] == "blue"
    else:
        with pytest.raises(ApiError, match="another value of team"):
            await desk.create(caller="bob", team="blue")
    assert desk.table.stored.callers["bob"] == CallerRecord(team=theirs, created_at=1)
    assert len(desk.table.stored.keys) == made


async def test_a_caller_of_the_file_gets_keys_and_stays_as_the_file_has_it(desk):
    made = await desk.create(caller="alice")
    assert (made["source"], made["team"], made["limits"]) == ("store", "research", {"concurrency": 20})
    assert desk.table.stored.callers == {}
    shown = desk.one("alice")
    assert (shown["source"], shown["metadata"]) == ("file", {"floor": "3"})
    assert [(key["source"], key["state"], key["id"]) for key in shown["keys"]] == [
        ("file", "active", None), ("store", "active", made["id"]),
    ]  # fmt: skip
    assert shown["keys"][0]["digest"] == "abababab…"
    with pytest.raises(ApiError, match="alice is defined in the configuration file; change its team there") as caught:
        await desk.create(caller="alice", team="research")
    assert caught.value.status == 409


async def test_a_key_of_a_caller_whom_the_file_no_longer_has_is_unowned(desk):
    made = await desk.create(caller="alice")
    desk.config = msgspec.structs.replace(desk.config, keys=())
    shown = desk.one("alice")
    assert (shown["source"], shown["models"]) == (None, [])
    assert [(key["id"], key["state"]) for key in shown["keys"]] == [(made["id"], "unowned")]
    await desk.create(caller="alice")
    assert [key["state"] for key in desk.one("alice")["keys"]] == ["unowned", "active"]


async def test_keys_of_the_file_expire_too():
    desk = Desk(Caller(id="bob", digests=("cd" * 32,), expires=NOW + 5))
    assert desk.one("bob")["keys"][0]["expires_at"] == "2027-01-15T08:00:05Z"
    assert desk.one("bob")["keys"][0]["state"] == "active"
    desk.table.now += 5000
    assert desk.one("bob")["keys"][0]["state"] == "expired"


class Looked(dict[str, KeyRecord]):
    """A table of keys that counts how many of them those who go through it have looked at."""

    looked = 0

    def items(self) -> Any:
        self.looked += len(self)
        return super().items()

    def values(self) -> Any:
        self.looked += len(self)
        return super().values()

    def __iter__(self) -> Iterator[str]:
        self.looked += len(self)
        return super().__iter__()


class Listed(tuple[Caller, ...]):
    """The callers of a file, which count how often they are gone through."""

    looked = 0

    def __iter__(self) -> Iterator[Caller]:
        type(self).looked += 1
        return super().__iter__()


def test_a_list_of_many_callers_looks_at_each_key_once(desk):
    names = [f"caller-{number:03}" for number in range(200)]
    kept = Looked({f"key_{name}_{turn}": KeyRecord(name, "c" * 64, "c" * 4, turn) for turn in (2, 1) for name in names})
    desk.table.stored = Stored("", {name: CallerRecord() for name in names}, kept)
    Listed.looked = 0
    desk.config = msgspec.structs.replace(desk.config, keys=Listed(Caller(id=name) for name in names[:100]))
    shown = desk.keys.all()
    assert [(each["caller"], each["source"]) for each in shown] == [
        (name, "file" if name in names[:100] else "store") for name in names
    ]
    assert [[key["id"] for key in each["keys"]] for each in shown] == [
        [f"key_{name}_1", f"key_{name}_2"] for name in names
    ]
    assert kept.looked <= 2 * len(kept) and Listed.looked <= 2


def test_a_list_follows_the_file(desk):
    desk.config = msgspec.structs.replace(desk.config, keys=(ALICE, Caller(id="bob", team="blue")))
    assert [(each["caller"], each["team"]) for each in desk.keys.all()] == [("alice", "research"), ("bob", "blue")]
    desk.config = msgspec.structs.replace(desk.config, keys=(Caller(id="bob", team="green"),))
    assert [(each["caller"], each["team"]) for each in desk.keys.all()] == [("bob", "green")]


# -- What is changed --------------------------------------------------------------------------------------------------


async def test_a_rotated_key_counts_for_the_overlap(desk):
    old = await desk.create(caller="bob", expires_in=864_000)
    new = await desk.keys.rotate(old["id"], b"")
    assert new["key"] != old["key"] and new["caller"] == "bob"
    assert new["replaces"]["id"] == old["id"]
    assert new["replaces"]["expires_at"] == "2027-01-16T08:00:00Z"  # a day, if nobody says otherwise
    assert new["replaces"]["replaced_by"] == new["id"]
    assert new["expires_at"] == "2027-01-25T08:00:00Z"
    newer = await desk.keys.rotate(new["id"], b'{"overlap": 0, "expires_in": 60}')
    assert (newer["expires_at"], newer["replaces"]["state"]) == ("2027-01-15T08:01:00Z", "expired")
    with pytest.raises(ApiError, match="has ended") as caught:
        await desk.keys.rotate(new["id"], b"{}")
    assert caught.value.status == 409


async def test_a_revoked_key_is_shown_as_such(desk):
    made = await desk.create(caller="bob")
    revoked = await desk.keys.revoke(made["id"])
    assert (revoked["id"], revoked["state"], revoked["revoked_at"]) == (made["id"], "revoked", "2027-01-15T08:00:00Z")
    assert "key" not in revoked and desk.applied == 2


async def test_a_key_that_the_file_names_too_is_revoked_there(desk):
    desk.table.keep("key_a", KeyRecord("bob", "ab" * 32), bob=CallerRecord())
    for refused in (desk.keys.revoke("key_a"), desk.keys.rotate("key_a", b"{}")):
        with pytest.raises(ApiError, match="among the keys of alice in the configuration file") as caught:
            await refused
        assert caught.value.status == 409


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "Give the caller"),
        ({"caller": None}, "Give the caller"),
        ({"caller": ""}, "caller must not be empty"),
        ({"caller": "a b"}, "caller must be 1 to 128 of the characters"),
        ({"caller": 7}, "caller expected a string"),
        ({"caller": "bob", "mood": 1, "colour": 2}, "Unknown fields: colour, mood; known are caller, team"),
        ({"caller": "bob", "team": "a/b"}, "team must be"),
        ({"caller": "bob", "team": ["a"]}, "team expected a string"),
        ({"caller": "bob", "models": []}, "models needs at least 1 item"),
        ({"caller": "bob", "models": ["a", 7]}, r"models\[1\] expected a string"),
        ({"caller": "bob", "limits": 7}, "limits expected a mapping"),
        ({"caller": "bob", "limits": {"watts": 7}}, "limits.watts unknown key"),
        ({"caller": "bob", "limits": {"concurrency": 0}}, "limits.concurrency must be at least 1"),
        ({"caller": "bob", "limits": {"concurrency": 1.5}}, "limits.concurrency must be a whole number"),
        ({"caller": "bob", "limits": {"concurrency": True}}, "limits.concurrency expected a number"),
        ({"caller": "bob", "limits": {"budget_usd": {"day": -1}}}, "limits.budget_usd.day must be at least 0"),
        ({"caller": "bob", "metadata": {"a": 1}}, "metadata.a expected a string"),
        ({"caller": "bob", "metadata": {"a b": "c"}}, "must be 1 to 64"),
        ({"caller": "bob", "metadata": {"a": "x" * 257}}, "metadata.a must have at most 256"),
        ({"caller": "bob", "expires_in": 0}, "expires_in must be greater than 0"),
        ({"caller": "bob", "expires_in": "60"}, "expires_in expected a number"),
        ({"caller": "bob", "expires_in": 1e12}, "expires_in must be at most"),
        ([], "must be a JSON object"),
        (None, "must be a JSON object"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_the_reason(desk, body, words):
    with pytest.raises(ApiError, match=words) as caught:
        await desk.keys.create(json.dumps(body).encode())
    assert caught.value.status == 400
    assert desk.table.stored == Stored()


DEEP = b'{"caller":"a","limits":' + b"[" * 900 + b"]" * 900 + b"}"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"limits":' * 5000, DEEP])
async def test_what_is_no_json_or_too_deep_is_refused(desk, body):
    with pytest.raises(ApiError) as caught:
        await desk.keys.create(body)
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [b'{"overlap":-1}', b'{"overlap":"1d"}', b'{"mood":1}', b"7"])
async def test_a_rotation_that_makes_no_sense_is_refused(desk, body):
    made = await desk.create(caller="bob")
    with pytest.raises(ApiError) as caught:
        await desk.keys.rotate(made["id"], body)
    assert caught.value.status == 400 and len(desk.table.stored.keys) == 1


async def test_nothing_in_a_request_is_an_expression(desk, monkeypatch):
    monkeypatch.setenv("GATEWAY_SECRET", "not-to-be-seen")
    text = "${GATEWAY_SECRET} ${file:/etc/hostname}"
    made = await desk.create(caller="bob", metadata={"note": text})
    assert made["metadata"] == {"note": text}


async def test_no_key_is_logged(desk):
    with captured() as logs:
        made = await desk.create(caller="bob")
        await desk.keys.rotate(made["id"], b"{}")
        await desk.keys.revoke(made["id"])
    assert [line["event"] for line in logs] == ["key created", "key rotated", "key revoked"]
    assert all(secret[3:20] not in repr(logs) for secret in desk.table.secrets)


# -- Over HTTP --------------------------------------------------------------------------------------------------------


def application(desk: Desk) -> Any:
    return admin_app(lambda: desk.config, keys=desk.keys, callers=desk.callers)


class Console:
    def __init__(self, desk: Desk) -> None:
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(application(desk)), base_url="http://admin")

    async def ask(self, method: str, path: str, content: bytes = b"", token: str = TOKEN) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"}
        return await self.client.request(method, f"/admin/v1/{path}", content=content, headers=headers)


@pytest.fixture
async def console(desk):
    console = Console(desk)
    async with console.client:
        yield console


async def test_a_key_is_made_listed_rotated_and_revoked(console, desk):
    made = await console.ask("POST", "keys", b'{"caller":"bob"}')
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    first = made.json()["id"]
    rotated = await console.ask("POST", f"keys/{first}/rotate", b'{"overlap":60}')
    assert (rotated.status_code, rotated.headers["cache-control"]) == (201, "no-store")
    revoked = await console.ask("DELETE", f"keys/{first}")
    assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
    listed = await console.ask("GET", "keys")
    assert (listed.status_code, listed.json()["data"]) == (200, desk.keys.all())
    assert [each["caller"] for each in listed.json()["data"]] == ["alice", "bob"]
    assert all(secret not in listed.text for secret in desk.table.secrets)


@pytest.mark.parametrize(
    ("method", "path", "content", "token", "status", "kind"),
    [
        ("GET", "keys", b"", "wrong", 401, "authentication_error"),
        ("POST", "keys", b'{"caller":"bob"}', "", 401, "authentication_error"),
        ("POST", "keys", b'{"mood":1}', TOKEN, 400, "invalid_request_error"),
        ("POST", "keys", b'{"caller":"alice","team":"x"}', TOKEN, 409, "conflict_error"),
        ("POST", "keys", b" " * (MAX_BODY + 1), TOKEN, 413, "request_too_large"),
        ("DELETE", "keys/key_none", b"", TOKEN, 404, "not_found_error"),
        ("DELETE", "keys", b"", TOKEN, 405, "invalid_request_error"),
        ("POST", "keys/key_none/rotate", b"", TOKEN, 404, "not_found_error"),
        ("PUT", "keys/key_none", b"{}", TOKEN, 405, "invalid_request_error"),
    ],
)
async def test_a_refusal_is_anthropics_json_and_changes_nothing(
    console, desk, method, path, content, token, status, kind
):
    answer = await console.ask(method, path, content, token)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert answer.json()["request_id"] == answer.headers["request-id"] != ""
    assert desk.table.stored == Stored()


async def test_while_the_store_is_away_nothing_can_be_changed_and_all_be_seen(console, desk):
    made = (await console.ask("POST", "keys", b'{"caller":"bob"}')).json()
    desk.table.away = True
    for method, path in (("POST", "keys"), ("POST", f"keys/{made['id']}/rotate"), ("DELETE", f"keys/{made['id']}")):
        answer = await console.ask(method, path, b'{"caller":"bob"}' if path == "keys" else b"")
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "api_error")
    assert len((await console.ask("GET", "keys")).json()["data"]) == 2


# -- From the command line --------------------------------------------------------------------------------------------


class Office:
    """A desk behind a real listener, and the file that says where it is."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.file = folder / "gateway.yaml"
        port = self.socket.getsockname()[1]
        said = {
            "admin": {"listen": f"127.0.0.1:{port}", "token": TOKEN}, "secret": "s" * 32,
            "accounts": [{"id": "a", "api_key": "sk-x"}],
        }  # fmt: skip
        self.file.write_text(yaml.safe_dump(said))
        config = uvicorn.Config(application(self.desk), lifespan="off", log_config=None, access_log=False, ws="none")
        self.server = uvicorn.Server(config)
        cast(Any, self.server).capture_signals = contextlib.nullcontext
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()

    def run(self, *words: str, group: str = "keys") -> tuple[int, str, str]:
        runner = CliRunner(env={"HTTP_PROXY": "http://127.0.0.1:9"})
        done = runner.invoke(command_line, [group, *words, "--config", str(self.file)])
        return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with captured():  # it runs in this process, and would write between the lines of the command
        office = Office(tmp_path)
        yield office
        office.close()


def test_a_new_key_is_alone_on_stdout(office):
    code, out, err = office.run("create", "bob", "--expires", "30d")
    (secret,) = office.desk.table.secrets
    assert (code, out) == (0, secret + "\n")
    assert secret not in err and "key_" in err and "until 2027-02-14T08:00:00Z" in err
    made = office.desk.one("bob")
    code, out, err = office.run("rotate", "bob", "--overlap", "2h")
    assert (code, out) == (0, office.desk.table.secrets[1] + "\n")
    assert f"{made['keys'][0]['id']} ends at 2027-01-15T10:00:00Z" in err


def test_a_team_without_limits_is_warned_about_or_with_strict_teams_refused(office):
    config = office.desk.config
    office.desk.config = msgspec.structs.replace(config, teams=(Team(id="research"),))
    code, out, err = office.run("create", "bob", "--team", "reserch")
    assert (code, out) == (0, office.desk.table.secrets[0] + "\n")
    assert 'warning: team "reserch" is not defined' in err and 'did you mean "research"?' in err
    assert "warning" not in office.run("create", "carol", "--team", "research")[2]
    office.desk.config = msgspec.structs.replace(office.desk.config, teams_strict=True)
    code, out, err = office.run("create", "dave", "--team", "reserch")
    assert (code, out) == (2, "") and 'did you mean "research"?' in err
    assert len(office.desk.table.secrets) == 2
    assert office.run("create", "dave")[0] == 0


def test_all_that_a_new_caller_may_be_given(office):
    code, out, _ = office.run(
        "create", "bob", "--team", "blue", "--model", "claude-haiku-*", "--model", "claude-opus-4-6", "--rpm", "600",
        "--itpm", "400000", "--otpm", "80000", "--concurrency", "20", "--day", "50", "--month", "1000.5",
        "--meta", "cost_center=7", "--meta", "note=a=b", "--json",
    )  # fmt: skip
    made = json.loads(out)
    assert (code, made["key"]) == (0, office.desk.table.secrets[0])
    assert office.desk.table.stored.callers["bob"] == CallerRecord(
        "blue", ("claude-haiku-*", "claude-opus-4-6"),
        {
            "requests_per_minute": 600, "input_tokens_per_minute": 400_000, "output_tokens_per_minute": 80_000,
            "concurrency": 20, "budget_usd": {"day": 50.0, "month": 1000.5},
        },
        {"cost_center": "7", "note": "a=b"}, created_at=int(NOW * 1000),
    )  # fmt: skip


def test_a_list_for_people_and_one_for_programs(office):
    office.run("create", "bob", "--team", "blue", "--rpm", "600", "--month", "1000")
    bob = office.desk.one("bob")["keys"][0]
    office.run("create", "bob")
    assert office.run("revoke", bob["id"])[0] == 0
    code, out, err = office.run("list")
    rows = [line.split() for line in out.splitlines()]
    assert (code, err, len(rows)) == (0, "", 4)
    assert rows[0][:5] == ["CALLER", "TEAM", "KEY", "HINT", "STATE"]
    assert rows[1][:4] == ["alice", "research", "file:abababab…", "active"]
    assert rows[2][:5] == ["bob", "blue", bob["id"], f"…{bob['hint']}", "revoked"]
    assert rows[3][0] == "bob" and "active" in rows[3]
    assert "600 rpm, $1,000/month" in out
    assert all(secret not in out for secret in office.desk.table.secrets)
    code, out, _ = office.run("list", "--json")
    assert (code, json.loads(out)) == (0, office.desk.keys.all())


def test_a_revoked_key_says_so_on_stderr_or_as_json(office):
    office.run("create", "bob")
    bob = office.desk.one("bob")["keys"][0]["id"]
    assert office.run("revoke", bob) == (0, "", f"{bob} of bob is revoked\n")
    code, out, _ = office.run("revoke", bob, "--json")
    assert (code, json.loads(out)["state"]) == (0, "revoked")


def test_a_caller_with_several_keys_must_name_one(office):
    for _ in range(2):
        office.run("create", "bob")
    one, other = (key["id"] for key in office.desk.one("bob")["keys"])
    code, out, err = office.run("rotate", "bob")
    assert (code, out) == (1, "") and one in err and other in err
    assert office.run("rotate", one)[0] == 0
    office.run("revoke", other)
    assert office.run("rotate", "bob")[0] == 0  # the successor: what is replaced or revoked is not meant
    assert len(office.desk.one("bob")["keys"]) == 4


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["rotate", "alice"], 1, "the keys of alice are in the configuration file"),
        (["rotate", "nobody"], 1, "There is no key of the id nobody"),
        (["revoke", "key_none"], 1, "There is no key of the id key_none"),
        (["create", "alice", "--team", "x"], 1, "alice is defined in the configuration file"),
        (["create", "a b"], 2, "caller must be 1 to 128"),
        (["revoke"], 2, "name a key by its id, or a caller with --caller"),
        (["revoke", "key_1", "--caller", "bob"], 2, "name a key by its id, or a caller with --caller"),
        (["revoke", "--caller", "nobody@acme.com"], 1, "There is no caller of the id nobody@acme.com"),
        (["create", "bob", "--rpm", "0"], 2, "limits.requests_per_minute must be at least 1"),
        (["create", "bob", "--meta", "nothing"], 2, "--meta needs NAME=VALUE"),
        (["create", "bob", "--expires", "soon"], 2, "30d or 2w"),
        (["rotate", "bob", "--overlap", "1y"], 2, "30d or 2w"),
    ],
)
def test_what_cannot_be_done_is_said_and_makes_no_key(office, words, code, said):
    found, out, err = office.run(*words)
    assert (found, out) == (code, "")
    assert said in " ".join(re.sub("[│╭╮╰╯─]", " ", err).split())
    assert office.desk.table.stored == Stored()


def test_a_gateway_that_does_not_run_is_said_to_be_so(office):
    office.close()
    code, out, err = office.run("list")
    assert (code, out) == (1, "") and "is it running" in err


# -- Changing a caller


async def test_a_caller_is_given_other_limits_and_keeps_what_was_not_named():
    desk = Desk()
    await desk.create(
        caller="bob", team="blue", models=["claude-*"], limits={"concurrency": 3, "requests_per_minute": 9}
    )
    changed = await desk.callers.change("bob", b'{"limits": {"concurrency": 5}, "metadata": {"desk": "4"}}')
    assert changed["limits"] == {"concurrency": 5, "requests_per_minute": 9} and changed["metadata"] == {"desk": "4"}
    assert (changed["team"], changed["models"]) == ("blue", ["claude-*"])
    assert desk.applied == 2
    assert desk.table.stored.callers["bob"].revision == 2
    more = await desk.callers.change("bob", b'{"limits": {"concurrency": null, "budget_usd": {"day": 5, "month": 90}}}')
    assert more["limits"] == {"requests_per_minute": 9, "budget_usd": {"day": 5, "month": 90}}
    less = await desk.callers.change("bob", b'{"limits": {"requests_per_minute": null, "budget_usd": {"day": null}}}')
    assert less["limits"] == {"budget_usd": {"month": 90}}
    assert (await desk.callers.change("bob", b'{"limits": {"budget_usd": null}}'))["limits"] == {}


@pytest.mark.parametrize(
    ("caller", "body", "status", "words"),
    [
        ("bob", "{}", 400, "Nothing to change"),
        ("bob", '{"limits": {"budget_usd": {"until": null}}}', 400, "until"),
        ("bob", '{"id": "rob"}', 400, "Unknown fields: id"),
        ("bob", '{"status": "away"}', 400, "status must be one of: active, suspended"),
        ("bob", '{"limits": {"concurrency": 0}}', 400, "concurrency"),
        ("bob", "[]", 400, "JSON object"),
        ("alice", '{"limits": {"concurrency": 1}}', 409, "configuration file"),
        ("carol", '{"limits": {"concurrency": 1}}', 404, "no caller of the id carol"),
    ],
)
async def test_what_cannot_be_changed_is_said_and_nothing_is(caller, body, status, words):
    desk = Desk()
    await desk.create(caller="bob")
    before = desk.table.stored
    with pytest.raises(ApiError) as error:
        await desk.callers.change(caller, body.encode())
    assert error.value.status == status and words in error.value.message
    assert desk.table.stored == before


async def test_a_change_follows_one_that_was_quicker():
    desk = Desk()
    await desk.create(caller="bob")

    def rival() -> None:
        desk.table.rival = lambda: None
        record = msgspec.structs.replace(
            desk.table.stored.callers["bob"], limits={"budget_usd": {"day": 5}}, metadata={"by": "rival"}, revision=2
        )
        desk.table.stored = Stored("", {"bob": record}, desk.table.stored.keys)

    desk.table.rival = rival
    changed = await desk.callers.change("bob", b'{"models": ["claude-haiku-*"], "limits": {"requests_per_minute": 10}}')
    assert (changed["models"], changed["metadata"]) == (["claude-haiku-*"], {"by": "rival"})
    assert changed["limits"] == {"requests_per_minute": 10, "budget_usd": {"day": 5}}
    assert desk.table.stored.callers["bob"].revision == 3


# -- All keys of a caller, and its end --------------------------------------------------------------------------------


ADA = "ada+lab@acme.example"  # as an address of a company may be


async def test_a_deleted_caller_has_no_keys_is_listed_no_more_and_can_be_made_anew(desk):
    made = await desk.create(caller=ADA, team="blue", limits={"concurrency": 3})
    await desk.create(caller=ADA)
    gone = await desk.callers.delete(ADA)
    assert gone == {"caller": ADA, "team": "blue", "deleted_at": "2027-01-15T08:00:00Z", "revoked": 2, "warnings": []}
    assert [each["caller"] for each in desk.keys.all()] == ["alice"] and desk.callers.find(ADA) is None
    assert desk.keys.find(made["id"])["state"] == "revoked"
    for again in (
        desk.callers.delete(ADA),
        desk.keys.revoke_all("nobody"),
        desk.callers.change(ADA, b'{"models": "*"}'),
    ):
        with pytest.raises(ApiError) as unknown:
            await again
        assert unknown.value.status == 404
    anew = await desk.create(caller=ADA, team="red")
    assert (anew["team"], anew["limits"], anew["state"]) == ("red", {}, "active")
    assert f"{ADA} was a caller before: what that made and has used is this one's" in anew["warnings"]
    assert sorted(key["state"] for key in desk.one(ADA)["keys"]) == ["active", "revoked", "revoked"]
    assert desk.table.stored.callers[ADA].revision == 3
    made = caller_of(ADA, desk.table.stored.callers[ADA])
    assert made is not None and made.principal not in (None, ADA)  # its conversations are none of the one before
    await desk.callers.delete(ADA)
    await desk.callers.create(json.dumps({"id": ADA}).encode())
    third = caller_of(ADA, desk.table.stored.callers[ADA])
    assert third is not None and third.principal not in (None, ADA, made.principal)


async def test_all_keys_of_a_caller_can_be_ended_and_the_caller_stays(desk):
    await desk.create(caller=ADA, team="blue")
    await desk.create(caller=ADA)
    after = await desk.keys.revoke_all(ADA)
    assert (after["revoked"], after["warnings"], [key["state"] for key in after["keys"]]) == (2, [], ["revoked"] * 2)
    assert (await desk.keys.revoke_all(ADA))["revoked"] == 0
    assert (await desk.create(caller=ADA))["team"] == "blue"
    await desk.create(caller="alice")
    filed = await desk.keys.revoke_all("alice")
    assert (filed["revoked"], [key["state"] for key in filed["keys"]]) == (1, ["active", "revoked"])
    assert "in the configuration file still count" in filed["warnings"][0]


async def test_all_keys_of_a_caller_end_only_where_it_is_as_it_was_known(desk):
    await desk.create(caller=ADA)
    tag = etag(desk.callers.one(ADA))
    assert (await desk.keys.revoke_all(ADA, Match(tag)))["revoked"] == 1
    await desk.create(caller=ADA)

    def rival() -> None:
        desk.table.rival = lambda: None
        other = msgspec.structs.replace(desk.table.stored.callers[ADA], label="Ada", revision=2)
        desk.table.stored = msgspec.structs.replace(desk.table.stored, callers={ADA: other})

    desk.table.rival = rival
    for _ in range(2):  # quicker than the look, and than the change
        with pytest.raises(ApiError) as late:
            await desk.keys.revoke_all(ADA, Match(tag))
        assert late.value.status == 412
    assert [key["state"] for key in desk.one(ADA)["keys"]] == ["revoked", "active"]
    assert (await desk.keys.revoke_all(ADA))["revoked"] == 1


async def test_whom_the_file_defines_is_not_deleted_and_a_rival_is_not_overridden(desk):
    with pytest.raises(ApiError, match="take it out there") as filed:
        await desk.callers.delete("alice")
    assert filed.value.status == 409
    await desk.create(caller=ADA, limits={"concurrency": 3})

    def rival() -> None:
        desk.table.rival = lambda: None
        wider = msgspec.structs.replace(desk.table.stored.callers[ADA], limits={}, revision=2)
        desk.table.stored = Stored("", {ADA: wider}, desk.table.stored.keys)

    desk.table.rival = rival
    assert (await desk.callers.delete(ADA))["revoked"] == 1
    assert desk.table.stored.callers[ADA].revision == 3
    desk.table.away = True
    with pytest.raises(ApiError) as away:
        await desk.keys.revoke_all("alice")
    assert away.value.status == 503


def test_a_caller_is_revoked_and_deleted_from_the_command_line(office):
    for _ in range(2):
        assert office.run("create", ADA, "--team", "blue")[0] == 0
    code, out, err = office.run("revoke", "--caller", ADA)
    assert (code, out) == (0, "") and f"2 keys of {ADA} are revoked" in err
    assert office.run("create", ADA)[0] == 0
    code, out, err = office.run("delete", ADA, group="callers")
    assert (code, out) == (0, "") and f"{ADA} is deleted, 1 keys with it" in err
    code, out, err = office.run("delete", ADA, group="callers")
    assert (code, out) == (1, "") and f"There is no caller of the id {ADA}" in err
    assert json.loads(office.run("list", "--json")[1])[0]["caller"] == "alice"
