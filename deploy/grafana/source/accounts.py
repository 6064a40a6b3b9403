"""Each account of the pool: its state, what is left of its limits, its traffic, what left it and why."""

from deploy.grafana.source.dashboard import Row, dashboard, link_to
from deploy.grafana.source.panels import BAD, GOOD, Query, account_timeline, bars, falling, rising, timeseries
from deploy.grafana.source.queries import account_states, quantile, rate, select, share, shared
from deploy.grafana.source.tables import Column, table

MINE = 'account=~"$account"'
NOT_GOOD = f'{MINE}, code!~"2.."'
LIMIT = "account, model_class, limit"
IN_FLIGHT = f"sum by (account) ({select('account_in_flight', MINE)})"
BINDINGS = shared("account_bindings", "account", MINE)

JSON = dashboard(
    "gateway-accounts",
    "Gateway / Accounts",
    "State, headroom and traffic of each upstream account. Why one is as it is: gateway accounts list.",
    ("account",),
    Row(
        "State",
        (
            table(
                "Accounts",
                "One line an account. Headroom is the least that is left of any of its limits, for any class of"
                " models.",
                "account",
                "Account",
                Column("State", account_states(MINE), "short", states=True),
                Column("Headroom", shared("account_ratelimit_remaining_ratio", "account", MINE, least=True),
                       "percentunit", steps=falling(0.1, 0.25)),
                Column("Requests", rate("upstream_requests_total", "account", MINE), "reqps"),
                Column("Not 2xx", share(rate("upstream_requests_total", "account", NOT_GOOD),
                                        rate("upstream_requests_total", "account", MINE)),
                       "percentunit", steps=rising(0.02, 0.1)),
                Column("In flight", IN_FLIGHT, "short"),
                Column("Conversations", BINDINGS, "short"),
                Column("Tokens", rate("tokens_total", "account", MINE), "si:tok/s"),
                links=(link_to("gateway-accounts", "This account alone", "var-account=${__value.text}"),),
            ),
            account_timeline(
                "State over time",
                "limited: its organization answered 429 for a class of models; failing: it fails where others do not;"
                " out: no key, no money or no connection.",
                Query(account_states(MINE), "{{account}}"),
                width=24,
            ),
        ),
    ),
    Row(
        "Headroom",
        (
            bars(
                "Left of each limit",
                "From the account's latest rate-limit headers, refilled by the clock since. The gateway places new"
                " conversations by it; all bars low means that the pool is too small.",
                "percentunit",
                Query(shared("account_ratelimit_remaining_ratio", LIMIT, MINE, least=True),
                      "{{account}} {{model_class}} {{limit}}"),
                steps=falling(0.1, 0.25), top=1, height=10,
            ),
            timeseries(
                "Left of each limit over time",
                "Saw teeth are a limit that is used up and refills. A line at nothing is a limit that decides the"
                " account's traffic.",
                "percentunit",
                Query(shared("account_ratelimit_remaining_ratio", LIMIT, MINE, least=True),
                      "{{account}} {{model_class}} {{limit}}"),
                whole=True, steps=((None, BAD), (0.1, GOOD)), height=10,
            ),
            timeseries(
                "Time until limits are full again",
                "By the account's own headers; a limit that was touched lately resets within a minute.",
                "s",
                Query(f"clamp_min({shared('account_ratelimit_reset_timestamp_seconds', LIMIT, MINE)} - time(), 0)",
                      "{{account}} {{model_class}} {{limit}}"),
            ),
            timeseries(
                "Waits for limits and slots, p95",
                "What requests waited that did wait. served: worth it; refused: they were turned away after it.",
                "s", Query(quantile(0.95, "queue_wait_seconds", "result"), "{{result}}"),
            ),
        ),
    ),
    Row(
        "Traffic",
        (
            timeseries(
                "Requests", "Exchanges with each account, repeats and failovers included.", "reqps",
                Query(rate("upstream_requests_total", "account", MINE), "{{account}}"), stacked=True,
            ),
            timeseries(
                "Answers other than 2xx",
                "By status, or by what went wrong before one came. 401, 402 and 403 are about the account: clients do"
                " not see them while another can serve.",
                "reqps",
                Query(rate("upstream_requests_total", "account, code", NOT_GOOD), "{{account}} {{code}}"),
            ),
            timeseries(
                "Fresh tokens",
                "Input that had to be computed, cache writes included: what limits of input tokens count. Even lines"
                " are even load; weights apply.",
                "si:tok/s",
                Query(rate("tokens_total", "account", f'{MINE}, type=~"input|cache_write_.+"'), "{{account}}"),
                stacked=True,
            ),
            timeseries(
                "Output tokens", "Tokens written by each account.", "si:tok/s",
                Query(rate("tokens_total", "account", f'{MINE}, type="output"'), "{{account}}"), stacked=True,
            ),
            timeseries(
                "In flight", "Requests that each account is working on.", "short",
                Query(IN_FLIGHT, "{{account}}"), stacked=True,
            ),
            timeseries(
                "Conversations",
                "Conversations bound to each account's workspace, one for each model, counted at leisure. A draining"
                " account's line falls.",
                "short", Query(BINDINGS, "{{account}}"),
            ),
            timeseries(
                "Requests by provider", "Exchanges with accounts by who operates them.", "reqps",
                Query(rate("upstream_requests_total", "provider", MINE), "{{provider}}"), stacked=True,
                width=24, height=6,
            ),
        ),
    ),
    Row(
        "Leaving",
        (
            timeseries(
                "Failovers by reason",
                "Requests that were tried again, by what the first account did. declined: a refusal that another"
                " account may not give. recovered: one served them;"
                " exhausted: none could.",
                "reqps", Query(rate("failovers_total", "reason, result"), "{{reason}}: {{result}}"), stacked=True,
            ),
            timeseries(
                "Conversations that moved, by reason",
                "Each move writes a whole history anew. home: it went back to where its cache is still warm.",
                "ops", Query(rate("conversation_moves_total", "reason"), "{{reason}}"), stacked=True,
            ),
            timeseries(
                "Requests that some account cannot serve",
                "For what they ask, by that need: an account that lacks it is not asked.",
                "reqps", Query(f"{rate('lacking_requests_total', 'need')} or vector(0)", "{{need}}"),
                width=24, height=6,
            ),
        ),
    ),
)  # fmt: skip
