"""What a request leaves behind: its slot given back, its conversation's cache noted as warm, and one record.

It waits for nothing and never fails a request; what becomes of the record, others decide.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any, TypeVar

from gateway import log
from gateway.core.spending.pricing import Bill, Catalogue
from gateway.records import Finished
from gateway.store.client.connection import Arg
from gateway.worker.affinity.bindings import Admission
from gateway.worker.callers.limits import Accounting
from gateway.worker.request.exchange import Exchange

_T = TypeVar("_T")
_NOTHING = Bill(0, 0, False)
_BYTES_A_TOKEN = 4  # of a request body, for an estimate


class Settlement:
    """`observe` gets the one record of each request, and the seconds it spent on the store before it was sent."""

    def __init__(
        self,
        admission: Admission,
        accounting: Accounting,
        catalogue: Catalogue,
        observe: Callable[[Finished, float], None],
    ) -> None:
        self._admission = admission
        self._accounting = accounting
        self._observe = observe
        self.configure(catalogue)

    def configure(self, catalogue: Catalogue) -> None:
        """Other prices from now on."""
        self._catalogue = catalogue

    def settle(self, x: Exchange) -> None:
        """Always, exactly once. A step that fails is logged, and costs no other one."""
        now = perf_counter()
        _surely(x, _let_go, x)
        renewal = _surely(x, self._used, x, now)
        record = _record(x, now, _surely(x, self._bill, x) or _NOTHING)
        _surely(x, self._tell, x, record, renewal)
        _surely(x, self._observe, record, x.admit_time)

    def _used(self, x: Exchange, now: float) -> tuple[Arg, ...] | None:
        """What it has used, for its route and for the cache of its conversation."""
        if not x.endpoint.metered:
            return None
        if x.sent:
            _estimate(x)
        usage = x.meter.usage
        if x.route is not None:
            x.route.settle(
                usage.total_input - usage.cache_read, usage.cache_read, usage.output, monotonic(), not x.estimated
            )
        if not x.meter.started:
            return self._admission.unanswered(x.binding) if x.binding is not None and x.binding.leads else None
        return self._renewal(x, now - x.response_began, x.meter.context)

    def _tell(self, x: Exchange, record: Finished, renewal: tuple[Arg, ...] | None) -> None:
        if x.reservation is not None and x.reservation.noted:
            self._accounting.settlement(record, x.reservation, x.reached or x.sent, renewal)
        elif renewal is not None:
            self._admission.renew(renewal)

    def renew(self, x: Exchange, age: float, tokens: int) -> None:
        """The cache of the workspace that served was warm `age` seconds ago; the conversation holds `tokens` by now (0
        while unknown)."""
        renewal = self._renewal(x, age, tokens)
        if renewal is not None:
            self._admission.renew(renewal)

    def _renewal(self, x: Exchange, age: float, tokens: int) -> tuple[Arg, ...] | None:
        binding, account, peeked = x.binding, x.account, x.peek
        if binding is None or account is None or peeked is None:
            return None
        ttl = 3600 if x.meter.usage.cache_write_1h else peeked.cache_ttl
        account_bound = x.route is not None and x.route.account_bound
        return self._admission.renewal(binding, account.workspace, age, ttl, tokens, x.text_size, account_bound)

    def _bill(self, x: Exchange) -> Bill:
        """What the answer cost, by the model that answered."""
        usage = x.meter.usage
        if not x.endpoint.metered or not (usage.output or usage.total_input):
            return _NOTHING
        return self._catalogue.bill(x.meter.model or x.model, usage)


def _record(x: Exchange, now: float, bill: Bill) -> Finished:
    first = x.first_byte or now
    caller, route, account, trace = x.caller, x.route, x.account, x.trace
    cost, savings, by_default = bill
    missed, missed_reason = x.missed() if x.cached else (0, "")
    return Finished(
        request_id=x.request_id,
        at=x.at,
        endpoint=x.endpoint.name,
        method=x.client.method,
        status=x.status,
        outcome=x.outcome,
        cause=x.cause,
        caller=caller.id if caller is not None else "",
        team=(caller.team or "") if caller is not None else "",
        model=x.model,
        answered_model=x.meter.model,
        stream=x.stream,
        account=account.id if account is not None else "",
        workspace=account.workspace if account is not None else "",
        route=route.how if route is not None else "none",
        reason=route.reason if route is not None else "",
        attempts=x.attempts,
        conversation=x.conversation.hex()[:12],
        upstream_request_id=x.upstream_request_id,
        trace_id=trace.trace_id if trace is not None else "",
        span_id=trace.span_id if trace is not None else "",
        parent_id=trace.parent_id if trace is not None else "",
        failover=x.failover,
        throttled=x.throttled,
        limit=x.limit,
        usage=x.meter.usage,
        estimated=x.estimated,
        cost_nano_usd=cost,
        savings_nano_usd=savings,
        priced_by_default=by_default,
        missed=missed,
        missed_reason=missed_reason,
        duration=now - x.t0,
        ttft=first - x.t0 if x.first_byte else 0.0,
        queued=x.queued,
        choose=x.choose_time,
        overhead=max(0.0, first - x.t0 - x.waited - x.body_time - x.queued),
    )


def _surely(x: Exchange, step: Callable[..., _T], *args: Any) -> _T | None:
    """What the step returns; None where it fails."""
    try:
        return step(*args)
    except Exception:
        log.exception("a request could not be settled whole", request_id=x.request_id, step=step.__name__)
        return None


def _let_go(x: Exchange) -> None:
    if x.lease is not None:
        x.lease.release()
    if x.route is not None:
        x.route.answer_began()
    if x.response is not None:
        x.response.close()


def _estimate(x: Exchange) -> None:
    """An upstream may bill what we do not know whole: put it at what was sent, and at what passed."""
    x.estimated = True
    if not x.meter.started:
        x.meter.usage.input = x.body_size // _BYTES_A_TOKEN
    x.meter.estimate()
