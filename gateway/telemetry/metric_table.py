"""What a worker measures, as data: adding a metric is adding a row here and counting it in `metrics`.

Names are without `_total`. `known` are label values that are possible from the start: they are there as 0 before they
are counted, so that rates of them work.
"""

from __future__ import annotations

from itertools import product

import msgspec

from gateway.core.spending.quota import KINDS
from gateway.store import scripts

_ROUTES = ("none", "new", "bound", "moved", "detour", "stateless", "pinned")
_MOVES = (
    "account_bound", "cold", "disabled", "draining", "errors", "failing", "full", "home", "limited", "model", "object",
    "out", "refused", "removed",
)  # fmt: skip
_FAILOVERS = (
    "limited", "oversized", "unexplained", "spent", "unauthorized", "denied", "declined", "overloaded", "failed",
    "improper", "broken", "unsent", "unable",
)  # fmt: skip
_THROTTLES = {
    "caller": (*dict.fromkeys(kind.label for kind in KINDS), "store_away"),
    "account": ("rate_limit", "concurrency"),
    "gateway": ("memory", "connections", "journal"),
}
_OPS = (
    scripts.ADMIT, scripts.TAKE, scripts.SETTLE, scripts.REBIND, scripts.RECALL, scripts.LEASE, scripts.OWN,
    scripts.DISOWN, scripts.HOME, scripts.METER, scripts.INSPECT, scripts.CLAIM,
)  # fmt: skip

Rows = tuple[tuple[str, ...], ...]


class Measure(msgspec.Struct, frozen=True):
    """A counter, or with `buckets` (inclusive upper bounds) a histogram. It is counted in units of which `per` are
    one."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    known: Rows = ()
    per: float = 1.0


def _each(*values: tuple[str, ...]) -> Rows:
    return tuple(product(*values))


REQUESTS = Measure(
    "gateway_requests",
    "Requests by the status the client saw (499: it left before an answer).",
    ("endpoint", "model", "team", "code"),
)
DURATION = Measure(
    "gateway_request_duration_seconds",
    "From the request's head to the last byte of its answer.",
    ("endpoint", "model", "stream"),
    (0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900),
)
TTFT = Measure(
    "gateway_time_to_first_token_seconds",
    "From the request's head to the first byte of a 200 answer.",
    ("model",),
    (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 120),
)
PER_TOKEN = Measure(
    "gateway_time_per_output_token_seconds",
    "Of streams that came to their end: seconds from first to last byte, for each token of output but the first.",
    ("model",),
    (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1),
)
OVERHEAD = Measure(
    "gateway_overhead_seconds",
    "The gateway's own share of the time to the first byte of a 200 answer: choose (reading the request, ranking the "
    "accounts), admit (the store's word on limits and binding), relay (all else, mostly from the account's answer to "
    "the client's), total. Without waits for clients, accounts, limits and slots.",
    ("phase",),
    (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1),
    _each(("admit", "choose", "relay", "total")),
)
QUEUED = Measure(
    "gateway_queue_wait_seconds",
    "What requests waited for limits and slots, of those that did.",
    ("result",),
    (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 100),
    _each(("served", "refused")),
)
TOKENS = Measure(
    "gateway_tokens",
    "Tokens by price class; total input is the sum of all types but output.",
    ("type", "model", "account"),
)
TEAM_TOKENS = Measure(
    "gateway_team_tokens",
    "The same tokens by team; the team of callers without one is empty.",
    ("type", "model", "team"),
)
COST = Measure(
    "gateway_cost_usd",
    "US dollars by list prices, as in the ledger, estimates included.",
    ("model", "team"),
    per=1e9,
)
SAVINGS = Measure(
    "gateway_cache_savings_usd",
    "US dollars that tokens read from prompt caches would have cost more as fresh input.",
    ("model", "team"),
    per=1e9,
)
CACHE = Measure(
    "gateway_prompt_cache_requests",
    "200 answers by what prompt caches gave them: hit (more was read than written), partial (less, but some), miss "
    "(written and nothing read), none (neither).",
    ("model", "result"),
)
MISSED = Measure(
    "gateway_prompt_cache_avoidable_miss_tokens",
    "Tokens written into a prompt cache that were in one already, as far as this gateway knew: warm in another "
    "workspace than the one that served (moved, detour, stateless), or expired there since the last turn.",
    ("reason",),
    known=_each(("moved", "expired", "stateless", "detour")),
)
ROUTES = Measure(
    "gateway_affinity_decisions",
    "How the account was found, as in the x-gateway-route header.",
    ("route",),
    known=_each(_ROUTES),
)
MOVES = Measure(
    "gateway_conversation_moves",
    "Conversations bound to another workspace than before, by reason.",
    ("reason",),
    known=_each(_MOVES),
)
LACKING = Measure(
    "gateway_lacking_requests",
    "Requests that some account could not serve for what they ask: by that need (a flag, a tool, a member of the body) "
    "and team.",
    ("need", "team"),
)
UPSTREAM = Measure(
    "gateway_upstream_requests",
    "Exchanges with accounts by status, or by what went wrong before one came.",
    ("account", "provider", "model", "code"),
)
FAILOVERS = Measure(
    "gateway_failovers",
    "Requests that were tried again, by what the first account did, and whether an account served them in the end. "
    "What every account denies is the client's mistake and not counted.",
    ("reason", "result"),
    known=_each(_FAILOVERS, ("recovered", "exhausted")),
)
INTERRUPTED = Measure(
    "gateway_stream_interruptions",
    "Streams that had begun and did not come to their end, by whose doing it was.",
    ("cause",),
    known=_each(("upstream", "client", "timeout", "drain", "revoked")),
)
THROTTLED = Measure(
    "gateway_throttled",
    "Requests refused by a limit: the caller's or its team's own, those of all accounts that may serve it, or the "
    "gateway's.",
    ("scope", "reason"),
    known=tuple((scope, reason) for scope, reasons in _THROTTLES.items() for reason in reasons),
)
UNPRICED = Measure(
    "gateway_default_priced_requests", "Answers of models whose price nobody knows, by model.", ("model",)
)
STORE = Measure(
    "gateway_store_operation_duration_seconds",
    "From asking the store to its answer, by script.",
    ("op",),
    (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1),
    tuple((script.name,) for script in _OPS),
)
STORE_ERRORS = Measure(
    "gateway_store_errors",
    "Operations that the store refused, or did not answer because it was away or late.",
    ("op",),
    known=tuple((script.name,) for script in _OPS),
)
LAG = Measure(
    "gateway_event_loop_lag_seconds",
    "How late timers of the event loops fire, the workers' and the supervisor's, measured ten times a second.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    known=((),),
)

ALL = tuple(value for value in vars().copy().values() if isinstance(value, Measure))
