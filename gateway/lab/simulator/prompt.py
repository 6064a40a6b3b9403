"""Reads a Messages body into what the rest needs: positions of the cacheable prefix, their tokens, breakpoints.

Pure but for a memo: a block that was seen before costs one hash and one look-up. A position is one tool, one system
block or one content block of a message, in that order. Its identity never depends on `cache_control`, on key order
or on whether plain text was sent as a string or as a text block.
"""

from hashlib import sha256
from itertools import pairwise
from typing import Any, Literal

import msgspec

from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.references import References, Uses, references, uses

__all__ = ["Body", "Breakpoint", "Prompt", "Reader"]

TTL = {"5m": 300.0, "1h": 3600.0}
IMAGE_TOKENS = 1600
MEMO_BLOCKS = 65_536
MEMO_BODY = 8_192  # bytes; larger ones are not worth remembering whole
MEMO_BODIES = 4_096
BILLING_HEADER = b"x-anthropic-billing-header:"

_encode_sorted = msgspec.json.Encoder(order="deterministic").encode
_decode_any = msgspec.json.Decoder().decode


class _Message(msgspec.Struct, gc=False):
    role: Literal["user", "assistant", "system"]
    content: str | list[msgspec.Raw]


class _CacheControl(msgspec.Struct, frozen=True, gc=False):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class Body(msgspec.Struct):
    """The fields of a Messages request that change its answer; all others are accepted and ignored."""

    model: str
    messages: list[_Message]
    max_tokens: int | None = None
    stream: bool = False
    system: str | list[msgspec.Raw] | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    cache_control: _CacheControl | None = None
    speed: str | None = None
    inference_geo: str | None = None
    service_tier: str | None = None
    container: str | dict[str, Any] | None = None
    thread: dict[str, Any] | None = None
    temperature: Any = None
    top_p: Any = None
    top_k: Any = None


class _Block(msgspec.Struct, frozen=True, gc=False):
    digest: bytes
    tokens: int
    ttl: float | None = None  # of its cache_control
    cacheable: bool = True
    uses: Uses | None = None


class Breakpoint(msgspec.Struct, frozen=True, gc=False):
    """`position` is an index into the prefixes; `ttl` in seconds."""

    position: int
    ttl: float


class Prompt(msgspec.Struct, frozen=True):
    """`prefixes[i]` identifies everything up to and including position i, `upto[i]` counts its tokens.

    Prefixes are left empty for a request without breakpoints: nothing of it can be read or written.
    """

    body: Body
    tokens: int
    digest: bytes
    prefixes: tuple[bytes, ...] = ()
    upto: tuple[int, ...] = ()
    breakpoints: tuple[Breakpoint, ...] = ()
    references: References | None = None


_decode_body = msgspec.json.Decoder(Body).decode


class Reader:
    """Decodes bodies; remembers the digests and token counts of blocks, and small bodies that are sent again."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, _Block] = {}
        self._prompts: dict[bytes, Prompt] = {}

    def read(self, data: bytes, digest: bytes) -> Prompt:
        """The prompt of a JSON body whose SHA-256 is `digest`; `ApiError` 400 as the upstream words it."""
        known = self._prompts.get(digest)
        if known is not None:
            return known
        body = _decode(data)
        marked = b"cache_control" in data
        used: list[Uses] = []
        prompt = self._prompt(body, digest, used) if marked else Prompt(body, self._count(body, used) or 1, digest)
        found = references(body, used)
        if found is not None:
            prompt = msgspec.structs.replace(prompt, references=found)
        if len(data) <= MEMO_BODY:
            if len(self._prompts) >= MEMO_BODIES:
                self._prompts.clear()
            self._prompts[digest] = prompt
        return prompt

    def _prompt(self, body: Body, digest: bytes, used: list[Uses]) -> Prompt:
        system_salt = f"system {body.speed}".encode()
        message_salt = _encode_sorted((body.speed, body.tool_choice, body.thinking, body.output_config))
        positions = [(b"tool", self._block(raw)) for raw in body.tools or ()]
        positions += [(system_salt, block) for block in self._system(body)]
        for message in body.messages:
            salt = message.role.encode() + message_salt
            positions += [(salt, block) for block in self._content(message.content)]
        tokens = 0
        marked = body.cache_control is not None
        for _, block in positions:
            tokens += block.tokens
            if block.ttl is not None:
                marked = True
            if block.uses is not None:
                used.append(block.uses)
        if not marked:
            return Prompt(body, tokens or 1, digest)
        chain, running = b"", 0
        prefixes, upto = [], []
        for salt, block in positions:
            chain = sha256(b"\0".join((chain, salt, block.digest))).digest()
            running += block.tokens
            prefixes.append(chain)
            upto.append(running)
        breakpoints = _breakpoints(body.cache_control, [block for _, block in positions])
        return Prompt(body, tokens or 1, digest, tuple(prefixes), tuple(upto), breakpoints)

    def _count(self, body: Body, used: list[Uses]) -> int:
        """The tokens of a body without breakpoints, for which no prefix has to be identified."""
        tokens = 0
        for raw in body.tools or ():
            block = self._block(raw)
            tokens += block.tokens
            if block.uses is not None:
                used.append(block.uses)
        if isinstance(body.system, str):
            tokens += _text_tokens(body.system) if body.system else 0
        elif body.system is not None:
            tokens += sum([block.tokens for block in self._system(body)])
        for message in body.messages:
            content = message.content
            if isinstance(content, str):
                tokens += _text_tokens(content)
            else:
                for raw in content:
                    block = self._block(raw)
                    tokens += block.tokens
                    if block.uses is not None:
                        used.append(block.uses)
        return tokens

    def _system(self, body: Body) -> list[_Block]:
        if body.system is None:
            return []
        if isinstance(body.system, str):
            return [_text(body.system)] if body.system else []
        raws = body.system
        # The upstream drops this block when, and only when, it comes first and by itself.
        if raws and BILLING_HEADER in bytes(raws[0])[:128]:
            raws = raws[1:]
        return [self._block(raw) for raw in raws]

    def _content(self, content: str | list[msgspec.Raw]) -> list[_Block]:
        return [_text(content)] if isinstance(content, str) else [self._block(raw) for raw in content]

    def _block(self, raw: msgspec.Raw) -> _Block:
        key = sha256(raw).digest()
        block = self._blocks.get(key)
        if block is None:
            block = _read_block(raw)
            if len(self._blocks) >= MEMO_BLOCKS:
                self._blocks.clear()
            self._blocks[key] = block
        return block


def _decode(data: bytes) -> Body:
    try:
        body = _decode_body(data)
    except msgspec.ValidationError as error:
        raise ApiError(400, _wording(str(error))) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from error
    if not body.messages:
        raise ApiError(400, "messages: at least one message is required")
    return body


def _wording(text: str) -> str:
    """A decoder's complaint in the upstream's manner, `field: what is wrong`."""
    if "missing required field" in text:
        return text.split("`")[1] + ": Field required"
    message, _, path = text.partition(" - at `$")
    return f"{path.strip('`.') or 'body'}: {message}"


def _text(text: str) -> _Block:
    canonical = _encode_sorted({"text": text, "type": "text"})
    return _Block(sha256(canonical).digest(), _text_tokens(text))


def _text_tokens(text: str) -> int:
    return (len(text.encode()) >> 2) + 1


def _read_block(raw: msgspec.Raw) -> _Block:
    try:
        block = _decode_any(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from error
    if not isinstance(block, dict):
        raise ApiError(400, "messages: Input should be a valid dictionary")
    ttl = _pop_ttl(block)
    nested = block.get("content")
    if isinstance(nested, list):
        for inner in nested:
            if isinstance(inner, dict):
                ttl = _pop_ttl(inner) or ttl
    canonical = _encode_sorted(block)
    kind = block.get("type")
    tokens = (len(canonical) >> 2) + 1
    if kind == "text" and isinstance(block.get("text"), str):
        tokens = _text_tokens(block["text"])
    elif kind == "image":
        tokens = min(tokens, IMAGE_TOKENS)
    cacheable = kind not in ("thinking", "redacted_thinking")
    return _Block(sha256(canonical).digest(), tokens, ttl, cacheable, uses(block))


def _pop_ttl(block: dict[str, Any]) -> float | None:
    control = block.pop("cache_control", None)
    if control is None:
        return None
    try:
        return TTL[msgspec.convert(control, _CacheControl).ttl]
    except msgspec.ValidationError as error:
        raise ApiError(400, f"cache_control: {error}") from error


def _breakpoints(automatic: _CacheControl | None, blocks: list[_Block]) -> tuple[Breakpoint, ...]:
    found = [Breakpoint(index, block.ttl) for index, block in enumerate(blocks) if block.ttl is not None]
    count = len(found) + (automatic is not None)
    if count > 4:
        raise ApiError(400, f"A maximum of 4 blocks with cache_control may be provided. Found {count}.")
    if automatic is not None:
        last = max((index for index, block in enumerate(blocks) if block.cacheable), default=None)
        if last is not None and all(point.position != last for point in found):
            found.append(Breakpoint(last, TTL[automatic.ttl]))
            found.sort(key=lambda point: point.position)
    for earlier, later in pairwise(found):
        if later.ttl > earlier.ttl:
            raise ApiError(
                400,
                "cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.",
            )
    return tuple(found)
