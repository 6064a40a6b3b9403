"""The OpenAPI 3.1 document of the admin API, made of its routes. It knows no route by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.responses import Response

import gateway
from gateway.admin import schemas
from gateway.admin.access import COOKIE, OPERATE
from gateway.admin.routes import Call, Good, Param, Route, json

PATH = "/admin/v1/openapi.json"
_WORDS = {
    400: "The request makes no sense",
    401: "No token or session, or a wrong one",
    403: "The token's role does not allow it, or a session came without its x-csrf-token",
    404: "There is nothing of this id",
    409: "It contradicts what is there",
    412: "What is to be changed is not as If-Match says",
    413: "The body is too large",
    429: "Too much at once: wrong tokens from one address, or streams with one token",
    503: "The store is away, so that what was asked may or may not be done, or as much is done as can be",
}
_IF_MATCH = Param(
    "If-Match", "the `etag` of what is to be changed, as it was got; without it, whatever it is", schemas.TEXT
)
_REFUSAL = {"$ref": "#/components/schemas/Error"}


def documented(routes: Iterable[Route]) -> list[Route]:
    """The routes and one more, for the document of them all."""
    found = list(routes)

    async def show(call: Call) -> Response:
        return json(text)

    found.append(
        Route(
            method="GET", path=PATH, handler=show, about="This document",
            good={200: Good("OpenAPI 3.1", schemas.record(openapi=schemas.TEXT, paths=schemas.ANY_OBJECT))},
        )
    )  # fmt: skip
    text = document(found)
    return found


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document of those routes that are part of the API."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.api:
            paths.setdefault(route.path.replace("...}", "}"), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gateway admin API",
            "version": gateway.__version__,
            "description": "Accounts, keys, conversations, usage and what goes on now, on the admin listener.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": schemas.ERROR},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "admin.token, or one of admin.tokens"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "made by POST /login"},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    statuses = {400, *route.may}
    if not route.open():
        statuses |= {401, 429}
    if route.role == OPERATE:
        statuses |= {403}
    if route.body is not None:
        statuses |= {413}
    if route.matches:
        statuses |= {412}
    said = {str(status): _good(good) for status, good in route.good.items()}
    for status in sorted(statuses - set(route.good)):
        said[str(status)] = {"description": _WORDS[status], "content": {"application/json": {"schema": _REFUSAL}}}
    operation: dict[str, Any] = {
        "summary": route.about,
        "operationId": _name(route),
        "responses": said,
        "security": [] if route.open() else [{"token": []}, {"session": []}],
    }
    if not route.open():
        operation["x-role"] = route.role
    parameters = [_param("path", each) for each in route.params] + [_param("query", each) for each in route.query]
    if route.matches:
        parameters.append(_param("header", _IF_MATCH))
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.body_required,
            "content": {"application/json": {"schema": route.body}},
        }
    return operation


def _name(route: Route) -> str:
    words = [word.strip("{}.") for word in route.path.removeprefix("/admin/v1").split("/") if word]
    return "_".join([route.method.lower(), *words]).replace(".", "_")


def _good(good: Good) -> dict[str, Any]:
    schema = {"type": "string"} if good.schema is None else good.schema
    return {"description": good.about, "content": {good.media_type: {"schema": schema}}}


def _param(place: str, param: Param) -> dict[str, Any]:
    schema = schemas.many(param.schema) if param.many else param.schema
    return {"name": param.name, "in": place, "description": param.about, "required": param.required, "schema": schema}
