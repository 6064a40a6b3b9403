import json
from typing import Any

import pytest

from gateway.config.schema import Account, Admin, Caller, Config, Models
from gateway.core.wire.peek import Peek, peek
from gateway.errors import ApiError
from gateway.worker.callers.rights import Rights


def caller(*models: str) -> Caller:
    return Caller(id="alice", models=models)


def rights(**fields: Any) -> Rights:
    config = Config(
        admin=Admin(token="token-of-a-test"),
        secret=("s" * 32,),
        accounts=(Account(id="a", api_key="k", models=("claude-*", "own-model")),),
        models=Models(aliases={"fast": "claude-haiku-4-5"}),
    )
    return Rights(config, lambda model: model.startswith("claude") or model == "own-model")


@pytest.mark.parametrize(
    ("patterns", "model"),
    [
        (("*",), "anything"),
        (("claude-haiku-*",), "claude-haiku-4-5"),
        (("claude-haiku-*",), "fast"),
        (("fast",), "fast"),
        (("a", "own-*"), "own-model"),
        (("claude-haiku-4-5",), "claude-haiku-4-5-20251001"),
        (("claude-haiku-4-5-20251001",), "claude-haiku-4-5"),
        (("claude-haiku-4-5",), "claude-haiku-4-5-20270101"),
        (("claude-haiku-4-5-20251001",), "fast"),
    ],
)
def test_a_caller_may_use_what_its_patterns_name_or_what_an_alias_of_theirs_stands_for(patterns, model):
    rights().check(caller(*patterns), model)


@pytest.mark.parametrize(
    ("patterns", "model"),
    [
        (("claude-haiku-*",), "claude-opus-5"),
        (("claude-opus-*",), "fast"),
        (("fast",), "claude-haiku-4-5"),
        (("claude-haiku-4-5",), "claude-haiku-4-5-x"),
        (("Claude-haiku-4-5",), "claude-haiku-4-5"),
    ],
)
def test_anything_else_is_refused_and_named(patterns, model):
    with pytest.raises(ApiError, match=model) as refused:
        rights().check(caller(*patterns), model)
    assert (refused.value.status, refused.value.kind) == (403, "permission_error")


def test_what_stands_as_a_model_in_a_body_counts_if_it_may_be_one():
    allowed = caller("claude-haiku-*")
    rights().check_named(allowed, "Tesla")
    for model in ("claude-opus-5", "claude-unheard-of", "own-model"):
        with pytest.raises(ApiError):
            rights().check_named(allowed, model)


def test_a_caller_sees_the_models_that_it_may_use():
    def seen(*patterns: str) -> list[str]:
        page = json.loads(rights().models(caller(*patterns), "", b"limit=1000"))
        return [model["id"] for model in page["data"]]

    assert seen("claude-haiku-4-5") == ["claude-haiku-4-5-20251001", "fast"]
    assert "own-model" in seen("*") and "claude-opus-5" in seen("*")
    assert json.loads(rights().models(caller("*"), "fast", b""))["id"] == "fast"
    with pytest.raises(ApiError) as unknown:
        rights().models(caller("claude-haiku-*"), "claude-opus-5", b"")
    assert unknown.value.status == 404


def body(members: bytes) -> Peek:
    return peek(b'{"model":"claude-haiku-4-5","messages":[],%b}' % members)


@pytest.mark.parametrize(
    ("members", "status"),
    [
        (b'"fallbacks":[{"model":"claude-opus-4-7"},{"model":"claude-haiku-4-5","x":1e999}]', 403),
        (b'"fallbacks":[{"model":"claude-opus-4-7","model":"claude-haiku-4-5"}]', 400),
        (b'"tools":[{"type":"advisor_20260301","model":"claude-opus-4-7"},{"input_schema":{"maximum":1e999}}]', 403),
        (b'"tools":[{"type":"advisor_20260301","model":"claude-haiku-4-5", "model":"claude-opus-4-7"}]', 400),
    ],
)
def test_no_spelling_of_a_body_hides_a_model_that_is_not_the_callers(members, status):
    with pytest.raises(ApiError) as refused:
        rights().check_body(caller("claude-haiku-*"), body(members))
    assert refused.value.status == status


@pytest.mark.parametrize("written", [b'"fallbacks":"default"', b'"fallb\\u0061cks": "def\\u0061ult"'])
def test_a_key_for_some_models_leaves_none_to_anthropics_choice(written):
    with pytest.raises(ApiError, match='instead of "default"') as refused:
        rights().check_body(caller("claude-haiku-*"), body(written))
    assert refused.value.status == 403
    rights().check_body(caller("*"), body(written))


def test_numbers_of_a_body_are_of_no_interest():
    schema = b'"tools":[{"name":"t","input_schema":{"properties":{"model":{"maximum":1e999}}}}]'
    rights().check_body(caller("claude-haiku-*"), body(schema + b',"fallbacks":[{"model":"claude-haiku-4-5"}]'))


@pytest.mark.parametrize(
    "members",
    [
        b'"fallbacks":[{"model":"claude-haiku-4-5"},{"model":"fast"}]',
        b'"tools":[{"type":"advisor_20260301","name":"advisor","model":"fast"}]',
    ],
)
@pytest.mark.parametrize("patterns", [("*",), ("claude-haiku-*",)])
def test_an_alias_that_would_be_sent_as_it_stands_is_refused(patterns, members):
    with pytest.raises(ApiError, match=r"^fast is an alias, .* write claude-haiku-4-5\.$") as refused:
        rights().check_body(caller(*patterns), body(members))
    assert refused.value.status == 400
