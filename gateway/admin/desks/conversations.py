"""Where a conversation lives and why, for operators, and how to make the gateways forget it: JSON of the admin API.

It is told the client's own id, looks for the digest of it, and neither returns, logs nor keeps the id. It decides
nothing about routing: what the store holds is explained by the same router that the workers' rules are made of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from time import monotonic
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import msgspec

from gateway import log
from gateway.config.rules import instant_text
from gateway.config.schema import Caller, Config
from gateway.core.routing.binding import Move, Record, record_key
from gateway.core.routing.broadcast import Forget, encode
from gateway.core.routing.conversation import check_id, identify
from gateway.core.routing.router import DISABLED, DRAINING, LIMITED, MODEL, OPEN, OUT, REMOVED, Router
from gateway.errors import ApiError
from gateway.store.bindings import Stored
from gateway.store.client.client import StoreDown

_AVOIDED = ("out", "failing")  # states of accounts
KINDS = ("header", "session")  # of ids: the affinity header's, and Claude Code's session
PATH = b"/admin/v1/conversations/"
_AWAY = "The store is away"


# Why a conversation left `{0}`, by the reason of the move.
_LEFT = {
    "limited": "{0} was at its rate limit",
    "out": "{0} was out of service",
    "disabled": "{0} was disabled",
    "draining": "{0} was draining",
    "removed": "{0} was no longer in the pool",
    "model": "{0} did not serve this model",
    "errors": "{0} failed in it, as it did in others",
    "failing": "{0} failed where others did not",
    "refused": "{0} refused what another account served",
    "failed": "{0} failed",
    "overloaded": "the upstream was overloaded when {0} was asked",
    "unsent": "{0} could not be reached",
    "full": "{0} had no free slot",
    "credential": "no key for {0} was held yet",
    "object": "it names an object that is not at {0}",
    "home": "{0} had more than its share and the cache here was still warm",
    "cold": "it was cold and {0} had no room for it",
}
# Why nobody of a workspace can serve now, by the router's word for it.
_CLOSED = {
    LIMITED: "at its rate limit",
    OUT: "out of service",
    DISABLED: "disabled",
    DRAINING: "draining, and the conversation is cold",
    REMOVED: "no longer in the pool",
    MODEL: "not meant for this model",
}


class Bindings(Protocol):
    """The store's bindings, as in store.bindings. All raise StoreDown."""

    async def read(self, key: str) -> Stored | None: ...
    async def flush(self, key: str) -> int: ...
    async def flush_workspace(self, workspace: str) -> int: ...


class Wanted(msgspec.Struct, frozen=True):
    """Which conversation is meant: `id` as the client sends it, `kind` one of KINDS or "" for whichever there is,
    `agent` the agent id that Claude Code sends with a session."""

    caller: str
    id: bytes
    kind: str = ""
    agent: bytes = b""


class Place(msgspec.Struct, frozen=True):
    """One place where a conversation may be kept: its key there, and its key for the ranking."""

    kind: str
    key: bytes
    ranked: bytes


def wanted(raw_path: bytes, query: Mapping[str, str]) -> Wanted:
    """The conversation that `/admin/v1/conversations/{key id}/{conversation id}` names, by the path as it came:
    percent-encoded, where a slash is part of the id too. Raises ApiError 400 and 404."""
    caller, slash, rest = raw_path.removeprefix(PATH).partition(b"/")
    name = check_id(unquote_to_bytes(rest), "conversation id").lstrip(b" ")  # as those before a header's value go
    if not slash or not name:
        raise ApiError(404, "Give the key's id and the conversation's: /admin/v1/conversations/{key id}/{id}")
    kind, agent = query.get("kind", ""), check_id(query.get("agent", "").encode(), "agent")
    if kind and kind not in KINDS:
        raise ApiError(400, f"kind must be one of {', '.join(KINDS)}")
    if agent and kind != "session":
        raise ApiError(400, "agent needs kind=session")
    return Wanted(unquote_to_bytes(caller).decode(errors="replace"), name, kind, agent)


class Conversations:
    """`config()` gives the configuration in force; `router` sees the pool as all do; `health(account)` says how one of
    it stands; `forget` makes every process forget what is broadcast, and returns when this gateway's own have; `now()`
    is the router's clock."""

    def __init__(
        self,
        bindings: Bindings,
        config: Callable[[], Config],
        callers: Callable[[], Mapping[str, Caller]],
        router: Router,
        health: Callable[[str], Mapping[str, Any] | None],
        forget: Callable[[bytes], Awaitable[None]],
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._bindings = bindings
        self._config = config
        self._callers = callers
        self._router = router
        self._health = health
        self._forget = forget
        self._now = now

    async def show(self, wanted: Wanted) -> dict[str, Any]:
        """Where the conversation lives, for each model, and why. Raises ApiError: 404 for an unknown caller or
        conversation, 503 while the store is away."""
        try:
            for caller, place in self._places(wanted):
                stored = await self._bindings.read(record_key(caller.tenant, place.key))
                if stored is not None:
                    return self._shown(caller, place, stored)
        except StoreDown as error:
            raise ApiError(503, f"{_AWAY}: {error}") from None
        except msgspec.MsgspecError:
            raise ApiError(500, "The store holds a record of it that this version cannot read") from None
        raise self._unknown(wanted)

    async def flush(self, wanted: Wanted) -> dict[str, Any]:
        """Forget the conversation everywhere: its next request is placed as if it were its first. One that is on its
        way brings the binding back only where that had moved and the next request has begun. Raises
        ApiError as `show` does."""
        gone, found = 0, None
        try:
            for caller, place in self._places(wanted):
                if found is not None and (found[0] is not caller or found[1].kind != place.kind):
                    break
                key = record_key(caller.tenant, place.key)
                removed = await self._bindings.flush(key)
                await self._forget(encode(Forget(key=key)))  # even if it was only in some process's memory
                if removed:
                    gone, found = gone + removed, found or (caller, place)
        except StoreDown as error:
            raise ApiError(503, f"{_AWAY}, so the conversation may not be forgotten: {error}") from None
        if found is None:
            raise self._unknown(wanted)
        caller, place = found
        digest = _digest(place.key)
        log.info("conversation flushed", conversation=digest, caller=caller.id, bindings=gone)
        return {"conversation": digest, **_whose(caller), "kind": place.kind, "flushed": gone}

    async def flush_account(self, name: str) -> dict[str, Any]:
        """Forget all bindings to the account's workspace, which it may share with others. A conversation with a request
        on its way meanwhile may stay. Raises ApiError: 404 for an account that is not in the pool, 503 while the store
        is away."""
        ring = self._router.ring
        entry = ring.accounts.get(name)
        if entry is None:
            raise ApiError(404, f"There is no account of the id {name} in the pool")
        try:
            gone = await self._bindings.flush_workspace(entry.workspace)
        except StoreDown as error:
            raise ApiError(503, f"{_AWAY}, and only a part of the bindings may be gone: {error}") from None
        await self._forget(encode(Forget(workspace=entry.workspace)))
        log.info("bindings flushed", account=name, workspace=entry.workspace, bindings=gone)
        accounts = sorted(each.id for each in ring.members(entry.workspace, b"\0"))
        return {"account": name, "workspace": entry.workspace, "accounts": accounts, "flushed": gone}

    # Which one.

    def _candidates(self, name: str) -> list[Caller]:
        """Who has this id: of callers by token nobody but the token knows the team, where it is made of claims."""
        caller = self._callers().get(name)
        if caller is not None:
            return [caller]
        config = self._config()
        issuer = next((each for each in config.issuers if name.startswith(f"{each.id}/")), None)
        if issuer is None:
            raise ApiError(404, "There is no key of this id; `gateway keys list` names them")
        teams = [team.id for team in config.teams] if "{" in (issuer.team or "") else [issuer.team]
        return [Caller(id=name, team=team) for team in teams]

    def _places(self, wanted: Wanted) -> Iterator[tuple[Caller, Place]]:
        """Where it may be, the likeliest first: by each kind of id, under this secret and then the former one. Raises
        ApiError 404 for an unknown caller."""
        return (
            (caller, place) for caller in self._candidates(wanted.caller) for place in self._places_of(caller, wanted)
        )

    def _places_of(self, caller: Caller, wanted: Wanted) -> Iterator[Place]:
        for kind in (wanted.kind,) if wanted.kind else KINDS:
            ids = (wanted.id, b"", b"") if kind == "header" else (b"", wanted.id, wanted.agent)
            principal = caller.principal or caller.id
            keys = [identify(secret.encode(), principal, *ids, None) or b"" for secret in self._config().secret[:2]]
            for key in keys:
                yield Place(kind, key, keys[0])

    def _unknown(self, wanted: Wanted) -> ApiError:
        header = self._config().affinity.header
        said = {"header": f"the header {header}", "session": "Claude Code's session"}
        where = said[wanted.kind] if wanted.kind else " or ".join(said.values())
        return ApiError(
            404,
            f"Nothing is remembered of a conversation of this key with this id in {where}: it has not been seen, was "
            "forgotten, or belongs to another key",
        )

    # What is said of it.

    def _shown(self, caller: Caller, place: Place, stored: Stored) -> dict[str, Any]:
        bindings = [self._binding(place.ranked, model, stored) for model in sorted(stored.records)]
        home = {"workspace": self._router.ranked(place.ranked, "")}
        return {
            "conversation": _digest(place.key), **_whose(caller), "kind": place.kind, "home": home,
            "bindings": bindings,
        }  # fmt: skip

    def _binding(self, key: bytes, model: str, stored: Stored) -> dict[str, Any]:
        record, router, now = stored.records[model], self._router, self._now()
        in_use = not record.is_cold(stored.now)
        warm = record.warm_until > stored.now and record.tokens > 0
        fresh = 0.0 if warm else float(record.tokens)
        entry, (closed, seconds) = router.pick(record.workspace, key, model, router.classify(model), fresh, in_use, now)
        home = router.ranked(key, model)
        return {
            "model": model,
            "workspace": record.workspace,
            "account": None if entry is None else entry.id,
            "closed": None if closed == OPEN else closed_words(closed, seconds),
            "home": home,
            "avoided": self._avoided(key, record.workspace, home),
            "why": why(record, home, stored.now),
            "generation": record.generation,
            "tokens": record.tokens,
            "warm": warm,
            "warm_until": _time(record.warm_until),
            "record_expires": _time(stored.expires),
            "account_bound": bool(record.account_bound),
            "previous": _elsewhere(record.previous, record.previous_warm_until),
            "last_detour": _elsewhere(record.detour, record.detour_warm_until),
            "moves": [
                {"at": _time(move.at), "from": move.origin, "to": move.target, "reason": move.reason}
                for move in record.moves
            ],
        }

    def _avoided(self, key: bytes, workspace: str, home: str | None) -> list[dict[str, Any]]:
        """The accounts where it lives and at its home to which nothing new goes now, and why."""
        places = [workspace, *([home] if home and home != workspace else ())]
        members = [entry for place in places for entry in self._router.ring.members(place, key)]
        found = []
        for entry in members:
            health = self._health(entry.id) or {}
            if health.get("state") in _AVOIDED:
                told = {name: health[name] for name in ("state", "why", "judged_by", "until")}
                found.append({"account": entry.id, "workspace": entry.workspace, **told})
        return found


def why(record: Record, home: str | None, now: int) -> str:
    """One sentence on how the conversation came to the workspace that it is bound to, `home` being the first of its
    ranking; `now` in milliseconds of the store's clock."""
    workspace = record.workspace
    here = "at its home" if workspace == home else f"at {workspace}"
    move = record.moves[-1] if record.moves else None
    if move is not None and move.target == workspace:
        return _moved(move, home, now)
    if record.previous and record.generation > 1:
        return f"{here}; it came from {record.previous} while the store was away, so nobody wrote down why"
    if workspace == home:
        return "at its home, the first workspace of its ranking"
    if home is None:
        return f"{here}, because it was placed there; no active account serves this model now"
    shared = ", did not hold its tools and system prompt," if record.group else ""
    return (
        f"not at its home {home}, which had no room for it or was failing when it was placed{shared} or has come first "
        "only since"
    )


def _moved(move: Move, home: str | None, now: int) -> str:
    ago = duration((now - move.at) / 1000)
    cause = _LEFT.get(move.reason, f"of: {move.reason}").format(move.origin)
    if move.reason == "home":
        return f"went back from {move.origin} {ago} ago because {cause}"
    verb = "placed anew, away from" if move.reason == "cold" else "moved from"
    return f"{verb} {move.origin} {ago} ago because {cause}" + ("; this is its home" if move.target == home else "")


def closed_words(closed: str, seconds: float) -> str:
    """Why nobody of a workspace can serve now, and for how long."""
    words = _CLOSED.get(closed, closed)
    return f"{words} for another {duration(seconds)}" if 0.0 < seconds < 1e9 else words


def duration(seconds: float) -> str:
    """A length of time in round words."""
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


def _digest(key: bytes) -> str:
    """As in the log."""
    return key.hex()[:12]


def _whose(caller: Caller) -> dict[str, Any]:
    return {"caller": caller.id, "team": caller.team}


def _elsewhere(workspace: str, warm_until: int) -> dict[str, Any] | None:
    return {"workspace": workspace, "warm_until": _time(warm_until)} if workspace else None


def _time(milliseconds: int | None) -> str | None:
    return instant_text(milliseconds / 1000) if milliseconds else None
