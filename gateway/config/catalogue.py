"""The `models` section of the configuration: the operator's own model names, and entries for the catalogue.

Entries say prices as price lists do, in US dollars per million tokens; the catalogue has whole nano-dollars a token,
of which a dollar per million is a thousand. It knows nothing of accounts, nor who may use what.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

import msgspec

from gateway.config import checks as check
from gateway.config.rules import BAD, Number, Reader, Table, Text
from gateway.config.sections import Frozen, Section, nearest
from gateway.config.source import Node, join
from gateway.core.spending.pricing import Catalogue, Fees, Model, Price
from gateway.data import load_catalogue

__all__ = ["MODELS", "ModelEntry", "Models", "listed", "merged", "model_warnings", "pattern_warnings"]

_NAME = Text(check.model_name)
_DOLLARS = Number(least=0, most=1_000_000, decimals=3)
_TOKENS = Number(whole=True, least=0, most=1_000_000_000)
_FREE = Price(input=0, output=0, write_5m=0, write_1h=0, read=0)
# Key of an entry -> the field of a price; what it is of `input` where only that is given, as a fraction.
_PRICES = {
    "input": ("input", None),
    "output": ("output", None),
    "cache_write_5m": ("write_5m", (5, 4)),
    "cache_write_1h": ("write_1h", (2, 1)),
    "cache_read": ("read", (1, 10)),
}
_LISTED = 5  # ids that a warning names
_OTHERS = ("display_name", "context", "max_output", "cache_minimum", "limit_class")


class ModelEntry(Frozen, frozen=True, kw_only=True):
    """What the file says of one model; None is not said. Prices are in US dollars per million tokens.

    It starts from the model that it is `like`, else from the built-in entry of its own name. A new `input` brings new
    prices of cache writes and reads; any price at all holds for prompts of every length.
    """

    like: Annotated[str | None, _NAME, "model of the built-in catalogue that it equals in all that is not given"] = None
    display_name: Annotated[str | None, Text(), "name for people to read"] = None
    input: Annotated[float | None, _DOLLARS, "US dollars per million tokens of input"] = None
    output: Annotated[float | None, _DOLLARS, "US dollars per million tokens of output"] = None
    cache_write_5m: Annotated[float | None, _DOLLARS, "cache writes for 5 minutes; default: 1.25 times input"] = None
    cache_write_1h: Annotated[float | None, _DOLLARS, "cache writes for an hour; default: 2 times input"] = None
    cache_read: Annotated[float | None, _DOLLARS, "cache reads; default: 0.1 times input"] = None
    context: Annotated[int | None, _TOKENS, "tokens of input it takes; default: 200000"] = None
    max_output: Annotated[int | None, _TOKENS, "tokens of output it gives at most; default: 64000"] = None
    cache_minimum: Annotated[int | None, _TOKENS, "shortest prefix that is cached, in tokens; default: 1024"] = None
    limit_class: Annotated[str | None, _NAME, "what it shares rate limits with; default: nothing"] = None

    @property
    def priced(self) -> bool:
        """Whether it says any price."""
        return any(getattr(self, key) is not None for key in _PRICES)


class ModelFees(Frozen, frozen=True, kw_only=True):
    """What server tools cost beside their tokens; None is as the built-in catalogue has it."""

    web_search: Annotated[float | None, _DOLLARS, "US dollars per 1,000 web searches; default: 10"] = None
    code_execution: Annotated[
        float | None,
        _DOLLARS,
        "US dollars per hour of code execution, of which each request told counts as five minutes; default: 0.05",
    ] = None


class Models(Frozen, frozen=True, kw_only=True):
    """Model names of the operator's own, and models that the built-in catalogue lacks or has otherwise."""

    aliases: Annotated[dict[str, str], Table(_NAME, _NAME), "alias: model"] = msgspec.field(default_factory=dict)
    catalogue: Annotated[
        dict[str, ModelEntry],
        Table(_NAME, Section(ModelEntry)),
        "model: its prices and sizes; adds to the built-in ones",
    ] = msgspec.field(default_factory=dict)
    default: Annotated[str, _NAME, "model whose price those have that nobody knows"] = "claude-opus-5"
    fees: Annotated[ModelFees, "what server tools cost beside their tokens"] = ModelFees()


class _Wrong(ValueError):
    """An entry that cannot be used: `key` is the one to correct, "" for the entry as a whole."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def merged(models: Models) -> Catalogue:
    """The built-in catalogue with these entries in it: those of its own names in their places, the others before it,
    because they are newer than it. Raises ValueError for entries that no checked configuration has."""
    known = load_catalogue()
    own = {name: _model(name, entry, known) for name, entry in models.catalogue.items()}
    added = [model for name, model in own.items() if known.exact(name) is None]
    every = (*added, *(own.get(model.id, model) for model in known))
    default = next((model.price for model in every if models.default in model.names), None)
    return Catalogue(every, as_of=known.as_of, default=default, fees=_fees(models.fees, known.fees))


def model_warnings(models: Models, offered: Callable[[str], bool]) -> list[str]:
    """What of the section is allowed and yet hardly meant; `offered` says whether any account takes a model."""
    warnings = []
    known, built_in = merged(models), load_catalogue()
    for alias, model in models.aliases.items():
        place = join("models.aliases", alias)
        if known.find(model) is None:
            warnings.append(f"{place}: {_unknown(model, known)}")
        elif not offered(model):
            warnings.append(f"{place}: no account serves the model it stands for")
    for name, entry in models.catalogue.items():
        base = built_in.exact(entry.like or name)
        if base is not None and base.above is not None and entry.priced:
            warnings.append(
                f"{join('models.catalogue', name)}: its prices hold for prompts of every length; those of {base.id} "
                f"rise above {base.above.threshold} tokens"
            )
    return warnings


def pattern_warnings(
    models: Models,
    accounts: Mapping[str, Sequence[str]],
    callers: Mapping[str, Sequence[str]],
    told: Collection[str] = (),
) -> list[str]:
    """Names and patterns that no model fits, each told once with all who have it: `accounts` and `callers` are their
    lists by id. What an account serves by name, and an alias, may be used by callers too. Accounts that are `told` of
    elsewhere are left out."""
    known = merged(models)
    names = [name for model in known for name in model.names]
    served = [name for listed in accounts.values() for name in listed if not _is_pattern(name)]
    others = {account: listed for account, listed in accounts.items() if account not in told}
    warnings = []
    for kind, holders, more in (("account", others, ()), ("key", callers, (*served, *models.aliases))):
        for pattern, ids in _by_pattern(holders).items():
            fits = any(fnmatchcase(name, pattern) for name in (*names, *more))
            if not fits and (_is_pattern(pattern) or known.find(pattern) is None):
                warnings.append(f"{kind} {listed(ids)}: models: {_unknown(pattern, known)}")
    return warnings


def _by_pattern(holders: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for holder, patterns in holders.items():
        for pattern in dict.fromkeys(patterns):
            found.setdefault(pattern, []).append(holder)
    return found


def listed(ids: Sequence[str]) -> str:
    """The first few of them, for a warning."""
    more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
    return f"{', '.join(ids[:_LISTED])}{more}"


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _unknown(name: str, known: Catalogue) -> str:
    if _is_pattern(name):
        return f"{name} fits no model of the catalogue; {_nearest(name, known)}"
    return f"{name} is no model of the catalogue, so nobody knows its price; {_nearest(name, known)}"


def _model(name: str, entry: ModelEntry, known: Catalogue) -> Model:
    present = known.exact(name)
    if present is not None and present.id != name:
        raise _Wrong("", f"is another name of {present.id}; write its entry under that name")
    itself = present or Model(id=name, display_name=name, price=_FREE, limit_class=name)
    base = present
    if entry.like is not None:
        base = known.exact(entry.like)
        if base is None:
            raise _Wrong("like", f"is no model of the built-in catalogue; {_nearest(entry.like, known)}")
    return msgspec.structs.replace(
        base or itself,
        id=name,
        aliases=itself.aliases,
        created_at=itself.created_at,
        retires_at=itself.retires_at,
        retired=False,  # whoever writes an entry means to use it
        price=_price(entry, None if base is None else base.price),
        above=None if base is None or entry.priced else base.above,
        **{"display_name": itself.display_name}
        | {key: value for key in _OTHERS if (value := getattr(entry, key)) is not None},
    )


def _fees(given: ModelFees, known: Fees) -> Fees:
    searches, hours = given.web_search, given.code_execution
    return Fees(
        known.web_search if searches is None else round(searches * 1_000_000),
        known.code_execution if hours is None else round(hours * 1e9 / 12),
    )


def _nearest(name: str, known: Catalogue) -> str:
    ids = [model.id for model in known if not model.retired]
    return nearest(name.strip("*"), ids, "its models")


def _price(entry: ModelEntry, base: Price | None) -> Price:
    found: dict[str, int] = {}
    for key, (field, of_input) in _PRICES.items():
        dollars = getattr(entry, key)
        if dollars is not None:
            found[field] = round(dollars * 1000)
        elif base is not None and (entry.input is None or of_input is None):
            found[field] = getattr(base, field)
        elif of_input is None:
            raise _Wrong(key, f"missing; US dollars per million tokens of {key}, unless it is like another model")
        else:
            times, parts = of_input
            found[field], rest = divmod(found["input"] * times, parts)
            if rest:
                raise _Wrong(key, f"missing; {times / parts:g} times input has more than 3 decimals")
    return Price(**found)


def _models(reader: Reader, node: Node, path: str, values: dict[str, Any]) -> Any:
    before = len(reader.problems)
    known = load_catalogue()
    models = {model.id: model for model in known}
    for name, entry in values["catalogue"].items():
        try:
            models[name] = _model(name, entry, known)
        except _Wrong as wrong:
            given = node.value["catalogue"].node.value[name]
            place = given.node.value.get(wrong.key, given)
            reader.fail(place.line, ".".join(filter(None, (join(f"{path}.catalogue", name), wrong.key))), str(wrong))
    names = {name for model in models.values() if not model.retired for name in model.names}
    for alias, target in values["aliases"].items():
        line, place = node.value["aliases"].node.value[alias].line, join(f"{path}.aliases", alias)
        if alias in names:
            reader.fail(line, place, "is the name of a model, which it would hide; choose another")
        elif target in values["aliases"]:
            reader.fail(line, place, "stands for an alias; write the model that is meant")
    if not any(values["default"] in model.names for model in models.values()):
        line = node.value["default"].line if "default" in node.value else node.line
        reader.fail(line, join(path, "default"), f"is no model that has a price; {_nearest(values['default'], known)}")
    return values if len(reader.problems) == before else BAD


MODELS = Section(Models, finish=_models)
