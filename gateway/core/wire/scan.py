"""Looking through a JSON body that passes in pieces, for models and ids of account-bound objects, without holding it.

Models are the string values of every key `model`, up to 256 characters; since an agent's model may be an object, also
those of a key `id` that begin with `claude-`. Ids are found by their shape alone, whatever they are the value of: a
whole JSON string that `is_object_id`. So nobody can smuggle one past it under another key, and whoever keeps owners
should keep no id that has another shape. A message's id is no object; it counts as `previous_message_id` in a body that
also has a `thread`.

JSON must be written plainly: in UTF-8 without a byte order mark, with letters, digits, underscores and hyphens as
themselves rather than as `\\uXXXX`, as every encoder does. It is not checked otherwise: that is the upstream's work.
"""

from __future__ import annotations

import re

import msgspec

from gateway.errors import ApiError

# What Anthropic's API puts before an id's underscore, for objects that can be named on their own.
PREFIXES = (
    "agent", "container", "depl", "drm", "drun", "env", "file", "memstore", "msgbatch", "sesn", "session", "skill",
    "tnl", "uprof", "vlt",
)  # fmt: skip
MAX_FOUND = 100_000  # of either kind: as many as a batch has items

_TAIL = 2048  # bytes kept of what passed: more than any match is long
_BLANKS = 512  # between a key and its value, at most

# Generated ids hold digits or capitals; words that merely begin alike (`file_contents`) do not.
_ID = r"(?=[a-z_-]*[A-Z0-9])[A-Za-z0-9_-]{8,128}"
_object_id = re.compile(rf"(?:{'|'.join(PREFIXES)})_{_ID}").fullmatch

# No candidate contains a quote, so each quote of the body is looked at on its own, wherever the pieces were cut.
_OBJECTS = tuple(prefix.encode() + b'_(?=%s")' % _ID.encode() for prefix in PREFIXES)


def _candidates(words: tuple[bytes, ...]) -> re.Pattern[bytes]:
    letters = bytes(sorted({word[0] for word in words}))
    return re.compile(b'"(?=[%s])(?:%s)' % (letters, b"|".join(words)))


_KEYS = (b'model(?=")', b'thread(?=")', b'previous_message_id(?=")', b'id(?=")(?!": ?"[^c])')  # most ids are no model's
_MODELS = _candidates(_KEYS)
_ALL = _candidates(_KEYS + _OBJECTS)
_IDS = _candidates(_KEYS[1:3] + _OBJECTS)
_WHOLE_ID = re.compile(rb'"([A-Za-z0-9_-]+)"')
_VALUE = re.compile(
    rb'"(?P<key>\w+)"[ \t\r\n]{0,%d}+(?:(?P<blank>[ \t\r\n])|:[ \t\r\n]{0,%d}+' % (_BLANKS, _BLANKS)
    + rb'(?:(?P<more>[ \t\r\n])|\{|(?P<text>"(?:[^"\\]|\\.){0,256}+")))',
    re.DOTALL,
)
_LETTER = re.compile(rb"\\u00(?:2[Dd]|3[0-9]|[46][1-9A-Fa-f]|5[0-9AaFf]|7[0-9Aa])")
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_string = msgspec.json.Decoder(str).decode


def is_object_id(text: str) -> bool:
    """Whether a Scanner would take this string for the id of an account-bound object."""
    return _object_id(text) is not None


class Scanner:
    """Feed it the body's pieces, cut anywhere. `models` and `ids` hold what was found so far; without either, only
    the other is looked for. Memory: a few KiB and what was found."""

    __slots__ = ("_begin", "_escape", "_messages", "_pattern", "_same", "_tail", "_thread", "ids", "models")

    def __init__(self, ids: bool = True, models: bool = True) -> None:
        self.models: set[str] = set()
        self.ids: set[str] = set()
        self._pattern = (_ALL if models else _IDS) if ids else _MODELS
        self._messages: set[str] = set()
        self._thread = False
        self._same = b"\0"  # a key and its value as they were found before: a batch repeats them in every item
        self._begin = b""
        self._tail = b""
        self._escape = b""

    def feed(self, data: bytes) -> None:
        """Look through the next piece. Raises ApiError(400) for JSON that is not written plainly."""
        if len(self._begin) < 3:
            self._begin = (self._begin + data[:3])[:3]
        if b"\0" in data or self._begin.startswith(_MARKS):
            raise ApiError(400, "The request body must be JSON in UTF-8, without a byte order mark")
        self._refuse_escaped_letters(data)
        text = self._tail + data
        # The first byte of a full tail only tells whether the quote behind it is escaped.
        for match in self._pattern.finditer(text, len(self._tail) == _TAIL):
            start = match.start()
            if text.startswith(self._same, start) or (start and text[start - 1] == 0x5C):
                continue
            if match[0].endswith(b"_"):
                self.ids.add(_WHOLE_ID.match(text, start)[1].decode())  # type: ignore[index]
            else:
                self._take_value(text, start)
        self._tail = text[-_TAIL:]
        if self._thread and self._messages:
            self.ids |= self._messages
            self._messages.clear()
        if max(len(self.ids), len(self.models), len(self._messages)) > MAX_FOUND:
            raise ApiError(400, f"The request body names more than {MAX_FOUND} objects or models")

    def _take_value(self, text: bytes, start: int) -> None:
        match = _VALUE.match(text, start)
        if match is None:
            return
        key, value = match["key"], match["text"]
        if match["blank"] or match["more"]:
            raise ApiError(400, f"{key.decode()}: more than {_BLANKS} blanks stand behind it")
        if value is None:
            self._thread = self._thread or key == b"thread"
        elif key == b"previous_message_id":
            if self._pattern is not _MODELS:
                self._messages.add(_decode(value))
        elif key == b"model" or (key == b"id" and _decode(value).startswith("claude-")):
            self.models.add(_decode(value))
            self._same = match[0]

    def _refuse_escaped_letters(self, data: bytes) -> None:
        text = self._escape + data
        self._escape = b""
        last = text[-5:]
        if b"\\u00" in text or b"\\" in last:
            text = text.replace(b"\\\\", b"--")  # an escaped backslash escapes nothing: now every other one does
            if _LETTER.search(text):
                raise ApiError(400, "The request body holds letters, digits, underscores or hyphens as \\uXXXX escapes")
            begun = text.rfind(b"\\", -5)
            if begun >= 0:
                self._escape = text[begun:]


def _decode(literal: bytes) -> str:
    try:
        return _string(literal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return literal[1:-1].decode(errors="replace")
