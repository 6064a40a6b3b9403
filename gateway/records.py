"""The words that all layers share: what one request used, and the one record of how it ended."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, omit_defaults=True):
    """Tokens of one answer by price class. `input` is fresh input alone; total input is the sum of the first four. `us`
    and `fast` say that it was served in the United States, and in fast mode. `searches` and `executions` are what
    server tools did for a fee: web searches, and requests that executed code. `iterations` are the parts of which it is
    the sum, where the answer told them: each is priced by itself."""

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    us: bool = False
    fast: bool = False
    searches: int = 0
    executions: int = 0
    iterations: tuple[Iteration, ...] = ()

    @property
    def total_input(self) -> int:
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h


class Iteration(msgspec.Struct, frozen=True):
    """What one run of a model used on the way to an answer; "" is the model that answered."""

    model: str
    usage: Usage


ITEMS = "batch_items"  # the endpoint of records that stand for items of batches instead of a request


class Finished(msgspec.Struct, omit_defaults=True, tag_field="event", tag="request"):
    """One request, whole: what ledger, log, metrics and dashboard are fed from. Exactly one for each request.

    Times are seconds: `at` Unix time of arrival, the others durations (`ttft` to the first relayed body byte, 0 where
    none was sent). `outcome` is `ok`, `error` (the answer was one), `interrupted` (a stream that broke off) or
    `client_gone`. `conversation` is a short digest, never the client's id; `reason` why it
    left its home, if it did. `queued` is what it waited for limits and slots, `choose` what the gateway took to read it
    and to choose an account, the store not counted. `failover` is what the first account did for which another was
    asked, or the same once more. `throttled` says whose limit refused it (`caller`, `account`, `gateway`) and `limit`
    which. `missed` are tokens that it wrote into a cache though some cache had them or had had them until lately,
    `missed_reason` why it could not read them there. `lacking` is what of it some accounts could not serve.
    `cost_nano_usd` is integer nano-dollars, and `savings_nano_usd` what its cache reads would have cost more as fresh
    input; `priced_by_default`: nobody knows the price of its model.
    `provider` is the account's, "" for Anthropic.
    `span_id` is its span's where one is recorded, `parent_id` that of the client's span.
    """

    request_id: str
    at: float
    endpoint: str
    method: str = ""
    status: int = 0
    outcome: str = "ok"
    cause: str = ""
    caller: str = ""
    team: str = ""
    model: str = ""
    answered_model: str = ""
    stream: bool = False
    account: str = ""
    workspace: str = ""
    provider: str = ""
    route: str = "none"
    reason: str = ""
    attempts: int = 0
    conversation: str = ""
    upstream_request_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    parent_id: str = ""
    failover: str = ""
    throttled: str = ""
    limit: str = ""
    usage: Usage = msgspec.field(default_factory=Usage)
    estimated: bool = False
    cost_nano_usd: int = 0
    savings_nano_usd: int = 0
    priced_by_default: bool = False
    missed: int = 0
    missed_reason: str = ""
    lacking: tuple[str, ...] = ()
    duration: float = 0.0
    ttft: float = 0.0
    queued: float = 0.0
    overhead: float = 0.0
    choose: float = 0.0
