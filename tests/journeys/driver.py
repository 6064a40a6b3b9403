"""Plays journeys over the real application.

The sockets are scripts (`http`, `store`), the clock jumps (`world`), everything between is the gateway's own, made as a
worker makes it (`replica`). After each journey it looks whether anything was left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.file import loads
from gateway.config.schema import Config
from gateway.core.routing import broadcast
from gateway.core.routing.binding import unpack as read_binding
from gateway.core.routing.conversation import key as conversation_key
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.ring import Ring
from gateway.log import captured
from gateway.records import Finished
from gateway.worker.accounts import entry_of
from tests.journeys import clouds
from tests.journeys.books import Books
from tests.journeys.http import Call, Upstream, request
from tests.journeys.journey import Ask, Journey, Json
from tests.journeys.parts import OVER_ASGI, PARTS
from tests.journeys.replica import Replica, entries
from tests.journeys.store import Server, Store
from tests.journeys.verdict import improper, unlike
from tests.journeys.world import World, turned

SECRET = "0123456789abcdef0123456789abcdef-secret-of-journeys"
KEYS = {name: "sk-" + f"{name}-of-journeys-".ljust(48, "x")[:48] for name in ("alice", "bob", "carol", "dora")}
CALLERS = [
    {"id": "alice", "key": KEYS["alice"], "team": "research"},
    {"id": "bob", "key": KEYS["bob"]},
    {"id": "carol", "key": KEYS["carol"], "team": "research"},
    {"id": "dora", "key": KEYS["dora"]},
]
BEAT = 2.0  # seconds between heartbeats of the supervisor
CALM = 0.6  # seconds after the last answer in which what nobody waits for comes to its end


class Rig:
    """The store's server and a folder, for all journeys of one process."""

    def __init__(self, folder: Path, asgi: bool = False) -> None:
        self.server = Server()
        self.folder = folder
        self.asgi = asgi  # served by another ASGI server

    def close(self) -> None:
        self.server.close()

    def play(self, journey: Journey) -> None:
        """Play it. Raises AssertionError where something else came of it than it says."""
        self.server.line.ask("FLUSHALL")
        shutil.rmtree(self.folder, ignore_errors=True)
        world = World()
        asyncio.set_event_loop(world)
        stage = Stage(journey, self, world)
        world.set_exception_handler(stage.complain)
        try:
            with turned(world.clock), captured() as stage.logs:
                world.run_until_complete(stage.play())
        finally:
            with turned(world.clock), captured():
                _end(world, stage)
            stage.store.close()
            asyncio.set_event_loop(None)
            world.close()


def _end(world: World, stage: Stage) -> None:
    """Leave nothing open, however the journey went."""

    async def end() -> None:
        tasks = asyncio.all_tasks(world) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait([*tasks, asyncio.create_task(stage.close())], timeout=100)

    world.run_until_complete(end())


@lru_cache(maxsize=256)
def _config(text: str) -> Config:
    return loads(text, {}, source="journey.yaml")


def config_of(journey: Journey, rig: Rig, replica: int = 0) -> Config:
    """The configuration of a replica, read as an operator's is."""
    usual = {
        "admin": {"listen": "127.0.0.1:8081", "token": "token-of-the-operator-of-journeys"},
        "redis": f"unix://{rig.server.path}",
        "data_dir": str(rig.folder / str(replica)),
        "secret": SECRET,
        "keys": CALLERS,
        "teams": [{"id": "research"}],
        "accounts": [
            {"id": name, "base_url": f"http://{name}.test", "api_key": f"key-of-{name}", **more}
            for name, more in journey.pool.items()
        ],
    }
    return _config(json.dumps({**usual, **journey.config}))  # JSON is YAML


class Stage:
    """One journey being played."""

    def __init__(self, journey: Journey, rig: Rig, world: World) -> None:
        self.journey = journey
        self.world = world
        self.rig = rig
        self.logs: list[Any] = []
        self.complaints: list[str] = []  # of the event loop
        self.store = Store(world, rig.server)
        self.upstream = Upstream(world, clouds.answer)
        self.config = config_of(journey, rig)
        self.document = PoolDocument(1, tuple(sorted(map(entry_of, self.config.accounts))))
        self.ring = Ring(self.document)  # as it is in the beginning
        self.replicas: list[Replica] = []
        self.forgot = False  # what the store had, which no heartbeat has found out yet
        self.calm_at = 0.0
        self.mended = contextlib.ExitStack()
        world.origins[rig.server.path] = self.store.accept
        for name in journey.pool:
            world.origins[f"{name}.test"] = partial(self.upstream.accept, name)

    def complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    async def _start(self) -> None:
        for number in range(self.journey.replicas):
            config = config_of(self.journey, self.rig, number)
            tell = partial(self._tell, number)
            replica = Replica(
                f"p{number}", config, self.document, self.journey.replicas, tell, self.world, self.rig.asgi
            )
            self.replicas.append(replica)
            await replica.start()

    def _tell(self, teller: int, said: bytes) -> None:
        """The others hear it a moment later."""
        for number, replica in enumerate(self.replicas):
            if number != teller:
                self.world.call_later(0.002, replica.gateway.heard, said)

    async def close(self) -> None:
        """End it, as far as it has begun."""
        self.mended.close()
        for replica in self.replicas:
            await replica.close()

    def agree(self, entries: Iterable[Entry]) -> None:
        """Every process routes over these accounts from now on."""
        self.document = PoolDocument(self.document.epoch + 1, tuple(sorted(entries)))
        for replica in self.replicas:
            replica.gateway.apply(self.document, len(self.replicas))

    def turn(self, state: str) -> None:
        """The store is so from now on. The next heartbeat finds out whether it has lost something."""
        self.forgot = self.forgot or state == "empty"
        self.store.turn(state)
        self.world.call_later(BEAT, self._beat)
        self.calm_at = self.world.clock.now + BEAT

    def _beat(self) -> None:
        if self.forgot and self.store.state == "here":
            self.forgot = False
            for replica in self.replicas:
                replica.reseed()

    # The play.

    async def play(self) -> None:
        journey = self.journey
        await self._start()
        self.upstream.script(journey.then)
        for given in journey.given:
            call = await self._ask(given)
            assert call.status == 200, f"given: {call.status} {call.body!r}"
            await asyncio.sleep(CALM)
        if journey.given:
            self.world.clock.now += journey.later
            await asyncio.sleep(CALM)
        self.upstream.script(journey.upstream)
        before = {record.request_id for record in self._records()}
        self.upstream.asked.clear()
        self.upstream.tried.clear()
        if journey.breaks:
            self._break(*(OVER_ASGI if self.rig.asgi else PARTS)[journey.breaks])
        tasks = [asyncio.create_task(self._do(*each)) for each in journey.does]
        calls = await asyncio.gather(*[self._ask(each) for each in journey.asks])
        await asyncio.gather(*tasks)
        await asyncio.sleep(max(0.0, self.calm_at - self.world.clock.now) + CALM)
        records = [record for record in self._records() if record.request_id not in before]
        problems = list(self._problems(list(zip(journey.asks, calls, strict=True)), records))
        if problems:
            story = self._story(calls, records)
            pytest.fail("\n  ".join([journey.name, *problems]) + "\n" + story, pytrace=False)

    def _records(self) -> list[Finished]:
        return [record for replica in self.replicas for record in replica.records]

    async def _do(self, at: float, what: str, *args: Any) -> None:
        await asyncio.sleep(at)
        result = ACTIONS[what](self, *args)
        if result is not None:
            await result

    async def _ask(self, ask: Ask) -> Call:
        await asyncio.sleep(ask.at)
        headers = list(ask.headers)
        given = {name.lower() for name, _ in headers}
        if "x-api-key" not in given and "authorization" not in given:
            headers.append(("x-api-key", KEYS[ask.caller]))
        if ask.conversation is not None:
            headers.append(("x-conversation-id", self.conversation(ask.conversation, ask.caller)))
        if "content-type" not in given and (ask.body is not None or ask.pieces):
            headers.append(("content-type", "application/json"))
        call = Call(self.world)
        call.connect(ask.replica)
        if ask.deaf:
            call.pipe.deaf = True
            self.world.call_later(ask.deaf, call.pipe.listen)
        sending = None
        if ask.raw:
            call.pipe.say(ask.raw)
        elif ask.pieces:
            call.pipe.say(request(ask.method, ask.path, headers, None))
            sending = asyncio.create_task(self._send(call, ask))
        else:
            body = ask.payload if ask.body is not None or ask.method == "POST" else None
            call.pipe.say(request(ask.method, ask.path, headers, body))
        call.asked_at = self.world.clock.now
        if ask.gone is not None:
            await asyncio.wait((call.done,), timeout=ask.gone)
            call.hang_up(ask.how)
        await call.done
        if sending is not None:
            sending.cancel()
        return call

    async def _send(self, call: Call, ask: Ask) -> None:
        for wait, data in ask.pieces:
            await asyncio.sleep(wait)
            call.pipe.say(data)

    def conversation(self, ranks: str, caller: str) -> str:
        """The conversation of a caller that is at home on these accounts, in this order, as far as they are in the
        pool. What follows a `#` tells several of them apart."""
        places, _, mark = ranks.partition("#")
        workspaces = {each.id: each.workspace for each in self.config.accounts}
        wanted = list(dict.fromkeys(workspaces[each] for each in places.split() if each in workspaces))
        for number in itertools.count():
            name = f"conversation{mark}-{number}"
            key = conversation_key(SECRET.encode(), caller, b"header", name.encode())
            if list(self.ring.rank(key))[: len(wanted)] == wanted:
                return name
        raise AssertionError

    def _break(self, owner: Any, name: str) -> None:
        """Let a part of the gateway raise an exception the next time it is used."""
        whole = vars(owner)[name]

        def broken(*args: Any, **more: Any) -> Any:
            setattr(owner, name, whole)
            raise RuntimeError("broken on purpose")

        setattr(owner, name, broken)
        self.mended.callback(setattr, owner, name, whole)

    # Afterwards.

    def _problems(self, asks: list[tuple[Ask, Call]], records: list[Finished]) -> Iterator[str]:
        journey = self.journey
        by_id = {record.request_id: record for record in records}
        if len(by_id) != len(records):
            yield "a request has two records"
        left = [record for record in records if record.endpoint != "batch_items"]
        wanted = sum(ask.want.record is not None for ask, _ in asks)
        if len(left) != wanted:
            yield f"{len(left)} records, not {wanted}"
        named = {call.header("x-gateway-request-id") for _, call in asks}
        unnamed = iter(sorted((each for each in left if each.request_id not in named), key=lambda each: each.at))
        for number, (ask, call) in enumerate(asks, 1):
            record = by_id.get(call.header("x-gateway-request-id") or "")
            if record is None and ask.want.record is not None:
                record = next(unnamed, None)
            for problem in unlike(ask, call, record):
                yield f"request {number}: {problem}" if len(asks) > 1 else problem
        if journey.asked is not None and not re.fullmatch(journey.asked, " ".join(self.upstream.tried)):
            yield f"asked {' '.join(self.upstream.tried)!r}, not {journey.asked!r}"
        for name in journey.pool if journey.failures is None else ():
            wanted_state = journey.accounts.get(name, "open")
            for number, replica in enumerate(self.replicas):
                state = replica.state(name, journey.model)
                wanted_state = journey.accounts.get(f"{name}@{number}", wanted_state)
                if not _state_fits(state, wanted_state):
                    yield f"account {name} is {state}, not {wanted_state}"
        if journey.bound is not None:
            bound = self._bound(asks[-1][0])
            if bound != journey.bound:
                yield f"bound to {bound!r}, not {journey.bound!r}"
        failed = sum(call.status != 200 or call.ended != "whole" for _, call in asks)
        if journey.failures is not None and failed > journey.failures:
            yield f"{failed} requests failed, not {journey.failures}"
        for asked in self.upstream.asked:
            cloud = "provider" in journey.pool[asked.account]
            yield from improper(asked, [ask for ask, _ in asks], cloud)
        for name, value in journey.heard.items():
            if self.upstream.asked[0].header(name) != value:
                yield f"an account heard {name}: {self.upstream.asked[0].header(name)!r}, not {value!r}"
        yield from self._left_behind()
        yield from self._books().problems()
        errors = {each["event"] for each in self.logs if each["log_level"] in ("error", "exception", "critical")}
        if errors != set(journey.errors):
            yield f"logged {errors}, not {set(journey.errors)}"
        for complaint in self.complaints:
            yield f"the event loop complains: {complaint}"

    def _bound(self, ask: Ask) -> str:
        tenant = next(
            f"t:{each['team']}" if "team" in each else f"c:{each['id']}" for each in CALLERS if each["id"] == ask.caller
        )
        assert ask.conversation is not None
        name = self.conversation(ask.conversation, ask.caller)
        key = conversation_key(SECRET.encode(), ask.caller, b"header", name.encode())
        fields = self.rig.server.line.ask("HVALS", f"{{{tenant}}}:b:{key.hex()}")
        return " ".join(read_binding(each).workspace for each in fields)

    def _left_behind(self) -> Iterator[str]:
        """What requests must not leave: in a process, on its connections, in the store."""
        for replica in self.replicas:
            yield from replica.left_behind()
        ask = self.rig.server.line.ask
        for key in ask("KEYS", "*"):
            kind = key.partition(b"}:")[2]
            if kind == b"r":
                yield f"{ask('HLEN', key)} reservations in {key!r}"
            elif kind.startswith(b"c:"):
                yield f"leases in {key!r}"
            elif kind.startswith(b"q:") and int(ask("HGET", key, "reserved") or 0):
                yield f"money reserved in {key!r}"

    def _books(self) -> Books:
        ask = self.rig.server.line.ask
        ledger = [fields[1] for key in ask("KEYS", "*}:s") for _, fields in ask("XRANGE", key, "-", "+")]
        return Books(
            records=self._records(),
            lines=sum(len(replica.lines) for replica in self.replicas),
            counted=sum(replica.counted for replica in self.replicas),
            journal=[entry for replica in self.replicas for entry in replica.journal],
            ledger=entries(ledger) if self.store.state == "here" else None,
            broken=self.journey.breaks.removeprefix("the "),
        )

    def _story(self, calls: list[Call], records: list[Finished]) -> str:
        """What happened, for people."""
        lines = []
        for call in calls:
            lines.append(f"  got {call.status} {call.ended} {dict(call.headers)}\n      {call.body[:600]!r}")
        for record in records:
            lines.append(f"  record {msgspec.to_builtins(record)}")
        for asked in self.upstream.asked:
            lines.append(
                f"  {asked.at - 10_000:.2f} s: {asked.account} {asked.method} {asked.path} {asked.body[:100]!r}"
            )
        lines += [f"  said {each}" for each in self.logs[:20]]
        return "\n".join(lines)


def _state_fits(state: str, wanted: str) -> bool:
    """`limited 30` fits any closure of 28 to 30 seconds; `out` any."""
    if " " not in wanted or " " not in state:
        return state.split()[0] == wanted.split()[0]
    (why, seconds), (also, wanted_seconds) = state.split(), wanted.split()
    return why == also and int(wanted_seconds) - 3 <= int(seconds) <= int(wanted_seconds)


# What happens to a gateway beside requests.


def _stop(stage: Stage, replica: int = 0) -> None:
    stage.replicas[replica].stop()


def _account(stage: Stage, name: str, **changes: Any) -> None:
    """Operators change an account."""
    accounts = stage.document.accounts
    stage.agree(msgspec.structs.replace(each, **changes) if each.id == name else each for each in accounts)


def _remove(stage: Stage, name: str) -> None:
    stage.agree(each for each in stage.document.accounts if each.id != name)


def _reload(stage: Stage, changes: Json) -> None:
    """The configuration is another from now on; accounts come and go with it."""
    journey = replace(stage.journey, config={**stage.journey.config, **changes})
    for number, replica in enumerate(stage.replicas):
        config = config_of(journey, stage.rig, number)
        replica.gateway.reload(config)
    entries = tuple(sorted(map(entry_of, config.accounts)))
    if entries != stage.document.accounts:
        stage.agree(entries)


def _hear(stage: Stage, name: str, *values: Any) -> None:
    """Another process tells a fact of this name."""
    for replica in stage.replicas:
        replica.gateway.heard(broadcast.encode(getattr(broadcast, name)(*values)))


ACTIONS: dict[str, Callable[..., Any]] = {
    "store": Stage.turn,
    "stop": _stop,
    "disable": partial(_account, state="disabled"),
    "drain": partial(_account, state="draining"),
    "enable": partial(_account, state="active"),
    "remove": _remove,
    "hear": _hear,
    "reload": _reload,
}
