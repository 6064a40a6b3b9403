"""The simulated upstreams, one process for each lane, and a certificate for those that speak TLS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from gateway.lab.bench.plan import EVENTS, Lane, Upstream
from gateway.lab.bench.processes import BenchError

# `gateway simulate` without the rest of the command line, which takes four times as long to load.
_PROGRAM = "import typer; from gateway.lab.simulator.command import simulate; typer.run(simulate)"
_CERTIFICATE = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
_EXTENSIONS = ("subjectAltName=DNS:localhost,IP:127.0.0.1", "keyUsage=critical,digitalSignature,keyCertSign")


def make_certificate(folder: Path) -> Path:
    """A certificate for loopback, its key beside it. BenchError where openssl cannot make one."""
    path = folder / "upstream.pem"
    command = [*_CERTIFICATE.split(), "-keyout", str(_key(path)), "-out", str(path)]
    for extension in _EXTENSIONS:
        command += ["-addext", extension]
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - the words are above
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip()
        raise BenchError(f"openssl makes no certificate: {said}") from None
    except OSError as error:
        raise BenchError(f"openssl makes no certificate: {error.strerror}") from None
    return path


def _key(certificate: Path) -> Path:
    return certificate.with_suffix(".key")


def command(lane: Lane, port: int) -> list[str]:
    """How to start it; it prints a line of JSON once it listens."""
    words = ["--listen", f"127.0.0.1:{port}", "--json", "--accounts", "2", "--tokens-per-event", "1"]
    words += ["--tokens-per-second", str(lane.pace), "--static", "--static-events", str(EVENTS)]
    if lane.certificate is not None:
        words += ["--tls-cert", str(lane.certificate), "--tls-key", str(_key(lane.certificate))]
    return [sys.executable, "-P", "-c", _PROGRAM, *words]


def announced(lane: Lane, line: bytes, pid: int) -> Upstream:
    """The upstream that printed this line."""
    said = msgspec.json.decode(line)
    port = urlsplit(said["base_url"]).port or 0
    return Upstream(lane, port, [account["api_key"] for account in said["accounts"]], pid)
