"""A request as the connection received it."""

from gateway.lab.simulator.records import Header
from gateway.lab.simulator.upload import Upload

__all__ = ["Request"]


class Request:
    """`target` is path and query; `upload` is set where the body was read as a stream, and `body` is then empty."""

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "query", "target", "upload")

    def __init__(
        self,
        method: str,
        target: str,
        headers: list[Header],
        body: bytes,
        keep_alive: bool = True,
        upload: Upload | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.upload = upload
