"""PromQL as the dashboards use it: rates, quantiles and the ways to add up replicas. Strings in, strings out.

Every query is narrowed to `$job`, one installation of the gateway; `where` narrows it further. Counters and
histograms of replicas are summed. What every replica knows of the same account or team is not: `shared` takes the
greatest, or the least of what is left of a limit.
"""

RATE = "$__rate_interval"
STATES = ("available", "limited", "draining", "disabled", "failing", "out")
MATCH = '{}="{}"'
STATE_CODES = {state: code for code, state in enumerate(STATES, 1)}  # the higher, the worse


def both(*narrower: str) -> str:
    """All of these label matchers."""
    return ", ".join(filter(None, narrower))


def select(metric: str, where: str = "") -> str:
    """The series of `gateway_<metric>` of this installation."""
    matchers = both('job=~"$job"', where)
    return f"gateway_{metric}{{{matchers}}}"


def added(of: str, by: str = "") -> str:
    """The sum over replicas and all labels but `by`."""
    return f"sum by ({by}) ({of})" if by else f"sum({of})"


def rate(metric: str, by: str = "", where: str = "", window: str = RATE) -> str:
    """What a counter gains a second."""
    return added(f"rate({select(metric, where)}[{window}])", by)


def gain(metric: str, by: str = "", where: str = "") -> str:
    """What a counter has gained in the time range on display."""
    return added(f"increase({select(metric, where)}[$__range])", by)


def ratio(part: str, whole: str) -> str:
    """One rate beside another."""
    return f"{part} / {whole}"


def quantile(q: float, metric: str, by: str = "", where: str = "") -> str:
    """A quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q:g}, {rate(f'{metric}_bucket', labels, where)})"


def mean(metric: str, by: str = "", where: str = "") -> str:
    """The mean of a histogram."""
    return ratio(rate(f"{metric}_sum", by, where), rate(f"{metric}_count", by, where))


def shared(metric: str, by: str, where: str = "", least: bool = False) -> str:
    """A gauge that every replica reports of the same thing."""
    return f"{'min' if least else 'max'} by ({by}) ({select(metric, where)})"


def hit_rate(by: str = "", where: str = "", window: str = RATE) -> str:
    """Input tokens read from a cache, of all input tokens."""
    return ratio(
        rate("tokens_total", by, both('type="cache_read"', where), window),
        rate("tokens_total", by, both('type!="output"', where), window),
    )


def named(of: str, label: str, nothing: str) -> str:
    """The same with a word for an empty label."""
    return f'label_replace({of}, "{label}", "{nothing}", "{label}", "")'


def share(part: str, whole: str) -> str:
    """The same of a part that may have no series yet: nothing of the whole."""
    return f"({part} or 0 * {whole}) / {whole}"


def account_states(where: str = "") -> str:
    """One number an account, by STATE_CODES; the worst that a replica reports."""
    present = [
        f"{code} * ({shared('account_state', 'account', both(MATCH.format('state', state), where))} == 1)"
        for state, code in reversed(STATE_CODES.items())
    ]
    return " or ".join(present)


def failed(window: str = RATE) -> str:
    """Requests that failed for the client by no fault of its own; one that breaks off after its head counts too."""
    parts = (
        select("requests_total", 'code=~"5.."'),
        select("stream_interruptions_total", 'cause!="client"'),
        select("throttled_total", 'reason=~"rate_limit|connections", scope!="caller"'),
    )
    rates = [f"rate({part}[{window}])" for part in parts]
    return added(" or ".join([*rates, f"0 * rate({select('requests_total')}[{window}])"]))
