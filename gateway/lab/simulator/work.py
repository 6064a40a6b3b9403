"""The work queue of an environment whose sandboxes are hosted elsewhere."""

from gateway.lab.simulator.call import Call, json_reply
from gateway.lab.simulator.objects import Object, Objects
from gateway.lab.simulator.reply import JSON, Framing, Reply

__all__ = ["Work"]

KIND = "environments/work"
CHANGES = {
    "ack": ("acknowledged_at", "starting"),
    "heartbeat": ("latest_heartbeat_at", "active"),
    "stop": ("stop_requested_at", "stopping"),
}


class Work:
    """What is queued; items get there as sub-resources like any other."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def answer(self, call: Call, environment: Object, rest: list[str]) -> Reply | None:
        """The reply to what only a queue can do; None for everything else."""
        queued = [one for one in self._all(environment) if one.data["state"] == "queued"]
        match (call.method, rest):
            case ("GET", ["work", "poll"]):
                # Waits its whole time where there is nothing; what comes meanwhile is for the next one to ask.
                if queued:
                    return json_reply(queued[0].data)
                return Reply(200, JSON, [(call.settings.poll_seconds, b"null", 0)], len(b"null"), Framing.LENGTH)
            case ("GET", ["work", "stats"]):
                oldest = queued[0].data["created_at"] if queued else None
                stats = {"type": "work_queue_stats", "depth": len(queued), "pending": 0, "oldest_queued_at": oldest}
                return json_reply(stats)
            case ("POST", ["work", ident, ("ack" | "heartbeat" | "stop") as action]):
                found = self._objects.get(KIND, environment.scope, ident, "Work", environment.id)
                field, state = CHANGES[action]
                found.data = found.data | {field: call.stamp(), "state": state}
                if action != "heartbeat":
                    return json_reply(found.data)
                lease = {"type": "work_heartbeat", "last_heartbeat": call.stamp(), "lease_extended": True}
                return json_reply({**lease, "state": state, "ttl_seconds": 30})
        return None

    def _all(self, environment: Object) -> list[Object]:
        return self._objects.all(KIND, environment.scope, environment.id)
