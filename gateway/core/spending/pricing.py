"""What a request costs, in integer nano-dollars.

The catalogue is built from decoded data; where the bytes come from is the caller's business. Nothing here knows
the date or reads a file. Prices are whole nano-dollars per token ($3 per million tokens is 3,000), so every cost is an
exact integer; only the half price of a batch is ever rounded.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from gateway.records import Usage

__all__ = ["UNKNOWN_DATE", "Above", "Bill", "Catalogue", "Fees", "Model", "Price"]

UNKNOWN_DATE = "1970-01-01T00:00:00Z"
"""What Anthropic, too, gives as the date of a model whose date is not known."""

_DATED = re.compile(r"-20\d{6}$")
_MAX_DATED = 1024  # names, of clients' own invention perhaps


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nano-dollars per token, by token class."""

    input: int
    output: int
    write_5m: int
    write_1h: int
    read: int


class Above(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The price of a whole request whose input (fresh, read and written) exceeds `threshold` tokens."""

    threshold: int
    price: Price


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model: sizes in tokens, `limit_class` the rate-limit bucket it shares with its siblings, `line` the family
    it belongs to, dates as RFC 3339 writes them. `retires_at` is set once the end of a model is known; `fast` is the
    price in fast mode, None for the usual one; with a `us_surcharge` inference in the United States costs a tenth more.
    """

    id: str
    display_name: str
    price: Price
    limit_class: str
    aliases: tuple[str, ...] = ()
    line: str | None = None
    created_at: str = UNKNOWN_DATE
    retires_at: str | None = None
    context: int = 200_000
    max_output: int = 64_000
    cache_minimum: int = 1024
    above: Above | None = None
    fast: Price | None = None
    us_surcharge: bool = True
    retired: bool = False
    account_bound_thinking: bool = False  # its thinking blocks are read by the account that produced them alone

    @property
    def listed_id(self) -> str:
        """The id under which Anthropic lists it: with its date, where it has one."""
        return next((name for name in self.names if _DATED.search(name)), self.id)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.id, *self.aliases)

    def price_for(self, total_input: int, fast: bool = False) -> Price:
        """The price that applies to a request with `total_input` tokens of input of every class."""
        if fast and self.fast is not None:
            return self.fast
        if self.above is not None and total_input > self.above.threshold:
            return self.above.price
        return self.price

    def cost(
        self,
        input: int,
        cache_read: int,
        write_5m: int,
        write_1h: int,
        output: int,
        batch: bool = False,
        us: bool = False,
        fast: bool = False,
    ) -> int:
        """Nano-dollars of one request; arguments are tokens, `input` being those neither read nor written.

        A request of a `batch` costs half, one served in the `us` a tenth more where the model has that surcharge; half
        a nano-dollar counts as a whole one.
        """
        price = self.price_for(input + cache_read + write_5m + write_1h, fast)
        cost = (
            input * price.input
            + cache_read * price.read
            + write_5m * price.write_5m
            + write_1h * price.write_1h
            + output * price.output
        )
        if us:
            cost = self.in_us(cost)
        return (cost + 1) // 2 if batch else cost

    def in_us(self, cost: int) -> int:
        """Nano-dollars of what costs so many elsewhere, if it is served in the United States."""
        return (cost * 11 + 5) // 10 if self.us_surcharge else cost


class Fees(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nano-dollars of what server tools do, beside the tokens: one web search, and one request that executes code (five
    minutes of a container, the least that is charged)."""

    web_search: int = 0
    code_execution: int = 0


_NO_FEES = Fees()


class Bill(NamedTuple):
    """Nano-dollars of one request, and how much more it would have cost with its cache reads as fresh input.
    `by_default`: nobody knows the price of its model, or of one that took part."""

    cost: int
    savings: int
    by_default: bool

    def times(self, factor: float) -> "Bill":
        """The same where everything costs `factor` times as much, to the third decimal."""
        parts = round(factor * 1000)
        return Bill((self.cost * parts + 500) // 1000, (self.savings * parts + 500) // 1000, self.by_default)


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    as_of: str
    fees: Fees
    models: tuple[Model, ...]


class Catalogue:
    """Every known model, found by id, alias or a dated form of either."""

    def __init__(
        self, models: tuple[Model, ...], *, as_of: str = "", default: Price | None = None, fees: Fees = _NO_FEES
    ) -> None:
        """`default` prices models that are not in the catalogue (see `priced`); `ValueError` on a repeated name."""
        self.as_of = as_of
        self.fees = fees
        self.models = models
        self.default = default
        self._by_name: dict[str, Model] = {}
        self._dated: dict[str, Model] = {}  # names with a date that were asked for
        for model in models:
            for name in model.names:
                if name in self._by_name:
                    raise ValueError(f"model name {name!r} appears twice")
                self._by_name[name] = model

    @classmethod
    def from_json(cls, data: bytes, *, default: Price | None = None) -> "Catalogue":
        """Decode `{"as_of": ..., "fees": ..., "models": [...]}`; `ValueError` (or its subclass from the decoder) if
        malformed."""
        document = msgspec.json.decode(data, type=_Document)
        return cls(document.models, as_of=document.as_of, default=default, fees=document.fees)

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def __repr__(self) -> str:
        return f"<Catalogue of {len(self.models)} models as of {self.as_of or 'no date'}>"

    def exact(self, name: str) -> Model | None:
        """The model of that very id or alias; None if there is none."""
        return self._by_name.get(name)

    def find(self, model: str) -> Model | None:
        """The model of that exact id, alias, or known id followed by `-YYYYMMDD`; None if there is none."""
        found = self._by_name.get(model) or self._dated.get(model)
        if found is None:
            undated = _DATED.sub("", model)
            if undated != model:
                found = self._by_name.get(undated)
                if found is not None and len(self._dated) < _MAX_DATED:
                    self._dated[model] = found
        return found

    def names(self, model: str) -> tuple[str, ...]:
        """All names of the model that has this one; the name alone where nobody knows it."""
        found = self.find(model)
        return (model,) if found is None else (model, *found.names)

    def bill(self, model: str, usage: Usage, batch: bool = False) -> Bill:
        """What one request of that model costs, fees included, which a batch pays in full; no tokens if neither it nor
        a default has a price. Where the usage has iterations, each is priced by its own model and its own length."""
        fee = usage.searches * self.fees.web_search + usage.executions * self.fees.code_execution
        if not usage.iterations:
            return self._bill(model, usage, batch, fee)
        bills = [self._bill(each.model or model, each.usage, batch) for each in usage.iterations]
        by_default = any(bill.by_default for bill in bills)
        return Bill(fee + sum(bill.cost for bill in bills), sum(bill.savings for bill in bills), by_default)

    def _bill(self, model: str, usage: Usage, batch: bool, fee: int = 0) -> Bill:
        found = priced = self._by_name.get(model) or self.find(model)
        if priced is None:
            priced = self.priced(model)
            if priced is None:
                return Bill(fee, 0, True)
        read, fresh, write_5m, write_1h = usage.cache_read, usage.input, usage.cache_write_5m, usage.cache_write_1h
        rest = write_5m, write_1h, usage.output, batch, usage.us, usage.fast
        cost = priced.cost(fresh, read, *rest)
        savings = priced.cost(fresh + read, 0, *rest) - cost if read else 0
        return Bill(cost + fee, savings, found is None)

    def limit_class(self, model: str) -> str:
        """The rate-limit bucket that a model shares with its siblings; an unknown one has its own."""
        found = self.find(model)
        return found.limit_class if found is not None else model

    def priced(self, model: str, default: Price | None = None) -> Model | None:
        """As `find`, but an unknown model becomes one with the default price; None only without a default.

        `default` here outranks the catalogue's. The result's limit class is the unknown model's own name.
        """
        found = self.find(model)
        price = default or self.default
        if found is None and price is not None:
            return Model(id=model, display_name=model, price=price, limit_class=model)
        return found
