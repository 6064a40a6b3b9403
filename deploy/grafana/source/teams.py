"""Who uses what, what it costs, and how much is left of the teams' budgets."""

from deploy.grafana.source.dashboard import Row, dashboard, link_to
from deploy.grafana.source.panels import Query, bars, falling, rising, stat, timeseries
from deploy.grafana.source.queries import gain, named, rate, ratio, share, shared
from deploy.grafana.source.tables import Column, table

TEAM = 'team=~"$team"'
BOTH = f'{TEAM}, model=~"$model"'
NOT_GOOD = f'{BOTH}, code!~"2.."'
NO_TEAM = "(no team)"


def by_team(query: str) -> str:
    """Callers without a team have a name too."""
    return named(query, "team", NO_TEAM)


JSON = dashboard(
    "gateway-teams",
    "Gateway / Teams and cost",
    "Dollars and tokens by team and model, at list prices. For invoices use the ledger, which counts each request once:"
    " gateway usage.",
    ("team", "model"),
    Row(
        "In the time range",
        (
            stat("Spent", "Dollars spent in the time range on display.", "currencyUSD",
                 Query(gain("cost_usd_total", where=BOTH)), decimals=2),
            stat("Saved by caches", "What cache reads would have cost more as fresh input.", "currencyUSD",
                 Query(gain("cache_savings_usd_total", where=BOTH)), decimals=2),
            stat("Requests", "Requests in the time range, refused ones included.", "short",
                 Query(gain("requests_total", where=BOTH)), decimals=0),
            stat("Tokens", "Tokens of all kinds.", "si:tok", Query(gain("team_tokens_total", where=BOTH)), decimals=0),
            stat(
                "Price of a million tokens",
                "What a million tokens of all kinds cost on the whole. Caching lowers it, output raises it.",
                "currencyUSD",
                Query(f"1e6 * {ratio(gain('cost_usd_total', where=BOTH), gain('team_tokens_total', where=BOTH))}"),
                decimals=2,
            ),
            stat(
                "Least budget left",
                "Of the team that is nearest to the end of a day's or a month's budget. Below 10 % an alert fires.",
                "percentunit", Query(f"min({shared('team_budget_remaining_ratio', 'team, window', TEAM)})"),
                steps=falling(0.1, 0.25),
            ),
            table(
                "Teams",
                "One line a team, over the time range on display.",
                "team",
                "Team",
                Column("Spent", by_team(gain("cost_usd_total", "team", BOTH)), "currencyUSD"),
                Column("Saved by caches", by_team(gain("cache_savings_usd_total", "team", BOTH)), "currencyUSD"),
                Column("Requests", by_team(gain("requests_total", "team", BOTH)), "short"),
                Column("Tokens", by_team(gain("team_tokens_total", "team", BOTH)), "si:tok"),
                Column("Hit rate", by_team(ratio(
                    gain("team_tokens_total", "team", f'{BOTH}, type="cache_read"'),
                    gain("team_tokens_total", "team", f'{BOTH}, type!="output"'),
                )), "percentunit", steps=falling(0.3, 0.6)),
                Column("Not 2xx", by_team(share(gain("requests_total", "team", NOT_GOOD),
                                                gain("requests_total", "team", BOTH))),
                       "percentunit", steps=rising(0.05, 0.2)),
                links=(link_to("gateway-teams", "This team alone", "var-team=${__value.text}"),),
                sort="Spent",
            ),
        ),
    ),
    Row(
        "Budgets",
        (
            bars(
                "Left of each budget",
                "Of each team's dollars for this UTC day, week and month. At nothing its requests are refused until the"
                " period ends.",
                "percentunit",
                Query(shared("team_budget_remaining_ratio", "team, window", TEAM), "{{team}} {{window}}"),
                steps=falling(0.1, 0.25), top=1,
            ),
            timeseries(
                "Left of each budget over time", "A steeper fall than the days before is worth a question.",
                "percentunit",
                Query(shared("team_budget_remaining_ratio", "team, window", TEAM), "{{team}} {{window}}"), whole=True,
            ),
            timeseries(
                "Soft thresholds passed",
                "The highest share of a budget that is passed of those in soft: its callers have been warned.",
                "percentunit",
                Query(f'{shared("team_budget_soft_threshold_ratio", "team, window", TEAM)} or vector(0)',
                      "{{team}} {{window}}"),
                whole=True, width=24, height=6,
            ),
        ),
    ),
    Row(
        "Money",
        (
            timeseries("Dollars an hour by team", "At the present pace.", "currencyUSD",
                       Query(by_team(f"3600 * {rate('cost_usd_total', 'team', BOTH)}"), "{{team}}"), stacked=True),
            timeseries("Dollars an hour by model", "At the present pace.", "currencyUSD",
                       Query(f"3600 * {rate('cost_usd_total', 'model', BOTH)}", "{{model}}"), stacked=True),
            timeseries("Saved an hour by team", "By cache reads, at the present pace.", "currencyUSD",
                       Query(by_team(f"3600 * {rate('cache_savings_usd_total', 'team', BOTH)}"), "{{team}}"),
                       stacked=True),
            timeseries(
                "Hit rate by team", "A team far below the others may send no conversation id, or no cache_control.",
                "percentunit",
                Query(by_team(ratio(rate("team_tokens_total", "team", f'{BOTH}, type="cache_read"'),
                                    rate("team_tokens_total", "team", f'{BOTH}, type!="output"'))), "{{team}}"),
                whole=True,
            ),
            timeseries(
                "Answers without a known price",
                "Of models that are in no catalogue, priced by models.default. Above nothing: name them in"
                " models.catalogue.",
                "reqps", Query(f"{rate('default_priced_requests_total', 'model')} or vector(0)", "{{model}}"),
                width=24, height=6,
            ),
        ),
    ),
    Row(
        "Use",
        (
            timeseries("Requests by team", "Requests a second.", "reqps",
                       Query(by_team(rate("requests_total", "team", BOTH)), "{{team}}"), stacked=True),
            timeseries("Tokens by kind", "Tokens a second of these teams and models.", "si:tok/s",
                       Query(rate("team_tokens_total", "type", BOTH), "{{type}}"), stacked=True),
            timeseries(
                "Refused for the callers' own limits",
                "Of all teams, by the limit that was reached: raise it, or ask who sends so much.",
                "reqps", Query(rate("throttled_total", "reason", 'scope="caller"'), "{{reason}}"), stacked=True,
            ),
            timeseries(
                "Answers other than 2xx by team",
                "429: over a limit or a budget; 401 has no team; 400 and 404 are the client's.",
                "reqps",
                Query(by_team(rate("requests_total", "team, code", NOT_GOOD)), "{{team}} {{code}}"),
            ),
        ),
    ),
)  # fmt: skip
