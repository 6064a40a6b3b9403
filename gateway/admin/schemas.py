"""What the admin API takes and gives, as JSON Schema (draft 2020-12). It describes and checks nothing.

Answers may gain fields: their schemas name what is always there, and are open. Requests are closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.admin.desks import accounts, boosts, keys
from gateway.config.checks import ID_PATTERN, NOTE_LENGTH, PERSON_PATTERN
from gateway.config.rules import Number, Rule
from gateway.config.schema import ROLES, Budget, CallerLimits, KeyPolicy, PolicyBudget
from gateway.config.sections import struct_fields
from gateway.core.routing.document import STATES

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
TIME: Schema = {"type": "string", "format": "date-time"}
ANY_OBJECT: Schema = {"type": "object"}


def maybe(schema: Schema) -> Schema:
    """The same, or null."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def record(**fields: Schema) -> Schema:
    """An object that always has these fields."""
    return {"type": "object", "properties": fields, "required": list(fields)}


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def page(item: Schema) -> Schema:
    """A list as the API gives them."""
    return record(data=many(item))


def choice(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def _numbers(rules: Mapping[str, Rule]) -> dict[str, Schema]:
    """Those that are read by such rules; each may be null."""
    found: dict[str, Schema] = {}
    for name, rule in rules.items():
        if isinstance(rule, Number):
            bounds = {"minimum": rule.least, "maximum": rule.most, "exclusiveMinimum": rule.above}
            found[name] = {"type": ["integer" if rule.whole else "number", "null"]}
            found[name] |= {bound: value for bound, value in bounds.items() if value is not None}
    return found


def _numbers_of(struct: type[msgspec.Struct]) -> dict[str, Schema]:
    return _numbers({field.name: field.rule for field in struct_fields(struct)})


def _closed(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    schema: Schema = {"type": "object", "properties": fields, "additionalProperties": False}
    return {**schema, "required": list(required)} if required else schema


ERROR = record(
    type={"const": "error"},
    error=record(type=TEXT, message=TEXT),
    request_id=TEXT,
)

# Requests.

_CONTROL = r"\x00-\x1f\x7f-\x9f"
_IDENTIFIER: Schema = {"type": "string", "pattern": f"^{ID_PATTERN}$"}
_MODEL: Schema = {"type": "string", "pattern": rf"^[^\s{_CONTROL}]{{1,256}}$"}
_MOMENT: Schema = {
    "type": ["string", "null"],
    "pattern": r"^[12][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\.[0-9]{1,6})?"
    r"(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])$",
}

# Queries.

SPAN: Schema = {"type": "string"}
CURSOR: Schema = {"type": "string", "pattern": "^([1-9][0-9]{0,18}-[0-9]{1,19})?$"}
CONVERSATION_ID: Schema = {"type": "string", "pattern": r"^[^\x00-\x1f\x7f]+$"}


def groups(*words: str) -> Schema:
    one = "|".join(words)
    return {"type": "string", "pattern": f"^(({one})(,({one}))*)?$"}


# Bodies.

_NOTE: Schema = {"type": "string", "pattern": f"^[^{_CONTROL}]{{0,{NOTE_LENGTH}}}$"}
_SHARE: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
_BUDGET = _closed(
    (),
    **_numbers_of(Budget),
    soft={"anyOf": [_SHARE, {**many(_SHARE), "maxItems": 5}, {"type": "null"}]},
    message=maybe(_NOTE),
)
_LIMITS = maybe(_closed((), **_numbers_of(CallerLimits), budget_usd=maybe(_BUDGET)))
_CHANGED, _CREATED, _ROTATED = _numbers(accounts.CHANGE), _numbers(keys.CREATE), _numbers(keys.ROTATE)
_DRAINING: Schema = {"required": ["state"], "properties": {"state": {"const": "draining"}}}

ACCOUNT_CHANGE: Schema = {
    **_closed(
        state={"enum": [*STATES, None], "description": "null: as in the configuration file"},
        weight={**_CHANGED["weight"], "description": "null: as in the configuration file"},
        drain_until={**_MOMENT, "description": "when a drain ends; null: never"},
        drain_seconds={**_CHANGED["drain_seconds"], "description": "how long it lasts; null: for ever"},
    ),
    "minProperties": 1,
    "dependentSchemas": {
        "drain_until": {**_DRAINING, "not": {"required": ["drain_seconds"]}},
        "drain_seconds": _DRAINING,
    },
}
_CHANGING: Schema = {
    "models": {"anyOf": [_MODEL, {**many(_MODEL), "minItems": 1}, {"type": "null"}]},
    "limits": _LIMITS,
    "metadata": {
        "type": ["object", "null"],
        "propertyNames": _IDENTIFIER,
        "additionalProperties": {"type": "string", "pattern": f"^[^{_CONTROL}]{{1,{NOTE_LENGTH}}}$"},
    },
}
_WHO: Schema = {
    "type": "string",
    "pattern": f"^{PERSON_PATTERN}$",
    "description": "who calls: an id, perhaps an e-mail address, that stays while its keys rotate",
}
_LIFE = {
    "expires_in": {**_CREATED["expires_in"], "description": "seconds"},
    "label": {
        "type": ["string", "null"],
        "pattern": f"^[^{_CONTROL}]{{1,{NOTE_LENGTH}}}$",
        "description": "what the caller's keys are told apart by: of those that count, one has it",
    },
}
KEY_CREATE = _closed(("caller",), caller=_WHO, team=maybe(_IDENTIFIER), **_CHANGING, **_LIFE)
CALLER_KEY_CREATE = _closed((), **_LIFE)
_OF_CALLER: dict[str, Schema] = {
    "team": maybe(_IDENTIFIER),
    **_CHANGING,
    "kind": {"enum": ["person", "service", None]},
    "label": maybe(_NOTE),
    "email": maybe(_NOTE),
    "status": {"enum": ["active", "suspended", None], "description": "who is suspended is answered 403"},
}
CALLER_CREATE = _closed(("id",), id=_WHO, **_OF_CALLER)


def _some(fields: Mapping[str, Schema]) -> Schema:
    """One of them at least; one that is null is again as if nothing had ever been said of it."""
    return {**_closed((), **fields), "minProperties": 1}


# Models and notes take the place of all that was there; of limits, those not named stay, and those that are null go.
CALLER_CHANGE = _some(_OF_CALLER)
_POLICY = maybe(
    _closed(
        (),
        **_numbers_of(KeyPolicy),
        max_budget_usd=maybe(_closed((), **_numbers_of(PolicyBudget))),
        models=_CHANGING["models"],
    )
)
_OF_TEAM: dict[str, Schema] = {"name": maybe(_NOTE), **_CHANGING, "key_policy": _POLICY}
TEAM_CREATE = _closed(("id",), id=_IDENTIFIER, **_OF_TEAM)
TEAM_CHANGE = _some(_OF_TEAM)
_RAISED = _numbers(boosts.CREATE)
BOOST_CREATE: Schema = {
    **_closed(
        ("usd", "reason"),
        id={**_IDENTIFIER, "description": "without it, one is made up, and the same request again makes another boost"},
        team=_IDENTIFIER,
        caller=_WHO,
        usd={**_RAISED["usd"], "type": "number", "description": "how much more each budget is"},
        until={"type": "string", "description": "a time, within 400 days"},
        seconds={**_RAISED["seconds"], "type": "number", "description": "instead: for how long"},
        reason={"type": "string", "pattern": f"^[^{_CONTROL}]{{1,{NOTE_LENGTH}}}$"},
    ),
    "allOf": [
        {"oneOf": [{"required": ["team"]}, {"required": ["caller"]}]},
        {"oneOf": [{"required": ["until"]}, {"required": ["seconds"]}]},
    ],
}
KEY_ROTATE = _closed(
    overlap={**_ROTATED["overlap"], "description": "seconds for which the former key still counts"},
    expires_in={
        **_ROTATED["expires_in"],
        "description": "seconds; without it as long as the former key",
    },
)

# Answers.

ME = record(id=TEXT, role=choice(*ROLES), csrf=maybe(TEXT), expires_at=maybe(TIME), version=TEXT, clients=ANY_OBJECT)
READY = record(
    ready=FLAG,
    draining=FLAG,
    workers={"type": "object", "additionalProperties": FLAG},
    pool=record(epoch=COUNT, accounts=COUNT),
    keys=COUNT,
    store=choice("connected", "away"),
)
POOL = record(epoch=COUNT, accounts=many(ANY_OBJECT))
_TRIED = {**maybe(TIME), "description": "when that may be otherwise by itself, or is tried again; null: not known"}
_JUDGE = {**maybe(TEXT), "description": "the process that found the account failing"}
HEALTH = record(
    state=choice("available", "limited", "draining", "disabled", "out", "failing"),
    reason={**TEXT, "description": "a word or two for programs; of a failing account the kinds of its faults"},
    why={**TEXT, "description": "in sentences"},
    since=TIME,
    until=_TRIED,
    models_closed_for={
        "type": "object", "additionalProperties": NUMBER,
        "description": "models that it was denied, and for how many seconds it is not asked for them",
    },
    features_closed={
        **many(record(model=TEXT, features=many(TEXT), closed_for=NUMBER)),
        "description": "models that it refuses with all of these optional features, and for how many seconds",
    },
    judged_by=_JUDGE,
    faults={
        "type": "object", "additionalProperties": COUNT,
        "description": "of a failing account: how many conversations ended badly in the minute before it was judged, "
        "by kind: refusals, errors, cuts, keys, connections",
    },
    unreachable_from={**many(TEXT), "description": "other gateways that cannot reach it: their own trouble"},
)  # fmt: skip
ACCOUNT = record(
    id=TEXT,
    provider={**maybe(TEXT), "description": "who answers, as this gateway's own file says"},
    region={**maybe(TEXT), "description": "where, on clouds"},
    workspace=TEXT,
    organization=TEXT,
    weight=NUMBER,
    state=choice(*STATES),
    drain_until=maybe(TIME),
    configured=maybe(ANY_OBJECT),
    overridden=ANY_OBJECT,
    models=many(TEXT),
    in_pool=FLAG,
    held=FLAG,
    since=maybe(TIME),
    health={
        "anyOf": [HEALTH, {"type": "null"}], "description": "how it stands; null while it is not in the pool",
    },
    last_error=maybe(record(at=TIME, what=TEXT)),
)  # fmt: skip
FLUSHED_ACCOUNT = record(account=TEXT, workspace=TEXT, accounts=many(TEXT), flushed=COUNT)
CONVERSATION = record(
    conversation={**TEXT, "description": "a short digest of it, as in the log"},
    caller=TEXT,
    team=maybe(TEXT),
    kind=choice("header", "session"),
    home=ANY_OBJECT,
    bindings=many(
        record(
            model=TEXT, workspace=TEXT, account=maybe(TEXT), closed=maybe(TEXT), home=maybe(TEXT), why=TEXT,
            avoided={
                **many(
                    record(
                        account=TEXT, workspace=TEXT, state=choice("out", "failing"), why=TEXT, judged_by=_JUDGE,
                        until=_TRIED,
                    )
                ),
                "description": "accounts where it lives and at its home to which nothing new goes now",
            },
        )
    ),
)  # fmt: skip
FLUSHED_CONVERSATION = record(
    conversation=TEXT, caller=TEXT, team=maybe(TEXT), kind=choice("header", "session"), flushed=COUNT
)
_SHADOWS = {**FLAG, "description": "whether the file's hides one of this id that was made at run time"}
_CALLER = {
    "caller": TEXT,
    "id": TEXT,
    "source": maybe(choice("file", "store")),
    "shadows_stored": _SHADOWS,
    "kind": choice("person", "service"),
    "label": TEXT,
    "email": TEXT,
    "status": choice("active", "suspended"),
    "created_at": maybe(TIME),
    "team": maybe(TEXT),
    "models": many(TEXT),
    "limits": ANY_OBJECT,
    "metadata": {"type": "object", "additionalProperties": TEXT},
}
_KEY = {
    "id": maybe(TEXT),
    "source": choice("file", "store"),
    "state": TEXT,
    "label": TEXT,
    "hint": maybe(TEXT),
    "digest": TEXT,
    "created_at": maybe(TIME),
    "expires_at": maybe(TIME),
    "revoked_at": maybe(TIME),
    "replaced_by": maybe(TEXT),
}
ITS_KEY = record(**_KEY)
CALLER_ALONE = record(**_CALLER)
CALLER = record(**_CALLER, keys=many(record(**_KEY)))
CHANGED_CALLER = record(**_CALLER, keys=many(record(**_KEY)), warnings=many(TEXT))
REVOKED_CALLER = record(**_CALLER, keys=many(record(**_KEY)), warnings=many(TEXT), revoked=COUNT)
DELETED_CALLER = record(caller=TEXT, team=maybe(TEXT), deleted_at=TIME, revoked=COUNT, warnings=many(TEXT))
KEY = record(**{**_CALLER, **_KEY})
_SHOWN_ONCE = {**TEXT, "description": "the key itself, which is shown this once"}
NEW_KEY = record(**{**_CALLER, **_KEY}, key=_SHOWN_ONCE, warnings=many(TEXT))
ROTATED_KEY = record(**{**_CALLER, **_KEY}, key=_SHOWN_ONCE, replaces=record(**_KEY))
_TEAM = {
    "id": TEXT,
    "source": choice("file", "store"),
    "shadows_stored": _SHADOWS,
    "name": TEXT,
    "models": many(TEXT),
    "limits": ANY_OBJECT,
    "key_policy": ANY_OBJECT,
    "metadata": {"type": "object", "additionalProperties": TEXT},
    "created_at": maybe(TIME),
    "members": many(TEXT),
}
TEAM = record(**_TEAM)
CHANGED_TEAM = record(**_TEAM, warnings=many(TEXT))
DELETED_TEAM = record(id=TEXT, deleted_at=TIME, callers=many(TEXT), revoked=COUNT, warnings=many(TEXT))
BOOST = record(
    id=TEXT, team=maybe(TEXT), caller=maybe(TEXT), usd=NUMBER, until=TIME, reason=TEXT, by=TEXT, active=FLAG,
    created_at=TIME,
)  # fmt: skip
_TOKENS = {
    "requests": COUNT,
    "input_tokens": COUNT,
    "cache_read_input_tokens": COUNT,
    "output_tokens": COUNT,
    "cost_usd": NUMBER,
    "savings_usd": NUMBER,
}
USAGE = record(**_TOKENS, cache_creation_input_tokens=COUNT, estimated_requests=COUNT)
USAGE_RECORD = record(
    **_TOKENS, request_id=TEXT, at=TIME, ended=TIME, key=TEXT, team=maybe(TEXT), model=TEXT, account=TEXT,
    endpoint=TEXT, estimated=FLAG, provisional=FLAG, cache_creation=ANY_OBJECT,
)  # fmt: skip
AUDIT_ENTRY = record(
    id=TEXT, at=TIME, who=TEXT, role=TEXT, by=choice("token", "session", "gateway"), address=TEXT,
    action=TEXT, method=TEXT, resource=TEXT, status={"type": "integer"},
    changes={"type": "object", "additionalProperties": {**many({}), "minItems": 2, "maxItems": 2}},
)  # fmt: skip
_SECONDS = maybe(NUMBER)
OVERVIEW = record(
    at=TIME,
    uptime_seconds=NUMBER,
    workers=record(alive=COUNT, configured=COUNT),
    requests_per_second=NUMBER,
    errors_per_second=NUMBER,
    refused_per_second=NUMBER,
    in_flight=NUMBER,
    tokens_per_second={"type": "object", "additionalProperties": NUMBER},
    ttft_seconds=record(p50=_SECONDS, p95=_SECONDS),
    overhead_seconds=record(p50=_SECONDS, p99=_SECONDS),
    cache_hit_rate=maybe(NUMBER),
    spent={"type": "object", "additionalProperties": maybe(NUMBER)},
    degraded=many(TEXT),
    lacking={
        "type": "object",
        "additionalProperties": NUMBER,
        "description": "what more than 1 % of the last minutes' requests ask for and some account cannot serve",
    },
    accounts={"type": "object", "additionalProperties": COUNT},
    history=many(ANY_OBJECT),
)
REQUEST = record(
    request_id=TEXT, at=TIME, key=maybe(TEXT), team=maybe(TEXT), endpoint=TEXT, model=maybe(TEXT), account=maybe(TEXT),
    route=TEXT, attempts=COUNT, status=maybe(COUNT), outcome=TEXT, cause=maybe(TEXT), limit=maybe(TEXT),
    cost_usd=NUMBER, tokens={"type": "object", "additionalProperties": COUNT}, duration_seconds=NUMBER,
    ttft_seconds=_SECONDS,
)  # fmt: skip
LEVEL = record(kind=choice("caller", "team"), id=TEXT, team=maybe(TEXT), limits=many(ANY_OBJECT))
