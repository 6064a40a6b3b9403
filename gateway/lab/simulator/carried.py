"""What a Messages request finds and leaves in its workspace: files, containers, skills, threads."""

from typing import Any

import msgspec

from gateway.lab.simulator.answer import Composition, Part
from gateway.lab.simulator.call import timestamp
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.files import KIND as FILES
from gateway.lab.simulator.files import Files
from gateway.lab.simulator.objects import Objects
from gateway.lab.simulator.references import References
from gateway.lab.simulator.skills import Skills
from gateway.lab.simulator.world import Account

__all__ = ["Carried"]

CONTAINERS = "containers"
THREADS = "threads"
CONTAINER_LASTS = 30 * 86_400.0
THREAD_LASTS = 300.0


class Carried:
    """The state that messages share with the other endpoints."""

    def __init__(self, objects: Objects, files: Files, skills: Skills) -> None:
        self._objects = objects
        self._files = files
        self._skills = skills

    def check(self, found: References, account: Account) -> None:
        """`ApiError` 404 for what this account's workspace does not have."""
        scope = account.workspace
        for ident in found.files:
            self._objects.get(FILES, scope, ident, "File")
        if found.container is not None:
            self._objects.get(CONTAINERS, scope, found.container, "Container")
        for kind, ident, version in found.skills:
            if kind == "custom":
                self._skills.resolve(scope, ident, version)
        if found.thread == "continue" and self._objects.find(THREADS, scope, found.previous or "") is None:
            message = f"No thread state is held for {found.previous}"
            raise ApiError(404, message, error_code="thread_not_found")

    def leave(
        self, found: References, account: Account, ident: str, made: Composition, wall: float
    ) -> tuple[Composition, dict[str, Any] | None]:
        """The answer with what its tool made, and the container it ran in; `ident` becomes a thread if asked for."""
        if found.thread is not None:
            self._objects.add(THREADS, ident, account, {"id": ident, "type": "thread"}, lasts=THREAD_LASTS)
        previous = self._objects.find(THREADS, account.workspace, found.previous or "")
        if previous is not None:
            self._objects.extend(previous, THREAD_LASTS)
        if not found.runs_code:
            return made, None
        container = self._container(found, account, wall)
        return self._with_file(made, account, ident, wall) if found.makes_file else made, container

    def _container(self, found: References, account: Account, wall: float) -> dict[str, Any]:
        if found.container is not None:
            data = self._objects.get(CONTAINERS, account.workspace, found.container, "Container").data
        else:
            ident = self._objects.new_id("container_")
            data = {"id": ident, "expires_at": timestamp(wall + CONTAINER_LASTS), "skills": None}
            self._objects.add(CONTAINERS, ident, account, data, lasts=CONTAINER_LASTS)
        if found.skills:
            data["skills"] = [
                {
                    "type": kind,
                    "skill_id": ident,
                    "version": self._skills.resolve(account.workspace, ident, version) if kind == "custom" else version,
                }
                for kind, ident, version in found.skills
            ]
        return data

    def _with_file(self, made: Composition, account: Account, ident: str, wall: float) -> Composition:
        content = f"made by {ident}\n".encode()
        file = self._files.produced(account, "made.txt", content, timestamp(wall))
        use = f"srvtoolu_{ident.removeprefix('msg_')}"
        blocks: list[dict[str, Any]] = [
            {"type": "server_tool_use", "id": use, "name": "bash_code_execution", "input": {"command": "make"}},
            {
                "type": "bash_code_execution_tool_result",
                "tool_use_id": use,
                "content": {
                    "type": "bash_code_execution_result",
                    "stdout": "",
                    "stderr": "",
                    "return_code": 0,
                    "content": [{"type": "bash_code_execution_output", "file_id": file.id}],
                },
            },
        ]
        whole = [Part("whole", [], block=block) for block in blocks]
        return msgspec.structs.replace(made, parts=[*whole, *made.parts])
