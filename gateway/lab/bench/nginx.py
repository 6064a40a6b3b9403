"""nginx as the yardstick: the same consistent hash over the same upstreams, and nothing else switched on.

It holds bodies in memory, as the gateway does, instead of in a file.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from gateway.lab.bench.plan import Upstream
from gateway.lab.bench.processes import Child, command_of, tree

_ELSEWHERE = "/usr/sbin/nginx"  # not on the PATH of everybody


def find() -> str | None:
    """The binary of this machine."""
    return shutil.which("nginx") or (_ELSEWHERE if os.access(_ELSEWHERE, os.X_OK) else None)


def version(binary: str) -> str:
    run = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False)  # noqa: S603 - found above
    return run.stderr.strip().rpartition("/")[2]


def command(binary: str, config: Path) -> list[str]:
    return [binary, "-c", str(config), "-p", str(config.parent), "-g", "daemon off;"]


def configuration(routes: Iterable[tuple[int, Upstream]], folder: Path, idle: int) -> str:
    """The whole configuration: `routes` are ports and what is behind them, `idle` is how many unused upstream
    connections are kept."""
    user = ""
    if os.geteuid() == 0:  # its workers would become somebody who may not write here
        user = f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(os.getegid()).gr_name};"
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    servers = "\n".join(_server(port, upstream, idle) for port, upstream in routes)
    return f"""{user}
worker_processes 1;
worker_rlimit_nofile 65536;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 65536; }}
http {{
  access_log off;
{temporary}
  client_max_body_size 64m;
  client_body_buffer_size 4m;
  keepalive_requests 1000000000;
{servers}
}}
"""


def _server(port: int, upstream: Upstream, idle: int) -> str:
    lane = upstream.lane
    scheme, secure = "http", ""
    if lane.certificate is not None:
        scheme = "https"
        secure = f"""
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {lane.certificate};
      proxy_ssl_name localhost;
      proxy_ssl_protocols TLSv1.2 TLSv1.3;"""
    # Two entries, as the gateway has two accounts, though one process stands behind both.
    return f"""
  upstream {lane.name} {{
    hash $http_x_conversation_id consistent;
    server 127.0.0.1:{upstream.port};
    server 127.0.0.1:{upstream.port};
    keepalive {idle};
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass {scheme}://{lane.name};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 300s;{secure}
    }}
  }}"""


def serves(master: Child) -> bool:
    """Whether it came up, once that is known."""
    for _ in range(500):
        if master.process.poll() is not None:
            return False
        if any(command_of(pid).startswith(b"nginx: worker") for pid in tree([master.pid])):
            return True
        time.sleep(0.01)
    return False
