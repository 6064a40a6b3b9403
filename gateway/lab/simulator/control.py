"""The control plane, `/_sim/`: what was seen, what shall go wrong, a fresh start. Needs no credential."""

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.faults import Fault
from gateway.lab.simulator.reply import Reply
from gateway.lab.simulator.request import Request
from gateway.lab.simulator.spool import Spool
from gateway.lab.simulator.trouble import error_reply

if TYPE_CHECKING:
    from gateway.lab.simulator.server import Simulator

__all__ = ["answer"]

_encode = msgspec.json.Encoder().encode


class _Reset(msgspec.Struct, forbid_unknown_fields=True):
    records: bool = True
    faults: bool = True
    cache: bool = True
    limits: bool = True
    objects: bool = False


def answer(simulator: "Simulator", request: Request) -> Reply:
    """The reply to a control request; errors have the shape of the API's."""
    handler = _HANDLERS.get((request.method, request.path))
    try:
        if handler is None:
            raise ApiError(404, f"Not found: {request.method} {request.path}")
        return Reply.of(200, _encode(handler(simulator, request)))
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        return error_reply(ApiError(400, str(error)), "req_sim_control")
    except ApiError as error:
        return error_reply(error, "req_sim_control")


def _requests(simulator: "Simulator", request: Request) -> list[dict[str, Any]]:
    """`?since=N` leaves out records up to number N, `?bodies=1` adds the bodies, base64."""
    query = parse_qs(request.query)
    since = int(query.get("since", ["0"])[-1])
    bodies = query.get("bodies", ["0"])[-1] not in ("0", "")
    return [record.as_dict(bodies) for record in simulator.requests if record.n > since]


def _usage(simulator: "Simulator", request: Request) -> dict[str, Any]:
    return {"data": simulator.service.totals.as_list()}


def _list_faults(simulator: "Simulator", request: Request) -> list[Fault]:
    return list(simulator.faults)


def _add_fault(simulator: "Simulator", request: Request) -> Fault:
    fault = simulator.faults.add(msgspec.json.decode(request.body, type=Fault))
    if fault.account is not None and all(account.id != fault.account for account in simulator.world):
        simulator.faults.remove(fault)
        raise ValueError(f"no account {fault.account!r}")
    return fault


def _clear_faults(simulator: "Simulator", request: Request) -> dict[str, bool]:
    simulator.faults.clear(parse_qs(request.query).get("account", [None])[-1])
    return {"ok": True}


def _reset(simulator: "Simulator", request: Request) -> dict[str, bool]:
    flags = msgspec.json.decode(request.body or b"{}", type=_Reset)
    simulator.service.reset(**msgspec.structs.asdict(flags))
    return {"ok": True}


def _connections(simulator: "Simulator", request: Request) -> dict[str, Any]:
    return simulator.connection_report()


def _objects(simulator: "Simulator", request: Request) -> dict[str, Any]:
    """Everything that clients have created and that is still there, oldest first; `data` as the API shows it.

    `sha256` is that of a file's content, None for all else.
    """
    fields = ("kind", "id", "workspace", "account", "parent", "data")
    return {
        "data": [
            {name: getattr(one, name) for name in fields}
            | {"sha256": one.held.digest if isinstance(one.held, Spool) else None}
            for one in simulator.service.objects
        ]
    }


def _accounts(simulator: "Simulator", request: Request) -> dict[str, Any]:
    return {"base_url": simulator.base_url, "accounts": list(simulator.world)}


_HANDLERS = {
    ("GET", "/_sim/requests"): _requests,
    ("GET", "/_sim/usage"): _usage,
    ("GET", "/_sim/faults"): _list_faults,
    ("POST", "/_sim/faults"): _add_fault,
    ("DELETE", "/_sim/faults"): _clear_faults,
    ("POST", "/_sim/reset"): _reset,
    ("GET", "/_sim/connections"): _connections,
    ("GET", "/_sim/accounts"): _accounts,
    ("GET", "/_sim/objects"): _objects,
}
