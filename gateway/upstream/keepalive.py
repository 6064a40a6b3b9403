"""TCP keep-alives: what stands between two machines forgets connections that are silent for some minutes, and tells
nobody. A gateway's connections say something each minute at least.
"""

from __future__ import annotations

import socket

# Of the systems that have them: seconds of silence, seconds between probes, probes that may be lost.
_OPTIONS: list[tuple[int, int, int]] = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 45), ("TCP_KEEPALIVE", 45), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    ),
]


def keep_alive(connection: socket.socket) -> None:
    """Have this connection, or those accepted by this listener, say that they live."""
    for level, option, value in _OPTIONS:
        connection.setsockopt(level, option, value)
