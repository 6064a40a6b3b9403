"""The gateway itself: its own share of the time, its event loops, its store, its configuration, its replicas."""

from deploy.grafana.source.dashboard import Row, dashboard
from deploy.grafana.source.panels import BAD, GOOD, Query, heatmap, rising, stat, timeseries
from deploy.grafana.source.queries import added, quantile, rate, select
from deploy.grafana.source.tables import listing

ONE = 'instance=~"$instance"'
UP = f'{{job=~"$job", {ONE}}}'

JSON = dashboard(
    "gateway-internals",
    "Gateway / Internals",
    "What the gateway adds to each request, and how its processes and its store are.",
    ("instance",),
    Row(
        "Now",
        (
            stat("Replicas up", "Gateways that answer the scrape.", "short", Query(f"sum(up{UP})", "up"),
                 Query(f"count(up{UP})", "of")),
            stat(
                "Overhead, p99",
                "The gateway's own share of the time to the first byte, for 99 of 100 requests. Without load: 2 ms.",
                "s", Query(quantile(0.99, "overhead_seconds", where=f'{ONE}, phase="total"')), steps=rising(0.01, 0.05),
            ),
            stat(
                "Event loop lag, p99",
                "How late the workers' loops run what is due. More than 100 ms: too much work for these processes.",
                "s", Query(quantile(0.99, "event_loop_lag_seconds", where=ONE)), steps=rising(0.02, 0.1),
            ),
            stat(
                "Degraded",
                "Processes in a mode that is not normal; store: Redis is away, and routing goes by hash and memory.",
                "short", Query(added(select("degraded", ONE), "mode"), "{{mode}}"), steps=((None, GOOD), (1, BAD)),
            ),
            stat(
                "Configuration",
                "Whether the file was usable when last read. If not, the gateway serves by the one before.",
                "short", Query(f"min({select('config_last_reload_successful', ONE)})"),
                words={"1": ("in force", GOOD), "0": ("refused", BAD)},
            ),
            stat(
                "Configuration read", "How long ago a usable file was last read.", "s",
                Query(f"time() - max({select('config_last_reload_success_timestamp_seconds', ONE)})"),
            ),
        ),
    ),
    Row(
        "Own share of the time",
        (
            timeseries(
                "Overhead by phase, p99",
                "admit: limits and binding in the store; choose: where to; relay: what passes through; total: all of"
                " it.",
                "s", Query(quantile(0.99, "overhead_seconds", "phase", ONE), "{{phase}}"), steps=rising(0.01, 0.05),
            ),
            heatmap(
                "Overhead of all requests",
                "Two bands usually mean two kinds of requests; a band that drifts upwards is load.",
                "s", Query(rate("overhead_seconds_bucket", "le", f'{ONE}, phase="total"'), "{{le}}"),
            ),
            timeseries(
                "Event loop lag",
                "Of all workers. Spikes come from large bodies; a plateau from too few workers.",
                "s", *(Query(quantile(q, "event_loop_lag_seconds", where=ONE), f"p{q * 100:g}") for q in (0.5, 0.99)),
            ),
            timeseries(
                "Waits for limits and slots",
                "Requests a second that waited before they were sent, by how it ended.", "reqps",
                Query(rate("queue_wait_seconds_count", "result", ONE), "{{result}}"),
            ),
        ),
    ),
    Row(
        "Store",
        (
            timeseries(
                "Operations, p99",
                "From post to reply, by operation. All of them slow: Redis or the way to it; one alone: its script.",
                "s", Query(quantile(0.99, "store_operation_duration_seconds", "op", ONE), "{{op}}"),
            ),
            timeseries(
                "Operations", "Operations a second, by kind.", "ops",
                Query(rate("store_operation_duration_seconds_count", "op", ONE), "{{op}}"), stacked=True,
            ),
            timeseries(
                "Errors", "Operations that failed; requests go on without them.", "ops",
                Query(rate("store_errors_total", "op", ONE), "{{op}}"), stacked=True,
            ),
            timeseries(
                "Degraded processes",
                "By mode. While the store is away limits are shares of each process, and usage waits in the journal.",
                "short", Query(added(select("degraded", ONE), "instance, mode"), "{{instance}} {{mode}}"),
            ),
        ),
    ),
    Row(
        "Replicas",
        (
            timeseries("Requests", "By replica: uneven lines are a load balancer that keeps connections.", "reqps",
                       Query(rate("requests_total", "instance", ONE), "{{instance}}"), stacked=True),
            timeseries("In flight", "By replica.", "short",
                       Query(added(select("requests_in_flight", ONE), "instance"), "{{instance}}"), stacked=True),
            timeseries(
                "Scrape",
                "How long a scrape takes: each one asks every worker, so a slow one is a busy worker.",
                "s", Query(f"scrape_duration_seconds{UP}", "{{instance}}"),
            ),
            timeseries("Series", "Samples of each scrape. Bounded by design: models, teams, accounts, not callers.",
                       "short", Query(f"scrape_samples_post_metric_relabeling{UP}", "{{instance}}")),
            listing("Versions", "Two versions side by side are fine while a deploy rolls.",
                    Query(select("build_info", ONE)), "instance", "version", width=12, height=5),
            timeseries(
                "Wrong admin tokens",
                "Refused a second on the admin listener, by replica: a stale script, or somebody who guesses.",
                "reqps", Query(rate("admin_refused_total", "instance", ONE), "{{instance}}"), width=12, height=5,
            ),
        ),
    ),
)  # fmt: skip
