"""Whether conversations stay where their cache is, and what it saves or costs."""

from deploy.grafana.source.dashboard import Row, dashboard
from deploy.grafana.source.panels import Query, falling, rising, stat, timeseries
from deploy.grafana.source.queries import hit_rate, rate, ratio, share

MODEL = 'model=~"$model"'
INPUT = f'{MODEL}, type!="output"'
YESTERDAY = "$__rate_interval] offset 1d"


def yesterday(query: str) -> str:
    """The same a day before."""
    return query.replace("$__rate_interval]", YESTERDAY)


JSON = dashboard(
    "gateway-cache",
    "Gateway / Cache and affinity",
    "How much of the input is read from prompt caches, what was missed that need not have been, and why conversations"
    " went where they went.",
    ("model",),
    Row(
        "Now",
        (
            stat(
                "Hit rate", "Input tokens read from a cache, of all input tokens.", "percentunit",
                Query(hit_rate(where=MODEL)), steps=falling(0.3, 0.6),
            ),
            stat(
                "Hit rate, a day before", "The same at this time yesterday.", "percentunit",
                Query(yesterday(hit_rate(where=MODEL))),
            ),
            stat(
                "Avoidable misses",
                "Tokens written that had been in a cache already, of all input tokens. Above 5 %: look at the reasons"
                " below.",
                "percentunit",
                Query(share(rate("prompt_cache_avoidable_miss_tokens_total"),
                            rate("tokens_total", where='type!="output"'))),
                steps=rising(0.02, 0.05), decimals=2,
            ),
            stat(
                "Reads per written token",
                "How often a written token is read. A write is paid back by 0.3 (five minutes) or 1.1 (an hour) reads;"
                " less is caching that costs more than it saves.",
                "short",
                Query(ratio(rate("tokens_total", where=f'{MODEL}, type="cache_read"'),
                            rate("tokens_total", where=f'{MODEL}, type=~"cache_write_.+"'))),
                steps=falling(0.3, 1.1), decimals=1,
            ),
            stat(
                "Stayed at home",
                "Decisions about conversations seen before that found them bound, of those and all that moved, took a"
                " detour or went by hash.",
                "percentunit",
                Query(ratio(rate("affinity_decisions_total", where='route="bound"'),
                            rate("affinity_decisions_total", where='route=~"bound|moved|detour|stateless"'))),
                steps=falling(0.9, 0.98), decimals=1,
            ),
            stat(
                "Saved, an hour", "What cache reads would have cost more as fresh input, at the present pace.",
                "currencyUSD", Query(f"3600 * {rate('cache_savings_usd_total', where=MODEL)}"),
            ),
        ),
    ),
    Row(
        "Hits",
        (
            timeseries(
                "Hit rate by model", "The whole line is all models; one that falls alone is a client that changed.",
                "percentunit", Query(hit_rate(where=MODEL), "all"), Query(hit_rate("model", MODEL), "{{model}}"),
                whole=True,
            ),
            timeseries(
                "Hit rate against yesterday",
                "Today's line and the one of a day before. GatewayCacheHitRateDropped compares them by the hour.",
                "percentunit", Query(hit_rate(where=MODEL), "today"),
                Query(yesterday(hit_rate(where=MODEL)), "yesterday"), whole=True,
            ),
            timeseries(
                "Hit rate by account",
                "An account far below the others has lost its cache, or gets what others had warm.",
                "percentunit", Query(hit_rate("account", MODEL), "{{account}}"), whole=True,
            ),
            timeseries(
                "Input tokens by price", "Fresh, read, and written for five minutes or an hour.", "si:tok/s",
                Query(rate("tokens_total", "type", INPUT), "{{type}}"), stacked=True,
            ),
            timeseries(
                "Requests by what they found",
                "hit: more was read than written; partial: less, but some; miss: written and nothing read; none:"
                " neither.",
                "reqps", Query(rate("prompt_cache_requests_total", "result", MODEL), "{{result}}"), stacked=True,
            ),
            timeseries(
                "Avoidable misses by reason",
                "Tokens written that had been in a cache. moved, detour, stateless: warm in another workspace than"
                " the one that served; expired: the pause since the last turn was longer than the cache lives.",
                "si:tok/s", Query(rate("prompt_cache_avoidable_miss_tokens_total", "reason"), "{{reason}}"),
                stacked=True,
            ),
        ),
    ),
    Row(
        "Affinity",
        (
            timeseries(
                "Decisions by route",
                "As in x-gateway-route. Much new with few moves is a client that sends a new conversation id each time;"
                " none is requests without a conversation.",
                "reqps", Query(rate("affinity_decisions_total", "route"), "{{route}}"), stacked=True,
            ),
            timeseries(
                "Moves by reason", "Conversations bound to another workspace than before, and why.", "ops",
                Query(rate("conversation_moves_total", "reason"), "{{reason}}"), stacked=True,
            ),
        ),
    ),
    Row(
        "Money",
        (
            timeseries(
                "Spent and saved, an hour", "At list prices. Without caches the bill would be the sum.", "currencyUSD",
                Query(f"3600 * {rate('cost_usd_total', where=MODEL)}", "spent"),
                Query(f"3600 * {rate('cache_savings_usd_total', where=MODEL)}", "saved"), stacked=True,
            ),
            timeseries(
                "Saved by model, an hour", "Which models' conversations gain by staying at home.", "currencyUSD",
                Query(f"3600 * {rate('cache_savings_usd_total', 'model', MODEL)}", "{{model}}"), stacked=True,
            ),
        ),
    ),
)  # fmt: skip
