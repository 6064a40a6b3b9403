"""Every endpoint but Messages, counting and models, by path."""

from collections.abc import Callable

from gateway.lab.simulator.batches import Batches
from gateway.lab.simulator.call import Call, json_reply
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.files import Files
from gateway.lab.simulator.kinds import KINDS
from gateway.lab.simulator.links import Links
from gateway.lab.simulator.messages import Messages
from gateway.lab.simulator.objects import Objects
from gateway.lab.simulator.reply import Reply
from gateway.lab.simulator.resources import Resources
from gateway.lab.simulator.skills import Skills

__all__ = ["CHAT_PATH", "COMPLETE_PATH", "Endpoints", "is_forbidden"]

CHAT_PATH = "/v1/chat/completions"
COMPLETE_PATH = "/v1/complete"


class Endpoints:
    """The handlers; all of them share one store of objects."""

    def __init__(self, objects: Objects, files: Files, skills: Skills, messages: Messages) -> None:
        resources = Resources(objects, Links(objects, skills))
        self._batches = Batches(objects, messages)
        self._handlers: dict[str, Callable[[Call], Reply]] = {
            "files": files.answer,
            "skills": skills.answer,
            "next_month": _echo,
            **dict.fromkeys(KINDS, resources.answer),
        }

    def answer(self, call: Call) -> Reply:
        """The reply; `ApiError` 404 for a path that nobody serves."""
        if call.parts[:2] == ["messages", "batches"]:
            handler: Callable[[Call], Reply] = self._batches.answer
        elif call.request.path.startswith("/v1/") and call.parts[0] in self._handlers:
            handler = self._handlers[call.parts[0]]
        else:
            raise call.unknown_path()
        if not call.version and handler is not _echo:
            raise ApiError(400, "anthropic-version: header is required")
        return handler(call)


def is_forbidden(path: str) -> bool:
    """Whether no gateway may let a request for this path through: it is answered to anybody, to be noticed."""
    return path.startswith(("/v1/organizations", "/v1/oauth"))


def _echo(call: Call) -> Reply:
    """An endpoint that nobody has heard of yet says what it was asked."""
    request, upload = call.request, call.request.upload
    size = len(request.body) if upload is None else upload.size
    seen = {"method": request.method, "path": request.path, "query": request.query}
    return json_reply({**seen, "account": call.account.id, "body_size": size})
