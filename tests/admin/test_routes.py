"""How requests are led to routes: by their path as it came, and nothing that only looks like one."""

from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams
from starlette.responses import Response

from gateway.admin.routes import Call, Route, Table, known_query, whole_number
from gateway.errors import ApiError


async def nothing(call: Call) -> Response:
    return Response()


def route(method: str, path: str, endless: bool = False) -> Route:
    return Route(method=method, path=path, handler=nothing, about="", endless=endless)


TABLE = Table([
    route("GET", "/a"), route("POST", "/a"), route("GET", "/a/{id}"), route("DELETE", "/a/{id}/b"),
    route("GET", "/c/{key}/{rest...}"), route("GET", "/live", endless=True),
])  # fmt: skip


@pytest.mark.parametrize(
    ("path", "methods", "params"),
    [
        ("/a", {"GET", "HEAD", "POST"}, {}),
        ("/a/x", {"GET", "HEAD"}, {"id": "x"}),
        ("/a/x%2Fy%20z", {"GET", "HEAD"}, {"id": "x/y z"}),
        ("/a/%FF", {"GET", "HEAD"}, {"id": "\ufffd"}),
        ("/a/x/b", {"DELETE"}, {"id": "x"}),
        ("/c/x/y/z%0A", {"GET", "HEAD"}, {"key": "x", "rest": "y/z\n"}),
        ("/live", {"GET"}, {}),
    ],
)
def test_a_path_leads_to_its_methods(path: str, methods: set[str], params: dict[str, str]):
    rows, found = TABLE.find(path)
    assert (set(rows), found) == (methods, params)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a/",
        "//a",
        "/A",
        "/%61",
        "/a/x/",
        "/a/x/c",
        "/a/{id}",
        "/a//b",
        "/./a",
        "/b/../a",
        "/a?x",
        "/a\n",
        "/c/x",
    ],
)
def test_nothing_else_leads_anywhere(path: str):
    assert TABLE.find(path)[0] == ({} if path != "/a/{id}" else TABLE.find("/a/x")[0])


def test_two_routes_of_one_path_and_method_are_a_mistake():
    with pytest.raises(ValueError):
        Table([route("GET", "/a"), route("GET", "/a")])


def test_parameters_are_known_and_come_once():
    assert known_query(QueryParams("a=1&b="), "a", "b", "c") == {"a": "1", "b": ""}
    for query in ("d=1", "a=1&a=2"):
        with pytest.raises(ApiError):
            known_query(QueryParams(query), "a", "b")


@pytest.mark.parametrize("text", ["", "0", "-1", "+1", "1.0", "11", "x", "1e1", "١", "9" * 5000])
def test_a_number_is_one_within_its_bounds(text: str):
    assert [whole_number(given, "limit", 5, 10) for given in (None, "1", "10")] == [5, 1, 10]
    with pytest.raises(ApiError):
        whole_number(text, "limit", 5, 10)
