"""Reading the few fields of a request body that routing and metering need. The body itself is never rewritten.

The top level is decoded once into raw slices and then walked against the bytes: a body in which any top-level key
stands twice is refused, so that two parsers can never see two models. Nested values stay undecoded until somebody
asks. It does not know what the fields will be used for.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from gateway.errors import ApiError

_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_string = msgspec.json.Decoder(str).decode
_decode = msgspec.json.decode
_KEY = re.compile(rb'[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*')
_COMMA = re.compile(rb"[ \t\r\n]*([,}])")
_ONE_HOUR = re.compile(rb'"ttl"\s*:\s*"1h"')
# What may stand anywhere in a body, looked for in one pass.
_WORDS = re.compile(rb'"(?:1h|source|base64|signature|cache_control|file_id|image_url)"')
_LONGEST_WORD = 14  # bytes between its quotes, and one of them
_SPARSE = 1000  # bytes of a body for each quote that is gone to from the one before, at most
_TRUE = msgspec.Raw(b"true")
_LONG = 16 * 1024
_ENCODED = re.compile(rb"[A-Za-z0-9+/=]+")
_LONG_RUN = 8192  # bytes of an encoded part, at least
ENCODED_COUNTS = 6400  # bytes: an image is about 1,600 tokens
SOURCE = b'"source"'  # the key of every image and document that is no plain text
MAX_FIELDS = 256  # keys of a body's top level: Anthropic knows about thirty
MAX_MODEL = 256  # characters


class Peek:
    """What was read. `fields` holds the raw JSON of every top-level key; `model` is "" where none is required.

    `words` are those of _WORDS that stand anywhere in the body, `escapes` whether a character below 256 is written as
    an escape, `caches` whether anything is to be kept in a cache, `cache_ttl` the longest lifetime asked for there (300
    or 3600 seconds), `signed_thinking` whether the history holds thinking that its producer has signed. `encoded` says
    where the long encoded parts of the body begin and end; `text_size` are the bytes by which its tokens may be
    reckoned: encoded images and documents count little.
    """

    __slots__ = (
        "body", "cache_ttl", "caches", "encoded", "escapes", "fields", "model", "signed_thinking", "stream",
        "text_size", "words",
    )  # fmt: skip

    def __init__(self, body: bytes, fields: dict[str, msgspec.Raw], model: str) -> None:
        self.body = body
        self.fields = fields
        self.model = model
        words = self.words = _words_in(body)
        self.escapes = b"\\" in body and body.rfind(b"\\u00") >= 0  # faster than forwards
        self.caches = b'"cache_control"' in words
        self.cache_ttl = 3600 if b'"1h"' in words and _ONE_HOUR.search(body) else 300
        self.signed_thinking = b'"signature"' in words
        self.encoded: list[tuple[int, int]] = []
        self.text_size = len(body)
        if len(body) > _LONG and SOURCE in words and b'"base64"' in words:
            self.encoded = encoded_parts(body)
            self.text_size -= sum(max(0, end - begin - ENCODED_COUNTS) for begin, end in self.encoded)
        stream = fields.get("stream")
        self.stream = stream is not None and stream == _TRUE

    def value(self, name: str) -> Any:
        """The decoded value of a top-level field, or None where it is absent or nobody can decode it."""
        raw = self.fields.get(name)
        if raw is None:
            return None
        try:
            return _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            try:
                return _anyhow(name, bytes(raw))
            except ApiError:
                return None

    def sure(self, name: str) -> Any:
        """As `value`, but raises ApiError(400) where nobody can decode it: for what rights or prices turn on."""
        value = self.value(name)
        if value is None and name in self.fields:
            return _anyhow(name, bytes(self.fields[name]))
        return value

    @property
    def max_tokens(self) -> int:
        """The answer's limit in tokens, or 0 where it is absent or no number."""
        limit = self.value("max_tokens")
        return limit if type(limit) is int and limit > 0 else 0

    @property
    def user_id(self) -> str:
        """`metadata.user_id`, or "" ."""
        metadata = self.value("metadata")
        user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
        return user_id if isinstance(user_id, str) else ""

    def forget(self) -> None:
        """Let go of the body; what was read of it stays, the other fields are gone."""
        self.body = b""
        self.fields = {}


def peek(body: bytes) -> Peek:
    """Read a Messages body. Raises ApiError(400) in Anthropic's words for what no upstream could serve."""
    try:
        fields = _top_level(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {_plain(error)}") from None
    if len(fields) > MAX_FIELDS:
        raise ApiError(400, f"The request body has more than {MAX_FIELDS} keys at its top level")
    # Bodies as SDKs write them need not be walked: compact ones leave no room for another key by their length alone,
    # and those with a blank behind each comma and colon can be compared.
    written = sum(map(len, fields)) + sum(map(len, fields.values())) + 4 * len(fields) + 1
    if len(body) != written and not (len(body) < _LONG and body == _with_blanks(fields)):
        duplicate = _duplicate(body, fields)
        if duplicate is not None:
            raise ApiError(
                400, f"{duplicate[:MAX_MODEL]}: this key stands more than once at the top level of the request body"
            )
    raw = fields.get("model")
    if raw is None:
        raise ApiError(400, "model: Field required")
    try:
        model = _string(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ApiError(400, "model: Input should be a valid string") from None
    if not model:
        raise ApiError(400, "model: String should have at least 1 character")
    if len(model) > MAX_MODEL or not model.isprintable():
        raise ApiError(400, f"model: String should have at most {MAX_MODEL} printable characters")
    return Peek(body, fields, model)


def members_once(name: str, raw: bytes) -> dict[str, msgspec.Raw]:
    """The members of an object in the field `name`, none where it is no object. Raises ApiError(400) where one of its
    keys stands twice, so that two parsers can never see two values."""
    try:
        fields = _top_level(raw)
    except msgspec.ValidationError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"{name}: it is not valid JSON: {_plain(error)}") from None
    duplicate = _duplicate(raw, fields)
    if duplicate is not None:
        raise ApiError(400, f"{name}: {duplicate[:MAX_MODEL]}: this key stands more than once in one object")
    return fields


def encoded_parts(body: bytes, least: int = _LONG_RUN) -> list[tuple[int, int]]:
    """Where the runs of base64 begin and end that have so many bytes, at least.

    Each of them covers a multiple of `least`: nothing is looked at but what is around those, however many shorter runs
    there are."""
    found = []
    end = 0
    for at in range(0, len(body), least):
        if at < end or (run := _ENCODED.match(body, at)) is None:
            continue
        before = _ENCODED.match(body[max(end, at - least) : at][::-1])
        begin, end = at - (before.end() if before is not None else 0), run.end()
        if end - begin >= least:
            found.append((begin, end))
    return found


def _words_in(body: bytes) -> frozenset[bytes]:
    """Those of _WORDS that stand in it. In a large body with few quotes, which is mostly text, only what is near those
    is looked at."""
    found: set[bytes] = set()
    begin, spare = body.find(b'"'), len(body) // _SPARSE if len(body) > _LONG else 0
    while begin >= 0 and spare:
        end = body.find(b'"', begin + 1)
        if end - begin <= _LONGEST_WORD and _WORDS.match(body, begin):
            found.add(body[begin : end + 1])
        begin = end
        spare -= 1
    return frozenset(found.union(_WORDS.findall(body, begin)) if begin >= 0 else found)


def _anyhow(name: str, raw: bytes) -> Any:
    """A value with numbers that are too large for some decoders."""
    try:
        return json.loads(raw.decode(), parse_int=float)
    except RecursionError as error:
        raise ApiError(400, f"{name}: {_plain(error)}") from None
    except ValueError as error:
        raise ApiError(400, f"{name}: it is not valid JSON: {error}") from None


def _plain(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, msgspec.ValidationError):
        return "expected an object"
    return str(error)


def _with_blanks(fields: dict[str, msgspec.Raw]) -> bytes:
    """An object as Python's encoder writes it, where the keys need no escapes."""
    names = [name.encode(errors="surrogatepass") for name in fields]
    return b"{%b}" % b", ".join([b'"%b": %b' % member for member in zip(names, fields.values(), strict=True)])


def _duplicate(body: bytes, fields: dict[str, msgspec.Raw]) -> str | None:
    """The name of a top-level key that stands twice, or None.

    A decoder keeps one value a key, in order of first appearance. So if every key and value of the decoded mapping is
    found in the bytes one after the other, up to the closing brace, there was nothing else in between.
    """
    position = body.index(b"{") + 1
    name = ""
    for name, raw in fields.items():
        match = _KEY.match(body, position)
        if match is None:
            return name
        literal = match[1]
        if literal[1:-1] != name.encode(errors="surrogatepass"):
            found = _decode(literal)
            if found != name:
                return str(found)
        position = match.end()
        end = position + len(raw)
        if not body.startswith(memoryview(raw), position):
            return name
        match = _COMMA.match(body, end)
        if match is None:
            return name
        position = match.end()
    if not fields or match[1] == b"}":  # type: ignore[index]
        return None
    extra = _KEY.match(body, position)
    return str(_decode(extra[1])) if extra else name
