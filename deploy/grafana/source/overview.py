"""The dashboard to open first: is it well, is it fast, what does it save."""

from deploy.grafana.source.dashboard import Row, dashboard, link_to
from deploy.grafana.source.panels import Query, account_timeline, falling, rising, stat, timeseries
from deploy.grafana.source.queries import (
    account_states,
    failed,
    hit_rate,
    quantile,
    rate,
    ratio,
    select,
    shared,
)
from deploy.grafana.source.tables import listing

AVAILABLE = 'state="available"'

JSON = dashboard(
    "gateway-overview",
    "Gateway / Overview",
    "Traffic, speed, errors, cache and money of one installation of the gateway, over all replicas.",
    (),
    Row(
        "Now",
        (
            stat(
                "Requests", "Requests a second that ended, whatever their answer.", "reqps",
                Query(rate("requests_total")),
            ),
            stat(
                "Failed",
                "Share of requests that failed for the client by no fault of its own: a 5xx, a refusal because the pool"
                " has no room, a stream that broke off. The objective is 0.5 %.",
                "percentunit", Query(ratio(failed(), rate("requests_total"))), steps=rising(0.005, 0.02), decimals=2,
            ),
            stat(
                "Time to first token, p95",
                "19 of 20 answers of the Messages API began within this time. Long thinking does not count: its first"
                " event comes at once.",
                "s", Query(quantile(0.95, "time_to_first_token_seconds")), steps=rising(5, 15),
            ),
            stat(
                "Cache hit rate",
                "Input tokens that were read from a prompt cache, of all input tokens. Agents that keep their"
                " conversation id reach 90 %; single questions have nothing to read.",
                "percentunit", Query(hit_rate()), steps=falling(0.3, 0.6),
            ),
            stat(
                "Accounts available",
                "Accounts that take any request now, of all that are configured. Others are limited, draining,"
                " disabled, failing or out.",
                "short",
                Query(f"sum({shared('account_state', 'account', AVAILABLE)})", "available"),
                Query(f"count(count by (account) ({select('account_state')}))", "of"),
            ),
            stat(
                "Saved by caches, an hour",
                "What this hour's cache reads would have cost more as fresh input, at the present pace.",
                "currencyUSD", Query(f"3600 * {rate('cache_savings_usd_total')}"),
            ),
        ),
    ),
    Row(
        "Attention",
        (
            listing(
                "Firing alerts",
                "What docs/runbook.md has a section for. Empty is good.",
                Query('ALERTS{alertname=~"Gateway.+", alertstate="firing", job=~"$job|"}'),
                "alertname", "severity", "account", "team", "model", "model_class", "limit", "instance",
            ),
            account_timeline(
                "Accounts",
                "Each account's state. limited: its organization answered 429 for a class of models; failing: it"
                " fails where others do not; out: no key, no money or no connection. Follow a band to the account.",
                Query(account_states(), "{{account}}"),
            ),
        ),
    ),
    Row(
        "Traffic",
        (
            timeseries(
                "Answers by status",
                "Requests by the status that the client saw. 499: it left before an answer; 529 and 429: see Refusals.",
                "reqps", Query(rate("requests_total", "code"), "{{code}}"), stacked=True,
            ),
            timeseries(
                "In flight",
                "Requests being served, by endpoint. A line that only rises: answers that do not end, or clients that"
                " do not read.",
                "short", Query(f"sum by (endpoint) ({select('requests_in_flight')})", "{{endpoint}}"), stacked=True,
            ),
        ),
    ),
    Row(
        "Speed",
        (
            timeseries(
                "Time to first token",
                "From a request's head to the first byte of a 200 answer, with everything: the gateway, waits for"
                " limits, the account.",
                "s",
                *(Query(quantile(q, "time_to_first_token_seconds"), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
                steps=((None, "green"), (15, "red")),
            ),
            timeseries(
                "Time to first token by model, p95",
                "One model alone that is slow is the provider's; all of them are ours, the network's or a limit's.",
                "s", Query(quantile(0.95, "time_to_first_token_seconds", "model"), "{{model}}"),
            ),
            timeseries(
                "Time per output token, median",
                "How fast answers flow once they have begun.",
                "s", Query(quantile(0.5, "time_per_output_token_seconds", "model"), "{{model}}"),
            ),
            timeseries(
                "Duration, p95",
                "From a request's head to the last byte of its answer; streams last as long as the model writes.",
                "s",
                Query(quantile(0.95, "request_duration_seconds", "endpoint, stream"), "{{endpoint}} stream={{stream}}"),
            ),
        ),
    ),
    Row(
        "Tokens and money",
        (
            timeseries(
                "Tokens by price",
                "Tokens a second by price class. cache_read costs 0.1x of input, the writes 1.25x and 2x.",
                "si:tok/s", Query(rate("tokens_total", "type"), "{{type}}"), stacked=True,
                links=(link_to("gateway-cache", "Cache and affinity"),),
            ),
            timeseries(
                "Dollars an hour",
                "What is spent, and what cache reads save, at the present pace and list prices.",
                "currencyUSD",
                Query(f"3600 * {rate('cost_usd_total')}", "spent"),
                Query(f"3600 * {rate('cache_savings_usd_total')}", "saved by caches"),
                links=(link_to("gateway-teams", "Teams and cost"),),
            ),
        ),
    ),
    Row(
        "Trouble",
        (
            timeseries(
                "Refusals",
                "Requests refused by a limit, and whose: the caller's or its team's own, that of all accounts that may"
                " serve it, the gateway's.",
                "reqps", Query(rate("throttled_total", "scope, reason"), "{{scope}}: {{reason}}"), stacked=True,
            ),
            timeseries(
                "Broken streams",
                "Streams that ended before their end, by who broke off. client: it went away, which is its right.",
                "reqps", Query(rate("stream_interruptions_total", "cause"), "{{cause}}"), stacked=True,
            ),
            timeseries(
                "Failovers",
                "Requests that were tried again, by what the first account did, and whether an account served them.",
                "reqps", Query(rate("failovers_total", "reason, result"), "{{reason}}: {{result}}"), stacked=True,
                links=(link_to("gateway-accounts", "Accounts"),),
            ),
            timeseries(
                "Error budget, burn rate",
                "1 spends the objective's allowance exactly over its period. 14.4 over an hour pages, 6 over six hours"
                " too. Needs the recording rules.",
                "short",
                *(
                    Query(
                        f'job:gateway_requests_failed:ratio_rate{window}{{job=~"$job"}}'
                        " / scalar(gateway:error_budget:ratio)",
                        f"over {window}",
                    )
                    for window in ("5m", "1h", "6h")
                ),
            ),
        ),
    ),
)  # fmt: skip
