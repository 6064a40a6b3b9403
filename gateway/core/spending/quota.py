"""The limits of callers and teams: one row a kind, what a request must find there, and what it is told if it does not.

A caller's limits are compiled once into what quota.lua and ledger.lua read; what is left of them, only the store knows.
Times are Unix milliseconds, money is integer nano-dollars.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import msgspec

from gateway.core.spending.pricing import Price

# Classes of endpoints: those that are metered, counting tokens, and creating a batch, which is metered later.
MESSAGE, COUNT, BATCH = "message", "count", "batch"
LEASE = 45_000  # ms that a concurrency slot outlives its process; renew it several times as often
EXPECTED_OUTPUT = 8192  # tokens of output for which dollars are reserved, unless budgets are strict
SUMS = ("requests", "estimated", "input", "cache_read", "write_5m", "write_1h", "output", "cost_nano", "savings_nano")
BUCKET, MONEY, LEASES = 1, 2, 3  # forms of limits, as the scripts know them
_HOUR = 3_600_000
_AT_ONCE = 1  # second to wait for a slot: nobody knows when one is free

Headers = list[tuple[bytes, bytes]]


class Quota(msgspec.Struct, frozen=True):
    """What one subject, a caller or a team, may use; None is no limit, counts are 1 at least. `requests`,
    `input_tokens` and `output_tokens` are a minute's, budgets those of a UTC day, of a week that begins on Monday and
    of a UTC calendar month. `boost_nano` raises every budget; at each share of one in `soft` (ascending) the caller is
    warned; `message` follows what is said of a budget. `carried`: it was charged under other tenants before."""

    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    concurrency: int | None = None
    day_nano: int | None = None
    month_nano: int | None = None
    week_nano: int | None = None
    boost_nano: int = 0
    soft: tuple[float, ...] = ()
    message: str = ""
    carried: bool = False


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of limit: `name` for people, `label` for metrics, `field` for the program; `place` is the first of two
    among a subject's numbers in the store (see numbers.lua), of a bucket or of a period; `limit` the Quota's attribute.
    A bucket admits at a level of `need` (0: above 0), gives `take` then, and at settlement the sum of `debits` (of
    SUMS); `header` is what it is called in rate-limit headers."""

    name: str
    label: str
    form: int
    field: str
    limit: str
    place: int = 0
    endpoints: tuple[str, ...] = (MESSAGE,)
    need: int = 0
    take: int = 0
    debits: tuple[str, ...] = ()
    header: str = ""


def _budget(period: str, place: int) -> Kind:
    return Kind(
        name=f"per {period}",
        label=f"budget_{period}",
        form=MONEY,
        field=period,
        limit=f"{period}_nano",
        place=place,
        endpoints=(MESSAGE, BATCH),
    )


# Whoever refuses for longest speaks; of equals, the first.
KINDS = (
    _budget("month", 4),
    _budget("week", 14),
    _budget("day", 2),
    Kind(
        name="requests per minute",
        label="requests_per_minute",
        form=BUCKET,
        field="requests",
        limit="requests",
        place=6,
        endpoints=(MESSAGE, BATCH),
        need=1,
        take=1,
        header="requests",
    ),
    Kind(
        name="token counting requests per minute",
        label="requests_per_minute",
        form=BUCKET,
        field="counts",
        limit="requests",
        place=8,
        endpoints=(COUNT,),
        need=1,
        take=1,
        header="requests",
    ),
    Kind(
        name="input tokens per minute",
        label="input_tokens_per_minute",
        form=BUCKET,
        field="input",
        limit="input_tokens",
        place=10,
        debits=("input", "write_5m", "write_1h"),
        header="input-tokens",
    ),
    Kind(
        name="output tokens per minute",
        label="output_tokens_per_minute",
        form=BUCKET,
        field="output",
        limit="output_tokens",
        place=12,
        debits=("output",),
        header="output-tokens",
    ),
    Kind(name="concurrent requests", label="concurrency", form=LEASES, field="concurrency", limit="concurrency"),
)
BUDGETS = tuple(kind.field for kind in reversed(KINDS) if kind.form == MONEY)  # their periods, the shortest first


class Row(msgspec.Struct, frozen=True):
    """One limit of one subject; of money the last three are its Quota's."""

    subject: str
    kind: Kind
    limit: int
    soft: tuple[float, ...] = ()
    message: str = ""
    carried: bool = False

    @property
    def whose(self) -> str:
        """For the client."""
        return "your team's" if self.subject.startswith("t:") else "your"

    @property
    def budget(self) -> str:
        """A limit of money, for people."""
        dollars, _, parts = f"{self.limit / 1e9:,.9f}".partition(".")
        return f"budget of ${dollars}.{parts[:2]}{parts[2:].rstrip('0')} {self.kind.name}"


class Refused(msgspec.Struct, frozen=True):
    """A request that `row` does not admit for `wait` more seconds; `resets` is when its budget's period ends (Unix
    seconds), 0 for other limits."""

    row: Row
    wait: int
    resets: int = 0

    @property
    def budget(self) -> bool:
        """Whether money is short: it is a `billing_error` then, else a `rate_limit_error`."""
        return self.row.kind.form == MONEY

    @property
    def error_type(self) -> str:
        return "billing_error" if self.budget else "rate_limit_error"

    @property
    def message(self) -> str:
        """What the client is told."""
        row = self.row
        if not self.budget:
            return f"This request would exceed {row.whose} limit of {row.limit:,} {row.kind.name}."
        words = f"This request would exceed {row.whose} {row.budget}"
        if self.resets:
            words += f", which resets {_utc(self.resets):%Y-%m-%d %H:%M} UTC"
        return f"{words}. {row.message}".rstrip()


class Warned(msgspec.Struct, frozen=True):
    """A budget that is used or reserved beyond `share`, one of its soft thresholds: `used` of it is (0 to 1), and it
    resets at `resets` (Unix seconds)."""

    row: Row
    share: float
    used: float
    resets: int

    @property
    def words(self) -> str:
        """What the client is told."""
        row = self.row
        words = f"{self.used:.0%} of {row.whose} {row.budget} is used; it resets {_utc(self.resets):%Y-%m-%d %H:%M} UTC"
        return f"{words}. {row.message}".rstrip()

    def headers(self, claude_code: bool) -> Headers:
        """What it adds to an answer; `claude_code` shows people some of Anthropic's own."""
        headers = [(b"x-gateway-budget-warning", self.words.encode("ascii", "replace"))]
        if claude_code:
            reset = b"%d" % self.resets
            headers += [
                (b"anthropic-ratelimit-unified-" + name, value)
                for name, value in (
                    (b"status", b"allowed_warning"),
                    (b"representative-claim", b"overage"),
                    (b"reset", reset),
                    (b"overage-status", b"allowed_warning"),
                    (b"overage-reset", reset),
                    (b"overage-utilization", b"%.2f" % self.used),
                    (b"overage-surpassed-threshold", b"%g" % self.share),
                )
            ]
        return headers


class _Header(msgspec.Struct, frozen=True):
    """A bucket in the rate-limit headers: its place among the levels, the names, and the first header as it is."""

    place: int
    limit: int
    stated: tuple[bytes, bytes]
    remaining: bytes
    reset: bytes


class Limits:
    """All limits of one caller for one class of endpoints. `keys` and `packed` are what quota.lua is given; `leases`
    and `reserved` say which subjects (1 the first) hold a slot and reserve dollars for each request; `soft` are the
    budgets that warn, and their places among the levels."""

    __slots__ = ("_headers", "keys", "leases", "packed", "reserved", "rows", "soft")

    def __init__(self, tenant: str, subjects: Sequence[tuple[str, Quota]], endpoints: str) -> None:
        keys, packed = [reservations_key(tenant)], list[int]()
        rows: list[Row] = []
        leases, reserved = list[int](), list[int]()
        for number, (subject, quota) in enumerate(subjects, 1):
            mine = [_row(subject, kind, limit, quota) for kind, limit in _kinds(quota) if endpoints in kind.endpoints]
            if mine:
                keys += subject_keys(tenant, subject)
                packed += _compiled(mine)
                rows += mine
                forms = {row.kind.form for row in mine}
                leases += [number] * (LEASES in forms)
                reserved += [number] * (MONEY in forms)
        self.keys = tuple(keys)
        self.packed = msgspec.msgpack.encode(packed) if packed else b""
        self.rows = tuple(rows)
        self.leases = tuple(leases)
        self.reserved = tuple(reserved)
        told = [row for row in rows if row.kind.form == BUCKET or row.soft]
        self._headers = _headers(told)
        self.soft = tuple((place, row) for place, row in enumerate(told) if row.soft)

    def __repr__(self) -> str:
        return f"<Limits {', '.join(f'{row.subject} {row.limit} {row.kind.name}' for row in self.rows) or 'none'}>"

    def refused(self, number: int, wait: int, at: int) -> Refused:
        """What quota.lua means that refused at row `number` (1 the first), `wait` ms before it would admit (-1 where it
        does not know), `at` this time."""
        row, resets = self.rows[number - 1], 0
        if row.kind.form == MONEY:
            resets = period_end(row.kind.field, at)
            wait = resets - at
        return Refused(row, max(1, -(-wait // 1000)) if wait >= 0 else _AT_ONCE, resets // 1000)

    def warned(self, levels: Sequence[int], at: int) -> Warned | None:
        """The budget that is used most, if that is beyond one of its soft thresholds, of a request that arrived `at`
        and found these levels."""
        worst: Warned | None = None
        for place, row in self.soft if levels else ():
            used = (row.limit - levels[place]) / row.limit if row.limit else 1.0
            passed = [share for share in row.soft if used >= share]
            if passed and (worst is None or used > worst.used):
                worst = Warned(row, passed[-1], used, period_end(row.kind.field, at) // 1000)
        return worst

    def headers(self, levels: Sequence[int], now: int) -> Headers:
        """The `anthropic-ratelimit-` headers, where the levels of the buckets are these; of a caller and its team the
        one that has less left speaks."""
        headers: Headers = []
        for each in self._headers:
            tightest = each[0]
            level = levels[tightest.place]
            for other in each[1:] if len(each) > 1 else ():
                if levels[other.place] < level:
                    tightest, level = other, levels[other.place]
            limit = tightest.limit
            full_at = now + (limit - level) * 60_000 // limit
            headers += (
                tightest.stated,
                (tightest.remaining, b"%d" % (level if level > 0 else 0)),
                (tightest.reset, _rfc3339(-(-full_at // 1000))),
            )
        return headers


class Plan:
    """The limits of one caller, compiled: `subjects` are whom they bind, the caller first (`c:<id>`), then its team
    (`t:<team>`) if it has one. `debits` is what ledger.lua takes from the buckets of each at settlement."""

    __slots__ = ("batch", "count", "debits", "message", "subjects", "tenant")

    def __init__(self, tenant: str, subjects: Sequence[tuple[str, Quota]]) -> None:
        self.tenant = tenant
        self.subjects = tuple(subject for subject, _ in subjects)
        self.message = Limits(tenant, subjects, MESSAGE)
        self.count = Limits(tenant, subjects, COUNT)
        self.batch = Limits(tenant, subjects, BATCH)
        self.debits = tuple(_debits(quota) for _, quota in subjects)

    def limits(self, endpoints: str) -> Limits:
        """Those of this class of endpoints."""
        return self.count if endpoints == COUNT else self.batch if endpoints == BATCH else self.message


def reservations_key(tenant: str) -> str:
    """Where the store keeps a tenant's open reservations."""
    return f"{{{tenant}}}:r"


def subject_keys(tenant: str, subject: str) -> tuple[str, str]:
    """Where the store keeps a subject's buckets and money, and its leases."""
    return f"{{{tenant}}}:q:{subject}", f"{{{tenant}}}:c:{subject}"


def _kinds(quota: Quota) -> list[tuple[Kind, int]]:
    """The kinds that are limited, and to what."""
    limits = [(kind, getattr(quota, kind.limit)) for kind in KINDS]
    return [
        (kind, limit + quota.boost_nano if kind.form == MONEY else limit) for kind, limit in limits if limit is not None
    ]


def _row(subject: str, kind: Kind, limit: int, quota: Quota) -> Row:
    if kind.form != MONEY:
        return Row(subject, kind, limit)
    return Row(subject, kind, limit, quota.soft, quota.message, quota.carried)


def _compiled(rows: Sequence[Row]) -> list[int]:
    """Rows of one subject as quota.lua reads them."""
    compiled = [len(rows)]
    for row in rows:
        kind = row.kind
        if kind.form == BUCKET:
            compiled += (BUCKET, kind.place, row.limit, kind.need, kind.take)
        elif kind.form == MONEY:
            compiled += (MONEY, kind.place, row.limit, int(row.carried), int(bool(row.soft)))
        else:
            compiled += (LEASES, 0, row.limit, LEASE, 0)
    return compiled


def _debits(quota: Quota) -> bytes:
    """The buckets of one subject that are debited, as ledger.lua reads them."""
    compiled: list[int] = []
    for kind, limit in _kinds(quota):
        if kind.debits:
            places = [SUMS.index(name) + 1 for name in kind.debits]
            compiled += (kind.place, limit, *places, *[0] * (4 - len(places)))
    return msgspec.msgpack.encode(compiled) if compiled else b""


def _headers(told: Sequence[Row]) -> list[list[_Header]]:
    """The buckets by header; `told` are the rows of which the store tells levels."""
    found: dict[str, list[_Header]] = {}
    for place, row in enumerate(told):
        if row.kind.form != BUCKET:
            continue
        name = f"anthropic-ratelimit-{row.kind.header}-".encode()
        header = _Header(place, row.limit, (name + b"limit", b"%d" % row.limit), name + b"remaining", name + b"reset")
        found.setdefault(row.kind.header, []).append(header)
    return list(found.values())


# Time.


class Labels(msgspec.Struct, frozen=True):
    """The UTC hour, day and month of a time, as keys and fields have them: 2026112214, 20261122, 202611; and its week,
    which begins on Monday, by a number: 2968."""

    hour: str
    day: str
    month: str
    week: int


def labels(at: int) -> Labels:
    """Those of a time."""
    return _labels(at // _HOUR)


@lru_cache(maxsize=2048)
def _labels(hour: int) -> Labels:
    text = _utc(hour * 3600).strftime("%Y%m%d%H")
    return Labels(text, text[:8], text[:6], _week(hour // 24))


def _week(day: int) -> int:
    """The number of the week in which this day since 1970 lies, which began on a Thursday."""
    return (day + 3) // 7


def period_end(period: str, at: int) -> int:
    """When the day, the week or the month of `at` ends."""
    day = _utc(at // 1000).replace(hour=0, minute=0, second=0)
    if period == "week":
        return int((day + timedelta(days=7 - day.weekday())).timestamp()) * 1000
    if period == "month":
        day = day.replace(day=28) + timedelta(days=4)
        end = day.replace(day=1)
    else:
        end = day + timedelta(days=1)
    return int(end.timestamp()) * 1000


@lru_cache(maxsize=1024)
def _rfc3339(second: int) -> bytes:
    return _utc(second).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


def _utc(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


# Money.


def estimate_cost(price: Price, input_tokens: int, max_tokens: int, strict: bool = False, write_ttl: int = 0) -> int:
    """Nano-dollars to reserve for a request of `input_tokens` that asked for at most `max_tokens` of output:
    EXPECTED_OUTPUT of them at most, unless `strict`. Its input may all be written to a cache for `write_ttl` seconds
    (0: to none)."""
    output = max_tokens if strict else min(max_tokens, EXPECTED_OUTPUT)
    fresh = _written(price, write_ttl) if write_ttl else price.input
    return input_tokens * fresh + output * price.output


def warm_discount(price: Price, warm_tokens: int, write_ttl: int = 0) -> int:
    """Nano-dollars of such an estimate that are not needed, if so many of its tokens are read from a cache."""
    fresh = _written(price, write_ttl) if write_ttl else price.input
    return warm_tokens * max(0, fresh - price.read)


def _written(price: Price, write_ttl: int) -> int:
    """The price of input that may be written to a cache for so long, or not."""
    return max(price.input, price.write_1h if write_ttl == 3600 else price.write_5m)
