"""Which door a request comes in by."""

from collections.abc import Callable

from gateway.lab.simulator.clouds import bedrock, vertex
from gateway.lab.simulator.clouds.bedrock import Bedrock
from gateway.lab.simulator.clouds.door import Door, Hall
from gateway.lab.simulator.clouds.native import Native
from gateway.lab.simulator.clouds.tokens import Tokens
from gateway.lab.simulator.clouds.vertex import Vertex
from gateway.lab.simulator.credentials import Seen
from gateway.lab.simulator.records import Record
from gateway.lab.simulator.reply import Reply
from gateway.lab.simulator.request import Request
from gateway.lab.simulator.world import World

__all__ = ["Entrance"]


class Entrance:
    """The doors of a world, by path; one without clouds has none."""

    def __init__(self, hall: Hall, world: World) -> None:
        self._hall = hall
        self._tokens = Tokens(hall.credentials)
        providers = {account.cloud.provider for account in world if account.cloud is not None}
        self._open = bool(providers)
        self._platform = "aws-platform" in providers

    def door(self, request: Request) -> Door | None:
        """The door of this path, None for the native API."""
        if not self._open:
            return None
        path = request.path
        if path.startswith("/model/"):
            return Bedrock(self._hall, bedrock.PATH.fullmatch(path))
        if path.startswith("/anthropic/"):
            return Native(self._hall, ("foundry", "bedrock"), path.removeprefix("/anthropic"))
        match = vertex.PATH.fullmatch(path)
        if match is not None:
            return Vertex(self._hall, match)
        if not self._platform or all(name.lower() != b"anthropic-workspace-id" for name, _ in request.headers):
            return None
        return Native(self._hall, ("aws-platform",), path) if path.startswith("/v1/") else None

    def tokens(self, request: Request) -> Callable[[Request, Seen, Record, float, float], Reply] | None:
        """What gives credentials at this path, None for any other."""
        return self._tokens.serves(request) if self._open else None
