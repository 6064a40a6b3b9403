"""What a routing policy sees and says. It sends nothing itself: the engine asks, and does what the step says.

A request's life: `begin`, then as many `waited` and `answered` as its steps cause, until an answer of 200 (the response
has begun), and `finished`. A refused request comes back with `begin`. Times are seconds since the first request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from gateway.core.routing.document import Entry
from gateway.lab.replay.events import Event

BLOCK = 512  # tokens
ANTHROPIC = "anthropic"
SILENT = ("bedrock", "vertex", "foundry")


class Account(NamedTuple):
    """One upstream credential; accounts of one workspace share its cache, those of one organization its limits. Those
    at one of SILENT do not say what is left of limits, nor for how long they refuse."""

    id: str
    workspace: str
    organization: str
    weight: float = 1.0
    provider: str = ANTHROPIC

    @property
    def entry(self) -> Entry:
        """The account as the pool sees it."""
        return Entry(self.id, self.workspace, self.organization, self.weight)

    @classmethod
    def at(cls, provider: str, number: int) -> Account:
        """An account at a cloud."""
        return cls.alone(f"{provider}-{number}")._replace(provider=provider)

    @classmethod
    def alone(cls, name: str, weight: float = 1.0) -> Account:
        """An account with a workspace and an organization of its own."""
        return cls(name, f"ws-{name}", f"org-{name}", weight)

    @classmethod
    def added(cls, event: Event) -> Account:
        """The account that an `add` brings."""
        alone = cls.alone(event.account or "", event.weight or 1.0)
        return alone._replace(
            workspace=event.workspace or alone.workspace, organization=event.organization or alone.organization
        )


class Request(msgspec.Struct, frozen=True):
    """One request of the stream. `index` is its place in the trace (from 0), `at` when it first arrives, `input` and
    `output` are tokens; each of `blocks` stands for `block` tokens *and all blocks before it*. `session`: the
    conversation is one client's, who sends nothing more while this request is held back."""

    index: int
    at: float
    conversation: bytes
    blocks: tuple[int, ...]
    input: int
    output: int
    block: int = BLOCK
    session: bool = False


class Send(msgspec.Struct, frozen=True):
    """Send it to this account now."""

    account: str


class Wait(msgspec.Struct, frozen=True):
    """Hold it for so long, then call `waited`; or as soon as the response to request `behind` begins, or that request
    is sent away."""

    seconds: float
    behind: int | None = None


class Refuse(msgspec.Struct, frozen=True):
    """Answer the client with 429 or 529; it comes back after `retry_after` seconds. `everybody`: so it would be with
    any other request at this moment."""

    retry_after: float
    everybody: bool = False


Step = Send | Wait | Refuse


class Answer(msgspec.Struct, frozen=True):
    """What the upstream answered. 200: the response has begun, and `read`, `written` and `fresh` are its input tokens.
    429 and 529: nothing was processed; `retry_after` in seconds, None if it did not say. `limit` (input tokens a
    minute) and `remaining` (rounded to thousands) as the rate-limit headers tell them; None where nothing is limited.
    """

    status: int
    retry_after: float | None = None
    limit: int | None = None
    remaining: int | None = None
    read: int = 0
    written: int = 0
    fresh: int = 0


class Policy(Protocol):
    """Decides; deterministic for a given seed. `moves` counts rebinds by reason."""

    name: str
    moves: dict[str, int]

    def begin(self, request: Request, now: float) -> Step:
        """The request arrives, or comes back after a refusal."""

    def waited(self, request: Request, now: float) -> Step:
        """The wait that this policy asked for is over."""

    def answered(self, request: Request, account: str, answer: Answer, now: float) -> Step | None:
        """An answer arrives: None for 200, else what to do next."""

    def finished(self, request: Request, account: str, now: float) -> None:
        """The response has ended."""

    def happened(self, event: Event, now: float) -> None:
        """The pool, the store or the process changed. Troubles of the upstream (`burst`, `overload`) are not told."""

    def decision(self, request: Request) -> tuple[str, str]:
        """(route, reason) of a request, asked right after its answer of 200."""


Factory = Callable[[Sequence[Account], float, int], Policy]  # accounts, cache TTL in seconds, seed
