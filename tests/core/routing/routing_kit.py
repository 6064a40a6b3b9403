"""A pool of accounts `home`, `other` and `third`, and requests played over it, for the tests of routing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.core.routing.binding import Record
from gateway.core.routing.conduct import Fault
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.outcomes import Outcome
from gateway.core.routing.ring import Ring
from gateway.core.routing.route import Refuse, Route, Send, Wait
from gateway.core.routing.router import Router

NOW = 1000.0  # seconds of the routers' clock; the store's runs with it, in milliseconds
WALL = 1_700_000_000.0  # what a document calls NOW
TTL = 300.0
MODEL = "claude-sonnet-5"
Answer = Outcome | tuple[Outcome, float]  # with its retry-after


def account(name: str, workspace: str = "", organization: str = "", **fields: object) -> Entry:
    """Its own workspace and organization, unless they are named."""
    workspace = workspace or name
    return Entry(name, workspace, organization or workspace, **fields)  # type: ignore[arg-type]


HOME, OTHER, THIRD = account("home"), account("other"), account("third")


def document(accounts: Iterable[Entry], epoch: int = 1) -> PoolDocument:
    return PoolDocument(epoch, tuple(sorted(accounts)))


def key_for(*order: str) -> bytes:
    """A conversation whose ranking of workspaces of equal weights is this one."""
    ring = Ring(document(account(name) for name in order))
    return next(key for n in range(1, 10_000) if ring.rank(key := n.to_bytes(16, "big")) == [*order])


KEY = key_for("home", "other", "third")


def router(*accounts: Entry) -> Router:
    made = Router(lambda model: model)
    made.apply(document(accounts or (HOME, OTHER)), NOW, WALL)
    return made


def routers(*accounts: Entry) -> tuple[Router, Router]:
    """Of two processes, which tell each other facts at once."""
    one, two = router(*accounts), router(*accounts)
    one.tell = lambda fact: two.heard(fact, NOW)
    two.tell = lambda fact: one.heard(fact, NOW)
    return one, two


def record(
    workspace: str = "home", tokens: int = 20_000, *, warm: bool = True, now: float = NOW, account_bound: int = 0
) -> Record:
    warm_until = int((now + (TTL / 2 if warm else -TTL)) * 1000)
    return Record(workspace, 3, warm_until, tokens, tokens * 4, account_bound)


def fresh_route(
    over: Router, tokens: float = 20_000, *, now: float = NOW, model: str = MODEL, **fields: object
) -> Route:
    """A request that has no home yet; `fields` are the route's, or its placement's."""
    over.bytes_a_token = 4.0
    route = Route(over, KEY, model, int(tokens * 4), TTL, now + 600.0)
    for name, value in fields.items():
        setattr(route.placement if hasattr(route.placement, name) else route, name, value)
    return route


def new(over: Router, tokens: float = 20_000, *, now: float = NOW, **fields: Any) -> Route:
    """The first request of a conversation, bound where it proposes."""
    route = fresh_route(over, tokens, now=now, **fields)
    workspace = route.propose(now)
    if workspace is not None:
        route.found(
            Record(workspace, group=route.group, in_flight_until=int(now * 1000) + 590_000), True, int(now * 1000)
        )
    return route


def known(over: Router, of: Record, more: float = 500, *, now: float = NOW, **fields: Any) -> Route:
    """A later request of a conversation, which has grown by so many tokens."""
    route = fresh_route(over, of.tokens + more, now=now, **fields)
    route.found(of, False, int(now * 1000))
    return route


def play(
    route: Route,
    answers: Mapping[str, Sequence[Answer]],
    *,
    kinds: Mapping[str, str] = {},
    now: float = NOW,
    random: float = 0.0,
) -> tuple[str, str]:
    """What a request goes through where accounts answer so, each in turn and SERVED after that: its steps in words, and
    why it is rebound in the end. `kinds` are those of accounts' refusals."""
    left = {name: list(each) for name, each in answers.items()}
    steps: list[str] = []
    for _ in range(50):
        step = route.next(now, random)
        if isinstance(step, Wait):
            steps.append(f"wait {step.seconds:g}")
            now += step.seconds
        elif isinstance(step, Refuse):
            seconds = "" if step.seconds is None else f" {step.seconds:g}"
            route.unserved(now)
            return ", ".join([*steps, f"refuse {step.status}{seconds}"]), ""
        else:
            assert isinstance(step, Send)
            steps.append(step.entry.id)
            route.sent(step.entry, now)
            answer = left.get(step.entry.id, []).pop(0) if left.get(step.entry.id) else Outcome.SERVED
            outcome, retry_after = answer if isinstance(answer, tuple) else (answer, None)
            if outcome is Outcome.SERVED:
                reason = route.served(step.entry, now)
                route.settle(route.tokens - route.placement.cached, route.placement.cached, 0, now)
                route.completed(step.entry, now)
                return ", ".join(steps), reason
            kind = kinds.get(step.entry.id, "")
            if not route.answered(step.entry, outcome, retry_after, now, random, kind=kind):
                route.unserved(now)
                return ", ".join([*steps, "pass"]), ""
    raise AssertionError(f"no end: {steps}")


def why(over: Router, entry: Entry, *, now: float = NOW, model: str = MODEL, fresh: float = 0.0) -> tuple[str, float]:
    """What keeps an account from serving a new conversation."""
    return over.state(entry, model, model, fresh, False, now)


def learn(over: Router, entry: Entry, outcome: Outcome, asked: float | None = None, now: float = NOW) -> None:
    """The router is told of an exchange, and of what a probe then shows."""
    if outcome is Outcome.SERVED:
        over.served(entry, over.domain(entry.organization, MODEL), now)
    elif outcome is Outcome.UNAUTHORIZED:
        over.key_refused(entry.id, now)
    else:
        over.learn(entry, MODEL, outcome, asked, now)


def fail(over: Router, account: str, *, now: float = NOW, fault: Fault = Fault.ERROR) -> None:
    """As many conversations as it takes end badly on an account, and it is failing."""
    for n in range(3):
        over.failing.bad(account, fault, b"failed %d" % n, now)
    assert account in over.failing
