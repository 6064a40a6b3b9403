"""What a request leaves behind: its slot given back, its conversation's cache noted as warm, and one record.

It waits for nothing and never fails a request; what becomes of the record, others decide.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, perf_counter

from gateway.core.spending.pricing import Bill, Catalogue
from gateway.records import Finished
from gateway.store.client.connection import Arg
from gateway.worker.affinity.bindings import Admission
from gateway.worker.callers.limits import Accounting
from gateway.worker.request.exchange import Exchange

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
        """Always, exactly once."""
        if x.response is not None:
            x.response.close()
        if x.lease is not None:
            x.lease.release()
        now = perf_counter()
        if x.route is not None:
            x.route.answer_began()
        renewal = None
        if x.endpoint.metered:
            usage = x.meter.usage
            begun = x.meter.started
            if x.sent:
                _estimate(x)
            if begun:
                renewal = self._renewal(x, now - x.response_began, usage.total_input + usage.output)
            if x.route is not None:
                x.route.settle(
                    usage.total_input - usage.cache_read, usage.cache_read, usage.output, monotonic(), not x.estimated
                )
        record = self._record(x, now)
        if x.reservation is not None and x.reservation.noted:
            self._accounting.settlement(record, x.reservation, x.reached or x.sent, renewal)
        elif renewal is not None:
            self._admission.renew(renewal)
        self._observe(record, x.admit_time)

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

    def _record(self, x: Exchange, now: float) -> Finished:
        first = x.first_byte or now
        caller, route, account, trace = x.caller, x.route, x.account, x.trace
        cost, savings, by_default = self._bill(x)
        missed, missed_reason = x.missed() if x.cached else (0, "")
        return Finished(
            request_id=x.request_id,
            at=x.at,
            endpoint=x.endpoint.name,
            method=x.scope["method"],
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


def _estimate(x: Exchange) -> None:
    """An upstream may bill what we do not know whole: put it at what was sent, and at what passed."""
    x.estimated = True
    if not x.meter.started:
        x.meter.usage.input = x.body_size // _BYTES_A_TOKEN
    x.meter.estimate()
