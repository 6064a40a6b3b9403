"""Servers on ports of the loopback address, for clusters and sentinels: real ones, that end with the test."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway.store.client.client import StoreClient, StoreDown
from gateway.store.embedded import _follow_parent, servers_of_this_machine, version_problem
from gateway.store.scripts import Script

BINARY = next((binary for binary in servers_of_this_machine() if version_problem(binary) is None), None)
SLOTS = 16_384


def script(text: str) -> Script:
    return Script("test", text, hashlib.sha1(text.encode()).hexdigest())


ECHO = script("return ARGV[1]")
COUNT = script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
READ = script("return redis.call('GET', KEYS[1])")
BOTH = script("return redis.call('MGET', KEYS[1], KEYS[2])")


def wait_for(condition: Callable[..., object], what: str, *args: Any, seconds: float = 20.0) -> None:
    """Block until `condition(*args)` holds; errors of servers that are away count as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition(*args):
                return
        except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
            pass
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Node:
    """One server process on a port; `admin` talks to it. `lines` are its configuration; `{directory}` is its own."""

    def __init__(self, port: int, lines: Iterable[str], *, sentinel: bool = False, password: str | None = None) -> None:
        if BINARY is None:
            pytest.skip("no Redis or Valkey server on this machine")
        self.port = port
        self.directory = Path(tempfile.mkdtemp(prefix="gw-", dir="/tmp"))
        common = [f"port {port}", "bind 127.0.0.1", f"dir {self.directory}", "daemonize no"]
        self.config = self.directory / "server.conf"  # sentinels write theirs anew
        self.config.write_text("\n".join([*common, *lines, ""]))
        self.sentinel = sentinel
        self.admin: Any = redis.Redis(port=port, password=password, socket_timeout=5)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def __repr__(self) -> str:
        return f"<Node {self.port}>"

    def start(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [BINARY or "", str(self.config), *(["--sentinel"] if self.sentinel else [])],
                stdout=log,
                stderr=log,
                preexec_fn=_follow_parent(),
            )

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "log").read_text()
        return bool(self.admin.ping())

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.admin.connection_pool.disconnect()

    def remove(self) -> None:
        self.kill()
        self.admin.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def in_step(replica: Node) -> bool:
    """Whether the replica has all that its master had when it connected."""
    return bool(replica.admin.info("replication")["master_link_status"] == "up")


class Servers:
    """Servers that end together."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def add(
        self, count: int, lines: Callable[[int], Iterable[str]], ports: list[int] | None = None, **options: Any
    ) -> list[Node]:
        """Start `count` servers; `lines(port)` configure each."""
        added = []
        for port in ports or free_ports(count):
            added.append(Node(port, lines(port), **options))
            self.nodes.append(added[-1])
        for node in added:
            wait_for(node.answers, f"{node} to answer")
        return added

    def end(self) -> None:
        for node in self.nodes:
            node.remove()


class ClusterOf(Servers):
    """A cluster of so many primaries, each with a replica if so, and every slot served."""

    def __init__(self, primaries: int, *, replicas: bool = False, slots: int = SLOTS) -> None:
        super().__init__()
        count = primaries * (2 if replicas else 1)
        ports = free_ports(2 * count)
        self.bus = dict(zip(ports[:count], ports[count:], strict=True))

        def lines(port: int) -> list[str]:
            return [
                "cluster-enabled yes",
                "cluster-node-timeout 600",
                "cluster-require-full-coverage no",
                "cluster-replica-validity-factor 0",
                "cluster-migration-barrier 9",
                "repl-diskless-sync-delay 0",
                "repl-ping-replica-period 1",
                f"cluster-port {self.bus[port]}",
                'save ""',
            ]

        try:
            nodes = self.add(count, lines, ports[:count])
            self.primaries, self.replicas = nodes[:primaries], nodes[primaries:]
            self._form(slots)
        except BaseException:
            self.end()
            raise

    def _form(self, slots: int) -> None:
        for number, node in enumerate(self.nodes):
            node.admin.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        share = -(-slots // len(self.primaries))
        for number, node in enumerate(self.primaries):
            last = min((number + 1) * share, slots) - 1
            node.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
        for number, node in enumerate(self.nodes):  # each pair: gossip alone takes seconds
            for other in self.nodes[:number]:
                node.admin.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, self.bus[other.port])
        for node in self.nodes:
            wait_for(self._knows_all, f"{node} to know the others", node)
        for primary, replica in zip(self.primaries, self.replicas, strict=False):
            replica.admin.execute_command("CLUSTER", "REPLICATE", self.id(primary))
        for replica in self.replicas:
            wait_for(in_step, "replication", replica)
        self.settle()

    def _knows_all(self, node: Node) -> bool:
        lines = str(node.admin.execute_command("CLUSTER NODES"))
        return "handshake" not in lines and int(self.info(node)["cluster_known_nodes"]) == len(self.nodes)

    def info(self, node: Node) -> dict[str, str]:
        found = node.admin.execute_command("CLUSTER INFO")
        if isinstance(found, dict):
            return found
        return dict(line.split(":") for line in found.decode().split())

    def slot_nodes(self, node: Node) -> set[int]:
        """The ports of all nodes that serve slots, as `node` knows them."""
        raw = node.admin.execute_command("CLUSTER SLOTS")
        return {int(each[1]) for _, _, *nodes in raw for each in nodes}

    def id(self, node: Node) -> str:
        found = node.admin.execute_command("CLUSTER", "MYID")
        return found.decode() if isinstance(found, bytes) else str(found)

    def by_port(self, port: int) -> Node:
        return next(node for node in self.nodes if node.port == port)

    def owner(self, slot: int) -> Node | None:
        """The primary of the slot, as the majority of the nodes that run say."""
        votes = [
            port
            for node in self.nodes
            if node.process is not None
            for first, last, (_, port, *_), *_ in node.admin.execute_command("CLUSTER SLOTS")
            if first <= slot <= last
        ]
        return self.by_port(max(set(votes), key=votes.count)) if votes else None

    def owners(self) -> list[Node]:
        """The primaries, in the order of their slots."""
        found = dict.fromkeys(self.owner(slot) for slot in (0, SLOTS // 2, SLOTS - 1))
        return [node for node in found if node is not None]

    def replica_of(self, primary: Node) -> Node:
        return self.by_port(int(primary.admin.info("replication")["slave0"]["port"]))

    def settle(self) -> None:
        """Wait until three nodes have all slots, each with a replica in step, and everybody knows."""
        for node in self.nodes:
            wait_for(self._settled, f"{node} to be settled", node)

    def _settled(self, node: Node) -> bool:
        role = node.admin.info("replication")
        paired = not self.replicas or (role["connected_slaves"] == 1 if role["role"] == "master" else in_step(node))
        return paired and self.info(node)["cluster_state"] == "ok" and len(self.slot_nodes(node)) == len(self.nodes)

    def begin_move(self, slot: int, source: Node, target: Node) -> None:
        target.admin.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id(source))
        source.admin.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id(target))

    def end_move(self, slot: int, target: Node) -> None:
        for node in [target, *(each for each in self.owners() if each is not target)]:
            node.admin.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.id(target))

    def move(self, slot: int, source: Node, target: Node) -> None:
        """Move a slot with all that it holds."""
        self.begin_move(slot, source, target)
        while keys := source.admin.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.admin.migrate("127.0.0.1", target.port, keys, 0, 5000)
        self.end_move(slot, target)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.primaries)


MASTER = "mymaster"
PASSWORD = "p@ss/word"
SENTINEL_PASSWORD = "another one"


class SentinelSet(Servers):
    """A master, its replicas and three sentinels, all with passwords."""

    def __init__(self, replicas: int) -> None:
        super().__init__()
        try:
            self._start(replicas)
        except BaseException:
            self.end()
            raise

    def _start(self, replicas: int) -> None:
        common = [f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", 'save ""', "repl-diskless-sync-delay 0"]
        [master] = self.add(1, lambda port: common, password=PASSWORD)
        follow = [*common, f"replicaof 127.0.0.1 {master.port}"]
        followers = self.add(replicas, lambda port: follow, password=PASSWORD)
        self.data = [master, *followers]
        for node in followers:
            wait_for(in_step, "replication", node)
        watch = [
            f'requirepass "{SENTINEL_PASSWORD}"',
            f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 2",
            f"sentinel auth-pass {MASTER} {PASSWORD}",
            f"sentinel down-after-milliseconds {MASTER} 500",
            f"sentinel failover-timeout {MASTER} 3000",
            f"sentinel parallel-syncs {MASTER} 2",
        ]
        self.sentinels = self.add(3, lambda port: watch, sentinel=True, password=SENTINEL_PASSWORD)
        for node in self.sentinels:
            wait_for(self._ready, f"sentinel {node} to know the others", node, replicas)

    def _ready(self, sentinel: Node, replicas: int) -> bool:
        fields = sentinel.admin.execute_command("SENTINEL", "MASTER", MASTER)
        if not isinstance(fields, dict):  # before redis-py 8
            fields = dict(zip(fields[::2], fields[1::2], strict=True))
        return int(fields[b"num-other-sentinels"]) == 2 and int(fields[b"num-slaves"]) == replicas

    def named(self) -> set[int]:
        """The ports that the sentinels name as the master's: two of them until all have heard of a failover."""
        ask = "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER
        return {int(node.admin.execute_command(*ask)[1]) for node in self.sentinels}

    def master(self) -> Node:
        """The master, once all sentinels name the same."""
        wait_for(lambda: len(self.named()) == 1, "the sentinels to agree")
        return self.by_port(self.named().pop())

    def by_port(self, port: int) -> Node:
        return next(node for node in self.data if node.port == port)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Let the loop run until the condition holds; `TimeoutError` after so many seconds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.002)


async def succeeds(client: StoreClient, script: Script, args: tuple[Any, ...], seconds: float = 20.0) -> Any:
    """The first reply to the call, asked again and again while the store is away."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await client.call(script, args)
            except StoreDown:
                await asyncio.sleep(0.01)


class Changes:
    """The transitions that a client has told of."""

    def __init__(self) -> None:
        self.states: list[bool] = []
        self.reasons: list[str] = []

    def __call__(self, up: bool, reason: str) -> None:
        self.states.append(up)
        self.reasons.append(reason)
