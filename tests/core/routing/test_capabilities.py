"""What accounts on other clouds serve: the table, what its operator says, what refusals teach."""

from __future__ import annotations

import pytest

from gateway.core.routing.capabilities import LEARNED_FOR, MOST, Capabilities, Learned, Table, Verdict
from gateway.core.routing.features import needs_of
from gateway.core.wire.peek import peek
from gateway.data import load_capabilities

MODEL = "claude-opus-4-7"
USUAL = ("model", "messages", "max_tokens")
TABLE = Table.read(
    {
        "as_of": "2026-11-29",
        "pairs": {"beta:edits": ["context_management"]},
        "rows": [
            {"kinds": ["x"], "source": "s", "fields": USUAL, "ok": ["beta:known", "beta:two"]},
            {"kinds": ["x"], "source": "s", "no": ["tool:web_*"], "drop": ["beta:edits", "cache:scope"]},
            {"kinds": ["x"], "source": "s", "models": ["claude-3-*"], "no": ["beta:known"]},
            {"kinds": ["x"], "source": "s", "ok": ["tool:web_new"]},
        ],
    }
)  # fmt: skip


def needs(*names: str) -> frozenset[str]:
    return frozenset(names)


def made(**more: object) -> Capabilities:
    return Capabilities(TABLE, "x", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "drops", "lacks"),
    [
        ((), (), ()),
        (("beta:known", "beta:next-month"), (), ()),
        (("tool:web_search_1",), (), ("tool:web_search_1",)),
        (("tool:web_new",), (), ()),
        (("beta:edits",), ("beta:edits",), ()),
        (("beta:edits", "field:context_management"), ("beta:edits", "field:context_management"), ()),
        (("field:context_management",), (), ()),
        (("cache:scope", "tool:web_search_1"), ("cache:scope",), ("tool:web_search_1",)),
    ],
)
def test_the_table_says_what_is_left_out_and_what_is_lacking(asked, drops, lacks):
    fit = made().fit(MODEL, needs(*asked), 0.0)
    assert fit.drops == needs(*drops)
    assert fit.lacks == needs(*lacks)


def test_a_row_may_be_of_some_models():
    assert made().fit("claude-3-opus", needs("beta:known"), 0.0).lacks == needs("beta:known")


def test_the_operators_word_outranks_the_table():
    own = {"tool:web_search_*": Verdict.OK, "beta:known": Verdict.NO, "beta:edits": Verdict.OK}
    fit = made(own=own).fit(MODEL, needs("tool:web_search_1", "beta:known", "beta:edits"), 0.0)
    assert fit.drops == needs()
    assert fit.lacks == needs("beta:known")


def test_strict_accounts_leave_no_flag_out():
    fit = made(strict=True).fit(MODEL, needs("beta:edits", "cache:scope"), 0.0)
    assert fit.drops == needs("cache:scope")
    assert fit.lacks == needs("beta:edits")


def test_a_refused_flag_that_nobody_knows_is_left_out_for_an_hour():
    account = made()
    asked = needs("beta:known", "beta:new")
    assert account.refused(MODEL, asked, "invalid beta flag", USUAL, 0.0) == [Learned(MODEL, "beta:new", Verdict.DROP)]
    assert account.fit(MODEL, asked, 1.0).drops == needs("beta:new")
    assert account.fit("another", asked, 1.0).drops == needs()
    assert account.refused(MODEL, asked, "invalid beta flag", USUAL, 1.0) == []
    assert account.fit(MODEL, asked, LEARNED_FOR + 1.0).drops == needs()


def test_a_refused_flag_is_not_left_out_where_the_body_holds_more_than_the_model_knows():
    account = made()
    learned = account.refused(MODEL, needs("beta:new", "field:novelty"), "invalid beta flag", (*USUAL, "novelty"), 0.0)
    assert learned == [Learned(MODEL, "beta:new", Verdict.NO)]
    assert account.fit(MODEL, needs("beta:new"), 1.0).lacks == needs("beta:new")


def test_strict_accounts_are_not_asked_again_for_a_refused_flag():
    account = made(strict=True)
    assert account.refused(MODEL, needs("beta:new"), "invalid beta flag", USUAL, 0.0)[0].verdict is Verdict.NO


def test_a_flag_that_is_named_is_the_one():
    account = made()
    asked = needs("beta:new", "beta:newer")
    [learned] = account.refused(MODEL, asked, "Unexpected value `newer` for anthropic-beta", USUAL, 0.0)
    assert learned.need == "beta:newer"


@pytest.mark.parametrize(
    ("asked", "words", "unlearned"),
    [
        (("beta:known", "beta:two"), "invalid beta flag", ()),
        (("beta:known", "beta:two"), "`known` and `two` are no beta flags", ()),
        (("beta:known",), "invalid beta flag", ("beta:known",)),
        (("beta:known", "beta:two"), "`known` is no beta flag", ("beta:known",)),
    ],
)
def test_a_known_flag_is_unlearned_only_where_it_is_refused_alone(asked, words, unlearned):
    found = made().refused(MODEL, needs(*asked), words, USUAL, 0.0)
    assert tuple(each.need for each in found) == unlearned


@pytest.mark.parametrize(
    ("need", "words"),
    [
        ("field:novelty", "novelty: Extra inputs are not permitted"),
        ("field:novelty", "body: `novelty`: Extra inputs are not permitted"),
        ("tool:odd_20260101", "tools.0: Input tag 'odd_20260101' found using 'type' does not match"),
        ("mcp", "mcp_servers: Extra inputs are not permitted"),
    ],
)
def test_a_member_or_a_tool_that_a_refusal_names_is_lacking(need, words):
    account = made()
    assert account.refused(MODEL, needs(need, "beta:known"), words, USUAL, 0.0) == [Learned(MODEL, need, Verdict.NO)]
    assert account.fit(MODEL, needs(need), 1.0).lacks == needs(need)


def test_a_refusal_about_something_else_teaches_nothing():
    account = made()
    assert account.refused(MODEL, needs("beta:new", "field:novelty"), "max_tokens: too large", USUAL, 0.0) == []


def test_what_is_learned_is_bounded():
    account = made()
    for number in range(2 * MOST):
        account.learn(Learned(MODEL, f"beta:{number}", Verdict.DROP), 10.0, 0.0)
    assert len(account.learned(1.0)) == MOST
    assert account.learned(11.0) == []


def test_needs_are_read_from_a_request():
    body = (
        b'{"model":"m","max_tokens":1,"context_management":{},"messages":[{"role":"user","content":[{"type":"image",'
        b'"source":{"type":"url","url":"https://x"}},{"type":"text","text":"a","cache_control":{"type":"ephemeral",'
        b'"ttl":"1h","scope":"global"}}]}],"tools":[{"type":"web_search_20250305","name":"web_search"},{"name":"own"}]}'
    )
    assert needs_of(peek(body), [b"one, two"]) == needs(
        "beta:one", "beta:two", "field:context_management", "url", "cache:1h", "cache:scope", "tool:web_search_20250305"
    )
    assert needs_of(peek(b'{"model":"m","messages":[],"max_tokens":1,"stream":true}'), []) == needs()


CLAUDE_CODE = needs(
    "beta:claude-code-20250219", "beta:interleaved-thinking-2025-05-14", "beta:context-management-2025-06-27",
    "beta:prompt-caching-scope-2026-01-05", "beta:effort-2025-11-24", "field:context_management", "field:output_config",
    "cache:scope", "cache:1h",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["bedrock", "bedrock/mantle", "vertex", "foundry", "aws-platform"])
def test_what_claude_code_asks_for_lacks_nothing_anywhere(kind: str):
    fit = Capabilities(load_capabilities(), kind).fit(MODEL, CLAUDE_CODE, 0.0)
    assert fit.lacks == needs()
    assert fit.drops <= needs("beta:prompt-caching-scope-2026-01-05", "cache:scope")


@pytest.mark.parametrize(
    ("kind", "need", "verdict"),
    [
        ("bedrock", "tool:web_search_20250305", Verdict.NO),
        ("vertex", "tool:web_search_20250305", Verdict.OK),
        ("vertex", "tool:web_fetch_20250910", Verdict.NO),
        ("foundry", "tool:web_fetch_20250910", None),
        ("bedrock", "file", Verdict.NO),
        ("aws-platform", "field:fallbacks", Verdict.NO),
        ("bedrock", "beta:oauth-2025-04-20", Verdict.DROP),
        ("bedrock", "beta:of-next-month", None),
    ],
)
def test_the_table_of_the_package(kind: str, need: str, verdict: Verdict | None):
    assert Capabilities(load_capabilities(), kind).known(MODEL, need) is verdict
