"""One policy over one stream of requests: a heap of events, each at its virtual time.

Deterministic: at equal times events of the pool go first, then responses that begin or end, then refusals, then what
arrives or comes back, each in the order in which it was caused.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import ceil

import msgspec

from gateway.lab.replay.events import UPSTREAM, Event
from gateway.lab.replay.policy import Account, Answer, Policy, Refuse, Request, Send, Step, Wait
from gateway.lab.replay.pool import Pace, PolicyError, Pool

_MAX_STEPS = 100_000  # of one request
_MAX_WAIT = 7 * 86_400.0  # seconds: whoever waits longer will wait for ever

_EVENT, _RESPONSE, _REFUSAL, _REQUEST = range(4)


class Served(msgspec.Struct):
    """How one request fared; `read + written + fresh` is its input.

    `arrived` is when it first came to the policy, `sent` when the account that finally served it admitted it, `started`
    when the response began; `limited` and `overloaded` are how many 429s and 529s the upstream gave it before,
    `refused` how often the policy sent the client away.
    """

    account: str = ""
    workspace: str = ""
    arrived: float = 0.0
    sent: float = 0.0
    started: float = 0.0
    read: int = 0
    written: int = 0
    fresh: int = 0
    limited: int = 0
    overloaded: int = 0
    refused: int = 0
    steps: int = 0
    route: str = ""
    reason: str = ""

    @property
    def new(self) -> int:
        """Tokens that were not read from a cache."""
        return self.written + self.fresh


class Run(msgspec.Struct):
    """What a policy made of a stream: `served` in the stream's order; `shares` are the workspaces' parts of the pool's
    weight, each from its time (seconds) on; `ttl` is that of the caches, in seconds."""

    policy: str
    ttl: float
    served: list[Served]
    shares: list[tuple[float, dict[str, float]]]
    moves: dict[str, int]


class _Session:
    """One client: `late` are the seconds by which its requests come after their time, as earlier ones were held back;
    `due` the places of those that are not sent yet. Only the first of these has come, or is about to."""

    __slots__ = ("due", "late")

    def __init__(self) -> None:
        self.late = 0.0
        self.due: deque[int] = deque()


class Engine:
    """The clock and the heap of one run; use `replay`.

    Clients that were told to come back in the same second come one after the other, spread over it; once one of them is
    told that nobody is served, so are all that come behind it.
    """

    def __init__(self, policy: Policy, pool: Pool, pace: Pace, requests: Sequence[Request], turns: bool) -> None:
        self._policy = policy
        self._pool = pool
        self._pace = pace
        self._served = [Served() for _ in requests]
        self._requests = requests
        self._turns: dict[bytes, deque[int]] = {}  # conversation: places of those that wait for the turn before
        self._in_turn = turns
        self._sessions: dict[bytes, _Session] = {}
        self._returns: dict[int, deque[int]] = {}  # second: places of the clients that come back then
        self._places = {request.index: place for place, request in enumerate(requests)}
        self._behind: dict[int, list[tuple[int, int]]] = {}  # place: (place, its steps) of those that wait for it
        self._shares = [(0.0, pool.shares())]
        self._heap: list[tuple[float, int, int, Callable[[float], None]]] = []
        self._count = 0

    def run(self, events: Sequence[Event]) -> Run:
        for event in events:
            self._at(event.at, _EVENT, partial(self._happen, event))
        for place, request in enumerate(self._requests):
            self._at(request.at, _REQUEST, partial(self._come, place))
        end = max((request.at for request in self._requests), default=0.0) + _MAX_WAIT
        while self._heap:
            now, _, _, act = heapq.heappop(self._heap)
            if now > end:
                raise PolicyError(f"requests are still waiting {_MAX_WAIT:,.0f} s after the last one arrived")
            act(now)
        return Run(self._policy.name, self._pool.ttl, self._served, self._shares, dict(self._policy.moves))

    def _at(self, time: float, order: int, act: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (time, order, self._count, act))

    def _happen(self, event: Event, now: float) -> None:
        self._pool.happened(event, now)
        shares = self._pool.shares()
        if shares != self._shares[-1][1]:
            self._shares.append((now, shares))
        if event.event not in UPSTREAM:
            self._policy.happened(event, now)

    def _come(self, place: int, now: float) -> None:
        """The request is due. It arrives unless it is a turn and the one before has not ended, or its client's one
        before is not sent yet."""
        if self._in_turn:
            queue = self._turns.setdefault(self._requests[place].conversation, deque())
            queue.append(place)
            if len(queue) > 1:
                return
        request = self._requests[place]
        if request.session:
            session = self._sessions.setdefault(request.conversation, _Session())
            session.due.append(place)
            if len(session.due) == 1:
                self._come_of(session, now)
        else:
            self._arrive(place, now)

    def _come_of(self, session: _Session, now: float) -> None:
        """The first of a client's due requests arrives when its pause after the one before it is over."""
        place = session.due[0]
        self._at(max(now, self._requests[place].at + session.late), _REQUEST, partial(self._arrive, place))

    def _finish(self, place: int, account: str, now: float) -> None:
        request = self._requests[place]
        self._policy.finished(request, account, now)
        if self._in_turn:
            queue = self._turns[request.conversation]
            queue.popleft()
            if queue:
                self._at(now, _REQUEST, partial(self._arrive, queue[0]))

    def _arrive(self, place: int, now: float) -> None:
        """For the first time."""
        self._served[place].arrived = now
        self._do(place, self._policy.begin(self._requests[place], now), now)

    def _waited(self, place: int, steps: int, now: float) -> None:
        if self._served[place].steps == steps:  # else its wait was cut short
            self._do(place, self._policy.waited(self._requests[place], now), now)

    def _return(self, second: int, now: float) -> None:
        back = self._returns.pop(second)
        self._come_back(back, 1.0 / len(back), now)

    def _come_back(self, back: deque[int], gap: float, now: float) -> None:
        """The first of those who come back does; the next one follows after `gap` seconds."""
        place = back.popleft()
        step = self._policy.begin(self._requests[place], now)
        if isinstance(step, Refuse) and step.everybody:
            back.appendleft(place)
            self._send_away(back, step.retry_after, now)
            return
        self._do(place, step, now)
        if back:
            self._at(now + gap, _REQUEST, partial(self._come_back, back, gap))

    def _send_away(self, places: Iterable[int], retry_after: float, now: float) -> None:
        second = ceil(now + max(1, ceil(retry_after)))
        back = self._returns.get(second)
        if back is None:
            back = self._returns[second] = deque()
            self._at(second, _REQUEST, partial(self._return, second))
        for place in places:
            self._served[place].refused += 1
        back.extend(places)

    def _do(self, place: int, step: Step, now: float) -> None:
        served = self._served[place]
        served.steps += 1
        if served.steps > _MAX_STEPS:
            raise PolicyError(f"request {self._requests[place].index} took {_MAX_STEPS:,} steps and is not served")
        match step:
            case Send(account):
                self._send(place, account, now)
            case Wait(seconds, behind):
                self._at(now + max(0.0, seconds), _REQUEST, partial(self._waited, place, served.steps))
                if behind is not None:
                    self._behind.setdefault(self._places[behind], []).append((place, served.steps))
            case Refuse(retry_after):
                self._send_away((place,), retry_after, now)
                self._release(place, now)

    def _release(self, place: int, now: float) -> None:
        """Those that wait for this request need not any longer."""
        for waiting, steps in self._behind.pop(place, ()):
            self._at(now, _REQUEST, partial(self._waited, waiting, steps))

    def _send(self, place: int, name: str, now: float) -> None:
        request, served = self._requests[place], self._served[place]
        answer = self._pool.send(name, request, now)
        if answer.status != 200:
            if answer.status == 429:
                served.limited += 1
            else:
                served.overloaded += 1
            self._at(now + self._pace.refusal, _REFUSAL, partial(self._refused, place, name, answer))
            return
        account = self._pool.accounts[name]
        served.account, served.workspace, served.sent = name, account.workspace, now
        served.read, served.written, served.fresh = answer.read, answer.written, answer.fresh
        if request.session:
            session = self._sessions[request.conversation]
            session.late += now - served.arrived
            session.due.popleft()
            if session.due:
                self._come_of(session, now)
        start = now + self._pace.start(served.new)
        self._at(start, _RESPONSE, partial(self._start, place, account, answer))

    def _refused(self, place: int, name: str, answer: Answer, now: float) -> None:
        step = self._policy.answered(self._requests[place], name, answer, now)
        if step is None:
            raise PolicyError(f"no step after {answer.status} for request {self._requests[place].index}")
        self._do(place, step, now)

    def _start(self, place: int, account: Account, answer: Answer, now: float) -> None:
        request, served = self._requests[place], self._served[place]
        served.started = now
        self._pool.begin(account, request, now)
        self._policy.answered(request, account.id, answer, now)
        self._release(place, now)
        served.route, served.reason = self._policy.decision(request)
        end = now + self._pace.stream(request.output)
        self._at(end, _RESPONSE, partial(self._finish, place, account.id))


def replay(
    policy: Policy,
    pool: Pool,
    pace: Pace,
    requests: Sequence[Request],
    events: Sequence[Event] = (),
    turns: bool = False,
) -> Run:
    """Serve all requests; with `turns`, none arrives before the one before it in its conversation has ended.

    Raises PolicyError if the policy sends where it must not, or does not serve one of them.
    """
    return Engine(policy, pool, pace, requests, turns).run(events)
