"""Which conversation a request belongs to: a keyed digest of the first identity it carries.

A conversation means nothing outside its caller, and its raw name is stored nowhere: what leaves this module is an HMAC
over length-prefixed fields. It does not know where conversations live.
"""

from __future__ import annotations

import hmac
import re
from functools import lru_cache
from typing import Any

import msgspec

from gateway.core.wire.peek import Peek
from gateway.errors import ApiError

KEY_BYTES = 16
MAX_ID = 8192  # bytes of a conversation id that a client names
_MAX_SESSION = 256  # characters of one that is found in a body
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_LEGACY_SESSION = re.compile(r"_session_([0-9a-fA-F-]{8,64})$")
_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.decode
_raw_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_BILLING = "x-anthropic-billing-header:"


@lru_cache(maxsize=4)
def _keyed(secret: bytes) -> hmac.HMAC:
    return hmac.new(secret, digestmod="sha256")


def key(secret: bytes, caller: str, kind: bytes, value: bytes) -> bytes:
    """The 16-byte conversation key of (caller, kind, value)."""
    owner = caller.encode()
    mac = _keyed(secret).copy()  # a third of the cost of keying anew
    mac.update(b"%d:%s%d:%s%d:%s" % (len(owner), owner, len(kind), kind, len(value), value))
    return mac.digest()[:KEY_BYTES]


def check_id(value: bytes, header: str) -> bytes:
    """A client's conversation id as it came: any bytes but control characters. Raises ApiError(400) for these, and if
    it is too long."""
    if len(value) > MAX_ID:
        raise ApiError(400, f"{header}: at most {MAX_ID} bytes are allowed")
    if _CONTROL.search(value):
        raise ApiError(400, f"{header}: control characters are not allowed")
    return value


def identify(
    secret: bytes, caller: str, conversation_id: bytes, session_id: bytes, agent_id: bytes, peek: Peek | None
) -> bytes | None:
    """The conversation key of a request, or None where it has no conversation.

    `conversation_id` is the affinity header, `session_id` and `agent_id` Claude Code's headers; b"" where absent. The
    body counts only after them: the session inside `metadata.user_id`, else a digest of what stays the same from turn
    to turn. Never the system prompt or the user id alone.
    """
    if conversation_id:
        return key(secret, caller, b"header", conversation_id)
    if session_id:
        return key(secret, caller, b"session", session_id + b"\0" + agent_id if agent_id else session_id)
    if peek is None or "messages" not in peek.fields:
        return None
    user_id = peek.user_id
    if user_id:
        session = _session_in(user_id)
        if session:
            return key(secret, caller, b"session", session.encode())
    return _by_prefix(secret, caller, user_id, peek)


def _session_in(user_id: str) -> str:
    """The session named by a `metadata.user_id` of Claude Code: JSON with `session_id`, or `…_session_<uuid>`."""
    if user_id.startswith("{"):
        try:
            fields = _decode(user_id)
        except (msgspec.DecodeError, RecursionError):
            return ""
        session = fields.get("session_id")
        return session[:_MAX_SESSION] if isinstance(session, str) else ""
    match = _LEGACY_SESSION.search(user_id)
    return match[1] if match else ""


def _by_prefix(secret: bytes, caller: str, user_id: str, peek: Peek) -> bytes | None:
    try:
        messages = _raw_items(peek.fields["messages"])
        if not messages:
            return None
        # Turns may be many: decode no more of them than up to the first user message.
        decoded = (_decode(raw) for raw in messages)
        users = (m for m in decoded if isinstance(m, dict) and m.get("role") == "user")
        first = next(users, None) or _decode(messages[0])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    content = first.get("content") if isinstance(first, dict) else first
    if not _blocks(content):
        return None  # nothing would be left but what all conversations of an application share
    system = [
        block
        for block in _blocks(peek.value("system"))
        if not (isinstance(block, dict) and str(block.get("text", "")).startswith(_BILLING))
    ]
    parts = [user_id, peek.value("tools"), system, _blocks(content)]
    try:
        return key(secret, caller, b"prefix", _encode(_without_cache_control(parts)))
    except RecursionError:
        return None


def _blocks(content: Any) -> list[Any]:
    """Content as a list of blocks: the short form, a string, means one text block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content if isinstance(content, list) else []


def _without_cache_control(value: Any) -> Any:
    """The value without any `cache_control`, which clients move from turn to turn."""
    if isinstance(value, dict):
        return {name: _without_cache_control(item) for name, item in value.items() if name != "cache_control"}
    if isinstance(value, list):
        return [_without_cache_control(item) for item in value]
    return value
