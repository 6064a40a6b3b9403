"""Groups: conversations that share tools and system prompt, and where that prefix is warm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.routing.groups import MAX_GROUPS, Groups, group_of
from gateway.core.wire.peek import peek

NOW = 1000.0
TOOLS = [{"name": "bash", "input_schema": {"type": "object"}}]
BILLING = {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=0a1b2;"}
PROMPT = {"type": "text", "text": "You are a careful assistant."}


def group(**fields: Any) -> str:
    return group_of(peek(json.dumps({"model": "m", "messages": [], **fields}).encode()))


def test_what_shares_nothing_has_no_group():
    assert group() == ""


def test_the_same_tools_and_system_prompt_are_one_group_whatever_is_said():
    one = group(tools=TOOLS, system="Be kind.", messages=[{"role": "user", "content": "a"}])
    assert one == group(tools=TOOLS, system="Be kind.", messages=[{"role": "user", "content": "b"}], max_tokens=1)
    assert len({one, group(tools=TOOLS), group(system="Be kind."), group(tools=TOOLS, system="Be short.")}) == 4


def test_tools_and_system_are_not_taken_for_each_other():
    assert group(tools=TOOLS) != group(system=TOOLS)


def test_the_line_by_which_claude_code_tells_its_bill_does_not_count():
    other = {**BILLING, "text": BILLING["text"].replace("0a1b2", "ffff0")}
    assert group(system=[BILLING, PROMPT]) == group(system=[other, PROMPT])
    assert group(system=[BILLING, PROMPT]) != group(system=[BILLING])
    assert group(system=[PROMPT, BILLING]) != group(system=[PROMPT, other])  # elsewhere it is text like any other


@pytest.mark.parametrize("system", [[], [1], ["x-anthropic-billing-header:"], {}, 3, [{"text": 5}], [BILLING["text"]]])
def test_odd_system_prompts_make_groups_too(system):
    assert group(system=system)


def test_a_prefix_is_warm_where_it_was_used_until_its_cache_ends():
    groups = Groups()
    assert groups.shared("g", "w", NOW) is None
    groups.touch("g", "w", NOW + 300)
    assert groups.shared("g", "w", NOW) == 0.0  # how large it is, nobody knows yet
    assert groups.shared("g", "v", NOW) is None
    assert groups.shared("g", "w", NOW + 300) is None
    groups.touch("g", "w", NOW + 100)
    assert groups.shared("g", "w", NOW + 200) == 0.0  # what ends sooner shortens nothing


def test_the_prefix_is_as_large_as_the_least_that_was_read_of_late():
    groups = Groups()
    groups.read("g", 5000)  # unknown: nobody has written it
    groups.touch("g", "w", NOW + 300)
    assert groups.shared("g", "w", NOW) == 0.0
    groups.read("g", 20_000)
    groups.read("g", 12_000)
    groups.read("g", 0)
    assert groups.shared("g", "w", NOW) == 12_000
    groups.read("g", 20_000)
    assert groups.shared("g", "w", NOW) == pytest.approx(12_600)


def test_the_number_of_groups_is_bounded():
    groups = Groups()
    for n in range(MAX_GROUPS + 5):
        groups.touch(f"{n}", "w", NOW + 300)
    assert groups.shared("0", "w", NOW) is None
    assert groups.shared(f"{MAX_GROUPS + 4}", "w", NOW) == 0.0
    assert len(groups._groups) == MAX_GROUPS
