"""redis-py on every topology, for whatever is not hot: administration, scans, subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import Any, cast

from gateway.store.client.connection import Arg, ScriptError, StoreDown
from gateway.store.client.plain_redis import (
    ClusterDownError,
    ClusterNode,
    ConstantBackoff,
    LostConnection,
    NoBackoff,
    NoReply,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    Retry,
    Sentinel,
    SentinelConnectionPool,
    redis,
)
from gateway.store.client.replies import Meaning, meaning
from gateway.store.client.topology import Address, Topology, read_url
from gateway.store.scripts import Script

# What a store that is away raises; the last two where one task closes a connection on which another begins to write.
FAILURES = (RedisError, RedisClusterException, OSError, AttributeError, RuntimeError)
Client = redis.Redis | redis.RedisCluster
# Without its name and version, which it reads from its package anew for each connection.
_COMMON: dict[str, Any] = {"socket_timeout": 1, "socket_connect_timeout": 1, "protocol": 2, "driver_info": None}
_LOST: Any = (LostConnection, NoReply, ClusterDownError, RedisClusterException)
_LEARN = Retry(ConstantBackoff(0.1), 3, _LOST)  # which nodes there are
_SENTINEL_WAIT = 0.3  # seconds for one sentinel; they are asked one after the other
_LOOK = 1.0  # seconds between two looks whether the server still answers, and is still the master
_AGAIN = 0.2  # seconds before subscribing anew


def open_redis(url: str) -> Client:
    """A client of the store at `url`: of the one server, of the master as sentinels name it at each connection, or of
    the cluster. It connects when first used, and asks once more where a connection is lost: no place for commands that
    must not run twice. Raises ValueError. Close it with `aclose`."""
    topology = read_url(url)
    if topology.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in cast(Any, topology.nodes)]
        options = {"startup_nodes": nodes, "require_full_coverage": False, "retry": Retry(ConstantBackoff(0.1), 3)}
        return redis.RedisCluster(**{**_COMMON, **topology.access.options, **options})
    return _one(topology, topology.nodes[0], Retry(ConstantBackoff(0.05), 1))


def _one(topology: Topology, node: Address, retry: Retry) -> redis.Redis:
    """A client of one server: of the master, where sentinels are asked; of this node in a cluster."""
    options = {**_COMMON, "retry": retry}
    if not topology.kind:
        return redis.Redis.from_url(topology.plain, **options)
    options.update(topology.access.options)
    if topology.kind == "cluster":
        host, port = cast(tuple[str, int], node)
        return redis.Redis(host=host, port=port, **options)
    quick = {"socket_timeout": _SENTINEL_WAIT, "socket_connect_timeout": _SENTINEL_WAIT}
    own = {**_COMMON, **quick, "retry": Retry(NoBackoff(), 0), **topology.sentinels.options}
    sentinel = cast(Any, Sentinel)(topology.nodes, sentinel_kwargs=own, **options)
    return cast(redis.Redis, sentinel.master_for(topology.master, connection_pool_class=_MasterPool))


class _MasterPool(SentinelConnectionPool):
    """Connections to the master; closing them closes those to the sentinels."""

    _next_look = 0.0

    async def look(self) -> bool:
        """Ask the sentinels, once a second at most, and leave a master that they no longer name; True if so. Where none
        answers, what is connected stays."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _LOOK
        last = self.master_address
        try:
            return bool(await cast(Any, self).get_master_address() != last is not None)
        except FAILURES:
            self._next_look = time.monotonic() + 10 * _LOOK
            return False

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


async def ask(client: Client, *command: Any) -> Any:
    """The reply to one command. Raises StoreDown, for an error reply too (ScriptError where that is one of ours), and
    NoScriptError."""
    try:
        await _ready(client)
        return await cast(Any, client).execute_command(*command)
    except NoScriptError:
        raise
    except FAILURES as error:
        ours = type(error) is ResponseError and meaning(str(error)) is Meaning.WRONG
        raise (ScriptError if ours else StoreDown)(str(error) or type(error).__name__) from None


async def ask_all(client: Client, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The replies to these commands, sent at once; one of FAILURES in the place of each that failed. Raises StoreDown
    where they could not be sent."""
    try:
        await _ready(client)
        async with cast(Any, client).pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return cast(list[Any], await pipeline.execute(raise_on_error=False))
    except FAILURES as error:
        raise StoreDown(str(error) or type(error).__name__) from None


async def _ready(client: Client) -> None:
    """Before commands: that the master is still the one that sentinels name, or that the nodes of a cluster are known.
    These redis-py asks for once, whatever it may ask again."""
    if isinstance(client, redis.RedisCluster):
        await _LEARN.call_with_retry(client.initialize, _go_on)
    elif isinstance(client.connection_pool, _MasterPool):
        await client.connection_pool.look()


async def _go_on(error: Exception) -> None:
    """What a Retry does after each failure beside waiting: nothing."""


async def run(client: Client, script: Script, args: tuple[Arg, ...]) -> Any:
    """The reply to `script`, whose `args` are as StoreClient.call takes them; a server that does not know the script
    is sent it. Raises StoreDown."""
    try:
        return await ask(client, "EVALSHA", script.sha, *args)
    except NoScriptError:
        return await ask(client, "EVAL", script.text, *args)


async def run_all(client: Client, calls: Sequence[tuple[Script, tuple[Arg, ...]]]) -> list[Any]:
    """The replies to scripts; StoreDown in the place of each that failed. Raises StoreDown where they could not be
    sent."""
    if isinstance(client, redis.RedisCluster):
        return await _run_by_node(client, calls)
    replies = await ask_all(client, [("EVALSHA", script.sha, *args) for script, args in calls])
    for place, reply in enumerate(replies):
        if isinstance(reply, NoScriptError):
            replies[place] = await _attempt(client, calls[place])
        elif isinstance(reply, Exception):
            replies[place] = StoreDown(str(reply) or type(reply).__name__)
    return replies


async def _run_by_node(client: redis.RedisCluster, calls: Sequence[tuple[Script, tuple[Arg, ...]]]) -> list[Any]:
    """One after the other: redis-py's pipeline gives up where a node is slow. Of a node that is away one is asked."""
    try:
        await _ready(client)
    except FAILURES as error:
        raise StoreDown(str(error) or type(error).__name__) from None
    replies: list[Any] = []
    lost: dict[str, StoreDown] = {}
    for call in calls:
        node = client.get_node_from_key(cast(Any, call[1][1]))
        name = "" if node is None else node.name
        reply = lost.get(name) or await _attempt(client, call)
        if isinstance(reply, StoreDown) and not isinstance(reply, ScriptError):
            lost[name] = reply
        replies.append(reply)
    return replies


async def _attempt(client: Client, call: tuple[Script, tuple[Arg, ...]]) -> Any:
    try:
        return await run(client, *call)
    except StoreDown as error:
        return error


async def scan(client: Client, match: str) -> AsyncIterator[bytes]:
    """The keys that match the pattern, in all primaries; one may come twice. Raises StoreDown."""
    options = {"target_nodes": redis.RedisCluster.PRIMARIES} if isinstance(client, redis.RedisCluster) else {}
    try:
        await _ready(client)
        async for key in cast(Any, client).scan_iter(match=match, count=1000, **options):
            yield key
    except FAILURES as error:
        raise StoreDown(str(error) or type(error).__name__) from None


async def subscribe(
    url: str, channels: Iterable[str], *, subscribed: Callable[[], None] | None = None
) -> AsyncGenerator[tuple[str, bytes], None]:
    """(channel, message) for ever, through any outage and failover. Iterate it in `contextlib.aclosing`.

    `subscribed` is called each time the subscription stands: what was said before is not heard. Raises ValueError."""
    topology = read_url(url)
    nodes = list(topology.nodes)
    names = set(channels)
    while True:
        client = _one(topology, nodes[0], Retry(NoBackoff(), 0))
        pubsub = cast(Any, client).pubsub()
        try:
            await pubsub.subscribe(*names)
            if topology.kind == "cluster":
                nodes = await _nodes(client, nodes)
            async for message in _messages(pubsub, len(names), subscribed or (lambda: None)):
                yield message
        except FAILURES:
            nodes.append(nodes.pop(0))  # in a cluster any node hears what is said at another
            await asyncio.sleep(_AGAIN)
        finally:
            for each in (pubsub, client):
                with contextlib.suppress(*FAILURES):
                    await cast(Any, each).aclose()


async def _messages(pubsub: Any, missing: int, subscribed: Callable[[], None]) -> AsyncIterator[tuple[str, bytes]]:
    """What is said, until the connection is lost or nobody answers at its other end: one of FAILURES is raised."""
    loop = asyncio.get_running_loop()
    look, answered = loop.time() + _LOOK, True
    while True:
        message = await pubsub.get_message(timeout=max(0.01, look - loop.time()))
        if loop.time() >= look:
            if missing or not answered:
                raise TimeoutError("nobody answers")
            if isinstance(pubsub.connection_pool, _MasterPool) and await pubsub.connection_pool.look():
                raise ConnectionError("the sentinels name another master")
            await pubsub.ping()
            look, answered = loop.time() + _LOOK, False
        if message is None:
            continue
        answered = True
        if message["type"] == "subscribe":
            missing -= 1
            if missing == 0:
                subscribed()
        elif message["type"] == "message":
            yield message["channel"].decode(), message["data"]


async def _nodes(client: redis.Redis, known: list[Address]) -> list[Address]:
    """The nodes to try: the one at hand, those known before, and all that it knows itself."""
    slots = await cast(Any, client).execute_command("CLUSTER SLOTS")
    found = [(host.decode(), port) for _, _, *nodes in slots for host, port, *_ in nodes if host]
    return list(dict.fromkeys([*known, *found]))
