"""Listening sockets."""

from __future__ import annotations

import socket

from gateway.config.schema import parse_listen
from gateway.upstream.keepalive import keep_alive


class Unstartable(Exception):
    """The gateway cannot start as it is configured; the message says what to do."""


def bind(listen: str, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address. The kernel spreads connections over them; the supervisor keeps them
    open, so that the queue of a worker that died waits for its successor. Raises Unstartable."""
    host, port = parse_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            each = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            keep_alive(each)  # and those that it accepts
            each.bind((host, port))
            port = each.getsockname()[1]
            each.set_inheritable(True)
            each.listen(4096)
    except OSError as error:
        for each in sockets:
            each.close()
        hint = "choose another address or stop what uses it"
        raise Unstartable(f"cannot listen on {listen}: {error.strerror}; {hint}") from None
    return sockets
