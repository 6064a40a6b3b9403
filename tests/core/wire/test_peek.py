"""Peeking into bodies: what is read is what any other parser would read, and nothing but a 400 is ever raised."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from gateway.core.wire.peek import MAX_MODEL, Peek, encoded_parts, peek
from gateway.errors import ApiError

RUNS = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
MODEL = "claude-sonnet-4-5"

# Texts with everything that JSON may spell in more than one way.
texts = st.text(st.sampled_from(list('ab"\\/\n\t\u0000\u007f\u00e9\u2028\U0001f600:,{}[] ')), max_size=6)
scalars = (
    st.none()
    | st.booleans()
    | texts
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
)
flat = st.lists(scalars, max_size=2) | st.dictionaries(texts, scalars, max_size=2)
values = (
    scalars | flat | st.tuples(st.sampled_from([[], {}, [[{"a": []}]], {"": {"": [{}]}}, "}", '",']), flat).map(list)
)
objects = st.dictionaries(texts | st.sampled_from(["messages", "stream", "system", "max_tokens"]), values, max_size=5)
randoms = st.randoms(use_true_random=False)


def spell_text(text: str, rnd: random.Random) -> str:
    """One of the many ways to write a string."""
    short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "/": "\\/"}
    parts = []
    for char in text:
        if char in '"\\' or ord(char) < 32 or rnd.random() < 0.3:
            if char in short and rnd.random() < 0.5:
                parts.append(short[char])
            else:
                units = char.encode("utf-16-be")
                codes = [f"{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2)]
                parts.append("".join("\\u" + (code.upper() if rnd.random() < 0.5 else code) for code in codes))
        else:
            parts.append(char)
    return '"' + "".join(parts) + '"'


def spell(value: Any, rnd: random.Random) -> str:
    """One of the many ways to write a value, with white space wherever it may stand."""

    def gap() -> str:
        return "".join(rnd.choices(" \t\r\n", k=rnd.choice((0, 0, 0, 1, 3))))

    if isinstance(value, dict):
        return write_object([(spell_text(name, rnd), spell(item, rnd)) for name, item in value.items()], gap)
    if isinstance(value, list):
        return "[" + ",".join(gap() + spell(item, rnd) + gap() for item in value) + gap() + "]"
    return spell_text(value, rnd) if isinstance(value, str) else json.dumps(value)


def write_object(pairs: list[tuple[str, str]], gap: Any) -> str:
    return "{" + ",".join(f"{gap()}{name}{gap()}:{gap()}{value}{gap()}" for name, value in pairs) + gap() + "}"


def styles(fields: dict[str, Any], rnd: random.Random) -> list[bytes]:
    """The same object as various clients write it."""
    texts = [
        json.dumps(fields), json.dumps(fields, separators=(",", ":")), json.dumps(fields, indent=2),
        json.dumps(fields, ensure_ascii=False), json.dumps(fields, ensure_ascii=False, separators=(",", ":")),
        json.dumps(fields, indent="\t", separators=(" ,", " : ")), spell(fields, rnd), f"\r\n {spell(fields, rnd)}\t\n",
    ]  # fmt: skip
    return [text.encode() for text in texts]


def with_model(fields: dict[str, Any], rnd: random.Random) -> dict[str, Any]:
    """The fields with a model somewhere among them."""
    items = [*fields.items()]
    items.insert(rnd.randint(0, len(items)), ("model", MODEL))
    return dict(items)


def refusal(body: bytes) -> ApiError:
    """The error of a body that is not accepted; it can be told to a client."""
    with pytest.raises(ApiError) as caught:
        peek(body)
    assert caught.value.status == 400
    assert len(caught.value.body("req_1")) < 5000
    return caught.value


@RUNS
@given(objects, randoms)
@example({"": {"": ""}}, random.Random(1))
@example({"\u00e9\U0001f600": "\U0001f600"}, random.Random(2))
def test_any_object_in_any_style_is_accepted_with_its_model(fields, rnd):
    fields = with_model(fields, rnd)
    for body in styles(fields, rnd):
        assert json.loads(body) == fields
        seen = peek(body)
        assert seen.model == fields["model"]
        assert list(seen.fields) == list(fields)
        assert seen.stream is (fields.get("stream") is True)
        assert seen.body is body


@RUNS
@given(objects, values, randoms)
@example({}, MODEL, random.Random(0))
def test_a_key_that_stands_twice_is_refused_however_and_wherever_it_is_spelled(fields, value, rnd):
    fields = with_model(fields, rnd)
    name = rnd.choice(list(fields))
    if rnd.random() < 0.4:
        value = fields[name]  # equal values are no excuse
    compact = rnd.random() < 0.3
    pairs = [(spell_text(key, rnd), spell(item, rnd)) for key, item in fields.items()]
    if compact:
        pairs = [(json.dumps(key), json.dumps(item, separators=(",", ":"))) for key, item in fields.items()]
    again = (json.dumps(name) if rnd.random() < 0.5 else spell_text(name, rnd), spell(value, rnd))
    pairs.insert(rnd.choice((0, rnd.randint(0, len(pairs)), len(pairs))), again)
    body = write_object(pairs, lambda: "" if compact else rnd.choice(("", " ", "\n\t"))).encode()
    assert json.loads(body)
    assert "more than once" in refusal(body).message


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"model":"a","\\u006dodel":"b"}',
        b'{"\\u006Dodel":"a","model":"b"}',
        b'{"model":"a","max_tokens":1,"model":"b"}',
        b'{"stream":true,"model":"a","stream":false}',
        b'{"stream":false,"stream":true,"model":"a"}',
        b'{"model":"a" , "messages":[ ], "messages":[]}',
        b'{"a/b":1,"model":"a","a\\/b":1}',
        '{"\U0001f600":1,"model":"a","\\ud83d\\ude00":1}'.encode(),
        b'{"":1,"":1,"model":"a"}',
        b'{"model":"a",\t"model"\n:\r"b" }',
        b'{"model":"a","x":{"model":"a"},"model":"b"}',
    ],
)
def test_two_parsers_can_never_see_two_models(body):
    assert "more than once" in refusal(body).message


@pytest.mark.parametrize("seed", range(5))
def test_nested_keys_that_stand_twice_are_nobodys_business_here(seed):
    rnd = random.Random(seed)
    nested = '{"a":1,"a":2,"model":"x","model":"y","\\u0061":{"a":[{"b":1,"b":1}]}}'
    pairs = [('"metadata"', nested), ('"model"', f'"{MODEL}"'), ('"messages"', f"[{nested}]")]
    rnd.shuffle(pairs)
    for gap in (lambda: "", lambda: " "):
        assert peek(write_object(pairs, gap).encode()).model == MODEL


def test_keys_that_merely_look_alike_are_different():
    body = b'{"Model":"a","model ":"b"," model":"c","model":"d","model\\u0000":"e","\\\\u006dodel":"f","mod\\"el":"g"}'
    assert peek(body).model == "d"


def test_a_refused_key_of_any_length_makes_a_short_answer():
    long = b'"' + b"k" * 1_000_000 + b'"'
    assert "more than once" in refusal(b"{" + long + b":1," + long + b':1,"model":"x"}').message


# What no upstream could serve.

START = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "h\u00e9llo"}], "stream": True}).encode()
JUNK = st.lists(
    st.sampled_from(
        [b'{"model":"', b'"model"', b":", b",", b"{", b"}", b"[", b"]", b'"', b"\\", b"\\u00", b"\\ud800", b"\xff",
         b"\xed\xa0", b"\x00", b"1e999", b"-", b"NaN", b"true", b" ", b"\xef\xbb\xbf", b"'", b"//", b"9" * 400]
    ),
    max_size=20,
).map(b"".join)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good body with a few bytes changed, lost or put in."""
    body = bytearray(START)
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(body)))
        width = draw(st.integers(0, 3))
        body[position : position + width] = draw(st.binary(max_size=2) | st.sampled_from([b'"', b"{", b"}", b"\xff"]))
    return bytes(body)


def whatever_it_says(body: bytes) -> Peek | None:
    """Peek and read everything, or be told 400 with an answer that can be sent."""
    refused: ApiError | None = None
    try:
        seen = peek(body)
    except ApiError as error:
        refused = error
    if refused is not None:
        assert refused.status == 400
        assert refused.body("req_1")
        return None
    assert isinstance(seen.user_id, str)
    assert seen.cache_ttl in (300, 3600)
    assert seen.max_tokens >= 0
    for name in seen.fields:
        seen.value(name)
    return seen


@settings(RUNS, max_examples=500)
@given(st.binary(max_size=60) | JUNK | damaged())
@example(b'{"\xff":1,"model":"x"}')
@example(b'{"\xed\xa0\x80":1,"\xed\xa0\x80":1,"model":"x"}')
@example(b'{"\\ud800":1,"model":"x"}')
@example(b'\xef\xbb\xbf{"model":"x"}')
def test_junk_is_a_400_and_nothing_else(data):
    seen = whatever_it_says(data)
    if seen is not None:  # what is accepted means the same to a stricter reader
        assume(not any(b"\xff" in bytes(raw) for raw in seen.fields.values()))
        with_replacement = json.loads(data.decode(errors="surrogateescape"))
        assert with_replacement["model"] == seen.model


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"[]", "expected an object"),
        (b'"model"', "expected an object"),
        (b"null", "expected an object"),
        (b"{}", "model: Field required"),
        (b'{"messages":[]}', "model: Field required"),
        (b'{"model":null}', "valid string"),
        (b'{"model":["x"]}', "valid string"),
        (b'{"model":7}', "valid string"),
        (b'{"model":"\xff"}', "valid string"),
        (b'{"model":""}', "at least 1 character"),
        (b'{"model":"a\\nb"}', "printable"),
        (b'{"model":"a\\u0000"}', "printable"),
        (b'{"model":"a\\u202e"}', "printable"),
        (b'{"model":"' + b"x" * (MAX_MODEL + 1) + b'"}', "at most 256"),
        (b'{"model":"x"} trailing', "not valid JSON"),
        (b'{"model":"x"}{"model":"y"}', "not valid JSON"),
        (b'{"model":"x",}', "not valid JSON"),
        (b'{"model":"x","a":NaN}', "not valid JSON"),
        (b"{'model':'x'}", "not valid JSON"),
        (b'{"model":"x"', "not valid JSON"),
        (b'{"model":"x","\xc3":1}', "not valid JSON"),
        ('{"model":"x"}'.encode("utf-16"), "not valid JSON"),
    ],
)
def test_a_refusal_says_what_is_wrong(body, words):
    assert words in refusal(body).message


def test_a_model_may_be_as_long_as_the_bound_and_in_any_script():
    for model in ("x" * MAX_MODEL, "mod\u00e8le-\u6a21\u578b", "claude-\U0001f600"):
        assert peek(json.dumps({"model": model}).encode()).model == model


@pytest.mark.parametrize("depth", [50, 400, 990, 2000, 100_000])
@pytest.mark.parametrize(("begin", "end"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_read_or_refused(depth, begin, end):
    seen = whatever_it_says(b'{"model":"x","a":' + begin * depth + b"1" + end * depth + b"}")
    assert (seen is not None) == (depth < 900) or depth == 990


@pytest.mark.parametrize(
    "number", ["9" * 30, "9" * 5000, "1e400", "-1e400", "1e-400", "0." + "1" * 10_000, "-0", "9" * 1_000_000]
)
def test_numbers_of_any_size_pass_and_count_only_where_they_are_sensible(number):
    seen = whatever_it_says(f'{{"model":"x","max_tokens":{number},"temperature":{number}}}'.encode())
    assert seen is not None and seen.model == "x"
    assert seen.max_tokens in (0, 10**30 - 1)


# The fields that are asked for.


def seen_of(**fields: Any) -> Peek:
    return peek(json.dumps({"model": MODEL, **fields}).encode())


@pytest.mark.parametrize(
    ("value", "stream"), [(True, True), (False, False), (None, False), (1, False), ("true", False), ([], False)]
)
def test_only_true_asks_for_a_stream(value, stream):
    assert seen_of(stream=value).stream is stream
    assert not seen_of().stream


@pytest.mark.parametrize(
    ("value", "limit"), [(1, 1), (128_000, 128_000), (0, 0), (-5, 0), (True, 0), ("9", 0), (1.5, 0), (None, 0), ({}, 0)]
)
def test_max_tokens_is_a_positive_whole_number_or_unknown(value, limit):
    assert seen_of(max_tokens=value).max_tokens == limit
    assert seen_of().max_tokens == 0


@pytest.mark.parametrize(
    "metadata", [None, 1, "u", [], {}, {"user_id": None}, {"user_id": 5}, {"user_id": ["u"]}, {"USER_ID": "u"}]
)
def test_a_user_id_that_is_no_text_is_none(metadata):
    assert seen_of(metadata=metadata).user_id == ""
    assert seen_of(metadata={"user_id": "u"}).user_id == "u"


def test_the_longest_cache_lifetime_of_the_body_counts():
    def block(**control: Any) -> dict[str, Any]:
        return {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", **control}}

    assert seen_of().cache_ttl == 300
    assert seen_of(system=[block()]).cache_ttl == 300
    assert seen_of(system=[block(ttl="5m")]).cache_ttl == 300
    assert (
        seen_of(system=[block(ttl="5m")], messages=[{"role": "user", "content": [block(ttl="1h")]}]).cache_ttl == 3600
    )
    assert peek(b'{"model":"x","system":[{"cache_control":{"ttl"\n:  "1h"}}]}').cache_ttl == 3600


def test_text_about_lifetimes_is_no_lifetime():
    assert seen_of(messages=[{"role": "user", "content": '{"ttl":"1h"} "1h" "ttl": "1h"'}]).cache_ttl == 300
    assert seen_of(ttl=1, other="1h").cache_ttl == 300


def test_a_field_that_cannot_be_decoded_has_no_value():
    seen = peek(b'{"model":"x","a":"\xff","b":[1,2],"c":[1e999,"\xff"]}')
    assert seen.value("a") is None
    assert seen.value("b") == [1, 2]
    assert seen.value("c") is None
    assert seen.value("d") is None


WORDS = [b'"1h"', b'"source"', b'"base64"', b'"signature"', b'"cache_control"', b'"file_id"', b'"image_url"']


@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_found_wherever_it_stands(word: bytes):
    begin = b'{"model":"m","messages":['
    for body in (begin + word + b"]}", begin + b'"' + word + b"," + b'"x"]}', begin + b'"\\"",' + word + b"]}"):
        assert word in Peek(body, {}, "m").words
    for body in (begin + b"]}", begin + word[:-1] + b'x"]}', begin + b'"x' + word[1:] + b"]}", begin + word[1:]):
        assert word not in Peek(body, {}, "m").words
    assert {word} == {each for each in WORDS if each in Peek(begin + word, {}, "m").words}


@given(
    st.lists(st.sampled_from([*WORDS, b'"', b"x", b"\\", b"y" * 5000, b'"z"' * 40, b"1h", b"source"]), max_size=40),
    st.sampled_from([0, 20_000]),
)
def test_words_are_the_same_in_bodies_of_any_length_and_any_number_of_quotes(parts: list[bytes], more: int):
    body = b"".join(parts) + b"w" * more
    words = Peek(body, {}, "m").words
    assert words >= set(re.findall(b"|".join(WORDS), body))
    assert words <= {word for word in WORDS if word in body}


@given(st.text(alphabet='aZ9+ ="', max_size=80).map(str.encode), st.integers(1, 9))
def test_encoded_parts_are_all_runs_that_are_long_enough(body, least):
    expected = [match.span() for match in re.finditer(rb"[A-Za-z0-9+/=]{%d,}" % least, body)]
    assert encoded_parts(body, least) == expected


def test_a_value_is_read_whatever_its_numbers_and_refused_where_nobody_can_read_it():
    body = b'{"model":"m","tools":[{"n":1e999}],"thread":{"n":%b},"metadata":{"user_id":"\xff"}}' % (b"9" * 5000)
    read = peek(body)
    assert read.value("tools") == [{"n": float("inf")}]
    assert read.value("thread") == {"n": float("inf")}
    assert read.sure("tools") == read.value("tools")
    assert read.sure("system") is read.value("system") is read.value("metadata") is None
    with pytest.raises(ApiError, match="metadata") as refused:
        read.sure("metadata")
    assert refused.value.status == 400
