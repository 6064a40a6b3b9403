"""Anthropic's usage report beside the ledger: what is read of it, and what explains differences."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.spending.reconcile import (
    ALL,
    CLASSES,
    EDGE_SECONDS,
    HOUR,
    Line,
    Ours,
    Report,
    Row,
    Scope,
    read_report,
    reconcile,
)
from gateway.records import Usage

DAY = datetime(2026, 11, 20, tzinfo=UTC)
START = int(DAY.timestamp())
NOW = START + 10 * 86_400
M = "claude-haiku-4-5"


def result(**fields: Any) -> dict[str, Any]:
    """A row as the published examples have it."""
    return {
        "api_key_id": None, "cache_creation": {"ephemeral_1h_input_tokens": 40, "ephemeral_5m_input_tokens": 30},
        "cache_read_input_tokens": 20, "context_window": None, "inference_geo": None, "model": M, "output_tokens": 50,
        "server_tool_use": {"web_search_requests": 2}, "service_tier": "standard", "uncached_input_tokens": 10,
        "workspace_id": None, **fields,
    }  # fmt: skip


def bucket(day: int, *results: dict[str, Any], hours: float = 24) -> dict[str, Any]:
    start = DAY + timedelta(days=day)
    end = start + timedelta(hours=hours)
    return {
        "starting_at": start.isoformat().replace("+00:00", "Z"),
        "ending_at": end.isoformat(),
        "results": list(results),
    }


def page(*buckets: dict[str, Any], more: bool = False) -> bytes:
    return json.dumps({"data": buckets, "has_more": more, "next_page": "page_x" if more else None}).encode()


# -- Reading ----------------------------------------------------------------------------------------------------------


def test_a_published_report_is_read_with_every_class_of_tokens():
    report = read_report([page(bucket(0, result(workspace_id="w", api_key_id="k", service_tier="batch")))], NOW)
    assert report == Report(START, START + 86_400, (Line("w", "k", M, "batch", Usage(10, 20, 30, 40, 50)),))


def test_pages_are_put_together_in_any_order_and_any_wrapping():
    first, second = page(bucket(0, result()), bucket(1), more=True), page(bucket(2, result()))
    whole = read_report([first, second], NOW)
    assert (whole.start, whole.end, len(whole.lines)) == (START, START + 3 * 86_400, 2)
    assert read_report([second, first], NOW) == whole
    assert read_report([b"[" + first + b"," + second + b"]"], NOW) == whole
    assert read_report([first + b"\n" + second + b"\n"], NOW) == whole


def test_what_is_not_over_is_left_out():
    pages = [page(bucket(0, result()), bucket(1, result()))]
    assert read_report(pages, START + 1.5 * 86_400).end == START + 86_400
    with pytest.raises(ValueError, match="no bucket of time that is over"):
        read_report(pages, START + 60.0)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([b"{"], "not a usage report"),
        ([b""], "no bucket"),
        ([b"{}"], "not a usage report"),
        ([b"[1]"], "not a usage report"),
        ([page(bucket(0, {"output_tokens": 1}))], "not a usage report"),
        ([page(bucket(0, result(output_tokens=-1)))], "not a usage report"),
        ([page({**bucket(0), "starting_at": "2026-11-20T00:00:00"})], "not a usage report"),
        ([], "no bucket"),
        ([page()], "no bucket"),
        ([page(bucket(0), more=True)], "its last page is missing"),
        ([page(bucket(0), bucket(2))], "leave a gap at 2026-11-22"),
        ([page(bucket(0)), page(bucket(0))], "overlap"),
        ([page(bucket(0, hours=1.5))], "full hours"),
    ],
)
def test_a_report_of_no_use_is_refused_with_what_to_do(texts: list[bytes], words: str):
    with pytest.raises(ValueError, match=words):
        read_report(texts, NOW)


# -- Comparing --------------------------------------------------------------------------------------------------------


def line(input: int, *, workspace: str | None = None, key: str | None = None, model: str | None = M,
         tier: str | None = None) -> Line:  # fmt: skip
    return Line(workspace, key, model, tier, Usage(input))


def ours(input: int, *, requests: int = 10, estimated: int = 0, model: str = M, workspace: str = "w") -> Ours:
    return Ours(workspace, model, requests, estimated, Usage(input))


def compare(
    lines: list[Line], mine: list[Ours], edges: list[Ours] | None = None, scope: Scope | None = None
) -> list[Row]:
    report = Report(START, START + 86_400, tuple(lines))
    return list(reconcile(report, mine, edges or [], scope or Scope(), lambda name: name.removesuffix("-20251001")))


def test_equal_counts_leave_nothing_to_explain_in_any_class():
    usage = Usage(10, 20, 30, 40, 50)
    rows = compare([Line(None, None, M, None, usage)], [Ours("w", M, 1, 0, usage)])
    assert [(row.tokens, row.theirs, row.ours) for row in rows] == [
        (name, amount, amount) for name, amount in zip(CLASSES, (10, 20, 30, 40, 50), strict=True)
    ]
    assert {(row.workspace, row.model, row.difference, row.unexplained, row.part) for row in rows} == {
        (ALL, M, 0, 0, 0.0)
    }


def test_names_of_one_model_are_one_row_and_models_stay_apart():
    rows = compare(
        [line(5, model=f"{M}-20251001"), line(6), line(7, model="other")], [ours(11), ours(7, model="other")]
    )
    assert [(row.model, row.theirs, row.ours) for row in rows] == [(M, 11, 11), ("other", 7, 7)]


def test_without_models_in_the_report_all_are_compared_together():
    [row] = compare([line(30, model=None)], [ours(10), ours(20, model="other")])
    assert (row.model, row.theirs, row.ours) == (ALL, 30, 30)


def test_what_one_side_alone_has_is_unexplained():
    assert [
        (row.model, row.unexplained, row.part) for row in compare([line(100, model="a")], [ours(50, model="b")])
    ] == [
        ("a", 100, 1.0),
        ("b", -50, 1.0),
    ]
    assert [row.unexplained for row in compare([], [ours(50)])] == [-50]


def test_keys_that_are_not_ours_explain_exactly_what_they_used():
    lines = [line(100, key="ours"), line(40, key="theirs"), line(5)]
    [row] = compare(lines, [ours(100)], scope=Scope(keys=frozenset({"ours"})))
    assert (row.difference, row.other, row.unexplained) == (45, 45, 0)
    [row] = compare(lines, [ours(145)], scope=Scope(keys=frozenset({"ours"})))
    assert (row.difference, row.other, row.unexplained) == (0, 45, -45)  # equal by chance only
    [row] = compare([line(90, key="ours"), line(900)], [ours(100)], scope=Scope(keys=frozenset({"ours"})))
    assert (row.other, row.unexplained, row.part) == (900, -10, 0.1)
    with pytest.raises(ValueError, match="does not tell API keys apart"):
        compare([line(1)], [ours(1)], scope=Scope(keys=frozenset({"ours"})))


def test_workspaces_are_compared_by_their_own_ids_and_others_left_out():
    scope = Scope(workspaces={"wrkspc_1": "one", "default": "two"})
    lines = [line(10, workspace="wrkspc_1"), line(20), line(99, workspace="wrkspc_of_others")]
    mine = [ours(10, workspace="one"), ours(25, workspace="two"), ours(7, workspace="not asked for")]
    rows = compare(lines, mine, scope=scope)
    assert [(row.workspace, row.theirs, row.ours) for row in rows] == [("one", 10, 10), ("two", 20, 25)]
    with pytest.raises(ValueError, match="does not tell workspaces apart"):
        compare([line(1)], [ours(1)], scope=scope)


def test_batches_explain_only_what_they_counted_and_we_did_not():
    lines = [line(100, tier="standard"), line(40, tier="batch")]
    assert [(row.batch, row.unexplained) for row in compare(lines, [ours(110)])] == [(30, 0)]
    assert [(row.batch, row.unexplained) for row in compare(lines, [ours(90)])] == [(40, 10)]
    assert [(row.batch, row.unexplained) for row in compare(lines, [ours(150)])] == [(0, -10)]


def test_estimated_requests_explain_as_much_as_so_many_others_used():
    for theirs, estimated, unexplained in (
        (1000, 0, 0),
        (1150, 150, 0),
        (850, -150, 0),
        (1300, 250, 50),
        (600, -250, -150),
    ):
        [row] = compare([line(theirs)], [ours(1000, requests=10, estimated=2)])
        assert (row.estimated, row.unexplained) == (estimated, unexplained)
    [row] = compare([line(500)], [ours(400, requests=2, estimated=2)])
    assert (row.estimated, row.unexplained) == (100, 0)


def test_requests_under_way_at_the_edges_explain_a_stretch_of_the_hours_there():
    edges = [ours(7200), ours(7200)]  # one token a second, around each end
    assert [(row.edges, row.unexplained) for row in compare([line(1000)], [ours(0)], edges)] == [(1000, 0)]
    most = 2 * EDGE_SECONDS * 7200 // (2 * HOUR)
    assert [(row.edges, row.unexplained) for row in compare([line(9000)], [ours(0)], edges)] == [(most, 9000 - most)]
    assert [(row.edges, row.unexplained) for row in compare([line(9000)], [ours(9900)], edges)] == [(-900, 0)]
    assert compare([], [], edges) == []


amounts = st.integers(0, 10_000)


@given(amounts, amounts, amounts, amounts, st.integers(0, 20), st.integers(0, 20), amounts)
def test_explanations_add_up_and_none_goes_beyond_the_difference(
    standard: int, batch: int, other: int, mine: int, exact: int, estimated: int, edge: int
):
    lines = [line(standard, key="ours"), line(batch, key="ours", tier="batch"), line(other, key="theirs", tier="batch")]
    rows = compare(
        lines,
        [ours(mine, requests=exact + estimated, estimated=estimated)],
        [ours(edge)],
        Scope(keys=frozenset({"ours"})),
    )
    for row in rows:
        assert (row.theirs, row.ours, row.other) == (standard + batch + other, mine, other)
        left = row.difference - row.other
        assert row.batch + row.estimated + row.edges + row.unexplained == left
        for part in (row.batch, row.estimated, row.edges, row.unexplained):
            assert part * left >= 0 and abs(part) <= abs(left)
        assert row.batch <= batch
