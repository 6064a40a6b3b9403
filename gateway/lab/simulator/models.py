"""The model list of an account, in the upstream's shape and paging."""

from typing import Any

import msgspec

from gateway.core.spending.pricing import Catalogue, Model
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.world import Account

__all__ = ["model_list", "model_object"]


def _object(model: Model) -> dict[str, Any]:
    return {
        "type": "model",
        "id": model.listed_id,
        "display_name": model.display_name,
        "created_at": model.created_at,
        "max_input_tokens": model.context,
        "max_tokens": model.max_output,
    }


def _served(catalogue: Catalogue, account: Account) -> list[Model]:
    return [model for model in catalogue if account.serves(model.names)]


def model_list(catalogue: Catalogue, account: Account, query: dict[str, str]) -> bytes:
    """One page: `limit` (1 to 1000, default 20), `after_id` or `before_id`; `ApiError` 400 for a bad one."""
    try:
        limit = int(query.get("limit", "20"))
    except ValueError:
        limit = 0
    if not 1 <= limit <= 1000:
        raise ApiError(400, "limit: Input should be between 1 and 1000")
    models = _served(catalogue, account)
    ids = [model.listed_id for model in models]
    for name in ("after_id", "before_id"):
        if name in query and query[name] not in ids:
            raise ApiError(400, f"{name}: {query[name]!r} is not a model")
    if "before_id" in query:
        end = ids.index(query["before_id"])
        page, more = models[max(0, end - limit) : end], end > limit
    else:
        start = ids.index(query["after_id"]) + 1 if "after_id" in query else 0
        page, more = models[start : start + limit], start + limit < len(models)
    return msgspec.json.encode(
        {
            "data": [_object(model) for model in page],
            "has_more": more,
            "first_id": page[0].listed_id if page else None,
            "last_id": page[-1].listed_id if page else None,
        }
    )


def model_object(catalogue: Catalogue, account: Account, name: str) -> bytes:
    """One model by id or alias; `ApiError` 404 where this account has none of that name."""
    model = catalogue.find(name)
    if model is None or model not in _served(catalogue, account):
        raise ApiError(404, f"model: {name}")
    return msgspec.json.encode(_object(model))
