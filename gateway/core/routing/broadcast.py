"""What processes tell each other in passing: small facts with an age, as MessagePack.

Times are relative (seconds from the telling), so that clocks need not agree.
"""

from __future__ import annotations

import msgspec

from gateway.core.routing.health import Cause


class Closed(msgspec.Struct, tag="closed", array_like=True, frozen=True):
    """A 429: nothing more to this organization for this class of models."""

    organization: str
    limit_class: str
    seconds: float


class ClosedFrom(msgspec.Struct, tag="closed_from", array_like=True, frozen=True):
    """A 429 with all of the limit left: no request of so many fresh tokens or more to this organization."""

    organization: str
    limit_class: str
    tokens: float
    seconds: float


class Out(msgspec.Struct, tag="out", array_like=True, frozen=True):
    """`name` is an account, or an organization where the cause is billing. `account` is the one that showed it;
    `credential` names the credential that was refused, and processes with another one do not believe it."""

    name: str
    cause: Cause
    seconds: float
    account: str = ""
    credential: str = ""


class Back(msgspec.Struct, tag="back", array_like=True, frozen=True):
    """An account answers again; with it its organization, if it was something `paid`. `wholly`: an operator says so,
    and that all else which keeps the account closed is to be forgotten as well. `credential` names what works."""

    account: str
    wholly: bool = False
    paid: bool = False
    credential: str = ""


class Suspected(msgspec.Struct, tag="suspected", array_like=True, frozen=True):
    """A request was answered 401; whether the account's key is at fault, its free probe is to show."""

    account: str


class Unreachable(msgspec.Struct, tag="unreachable", array_like=True, frozen=True):
    """`process` cannot reach the account, for so many seconds at least; 0: it can again. For operators: whether an
    account can be reached is each process's own opinion."""

    account: str
    process: str
    seconds: float


class Failed(msgspec.Struct, tag="failed", array_like=True, frozen=True):
    """An exchange with an account has ended badly after an answer: which kind, for which unit, after so many good ones
    that were not told; `trial` says that it was to find out whether the account is well again."""

    account: str
    fault: str
    unit: str
    good: int = 0
    trial: bool = False


class Failing(msgspec.Struct, tag="failing", array_like=True, frozen=True):
    """`process` takes an account for failing: its faults of the last minute by kind, the seconds until its next trial,
    and the pause that led there."""

    account: str
    process: str
    faults: dict[str, int]
    seconds: float
    pause: float


class Trying(msgspec.Struct, tag="trying", array_like=True, frozen=True):
    """A request finds out whether a failing account is well again: nobody else does meanwhile."""

    account: str


class Recovered(msgspec.Struct, tag="recovered", array_like=True, frozen=True):
    """A failing account is well again, as an exchange of `process` has shown."""

    account: str
    process: str = ""


class ModelClosed(msgspec.Struct, tag="model", array_like=True, frozen=True):
    """The account may not use this model, though another may."""

    account: str
    model: str
    seconds: float


class FeaturesClosed(msgspec.Struct, tag="features", array_like=True, frozen=True):
    """The account refuses this model with these optional features, though another does not."""

    account: str
    model: str
    features: list[str]
    seconds: float


class NeedRefused(msgspec.Struct, tag="need", array_like=True, frozen=True):
    """The account refuses a need of a model's requests, and what becomes of it: a Verdict of capabilities."""

    account: str
    model: str
    need: str
    verdict: str
    seconds: float


class Seen(msgspec.Struct, tag="seen", array_like=True, frozen=True):
    """One domain as one process sees it: what it has reserved, and the buckets it observed since it last told:
    kind -> (limit, left, seconds since)."""

    organization: str
    limit_class: str
    reserved: float
    asked: int
    buckets: dict[str, tuple[float, float, float]]


class Report(msgspec.Struct, tag="report", array_like=True, frozen=True):
    """Every second: fresh tokens added by workspace, and the domains in use. `process` names the teller."""

    process: str
    loads: dict[str, float]
    domains: list[Seen]


class Noted(msgspec.Struct, tag="noted", array_like=True, frozen=True):
    """The latest headers by which an account has told of its limits and itself: for operators."""

    account: str
    headers: dict[str, str]


class Forget(msgspec.Struct, tag="forget", array_like=True, frozen=True):
    """Bindings were flushed: of one conversation (`key`, as in the store), or all in `workspace`."""

    key: str = ""
    workspace: str = ""


class Hello(msgspec.Struct, tag="hello", array_like=True, frozen=True):
    """A process has begun, and asks what is closed."""


class BoundConversation(msgspec.Struct, array_like=True, frozen=True):
    """A conversation was bound; `record` is core.routing.binding's, packed."""

    key: str
    model: str
    record: bytes


class BoundConversations(msgspec.Struct, tag="bounds", array_like=True, frozen=True):
    """Conversations that were bound lately."""

    bound: list[BoundConversation]


class Owned(msgspec.Struct, tag="owned", array_like=True, frozen=True):
    """An account-bound object is this caller's and lives in this workspace; without one it is nobody's any more. `at`
    is when it was created, in Unix milliseconds."""

    object: str
    workspace: str = ""
    caller: str = ""
    team: str = ""
    at: int = 0


class Ended(msgspec.Struct, tag="ended", array_like=True, frozen=True):
    """An operator's browser has signed out: `session` is the SHA-256 of its session, in hex."""

    session: str


Fact = (
    Owned | Hello | BoundConversations | Closed | ClosedFrom | Out | Back | Suspected | Unreachable | Failed | Failing
    | Trying | Recovered | ModelClosed | FeaturesClosed | NeedRefused | Report | Noted | Forget | Ended
)  # fmt: skip
encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Fact).decode


def decode(data: bytes) -> Fact | None:
    """The fact, None where a newer version tells what this one does not understand."""
    try:
        return _decode(data)  # type: ignore[no-any-return]
    except msgspec.MsgspecError:
        return None
