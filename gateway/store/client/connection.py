"""One connection to one server: every call of one loop tick leaves in one write, every reply goes to its caller.

It knows the protocol and the time a reply may take, not what an error reply means nor where else to ask: its owner
does.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol, cast

import hiredis

from gateway.store.client.topology import Access, Address
from gateway.store.scripts import Script

MAX_WAITING = 50_000  # calls in flight beyond which the server counts as overloaded
MAX_JOINED = 64  # calls that are sent as one
Arg = str | bytes | int
_pack = cast(Callable[[tuple[Arg, ...]], bytes], hiredis.pack_command)
_ASKING = _pack(("ASKING",))


class StoreDown(Exception):
    """The store cannot be asked now: not connected, too slow, or it refused (LOADING, READONLY, OOM ...)."""


class ScriptError(StoreDown):
    """The store is there, and a script fails on what it is given: it will never work."""


class Watch(Protocol):
    """Is told of each call of one script: the seconds from its write to its reply, or that it failed."""

    @property
    def answered(self) -> Callable[[float], None]: ...
    def failed(self) -> None: ...


class Asker(Protocol):
    """Who waits for a reply, as a future does; what it is told must not raise."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: Any, /) -> None: ...


class Call:
    """A script with `args` (number of keys, keys, arguments), for whoever waits as `future` (None for nobody).
    `refused` is told the error with which the server answers."""

    __slots__ = ("args", "future", "refused", "script", "watch")
    by_text = False  # sent with the script's text once more, to a server that has forgotten it
    asking = False  # sent after ASKING, for a server that is about to receive the slot
    redirections = 0
    count = 1  # calls

    def __init__(
        self,
        script: Script,
        args: tuple[Arg, ...],
        future: Asker | None,
        watch: Watch | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        self.script = script
        self.args = args
        self.future = future
        self.watch = watch
        self.refused = refused

    def fail(self, reason: str) -> None:
        """Tell the caller, if there is one who still waits."""
        if self.watch is not None:
            self.watch.failed()
        if self.future is not None and not self.future.done():
            self.future.set_exception(StoreDown(reason))


class Again(Call):
    """A call that is sent once more: by text, or after a redirection (with ASKING or without)."""

    __slots__ = ("asking", "by_text", "redirections")

    def __init__(self, call: Call, *, by_text: bool = False, redirected: bool = False, asking: bool = False) -> None:
        super().__init__(call.script, call.args, call.future, call.watch, call.refused)
        self.by_text = call.by_text or by_text
        self.redirections = call.redirections + redirected
        self.asking = asking if redirected else call.asking


class Joined(Call):
    """Calls of a script that joins, sent as one."""

    __slots__ = ("calls", "count")

    def __init__(self, calls: Sequence[Call]) -> None:
        first = calls[0]
        keys: list[Arg] = []
        rest: list[Arg] = [first.args[int(first.args[0]) + 1]]
        for call in calls:
            args, last = call.args, int(call.args[0]) + 1
            keys += args[1:last]
            rest += args[last + 1 :]
        super().__init__(first.script, (len(keys), *keys, *rest), None, first.watch)
        self.calls = calls
        self.count = len(calls)

    def answered(self, replies: Sequence[Any]) -> None:
        """Tell each caller who still waits."""
        for call, reply in zip(self.calls, replies, strict=True):
            future = call.future
            if future is not None and not future.done():
                future.set_result(reply)

    def fail(self, reason: str) -> None:
        for call in self.calls:
            call.fail(reason)


class _Question:
    """A single command of ours, such as PING."""

    __slots__ = ("future",)
    script = Script("", "", "")
    count = 1
    watch: Watch | None = None

    def __init__(self, future: asyncio.Future[Any] | None) -> None:
        self.future = future


_NOBODY = _Question(None)


class Owner(Protocol):
    """Who decides about a connection."""

    def refused(self, connection: Connection, call: Call, error: str) -> None:
        """`call` was answered with an error."""

    def lost(self, connection: Connection, reason: str) -> None:
        """The connection has ended; its calls have failed."""


class Nobody:
    """The owner of a connection that only ever asks questions."""

    def refused(self, connection: Connection, call: Call, error: str) -> None:
        call.fail(error)

    def lost(self, connection: Connection, reason: str) -> None:
        pass


class Connection(asyncio.Protocol):
    """Open one with `connect`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, host: str, access: Access, owner: Owner) -> None:
        self.host = host
        self.waiting: deque[Call | _Question] = deque()
        self.closed = False
        self._loop = loop
        self._access = access
        self._owner = owner
        self._reader = hiredis.Reader()
        self._out: list[bytes] = []
        self._joining: list[Call] = []  # sent at the end of this tick, after what is out already
        self._sent_by_text: set[str] = set()  # digests of scripts that the server has had by this connection
        self._armed = False
        self._watching = False
        # How late a reply is, without a clock a call: (questions written so far, time) of each write of calls.
        self._written = self._answered = 0
        self._writes: deque[tuple[int, float]] = deque()

    def __repr__(self) -> str:
        return f"<Connection {self.host!r} {'closed' if self.closed else 'open'}, {len(self.waiting)} waiting>"

    # Asking.

    def put(self, call: Call, joined: bool = False) -> None:
        """Send the call at the end of this tick; `joined` if it is not to join others any more. Raises StoreDown."""
        if self.closed or len(self.waiting) + len(self._joining) > MAX_WAITING:
            raise StoreDown("the store is away" if self.closed else "the store is overloaded")
        script = call.script
        if script.joins and not joined:
            self._joining.append(call)
        else:
            if call.by_text or script.sha not in self._sent_by_text:
                # First by text: a repeat of what the server does not know would run after calls that came later.
                self._sent_by_text.add(script.sha)
                packed = _pack(("EVAL", script.text, *call.args))
            else:
                packed = _pack(("EVALSHA", script.sha, *call.args))
            if call.asking:
                self._out.append(_ASKING)
                self.waiting.append(_NOBODY)
            self._out.append(packed)
            self.waiting.append(call)
        if not self._armed:
            self._armed = True
            self._loop.call_soon(self._flush)

    def _join(self) -> None:
        """Send what joins: together, in a cluster those of one slot."""
        joining, self._joining = self._joining, []
        groups: defaultdict[tuple[str, str], list[Call]] = defaultdict(list)
        for call in joining:
            slot = str(call.args[1]).partition("}")[0] if self._access.slots else ""
            groups[call.script.sha, slot].append(call)
        for group in groups.values():
            for first in range(0, len(group), MAX_JOINED):
                some = group[first : first + MAX_JOINED]
                self.put(Joined(some) if len(some) > 1 else some[0], True)

    async def ask(self, *command: str) -> Any:
        """The reply to one command. Raises StoreDown, for an error reply too."""
        if self.closed:
            raise StoreDown("connection lost")
        if self._armed:
            self._flush()
        future: asyncio.Future[Any] = self._loop.create_future()
        self.waiting.append(_Question(future))
        self._written += 1
        self.transport.write(_pack(command))
        return await future

    async def drain(self) -> None:
        """Wait until everything is answered. Raises StoreDown."""
        while self.waiting or self._joining:  # replies come in order; what the server did not know was sent again
            await self.ask("PING")

    def end(self, reason: str) -> None:
        """Close at once; what waits fails."""
        if self.closed:
            return
        self.closed = True
        self.transport.abort()
        waiting, self.waiting = self.waiting, deque()
        joining, self._joining = self._joining, []
        for asked in (*waiting, *joining):
            if isinstance(asked, Call):
                asked.fail(reason)
            elif asked.future is not None and not asked.future.done():
                asked.future.set_exception(StoreDown(reason))
        self._out = []
        self._owner.lost(self, reason)

    def _flush(self) -> None:
        if self.closed:
            return
        if len(self._joining) == 1:
            self.put(self._joining.pop(), True)
        elif self._joining:
            self._join()
        self._armed = False
        if not self._out:
            return
        out, self._out = self._out, []
        self._written += len(out)
        self._writes.append((self._written, monotonic()))
        self.transport.write(b"".join(out))
        if not self._watching:
            self._watching = True
            self._loop.call_later(self._access.budget / 2, self._watch)

    # Being answered.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reader, writes, now = self._reader, self._writes, monotonic()
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                asked = self.waiting.popleft()
                self._answered += 1
                if type(reply) is hiredis.ReplyError:
                    self._refuse(asked, str(reply))
                    continue
                future, watch = asked.future, asked.watch
                if future is not None:
                    if not future.done():
                        future.set_result(reply[0] if asked.script.joins else reply)
                elif type(asked) is Joined:
                    asked.answered(reply)
                if watch is not None:
                    while writes[0][0] < self._answered:
                        writes.popleft()
                    for _ in range(asked.count):
                        watch.answered(now - writes[0][1])
        except (hiredis.ProtocolError, IndexError):
            self.end("the server does not keep to the protocol")

    def _refuse(self, asked: Call | _Question, error: str) -> None:
        if isinstance(asked, Joined):
            for call in asked.calls:  # because of one of them, perhaps: that one must not keep the others from theirs
                self._repeat(call)
        elif isinstance(asked, Call):
            self._owner.refused(self, asked, error)
        elif asked.future is not None and not asked.future.done():
            asked.future.set_exception(StoreDown(error))

    def _repeat(self, call: Call) -> None:
        """Send it alone."""
        try:
            self.put(Again(call), True)
        except StoreDown as error:
            call.fail(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(f"connection lost ({exc or 'closed by the server'})")

    # Being late.

    def _watch(self) -> None:
        """Look whether the oldest call is within its budget, as long as anything is in flight."""
        if self.closed or not self.waiting:
            self._watching = False
        elif self._late():
            # This process itself may have been busy: let it read what has arrived before judging the server.
            self._loop.call_later(0.005, self._judge)
        else:
            self._loop.call_later(self._access.budget / 2, self._watch)

    def _judge(self) -> None:
        if not self.closed and self._late():
            self.end(f"no reply within {self._access.budget * 1000:.0f} ms")
        self._watch()

    def _late(self) -> bool:
        writes = self._writes
        while writes and writes[0][0] <= self._answered:
            writes.popleft()
        return bool(writes) and monotonic() - writes[0][1] > self._access.budget


async def connect(address: Address, access: Access, owner: Owner) -> Connection:
    """A connection that has been let in and has answered a PING. Raises OSError and StoreDown; takes no time limit."""
    loop = asyncio.get_running_loop()
    if isinstance(address, str):
        _, connection = await loop.create_unix_connection(lambda: Connection(loop, address, access, owner), address)
    else:
        host, port = address
        try:
            context = access.tls()
            _, connection = await loop.create_connection(
                lambda: Connection(loop, host, access, owner), host, port, ssl=context
            )
        except OSError:
            access.forget_tls()
            raise
    try:
        if access.password:
            await connection.ask("AUTH", *((access.username,) if access.username else ()), access.password)
        if access.db:
            await connection.ask("SELECT", str(access.db))
        await connection.ask("PING")
    except BaseException:
        connection.end("not let in")
        raise
    return connection
