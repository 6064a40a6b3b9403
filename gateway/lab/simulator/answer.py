"""The simulated model: which text it answers, as one JSON message or as server-sent events.

Pure and deterministic: the same last message at the same place of a conversation gets the same answer, whichever
account is asked and whether or not it is streamed.
"""

import random
from typing import Any
from zlib import crc32

import msgspec

from gateway.lab.simulator.cache import CachePlan
from gateway.lab.simulator.prompt import Body, Prompt
from gateway.lab.simulator.settings import Settings

__all__ = ["PING", "Composition", "Step", "compose", "error_event", "event", "events", "message", "usage"]

Step = tuple[float, bytes, int]
"""(seconds to wait before, bytes, output tokens produced so far)."""

_LEXICON = """
    the a of and to in is that it for was with as be by on not he this are or his from at which but have an had
    they you were their one all we can has there been if more when will would who so no cache prompt model token
    account stream answer naïve café façade Zürich → 日本 данные ✓ 🙂 time work over such only then them even most
"""
_CYCLE = 4096
_WORDS = random.Random(7).choices(_LEXICON.split(), k=_CYCLE)
_WORDS_TWICE = _WORDS * 2
_PHRASE = "use the tool"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'

_START = b'{"id":"%b","type":"message","role":"assistant","model":%b,"content":['
_END = b'],"stop_reason":"%b","stop_sequence":null,"usage":'

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Part(msgspec.Struct):
    """One content block. `words` is its text by token (for a tool: pieces of its input's JSON), `text` all of it.

    A `whole` one is a finished `block`: it comes in one piece, without deltas.
    """

    kind: str
    words: list[str]
    name: str = ""
    ident: str = ""
    text: str = ""
    block: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.text = ("" if self.kind == "tool_use" else " ").join(self.words)


class Composition(msgspec.Struct, frozen=True):
    """An answer before it is written down."""

    parts: list[Part]
    stop_reason: str
    output_tokens: int


def compose(prompt: Prompt, settings: Settings) -> Composition:
    """The answer to a prompt, at most its `max_tokens` long."""
    body = prompt.body
    last = body.messages[-1].content
    raw = last.encode() if isinstance(last, str) else b"".join(map(bytes, last))
    seed = crc32(raw, len(body.messages))
    length = settings.answer_tokens
    if isinstance(length, tuple):
        length = length[0] + seed % (length[1] - length[0] + 1)
    room = body.max_tokens or 0
    parts = []
    if body.thinking is not None and body.thinking.get("type") in ("enabled", "adaptive") and room:
        words = _words(seed + 1, min(max(1, length // 2), room))
        room -= len(words)
        parts.append(Part("thinking", words, ident=f"sim{seed:08x}" * 4))
    words = _words(seed, min(length, room))
    cut_short = len(words) < length
    room -= len(words)
    if words:
        parts.append(Part("text", words))
    tool = _wanted_tool(body, raw)
    stop_reason = "max_tokens" if cut_short else "end_turn"
    if tool is not None and not cut_short:
        pieces = _tool_input(tool, seed)
        if len(pieces) <= room:
            ident = f"toolu_sim{seed:08x}{len(body.messages):06d}"
            parts.append(Part("tool_use", pieces, name=tool.get("name", "tool"), ident=ident))
            stop_reason = "tool_use"
    return Composition(parts, stop_reason, sum(len(part.words) for part in parts))


def _words(seed: int, count: int) -> list[str]:
    start = seed % _CYCLE
    if count <= _CYCLE:
        return _WORDS_TWICE[start : start + count]
    return (_WORDS_TWICE[start : start + _CYCLE] * (count // _CYCLE + 1))[:count]


def _wanted_tool(body: Body, raw: bytes) -> dict[str, Any] | None:
    """The tool that this turn calls: named by `tool_choice`, or the first one if the user asks for it."""
    if not body.tools:
        return None
    choice = body.tool_choice or {}
    forced = choice.get("type") in ("tool", "any")
    if choice.get("type") == "none" or b'"tool_result"' in raw:
        return None
    if not forced and _PHRASE not in raw.decode("utf-8", "replace").lower():
        return None
    tools = [_decode(tool) for tool in body.tools]
    for tool in tools:
        if tool.get("name") == choice.get("name"):
            return dict(tool)
    return dict(tools[0])


def _tool_input(tool: dict[str, Any], seed: int) -> list[str]:
    """JSON that fits the required properties of the tool's schema, in pieces of one token."""
    schema = tool.get("input_schema") or {}
    properties = schema.get("properties") or {}
    made: dict[str, Any] = {}
    for name in schema.get("required") or list(properties):
        kind = (properties.get(name) or {}).get("type", "string")
        samples: dict[str, Any] = {"integer": seed % 100, "number": 0.5, "boolean": True, "array": [], "object": {}}
        made[name] = samples.get(kind, " ".join(_words(seed, 3)))
    text = _encode(made).decode()
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def usage(plan: CachePlan, output: int, body: Body, tier: str = "standard") -> dict[str, Any]:
    """The `usage` object of a message and of `message_start`; `tier` is its service tier."""
    return {
        "input_tokens": plan.fresh,
        "cache_creation_input_tokens": plan.write_5m + plan.write_1h,
        "cache_read_input_tokens": plan.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": plan.write_5m,
            "ephemeral_1h_input_tokens": plan.write_1h,
        },
        "output_tokens": output,
        "service_tier": tier,
        "inference_geo": body.inference_geo or "global",
    }


def message(
    composition: Composition,
    ident: str,
    plan: CachePlan,
    body: Body,
    container: dict[str, Any] | None = None,
    tier: str = "standard",
) -> bytes:
    """The JSON body of an answer that is not streamed."""
    parts = composition.parts
    if container is None and len(parts) == 1 and parts[0].kind == "text":
        # By far the most frequent answer; written by hand it costs half as much.
        return b"".join(
            (
                _START % (ident.encode(), _encode(body.model)),
                b'{"type":"text","text":%b}' % _encode(parts[0].text),
                _END % composition.stop_reason.encode(),
                _encode(usage(plan, composition.output_tokens, body, tier)),
                b"}",
            )
        )
    content: list[dict[str, Any]] = []
    for part in parts:
        if part.kind == "text":
            content.append({"type": "text", "text": part.text})
        elif part.kind == "thinking":
            content.append({"type": "thinking", "thinking": _thought(part, body), "signature": part.ident})
        elif part.block is not None:
            content.append(part.block)
        else:
            content.append({"type": "tool_use", "id": part.ident, "name": part.name, "input": _decode(part.text)})
    return _encode(
        {
            "id": ident,
            "type": "message",
            "role": "assistant",
            "model": body.model,
            "content": content,
            "stop_reason": composition.stop_reason,
            "stop_sequence": None,
            "usage": usage(plan, composition.output_tokens, body, tier),
        }
        | ({} if container is None else {"container": container})
    )


def _thought(part: Part, body: Body) -> str:
    """What is shown of a thinking block: nothing where the request omits it."""
    return "" if (body.thinking or {}).get("display") == "omitted" else part.text


def event(name: str, data: Any) -> bytes:
    """One server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(data))


def error_event(body: bytes) -> bytes:
    """The `error` event of an error body."""
    return b"event: error\ndata: %b\n\n" % body


def events(
    composition: Composition,
    ident: str,
    plan: CachePlan,
    body: Body,
    settings: Settings,
    container: dict[str, Any] | None = None,
) -> list[Step]:
    """The whole stream, `message_start` first; waits come from the pace, the time to the first token not included."""
    start: dict[str, Any] = {
        "id": ident,
        "type": "message",
        "role": "assistant",
        "model": body.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage(plan, min(1, composition.output_tokens), body),
    }
    steps: list[Step] = [(0.0, event("message_start", {"type": "message_start", "message": start}), 0)]
    if not composition.parts:
        steps.append((0.0, PING, 0))
    produced = 0
    for index, part in enumerate(composition.parts):
        steps.append((0.0, _block_start(index, part), produced))
        if index == 0:
            steps.append((0.0, PING, 0))
        if part.block is None:
            _deltas(steps, index, part, body, settings, produced)
        produced += len(part.words)
        steps.append((0.0, event("content_block_stop", {"type": "content_block_stop", "index": index}), produced))
    counts = {
        "input_tokens": plan.fresh,
        "cache_creation_input_tokens": plan.write_5m + plan.write_1h,
        "cache_read_input_tokens": plan.read,
        "output_tokens": produced,
    }
    delta: dict[str, Any] = {"stop_reason": composition.stop_reason, "stop_sequence": None}
    if container is not None:
        delta["container"] = container
    steps.append((0.0, event("message_delta", {"type": "message_delta", "delta": delta, "usage": counts}), produced))
    steps.append((0.0, event("message_stop", {"type": "message_stop"}), produced))
    return steps


def _block_start(index: int, part: Part) -> bytes:
    if part.block is not None:
        data = {"type": "content_block_start", "index": index, "content_block": part.block}
        return event("content_block_start", data)
    blocks: dict[str, dict[str, Any]] = {
        "text": {"type": "text", "text": ""},
        "thinking": {"type": "thinking", "thinking": "", "signature": ""},
        "tool_use": {"type": "tool_use", "id": part.ident, "name": part.name, "input": {}},
    }
    data = {"type": "content_block_start", "index": index, "content_block": blocks[part.kind]}
    return event("content_block_start", data)


_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


def _deltas(steps: list[Step], index: int, part: Part, body: Body, settings: Settings, produced: int) -> None:
    size = max(1, settings.tokens_per_event)
    pace = settings.tokens_per_second
    kind, field = _DELTAS[part.kind]
    glue = "" if part.kind == "tool_use" else " "
    before = (
        f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{index},'
        f'"delta":{{"type":"{kind}","{field}":'
    ).encode()
    hidden = part.kind == "thinking" and not _thought(part, body)
    waited = 0.0
    for at in range(0, len(part.words), size):
        words = part.words[at : at + size]
        waited += len(words) / pace if pace else 0.0
        if hidden:
            continue
        text = glue.join(words) if at == 0 else glue + glue.join(words)
        steps.append((waited, b"%b%b}}\n\n" % (before, _encode(text)), produced + at + len(words)))
        waited = 0.0
    if part.kind == "thinking":
        delta = {"type": "signature_delta", "signature": part.ident}
        data = event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})
        steps.append((waited, data, produced + len(part.words)))
