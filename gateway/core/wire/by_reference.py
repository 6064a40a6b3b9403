"""What a Messages body has an account read that is not in it as text: documents and images by URL or id, files,
containers, threads; and encoded ones, whose size says little of their tokens.

For budgets, which must reserve before anybody has counted. It does not know what a token costs.
"""

from __future__ import annotations

import re
from typing import Any

from gateway.core.wire.peek import ENCODED_COUNTS, SOURCE, Peek

DOCUMENT = 100_000  # tokens that a document, file, container or thread counts for, as nobody knows its length
IMAGE = 5_000  # tokens of an image, at most

_BYTES_A_TOKEN = 3  # of an encoded document, at least; one that is longer than DOCUMENT says counts as one by reference
_COUNTED = ENCODED_COUNTS // 4  # tokens of an encoded part that are counted as text
_PDF = b"JVBER"  # what encoded PDFs begin with
_BY_URL = re.compile(rb'"type"[ \t\r\n]*:[ \t\r\n]*"url"')
_ESCAPED = re.compile(rb"\\u00(?:[46][1-9A-Fa-f]|5[0-9AaFf]|7[0-9Aa])")  # a letter, which no encoder escapes
_NAMED = frozenset((b'"file_id"', b'"image_url"', SOURCE))
_FIELDS = ("messages", "system")


def tokens_elsewhere(peek: Peek, context: int, chat: bool = False) -> int:
    """Tokens that such content may have beyond what `peek.text_size` counts of it; all together no more than the
    model's `context`. `chat`: the body is one of OpenAI's chat completions. A body without such content costs a few
    searches for words. Raises ApiError(400) for a field that nobody can read."""
    fields, body = peek.fields, peek.body
    if not (peek.encoded or peek.escapes or "container" in fields or "thread" in fields) and _NAMED.isdisjoint(
        peek.words
    ):
        return 0
    document = min(DOCUMENT, context)
    tokens = 0
    for begin, end in peek.encoded:
        pdf = peek.body.startswith(_PDF, begin)
        tokens += (min(document, (end - begin) // _BYTES_A_TOKEN) if pdf else IMAGE) - _COUNTED
    tokens += document * ("container" in fields)
    if "thread" in fields:
        thread = peek.sure("thread")
        tokens += document * (isinstance(thread, dict) and thread.get("type") == "continue")
    if (
        b'"file_id"' in peek.words
        or (SOURCE in peek.words and _BY_URL.search(body))
        or (chat and b'"image_url"' in peek.words)
        or (peek.escapes and _ESCAPED.search(body))
    ):
        documents, images = _walk([peek.sure(name) for name in _FIELDS])
        tokens += documents * document + images * IMAGE
    return max(0, min(tokens, context))


def _walk(rest: list[Any]) -> tuple[int, int]:
    """How many documents and images there are by reference."""
    documents = images = 0
    while rest:  # no recursion: a result may hold documents, which hold images
        value = rest.pop()
        if isinstance(value, list):
            rest += value
        elif isinstance(value, dict):
            kind = value.get("type")
            source = value.get("source")
            if isinstance(source, dict) and source.get("type") in ("url", "file"):
                images += kind == "image"
                documents += kind != "image"
            elif kind == "container_upload" or (kind == "file" and _names_a_file(value.get("file"))):
                documents += 1
            elif kind == "image_url" and not _by_value(value.get("image_url")):
                images += 1
            rest += [each for name, each in value.items() if name != "input" or not str(kind).endswith("tool_use")]
    return documents, images


def _names_a_file(value: Any) -> bool:
    return isinstance(value, dict) and "file_id" in value


def _by_value(image: Any) -> bool:
    url = image.get("url") if isinstance(image, dict) else image
    return isinstance(url, str) and url.startswith("data:")
