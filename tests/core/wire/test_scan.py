"""The scanner: the same models and ids however the body is cut, and no spelling by which one slips past."""

from __future__ import annotations

import json
import string
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.core.wire import scan
from gateway.core.wire.scan import Scanner, is_object_id
from gateway.errors import ApiError

RUNS = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
FILE = "file_011CNha8iCJcU1wXNR6q4V8w"
AGENT = "agent_011CZkYqphY8vELVzwCUpqiQ"


def run(pieces: list[bytes], ids: bool = True) -> tuple[set[str], set[str]]:
    scanner = Scanner(ids)
    for piece in pieces:
        scanner.feed(piece)
    return scanner.models, scanner.ids


def cut(body: bytes, where: list[int]) -> list[bytes]:
    points = sorted({each * len(body) // 10_000 for each in where} - {0})
    return [body[a:b] for a, b in zip([0, *points], [*points, len(body)], strict=True)]


def outcome(pieces: list[bytes]) -> Any:
    try:
        return run(pieces)
    except ApiError as error:
        return error.message


def refusal(body: bytes) -> str:
    """The words with which a body is refused, the same for every cut into two."""
    told = {outcome([body[:at], body[at:]]) if at else outcome([body]) for at in range(len(body))}
    (words,) = told
    assert isinstance(words, str)
    return words


texts = st.sampled_from([
    "plain", "", "é\u2028\U0001f600", 'he said "model": "claude-fake" \\', "\\u0061", "\\\\u005f \\", "a\\", '"',
    "\n\t", FILE, AGENT, f"see {FILE}", f'"{FILE}"', f'"{FILE}', 'x"model', '"id',
    f'{{"file_id":"{FILE}"}}', "claude-opus-5-5", "model", "file_id", "id",
    "file_contents", "session_timeout_minutes", "file_short1", "skill_01XJ5abcd", "msg_01ABCDEFGH", "thread",
    "continue", "a/b", "<tag>&'",
])  # fmt: skip
keys = st.sampled_from(
    ["model", "id", "file_id", "skill_id", "agent", "vault_ids", "container", "text", "thread",
     "previous_message_id", FILE]
) | texts  # fmt: skip
documents = st.recursive(
    texts | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


def expected(body: bytes) -> tuple[set[str], set[str]]:
    """What a whole parse of the body finds."""
    models: set[str] = set()
    ids: set[str] = set()
    messages: set[str] = set()
    threads = []

    def walk(value: Any) -> None:
        if isinstance(value, str) and is_object_id(value):
            ids.add(value)
        elif isinstance(value, list):
            for each in value:
                walk(each)
        elif isinstance(value, dict):
            for key, each in value.items():
                walk(key)
                walk(each)
                if key == "thread" and isinstance(each, dict):
                    threads.append(each)
                if isinstance(each, str):
                    if key == "model" or (key == "id" and each.startswith("claude-")):
                        models.add(each)
                    elif key == "previous_message_id":
                        messages.add(each)

    walk(json.loads(body))
    return models, ids | messages if threads else ids


STYLES: list[dict[str, Any]] = [
    {}, {"separators": (",", ":")}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (" ,", " \n: ")},
]  # fmt: skip
cuts = st.lists(st.integers(0, 9999), max_size=12)


@RUNS
@given(documents, st.sampled_from(STYLES), cuts, st.booleans())
@example({"model": "a\\/b\\u002ec"}, {}, [], False)
def test_what_is_found_is_what_a_whole_parse_finds_whatever_the_cuts(document, style, where, single):
    body = json.dumps(document, **style).encode()
    pieces = [body[i : i + 1] for i in range(len(body))] if single else cut(body, where)
    assert run(pieces) == expected(body)
    models, ids = run(pieces, ids=False)
    assert (models, ids) == (expected(body)[0], set())


SNIPPETS = st.sampled_from([
    b'"model"', b"model", b'"', b":", b" ", b"{", b"}", b",", b"\\", b"\\\\", b"\\u00", b"\\u0061", b"61", b'"id"',
    b"\\n", b'"claude-opus-5-5"', b'"' + FILE.encode() + b'"', b"file_", b"01234567",
    b'"thread"', b'"previous_message_id"',
    b" " * 511, b"\n" * 600, b"x" * 253, b"\xff", b"\xef\xbb\xbf", b"\0", b"\xc3\xa9", b"y" * 2100,
])  # fmt: skip


@settings(RUNS, max_examples=500)
@given(st.lists(SNIPPETS, max_size=25).map(b"".join), cuts, st.booleans())
def test_any_bytes_in_any_pieces_are_judged_as_in_one_piece(body, where, single):
    pieces = [body[i : i + 1] for i in range(len(body))] if single else cut(body, where)
    whole, pieced = outcome([body]), outcome(pieces)
    assert pieced == whole or (
        isinstance(pieced, str) and isinstance(whole, str)
    )  # the first of two reasons may differ


@RUNS
@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([1000, 4096, 16384]))
def test_models_and_ids_between_long_stretches_of_text_are_found(before, after, size):
    body = json.dumps({"a": "x" * before, "model": "claude-x", "file_id": FILE, "b": "y" * after}).encode()
    assert run([body[i : i + size] for i in range(0, len(body), size)]) == ({"claude-x"}, {FILE})


@pytest.mark.parametrize("char", string.ascii_letters + string.digits + "_-")
def test_an_escaped_letter_digit_underscore_or_hyphen_is_refused(char):
    code = f"{ord(char):02x}"
    for spelling in (code, code.upper()):
        assert "escapes" in refusal(b'{"a":"\\u00' + spelling.encode() + b'"}')


@pytest.mark.parametrize(
    "code", ["000a", "0022", "0026", "0027", "002b", "002f", "003c", "003e", "005c", "0060", "007f", "00e9", "d83d"]
)
def test_escapes_that_encoders_do_write_are_fine(code):
    body = b'{"model":"m","a":"\\u' + code.encode() + b'"}'
    for at in range(len(body)):
        assert run([body[:at], body[at:]])[0] == {"m"}


@pytest.mark.parametrize("count", range(1, 8))
def test_backslashes_are_paired_whatever_the_cut(count):
    body = b'{"t":"x' + b"\\" * count + b'u0061"}'
    if count % 2:
        assert "escapes" in refusal(body)
    else:
        for a in range(len(body)):
            for b in range(a, len(body)):
                assert run([body[:a], body[a:b], body[b:]]) == (set(), set())


def test_many_escaped_backslashes_before_u_are_text():
    body = b'{"t":"' + b"\\\\u0061" * 50_000 + b'"}'
    for size in (7, 4095, 65536):
        assert run([body[i : i + size] for i in range(0, len(body), size)]) == (set(), set())


@pytest.mark.parametrize(
    "body",
    [b'\xef\xbb\xbf{"a":1}', '{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-16-le"), '{"a":1}'.encode("utf-16-be"),
     '{"a":1}'.encode("utf-32"), b'\xfe\xff\x00{'],
)  # fmt: skip
def test_other_encodings_than_plain_utf8_are_refused(body):
    assert "UTF-8" in outcome([body])
    assert "UTF-8" in outcome([body[i : i + 1] for i in range(len(body))])


@pytest.mark.parametrize("body", ['{"model"%s:"m"}', '{"model":%s"m"}', '{"model" : %s"m"}'])
def test_a_value_cannot_hide_behind_blanks(body):
    assert run([(body % (" " * 400)).encode()])[0] == {"m"}
    assert "blanks" in refusal((body % ("\n" * 1200)).encode())
    assert "blanks" in outcome([(body % ("\t" * 100_000)).encode()])


@pytest.mark.parametrize("prefix", scan.PREFIXES)
def test_an_id_of_every_kind_is_found_as_value_element_and_key(prefix):
    name = f"{prefix}_011CZkZAtmR3yMPDzynEDxu7"
    assert is_object_id(name)
    for document in ({"a": name}, [name], {name: 1}, {"model": {"x": [[name]]}}):
        assert run([json.dumps(document).encode()])[1] == {name}


@pytest.mark.parametrize(
    "text",
    ["file_contents", "file_path", "session_duration", "agent_description", "env_variables", "file_id",
     "toolu_01D7FLrfh4GYq7yT1ULFeyMV", "wrkspc_011CZkZaBF1tNoB5wlCeusgy", "msg_011CZkZaBF1tNoB5wlCeusgy",
     "file_0123456", "file_01234567.txt", " file_01234567",
     "file_01234567\n", "xfile_01234567", "file_" + "1" * 129],
)  # fmt: skip
def test_words_that_merely_look_alike_are_no_ids(text):
    assert not is_object_id(text)
    assert run([json.dumps({"a": text}).encode()])[1] == set()


def test_an_agents_model_may_be_an_object():
    body = {"name": "a", "model": {"speed": "fast", "id": "claude-opus-5-5", "effort": {"type": "high"}}}
    assert run([json.dumps(body).encode()])[0] == {"claude-opus-5-5"}


def test_the_longest_match_is_found_in_the_smallest_pieces():
    name = "\\/" * 256
    body = f'{{"model"{" " * 512}:{" " * 512}"{name}", "previous_message_id": 1}}'.encode()
    assert run([body]) == run([body[i : i + 1] for i in range(len(body))]) == ({"/" * 256}, set())
    assert run([body.replace(name.encode(), name.encode() + b"x")]) == (set(), set())


def test_a_quote_within_a_text_begins_no_id_wherever_the_kept_tail_begins():
    for after in range(2000, 2100):
        scanner = Scanner()
        scanner.feed(b'{"t":"x\\"' + FILE.encode() + b'","u":"' + b"y" * after)
        scanner.feed(b'"}')
        assert scanner.ids == set()


def test_a_model_that_stands_twice_is_found_twice():
    assert run([b'{"model":"a","params":{"model":"b"},"model":"c"}'])[0] == {"a", "b", "c"}


def test_a_message_counts_only_where_a_thread_stands():
    diagnostics = {"diagnostics": {"previous_message_id": "msg_1"}}
    assert run([json.dumps(diagnostics).encode()])[1] == set()
    thread = {"thread": {"type": "continue", "previous_message_id": "msg_2"}}
    assert run([json.dumps([thread]).encode()])[1] == {"msg_2"}
    assert run([json.dumps({"previous_message_id": "msg_1", **thread}).encode()])[1] == {"msg_1", "msg_2"}


def test_more_objects_than_a_batch_can_have_are_refused(monkeypatch):
    monkeypatch.setattr(scan, "MAX_FOUND", 10)
    scanner = Scanner()
    scanner.feed(json.dumps([f"file_0000000{i}" for i in range(10)]).encode())
    with pytest.raises(ApiError) as caught:
        scanner.feed(b'"file_00000010"')
    assert caught.value.status == 400


def test_no_more_than_a_few_kilobytes_are_kept():
    scanner = Scanner()
    for piece in (b'{"a":"', b"x" * 10_000_000, b"\\" * 999_999, b" " * 1_000_000, b'n","model":"m"'):
        scanner.feed(piece)
        kept = sum(sys.getsizeof(getattr(scanner, name)) for name in Scanner.__slots__ if name != "_pattern")
        assert kept < 4096
    assert scanner.models == {"m"}


@pytest.mark.parametrize("models", [True, False])
def test_without_models_the_same_ids_are_found(models):
    scanner = Scanner(models=models)
    named = {"model": "claude-opus-5", "thread": {"type": "continue", "previous_message_id": "msg_1"}, "id": FILE}
    scanner.feed(json.dumps([named, {"model": {"id": "claude-haiku-4-5"}}]).encode())
    assert scanner.ids == {FILE, "msg_1"}
    assert scanner.models == ({"claude-opus-5", "claude-haiku-4-5"} if models else set())
