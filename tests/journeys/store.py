"""One real server for all journeys, and the wire to it, which a journey may cut, slow down or let tell lies.

Commands are run at once: no time passes between a question and its answer, unless the journey says so. The scripts'
`now` is the journey's own clock.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import hiredis

from gateway.store import scripts
from gateway.store.embedded import servers_of_this_machine, version_problem
from tests.journeys.world import Pipe, World

SCRIPTS = [script for script in vars(scripts).values() if isinstance(script, scripts.Script)]
_READS_NOW = {script.sha.encode() for script in SCRIPTS if "'TIME'" in script.text}
_pack = cast(Callable[[tuple[Any, ...]], bytes], hiredis.pack_command)


def _follow_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


class Server:
    """A private server on a unix socket, without a port and without files."""

    def __init__(self) -> None:
        binary = next((each for each in servers_of_this_machine() if version_problem(each) is None), None)
        if binary is None:
            raise LookupError("no Redis or Valkey server on this machine")
        self._folder = Path(tempfile.mkdtemp(prefix="gw-", dir="/tmp"))  # a short path: sockets take no long one
        self.path = str(self._folder / "s")
        words = ["--port", "0", "--unixsocket", self.path, "--dir", str(self._folder), "--save", ""]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen([binary, *words], stdout=log, stderr=log, preexec_fn=_follow_parent)
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.005)
        self.line = Line(self.path)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), contextlib.closing(Line(self.path)) as line:
            return line.ask("PING") == b"PONG"
        return False

    def close(self) -> None:
        self.line.close()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class Line:
    """A connection to the server that waits for its replies."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def ask(self, *command: str | bytes | int) -> Any:
        """One reply."""
        return self.replies([_pack(command)])[1][0]

    def replies(self, commands: list[bytes]) -> tuple[bytes, list[Any]]:
        """All replies, as bytes and read."""
        self._socket.sendall(b"".join(commands))
        reader, raw, read = hiredis.Reader(), b"", list[Any]()
        while len(read) < len(commands):
            data = self._socket.recv(1 << 20)
            assert data, "the server has hung up"
            raw += data
            reader.feed(data)
            while len(read) < len(commands) and (reply := reader.gets()) is not False:
                read.append(reply)
        return raw, read

    def close(self) -> None:
        self._socket.close()


class Store:
    """The store as one journey has it. `state` is

    - "here": it answers;
    - "away": it hangs up, and takes no connection;
    - "silent": it takes all and answers nothing; what it was asked is done once it is back;
    - "forgetful": it does what it is asked, and its answers are lost with the connection;
    - "slow": it answers, half a second later;
    - anything else: the error that it answers to every script, such as "OOM command not allowed".
    """

    def __init__(self, world: World, server: Server) -> None:
        self._world = world
        self._server = server
        self.state = "here"
        self.asked = 0  # scripts
        self._connections: list[Connection] = []

    async def accept(self, pipe: Pipe) -> Connection:
        if self.state == "away":
            raise ConnectionRefusedError("the store is away")
        connection = Connection(self, pipe, Line(self._server.path), self._world)
        self._connections.append(connection)
        return connection

    def turn(self, state: str) -> None:
        """From now on it is so."""
        if state == "empty":
            self._server.line.ask("FLUSHALL")
        elif state == "without scripts":
            self._server.line.ask("SCRIPT", "FLUSH")
        else:
            self.state = state
            for each in list(self._connections):
                each.turned()

    def close(self) -> None:
        for each in self._connections:
            each.line.close()


class Connection:
    """One of the gateway's connections to it."""

    def __init__(self, store: Store, pipe: Pipe, line: Line, world: World) -> None:
        self.line = line
        self._store = store
        self._pipe = pipe
        self._world = world
        self._reader = hiredis.Reader()
        self._held: list[bytes] = []
        self._gone = False

    def heard(self, data: bytes) -> None:
        commands = []
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            commands.append(self._at_our_time(command))
        if self._store.state == "silent":
            self._held += commands
        else:
            self._run(commands)

    def _at_our_time(self, command: list[bytes]) -> bytes:
        word = command[0].upper()
        if word in (b"EVAL", b"EVALSHA"):
            self._store.asked += 1
            first = 3 + int(command[2])
            reads = command[1] in _READS_NOW if word == b"EVALSHA" else b"'TIME'" in command[1]
            if reads and command[first] == b"0":
                command[first] = b"%d" % int(self._world.clock.wall * 1000)
        return _pack(tuple(command))

    def _run(self, commands: list[bytes]) -> None:
        state = self._store.state
        if state not in ("here", "away", "silent", "slow", "forgetful"):
            self._refuse(commands, state)
            return
        raw, _ = self.line.replies(commands)
        if state == "forgetful":
            self._pipe.hang_up(ConnectionResetError("the store has gone"))
        elif state == "slow":
            self._world.call_later(0.5, self._pipe.say, raw)
        elif not self._gone:
            self._pipe.say(raw)

    def _refuse(self, commands: list[bytes], error: str) -> None:
        for command in commands:
            if b"EVAL" in command[:20].upper():
                self._pipe.say(b"-%b\r\n" % error.encode())
            else:
                self._pipe.say(self.line.replies([command])[0])

    def turned(self) -> None:
        state = self._store.state
        if state == "away" and not self._gone:
            self._pipe.hang_up(ConnectionResetError("the store has gone"))
        elif state == "here" and self._held:
            held, self._held = self._held, []
            self._run(held)

    def left(self) -> None:
        self._gone = True
