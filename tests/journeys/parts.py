"""The parts of the gateway that a journey may break: what people call them, and where they are."""

from __future__ import annotations

from typing import Any

from gateway.core.routing.route import Route
from gateway.core.spending.pricing import Catalogue
from gateway.core.wire.meter import Meter
from gateway.core.wire.sse import EventSplitter
from gateway.core.wire.usage_meter import UsageMeter
from gateway.listen.asgi import AsgiClient
from gateway.listen.cycle import Cycle
from gateway.store.client.client import StoreClient
from gateway.store.ledger.ledger import UsageJournal
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import WorkerMetrics
from gateway.upstream.anthropic import Anthropic
from gateway.upstream.connection import Connection
from gateway.upstream.http1 import Pool
from gateway.worker import head
from gateway.worker.accounts import Account
from gateway.worker.affinity.bindings import Admission
from gateway.worker.affinity.single_flight import SingleFlight
from gateway.worker.callers.authenticate import Callers
from gateway.worker.callers.limits import Accounting
from gateway.worker.callers.rights import Rights
from gateway.worker.head import AnswerHead
from gateway.worker.request import exchange, messages

PARTS: dict[str, tuple[Any, str]] = {
    "reading the head": (head, "check_id"),
    "authentication": (Callers, "find"),
    "reading the body": (messages, "peek"),
    "rights": (Rights, "check_body"),
    "references": (messages, "references"),
    "choosing a home": (Route, "propose"),
    "limits": (Accounting, "ask"),
    "the call of the store": (StoreClient, "call"),
    "the binding": (Route, "found"),
    "single flight": (SingleFlight, "join"),
    "the next step": (Route, "next"),
    "a slot": (Account, "lease_now"),
    "the provider": (Anthropic, "prepare"),
    "sending": (Pool, "send"),
    "reading the answer's head": (AnswerHead, "__init__"),
    "reading the answer": (Connection, "read"),
    "judging the answer": (exchange, "judge"),
    "learning from the answer": (Route, "answered"),
    "rebinding": (Admission, "rebind"),
    "the splitter": (EventSplitter, "feed"),
    "the meter of streams": (UsageMeter, "see"),
    "the meter of answers": (Meter, "read_json"),
    "counting what passed": (UsageMeter, "count"),
    "sending to the client": (Cycle, "_body"),
    "settling the route": (Route, "settle"),
    "the bill": (Catalogue, "bill"),
    "the renewal": (Admission, "renewal"),
    "the journal": (UsageJournal, "extend"),
    "the post to the store": (StoreClient, "post"),
    "the metrics": (WorkerMetrics, "observe"),
    "the log": (RequestLog, "request"),
}

OVER_ASGI = {**PARTS, "sending to the client": (AsgiClient, "write")}
