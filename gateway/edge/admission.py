"""Who calls, and where the conversation lives: authentication from memory, and the binding from the store.

It does not know HTTP bodies or upstreams. When the store is away it answers from this process's own memory, else from
the ranking alone.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase

import msgspec

from gateway.config import Caller, Config
from gateway.edge.head import Head
from gateway.edge.pool import Pool
from gateway.errors import ApiError
from gateway.store.client import StoreClient, StoreDown
from gateway.store.scripts import ADMIT, REBIND, RECALL, SETTLE

MEMORY = 200_000  # conversations a process remembers


class Callers:
    """The table of keys: SHA-256 digest to caller. Looking a digest up takes no time that depends on a secret."""

    def __init__(self, callers: tuple[Caller, ...]) -> None:
        self._by_digest = {bytes.fromhex(digest): caller for caller in callers for digest in caller.digests}

    def authenticate(self, head: Head) -> Caller:
        """The caller of a request. Either credential header will do; both may be given. Raises ApiError(401)."""
        for key in (head.api_key, head.bearer):
            if key:
                caller = self._by_digest.get(hashlib.sha256(key).digest())
                if caller is not None:
                    return caller
        if head.api_key or head.bearer:
            raise ApiError(401, "invalid x-api-key")
        raise ApiError(401, "x-api-key header is required")

    def may_use(self, caller: Caller, model: str) -> bool:
        """Whether the caller's key allows `model`."""
        return any(pattern == "*" or fnmatchcase(model, pattern) for pattern in caller.models)


class Binding(msgspec.Struct):
    """Where a conversation's requests for one model go. `route` says how that was found; `generation` 0 means that
    the store was not asked; `key` is the record's key in the store, "" for a request without a conversation."""

    workspace: str | None
    route: str
    conversation: bytes
    key: str = ""
    generation: int = 0
    warm_for: int = 0  # ms that the conversation's cache was still warm for when it was read


def _record(caller: Caller, conversation: bytes, model: str) -> str:
    return f"{{{caller.tenant}}}:b:{conversation.hex()}:{model}"


class Admission:
    """Bindings of one process: the store's truth, and a bounded memory of it."""

    def __init__(self, config: Config, pool: Pool, store: StoreClient) -> None:
        self._pool = pool
        self._store = store
        self._remember = str(int(config.affinity.remember * 1000))
        # What was never answered is not worth remembering for long: settlement extends the record's life.
        self._provisional = str(int(config.timeouts.total * 1000) + 60_000)
        self._memory: dict[str, str] = {}

    async def bind(self, caller: Caller, conversation: bytes, model: str, former: bytes | None = None) -> Binding:
        """Read the binding of (conversation, model), or create it where the ranking puts it.

        `former` is the conversation's key under the secret before this one, whose binding a new one follows.
        """
        key = _record(caller, conversation, model)
        proposed = self._memory.get(key)
        if proposed is None or self._pool.vanished(proposed, model):
            if former is not None:
                proposed = await self._recall(_record(caller, former, model))
            if proposed is None or self._pool.vanished(proposed, model):
                proposed = self._pool.placed(conversation, model)
            if proposed is None:
                return Binding(None, "none", conversation)
        try:
            created, bound, generation, warm_until, _, now = await self._store.call(
                ADMIT, (1, key, 0, proposed, self._provisional)
            )
        except StoreDown:
            self._keep(key, proposed)
            return Binding(proposed, "stateless", conversation, key)
        workspace: str = bound.decode()
        route = "new" if created else "bound"
        binding = Binding(workspace, route, conversation, key, generation, warm_until - now)
        if self._pool.vanished(workspace, model):
            await self.rebind(binding, proposed)
        self._keep(key, workspace if binding.workspace is None else binding.workspace)
        return binding

    async def _recall(self, key: str) -> str | None:
        try:
            workspace = await self._store.call(RECALL, (1, key))
        except StoreDown:
            return None
        return None if workspace is None else str(workspace, "utf-8")

    async def rebind(self, binding: Binding, workspace: str) -> None:
        """Move the conversation, unless another request has moved it already; `binding` then says where to."""
        try:
            moved, bound, generation = await self._store.call(
                REBIND, (1, binding.key, binding.generation, workspace, self._remember)
            )
        except StoreDown:
            return
        binding.workspace = bound.decode()
        binding.generation = generation
        binding.warm_for = 0
        if moved and binding.route != "new":
            binding.route = "moved"
        self._keep(binding.key, binding.workspace)

    def renew(self, binding: Binding, age: float, ttl: int, tokens: int) -> None:
        """Post that the conversation's cache is warm: its response began `age` seconds ago, entries live `ttl` seconds,
        and the prompt holds `tokens` (0 while unknown). Nobody waits for it."""
        if binding.workspace is None or not binding.key:
            return
        age_ms, ttl_ms = str(int(age * 1000)), str(ttl * 1000)
        args = (1, binding.key, 0, binding.workspace, binding.generation, age_ms, ttl_ms, tokens, self._remember)
        try:
            self._store.post(SETTLE, args)
        except StoreDown:
            return  # the binding stays in memory, and the next settlement publishes it

    def _keep(self, key: str, workspace: str) -> None:
        memory = self._memory
        if key in memory:
            del memory[key]
        elif len(memory) >= MEMORY:
            del memory[next(iter(memory))]
        memory[key] = workspace
