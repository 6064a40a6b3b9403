"""A session's events: sent, listed, and streamed for as long as somebody listens."""

from collections.abc import Iterator
from typing import Any

from gateway.lab.simulator import answer
from gateway.lab.simulator.answer import Step
from gateway.lab.simulator.call import Call, json_reply
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.objects import Object, Objects
from gateway.lab.simulator.pages import cursor_page
from gateway.lab.simulator.reply import SSE, Reply

__all__ = ["Sessions"]

EVENTS = "sessions/events"
MAX_EVENTS = 10_000
LOOK = 0.02  # seconds between two looks for new events


class Sessions:
    """The events of every session; nobody runs an agent, so only what was sent is there."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def answer(self, call: Call, session: Object, rest: list[str]) -> Reply | None:
        """The reply to a request for events; None for any other sub-resource."""
        match (call.method, rest):
            case ("POST", ["events"]):
                return json_reply({"data": self._send(call, session)})
            case ("GET", ["events"]):
                return self._list(call, session)
            case ("GET", ["events", "stream"]):
                return self._stream(call, session)
            case ("GET", ["threads", thread, "events"]):
                self._objects.get("sessions/threads", session.scope, thread, "Thread", session.id)
                return self._list(call, session)
            case ("GET", ["threads", thread, "stream"]):
                self._objects.get("sessions/threads", session.scope, thread, "Thread", session.id)
                return self._stream(call, session)
        return None

    def _send(self, call: Call, session: Object) -> list[dict[str, Any]]:
        given = call.json().get("events")
        if not isinstance(given, list) or not all(isinstance(one, dict) and "type" in one for one in given):
            raise ApiError(400, "events: Input should be a list of events")
        if len(self._objects.all(EVENTS, session.scope, session.id)) + len(given) > MAX_EVENTS:
            raise ApiError(400, f"events: a session holds at most {MAX_EVENTS:,}")
        made = []
        for one in given:
            ident = self._objects.new_id("sevt_")
            data = {**one, "id": ident, "processed_at": call.stamp()}
            self._objects.add(EVENTS, ident, call.account, data, parent=session.id)
            made.append(data)
        return made

    def _list(self, call: Call, session: Object) -> Reply:
        found = self._objects.all(EVENTS, session.scope, session.id)
        backwards = call.query.get("order", ["asc"])[-1] == "desc"
        return json_reply(cursor_page(found, call.query, lambda one: one.data, session.scope, descending=backwards))

    def _stream(self, call: Call, session: Object) -> Reply:
        reply = Reply(200, SSE, self._follow(session, call.settings.stream_seconds, call.stamp()))
        reply.apart = reply.head_first = True
        return reply

    def _follow(self, session: Object, seconds: float, stamp: str) -> Iterator[Step]:
        """Everything sent so far, then what is sent from now on, until the session has gone or the time is up."""
        last = 0
        for _ in range(max(1, int(seconds / LOOK))):
            if self._objects.find("sessions", session.scope, session.id) is not session:
                gone = {"id": self._objects.new_id("sevt_"), "type": "session.deleted", "processed_at": stamp}
                yield 0.0, answer.event("session.deleted", gone), 0
                return
            for one in self._objects.all(EVENTS, session.scope, session.id):
                if one.number > last:
                    last = one.number
                    yield 0.0, answer.event(str(one.data["type"]), one.data), 0
            yield LOOK, b"", 0
