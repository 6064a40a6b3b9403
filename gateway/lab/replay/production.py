"""The gateway's own routing in the replay: routers, routes and bindings as in production, under the virtual clock.

Two processes share a store and tell each other facts, as two replicas do. Only what moves bytes is left out: the
store's scripts are played by a dictionary, requests by the engine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from gateway.core.routing import broadcast
from gateway.core.routing.binding import COLD, Record, moved
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.outcomes import Outcome, retry_after
from gateway.core.routing.route import Refuse as CoreRefuse
from gateway.core.routing.route import Route
from gateway.core.routing.route import Send as CoreSend
from gateway.core.routing.route import Wait as CoreWait
from gateway.core.routing.router import Router
from gateway.lab.replay.events import Event
from gateway.lab.replay.policy import SILENT, Account, Answer, Refuse, Request, Send, Step, Wait

PROCESSES = 2
MODEL = "claude-sonnet-5"
IN_FLIGHT = 590_000  # ms that a request may be on its way
_BYTES_A_TOKEN = 4
_WALL = 1_700_000_000.0  # Unix time of the replay's second 0
_LEADER_WAIT = 2.0
_OUTCOMES = {429: Outcome.LIMITED, 529: Outcome.OVERLOADED}


class Store:
    """The bindings of all processes: what admit, rebind and settle do in the store."""

    def __init__(self) -> None:
        self.up = True
        self._records: dict[bytes, Record] = {}

    def flush(self) -> None:
        self._records.clear()

    def admit(self, key: bytes, proposed: Record, now_ms: int = 0, in_flight: int = 0) -> tuple[bool, Record]:
        known = self._records.get(key)
        if known is not None and known.generation >= proposed.generation:
            found = _copy(known)
            if in_flight and known.is_cold(now_ms):
                known.in_flight_until = now_ms + in_flight
            return False, found
        self._records[key] = _copy(proposed)
        return True, proposed

    def rebind(self, key: bytes, read: Record, target: str, reason: str, now_ms: int) -> tuple[bool, Record]:
        known = self._records.get(key)
        if known is not None and (
            known.generation > read.generation
            or (known.generation == read.generation and known.workspace != read.workspace)
        ):
            return False, _copy(known)
        if known is None or known.generation < read.generation:
            known = Record(read.workspace, read.generation)
        self._records[key] = moved(known, target, reason, now_ms, IN_FLIGHT, reason == "home")
        return True, _copy(self._records[key])

    def settle(self, key: bytes, read: Record, served: str, warm_until: int, tokens: int) -> None:
        known = self._records.get(key)
        if known is None or known.generation < read.generation:
            known = self._records[key] = Record(read.workspace, read.generation)
        if known.generation == read.generation:
            renew(known, served, warm_until, tokens)


def renew(record: Record, served: str, warm_until: int, tokens: int) -> None:
    """`served` holds the conversation's cache until then."""
    record.in_flight_until = COLD
    if served == record.workspace:
        record.warm_until = max(record.warm_until, warm_until)
        if tokens:
            record.tokens, record.size = tokens, tokens * _BYTES_A_TOKEN
    else:
        record.detour, record.detour_warm_until = served, warm_until


def _copy(record: Record) -> Record:
    return msgspec.structs.replace(record)


class Process:
    """One gateway process: its router, and its memory of conversations."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.others: list[Process] = []
        self.router = Router(lambda model: model, self._tell)
        self.router.failing.process = name
        self.memory: dict[bytes, Record] = {}
        self.leaders: dict[bytes, int] = {}  # of conversations that are not warm: the request that the others wait for
        self.now = 0.0

    def _tell(self, said: broadcast.Fact) -> None:
        for other in self.others:
            other.router.heard(said, self.now)


class Life:
    """One request on its way."""

    __slots__ = ("entry", "held", "key", "leads", "process", "record", "route")

    def __init__(self, key: bytes, process: Process, route: Route) -> None:
        self.key = key
        self.process = process
        self.route = route
        self.leads = False  # it is its answer that the record waits for as in flight
        self.held = False  # until the answer to another one of its conversation begins
        self.record: Record | None = None
        self.entry: Entry | None = None


class Production:
    """The policy `gateway`."""

    name = "gateway"

    def __init__(self, accounts: Sequence[Account], ttl: float, seed: int) -> None:
        self.moves: dict[str, int] = {}
        self._ttl = ttl
        self._key = seed.to_bytes(8, "big", signed=True)
        self._random = random.Random(seed)
        self._store = Store()
        self._silent = {account.id for account in accounts if account.provider in SILENT}
        self._entries = {account.id: account.entry for account in accounts}
        self._epoch = 0
        self._lives: dict[int, Life] = {}
        self._told = 0.0
        self._processes = [Process(f"process-{number}") for number in range(PROCESSES)]
        self._join()
        self._publish(0.0)

    def _join(self) -> None:
        for process in self._processes:
            process.others = [other for other in self._processes if other is not process]

    def _publish(self, now: float) -> None:
        self._epoch += 1
        document = PoolDocument(self._epoch, tuple(sorted(self._entries.values())))
        for process in self._processes:
            process.router.apply(document, now, _WALL + now)

    def _tick(self, now: float) -> None:
        for process in self._processes:
            process.now = now
        if now - self._told >= 1.0:
            self._told = now
            for process in self._processes:
                report = process.router.report(process.name, now)
                if report is not None:
                    for other in process.others:
                        other.router.heard(report, now)

    # A request's life.

    def begin(self, request: Request, now: float) -> Step:
        self._tick(now)
        key = blake2b(request.conversation, digest_size=16, key=self._key).digest()
        process = self._processes[request.index % PROCESSES]
        size = request.input * _BYTES_A_TOKEN
        life = Life(key, process, Route(process.router, key, MODEL, size, self._ttl, now + IN_FLIGHT / 1000))
        life.route.group = f"{request.blocks[0]}" if request.blocks else ""
        life.route.caller = life.key.hex()  # each is somebody's
        self._lives[request.index] = life
        return self._admit(request, life, now)

    def _admit(self, request: Request, life: Life, now: float) -> Step:
        """Find the binding, and wait if the same cold prefix is on its way."""
        self._bind(life, now)
        route = life.route
        if life.record is not None and not route.placement.warm:
            leader = life.process.leaders.setdefault(life.key, request.index)
            if leader != request.index:
                life.held = True
                return Wait(_LEADER_WAIT, behind=leader)
        return self._step(request, life, now)

    def _bind(self, life: Life, now: float) -> None:
        process, route, now_ms = life.process, life.route, int(now * 1000)
        remembered = process.memory.get(life.key)
        if not self._store.up:
            if remembered is None:
                workspace = process.router.ranked(life.key, MODEL)
                if workspace is None:
                    return
                remembered = Record(workspace, in_flight_until=now_ms + IN_FLIGHT)
            life.record = process.memory[life.key] = remembered
            route.found(remembered, False, now_ms, "stateless")
            return
        proposed = remembered
        if proposed is None:
            workspace = route.propose(now)
            if workspace is None:
                return
            proposed = Record(workspace, group=route.group, in_flight_until=now_ms + IN_FLIGHT)
        created, record = self._store.admit(life.key, proposed, now_ms, IN_FLIGHT)
        life.record = process.memory[life.key] = record
        route.found(record, created and remembered is None, now_ms)
        life.leads = route.placement.created or record.is_cold(now_ms)
        if life.leads:
            record.in_flight_until = now_ms + IN_FLIGHT
        if route.placement.created and record.workspace != process.router.ranked(life.key, MODEL):
            for other in process.others:
                other.memory[life.key] = _copy(record)
        better = route.better(now)
        if better is not None:
            self._rebind(life, *better, now)

    def _rebind(self, life: Life, workspace: str, reason: str, now: float) -> None:
        record, route = life.record, life.route
        if record is None:
            return
        if self._store.up:
            done, life.record = self._store.rebind(life.key, record, workspace, reason, int(now * 1000))
        else:
            done, life.record = True, moved(record, workspace, reason, int(now * 1000), IN_FLIGHT, reason == "home")
        life.leads = done
        if done and not route.placement.created:
            self.moves[reason] = self.moves.get(reason, 0) + 1
        how = route.placement.how
        if how == "bound":
            how = "new" if reason == "cold" or not route.placement.warm else "moved"
        route.rebound(life.record, how, reason)
        life.process.memory[life.key] = life.record
        for other in life.process.others:
            other.memory[life.key] = _copy(life.record)

    def _step(self, request: Request, life: Life, now: float) -> Step:
        step = life.route.next(now, self._random.random())
        if isinstance(step, CoreWait):
            return Wait(step.seconds)
        if isinstance(step, CoreRefuse):
            life.route.unserved(now)
            self._unanswered(request, life, now)
            return Refuse(retry_after(step.seconds))
        assert isinstance(step, CoreSend)  # noqa: S101 - the only one left
        life.entry = step.entry
        life.route.sent(step.entry, now)
        return Send(step.entry.id)

    def waited(self, request: Request, now: float) -> Step:
        self._tick(now)
        life = self._lives[request.index]
        if life.held:
            life.held = False
            self._bind(life, now)
        return self._step(request, life, now)

    def answered(self, request: Request, account: str, answer: Answer, now: float) -> Step | None:
        self._tick(now)
        life = self._lives[request.index]
        route, entry = life.route, life.entry
        assert entry is not None  # noqa: S101 - it was sent
        if answer.limit is not None and answer.remaining is not None:
            domain = life.process.router.domain(entry.organization, route.limit_class)
            domain.observe("input", answer.limit, answer.remaining, now)
        if answer.status != 200:
            outcome = _OUTCOMES[answer.status]
            if account not in self._silent:
                outcome = route.means(outcome, answer.retry_after, now, answer.limit is not None)
            random, kind = self._random.random(), str(answer.status)
            if route.answered(entry, outcome, answer.retry_after, now, random, kind=kind):
                return self._step(request, life, now)
            route.unserved(now)
            self._unanswered(request, life, now)
            return Refuse(retry_after(answer.retry_after))
        reason = route.served(entry, now)
        if reason:
            self._rebind(life, entry.workspace, reason, now)
        self._renew(life, entry, now, request.input)
        self._release(request, life)
        route.settle(answer.written + answer.fresh, answer.read, request.output, now)
        return None

    def _renew(self, life: Life, entry: Entry, now: float, tokens: int) -> None:
        record = life.record
        if record is None:
            return
        warm_until = int((now + self._ttl) * 1000)
        renew(record, entry.workspace, warm_until, tokens)
        if self._store.up:
            self._store.settle(life.key, record, entry.workspace, warm_until, tokens)

    def _unanswered(self, request: Request, life: Life, now: float) -> None:
        self._release(request, life)
        life.route.settle(0.0, 0.0, 0, now)
        if life.leads and life.record is not None:
            life.record.in_flight_until = COLD
            if self._store.up:
                self._store.settle(life.key, life.record, life.record.workspace, COLD, 0)

    def _release(self, request: Request, life: Life) -> None:
        leaders = life.process.leaders
        if leaders.get(life.key) == request.index:
            del leaders[life.key]

    def finished(self, request: Request, account: str, now: float) -> None:
        self._tick(now)
        life = self._lives.pop(request.index)
        if life.entry is not None:
            life.route.completed(life.entry, now)

    def decision(self, request: Request) -> tuple[str, str]:
        route = self._lives[request.index].route
        return route.placement.how, route.placement.reason

    # What happens around.

    def happened(self, event: Event, now: float) -> None:
        self._tick(now)
        name = event.account or ""
        match event.event:
            case "add":
                self._entries[name] = msgspec.structs.replace(Account.added(event).entry, since=_WALL + now)
                self._publish(now)
            case "remove":
                del self._entries[name]
                self._publish(now)
            case "weight":
                self._change(name, now, weight=event.weight or 1.0)
            case "drain":
                self._change(name, now, state="draining")
            case "disable":
                self._change(name, now, state="disabled")
            case "enable":
                self._change(name, now, state="active")
            case "flush":
                self._store.flush()
            case "restart":
                self._restart(now)
            case "store_down" | "store_up":
                self._store.up = event.event == "store_up"
            case _:
                pass

    def _change(self, name: str, now: float, **values: str | float) -> None:
        self._entries[name] = msgspec.structs.replace(self._entries[name], **values)
        self._publish(now)

    def _restart(self, now: float) -> None:
        """One process ends and another begins: it knows what the store holds, and what the others tell it."""
        self._processes[0] = Process(f"process-0-{now:.0f}")
        self._join()
        document = PoolDocument(self._epoch, tuple(sorted(self._entries.values())))
        self._processes[0].router.apply(document, now, _WALL + now)
        self._tick(now)
        for said in self._processes[1].router.picture(now):
            self._processes[0].router.heard(said, now)
