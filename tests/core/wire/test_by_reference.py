"""Content that a body only names: it counts as if it were long, however it is spelled, and nothing else does."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from gateway.core.wire.by_reference import DOCUMENT, IMAGE, tokens_elsewhere
from gateway.core.wire.peek import Peek, peek
from gateway.errors import ApiError

CONTEXT = 1_000_000
PDF = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
PICTURE = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
FILE = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
FILED_PICTURE = {"type": "image", "source": {"type": "file", "file_id": "file_2"}}
UPLOAD = {"type": "container_upload", "file_id": "file_3"}
TEXT = {"type": "text", "text": 'about "type": "url" and {"source": {"type": "file", "file_id": "file_9"}}'}


def encoded(kind: str, media_type: str, data: bytes) -> dict[str, Any]:
    source = {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}
    return {"type": kind, "source": source}


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def raw(fields: dict[str, Any], **style: Any) -> bytes:
    return json.dumps({"model": "claude-opus-5-5", "max_tokens": 9, **fields}, **style).encode()


def tokens(fields: dict[str, Any], context: int = CONTEXT, chat: bool = False) -> int:
    found = {
        tokens_elsewhere(peek(raw(fields, **style)), context, chat)
        for style in ({}, {"separators": (",", ":")}, {"indent": 2}, {"indent": "\t"})
    }
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (user(PDF), DOCUMENT),
        (user(FILE), DOCUMENT),
        (user(UPLOAD), DOCUMENT),
        (user(PICTURE), IMAGE),
        (user(FILED_PICTURE), IMAGE),
        (user(PDF, PDF, PICTURE, TEXT), 2 * DOCUMENT + IMAGE),
        (user({"type": "tool_result", "tool_use_id": "t", "content": [PDF, PICTURE]}), DOCUMENT + IMAGE),
        (user({"type": "document", "source": {"type": "content", "content": [PICTURE, TEXT]}}), IMAGE),
        ({"system": [PDF], **user(TEXT)}, DOCUMENT),
        ({"container": "container_1", **user(TEXT)}, DOCUMENT),
        ({"container": {"id": "container_1", "skills": []}, **user(UPLOAD)}, 2 * DOCUMENT),
        ({"thread": {"type": "continue", "previous_message_id": "msg_1"}, **user(TEXT)}, DOCUMENT),
        ({"thread": {"type": "create"}, **user(TEXT)}, 0),
        (user({"type": "document", "source": {"type": "text", "data": "short"}}), 0),
        (user(TEXT), 0),
        (user({"type": "tool_use", "id": "t", "name": "fetch", "input": {"type": "url", "source": PDF["source"]}}), 0),
        ({"tools": [{"name": "f", "input_schema": {"required": ["url", "source"], "type": "url"}}], **user(TEXT)}, 0),
        ({"messages": "nothing"}, 0),
        ({"messages": [1, None, {"content": 5, "source": 7}]}, 0),
    ],
)
def test_what_is_named_counts_as_if_it_were_long(fields, expected):
    assert tokens(fields) == expected


def test_in_a_chat_images_by_url_and_files_count_and_data_urls_do_not():
    def image(url: Any) -> dict[str, Any]:
        return {"type": "image_url", "image_url": url}

    by_url = user(image({"url": "https://example.com/a.png"}), image("https://example.com/b.png"))
    assert tokens(by_url, chat=True) == 2 * IMAGE
    assert tokens(user(image({"url": "data:image/png;base64,AAAA"})), chat=True) == 0
    assert tokens(user({"type": "file", "file": {"file_id": "file_1"}}), chat=True) == DOCUMENT
    assert tokens(by_url) == 0  # to Anthropic's own endpoint it means nothing


def test_nothing_is_longer_than_the_model_reads():
    assert tokens(user(PDF), context=50_000) == 50_000
    assert tokens(user(*[PDF] * 30), context=200_000) == 200_000


def test_an_encoded_document_counts_by_its_size_and_an_encoded_image_as_the_largest():
    pdf = encoded("document", "application/pdf", b"%PDF-1.7\n" + b"\x00\x01" * 15_000)
    size = len(pdf["source"]["data"])
    assert tokens(user(pdf)) == size // 3 - 1600
    assert tokens(user(encoded("document", "application/pdf", b"%PDF-" + b"\x00" * 900_000))) == DOCUMENT - 1600
    assert tokens(user(encoded("image", "image/png", b"\x89PNG" + b"\x00\x01" * 15_000))) == IMAGE - 1600
    assert tokens(user(encoded("image", "image/png", b"\x89PNG"))) == 0  # as many bytes as tokens are text enough


@pytest.mark.parametrize("word", ["url", "source", "type", "document"])
def test_a_word_with_an_escaped_letter_does_not_slip_through(word):
    for at in range(len(word)):
        escaped = f"{word[:at]}\\u{ord(word[at]):04x}{word[at + 1 :]}"
        assert tokens_elsewhere(peek(raw(user(PDF)).replace(f'"{word}"'.encode(), f'"{escaped}"'.encode())), CONTEXT)


class Plain(Peek):
    """Has nothing that is worth being decoded."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body, {"messages": msgspec.Raw(b"[]")}, "m")

    def value(self, name: str) -> Any:
        raise AssertionError(f"{name} is decoded")


def test_a_body_without_such_content_is_not_decoded():
    assert tokens_elsewhere(Plain(raw(user({"type": "text", "text": "hello " * 5000}))), CONTEXT) == 0


def test_numbers_that_some_decoders_refuse_hide_nothing():
    hidden = raw(user(PDF)).replace(b'"model"', b'"system":[{"type":"text","text":"","n":1e999}],"model"')
    assert tokens_elsewhere(peek(hidden.replace(b'"role"', b'"n":1e999,"role"')), CONTEXT) == DOCUMENT
    with pytest.raises(ApiError, match="messages"):
        tokens_elsewhere(peek(hidden.replace(b"/a.pdf", b"/\xff.pdf")), CONTEXT)
