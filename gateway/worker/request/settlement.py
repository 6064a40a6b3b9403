"""What a request leaves behind: its slot given back, its conversation's cache noted as warm, and one record.

It waits for nothing and never fails a request; what becomes of the record, others decide.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, perf_counter

from gateway import log
from gateway.core.spending.pricing import Bill, Catalogue
from gateway.records import Finished
from gateway.store.client.connection import Arg
from gateway.worker.affinity.bindings import Admission
from gateway.worker.callers.limits import Accounting
from gateway.worker.request.journey import Journey

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

    def settle(self, x: Journey) -> None:
        """Always, exactly once. A step that fails is logged, and costs no other one."""
        now, renewal, bill = perf_counter(), None, _NOTHING
        try:
            _let_go(x)
        except Exception:
            _failed(x, "let go")
        try:
            renewal = self._used(x, now)
        except Exception:
            _failed(x, "used")
        try:
            bill = self._bill(x)
        except Exception:
            _failed(x, "bill")
        record = _record(x, now, bill)
        try:
            if x.reservation is not None and x.reservation.noted:
                self._accounting.settlement(record, x.reservation, x.reached or x.attempt.sent, renewal)
            elif renewal is not None:
                self._admission.renew(renewal)
        except Exception:
            _failed(x, "tell")
        try:
            self._observe(record, x.times.admit)
        except Exception:
            _failed(x, "observe")

    def _used(self, x: Journey, now: float) -> tuple[Arg, ...] | None:
        """What it has used, for its route and for the cache of its conversation."""
        attempt = x.attempt
        if not x.request.endpoint.metered:
            return None
        if attempt.sent:
            _estimate(x)
        usage = attempt.meter.usage
        if x.route is not None:
            fresh = usage.input + usage.cache_write_5m + usage.cache_write_1h
            x.route.settle(fresh, usage.cache_read, usage.output, monotonic(), not attempt.estimated)
        if not attempt.meter.started:
            return None
        return self._renewal(x, now - attempt.response_began, attempt.meter.context)

    def renew(self, x: Journey, age: float, tokens: int) -> None:
        """The cache of the workspace that served was warm `age` seconds ago; the conversation holds `tokens` by now (0
        while unknown)."""
        renewal = self._renewal(x, age, tokens)
        if renewal is not None:
            self._admission.renew(renewal)

    def _renewal(self, x: Journey, age: float, tokens: int) -> tuple[Arg, ...] | None:
        binding, account, peeked = x.binding, x.attempt.account, x.request.peek
        if binding is None or account is None or peeked is None:
            return None
        ttl = 3600 if x.attempt.meter.usage.cache_write_1h else peeked.cache_ttl
        account_bound = x.route is not None and x.route.placement.account_bound
        size = peeked.text_size
        return self._admission.renewal(binding, account.workspace, age, ttl, tokens, size, account_bound)

    def _bill(self, x: Journey) -> Bill:
        """What the answer cost, by the model that answered: on clouds by the one that was asked, where an account has a
        name of its own for it."""
        meter = x.attempt.meter
        if not x.request.endpoint.metered or not (meter.usage.output or meter.usage.total_input):
            return _NOTHING
        model, account = meter.model or x.request.model, x.attempt.account
        if account is not None and account.renames and self._catalogue.find(model) is None:
            model = x.request.model
        bill = self._catalogue.bill(model, meter.usage)
        return bill if account is None or account.list_prices else bill.times(account.factor(x.request.model))


def _record(x: Journey, now: float, bill: Bill) -> Finished:
    request, attempt, reply, times, route = x.request, x.attempt, x.reply, x.times, x.route
    caller, account, trace = request.caller, attempt.account, request.trace
    first = reply.first_byte or now
    cost, savings, by_default = bill
    throttled, limit = x.limit
    usage = attempt.meter.usage
    wrote = usage.cache_write_5m or usage.cache_write_1h
    missed, missed_reason = x.missed() if wrote and x.cached[0] else (0, "")
    return Finished(
        request_id=request.id,
        at=request.at,
        endpoint=request.endpoint.name,
        method=request.client.method,
        status=reply.status,
        outcome=x.outcome,
        cause=x.cause,
        caller=caller.id if caller is not None else "",
        team=(caller.team or "") if caller is not None else "",
        model=request.peek.model if request.peek is not None else "",
        answered_model=attempt.meter.model,
        stream=reply.stream,
        account=account.id if account is not None else "",
        workspace=account.workspace if account is not None else "",
        provider=account.config.provider if account is not None and account.renames else "",
        route=route.placement.how if route is not None else "none",
        reason=route.placement.reason if route is not None else "",
        attempts=x.attempts,
        conversation=request.conversation.hex()[:12],
        upstream_request_id=x.upstream_request_id,
        trace_id=trace.trace_id if trace is not None else "",
        span_id=trace.span_id if trace is not None else "",
        parent_id=trace.parent_id if trace is not None else "",
        failover=x.failover,
        throttled=throttled,
        limit=limit,
        usage=usage,
        estimated=attempt.estimated,
        cost_nano_usd=cost,
        savings_nano_usd=savings,
        priced_by_default=by_default,
        missed=missed,
        missed_reason=missed_reason,
        lacking=request.needs.lacking,
        duration=now - request.t0,
        ttft=first - request.t0 if reply.first_byte else 0.0,
        queued=times.queued,
        choose=times.choose,
        overhead=max(0.0, first - request.t0 - times.waited - times.body - times.queued),
    )


def _failed(x: Journey, step: str) -> None:
    log.exception("a request could not be settled whole", request_id=x.request.id, step=step)


def _let_go(x: Journey) -> None:
    attempt = x.attempt
    if attempt.lease is not None:
        attempt.lease.release()
    if x.route is not None:
        x.route.ended()
    if attempt.response is not None:
        attempt.response.close()


def _estimate(x: Journey) -> None:
    """An upstream may bill what we do not know whole: put it at what was sent, and at what passed, but at no more than
    the answer may have had."""
    attempt, peeked = x.attempt, x.request.peek
    attempt.estimated = True
    if not attempt.meter.input_told:
        attempt.meter.usage.input = x.request.body_size // _BYTES_A_TOKEN
    attempt.meter.estimate()
    most = 0 if peeked is None or attempt.meter.output_told else peeked.max_tokens
    if most:
        attempt.meter.usage.output = min(attempt.meter.usage.output, most)
