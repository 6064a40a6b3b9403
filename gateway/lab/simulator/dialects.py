"""Other manners of asking the model: the OpenAI compatibility and the old Text Completions.

Pure. Each turns its body into a Messages body, and the composed answer into its own shape.
"""

from typing import Any, Protocol

import msgspec

from gateway.lab.simulator.answer import Composition, Step, event
from gateway.lab.simulator.errors import ERROR_TYPES, ApiError
from gateway.lab.simulator.settings import Settings

__all__ = ["CHAT", "COMPLETIONS", "Asked", "Dialect", "openai_error"]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Asked(msgspec.Struct, frozen=True):
    """A request: the Messages body it amounts to, and the fields that shape its answer."""

    messages: bytes
    model: str
    stream: bool = False
    include_usage: bool = False


class Dialect(Protocol):
    """One manner of asking."""

    def read(self, data: bytes) -> Asked:
        """The request; `ApiError` 400 if it is none."""

    def answer(self, asked: Asked, made: Composition, ident: str, tokens: int, created: int) -> bytes:
        """The whole answer; `tokens` is the input, `created` seconds since the epoch."""

    def events(
        self, asked: Asked, made: Composition, ident: str, tokens: int, created: int, settings: Settings
    ) -> list[Step]:
        """The answer as a stream."""


class _Chat:
    """`/v1/chat/completions`."""

    def read(self, data: bytes) -> Asked:
        given = _object(data)
        messages = given.get("messages")
        if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
            raise ApiError(400, "messages: Field required")
        system = "\n".join(_text(one) for one in messages if one.get("role") in ("system", "developer"))
        turns = [
            {"role": "assistant" if one.get("role") == "assistant" else "user", "content": _text(one)}
            for one in messages
            if one.get("role") not in ("system", "developer")
        ]
        options = given.get("stream_options")
        limit = given.get("max_completion_tokens") or given.get("max_tokens") or 4096
        body = {"model": given.get("model"), "max_tokens": limit, "messages": turns}
        return Asked(
            _encode(body | {"system": system} if system else body),
            str(given.get("model")),
            given.get("stream") is True,
            isinstance(options, dict) and options.get("include_usage") is True,
        )

    def answer(self, asked: Asked, made: Composition, ident: str, tokens: int, created: int) -> bytes:
        message = {"role": "assistant", "content": _whole_text(made), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(made)}
        shape = {"id": f"chatcmpl-{ident}", "object": "chat.completion", "created": created, "model": asked.model}
        return _encode(shape | {"choices": [choice], "usage": _chat_usage(made, tokens)})

    def events(
        self, asked: Asked, made: Composition, ident: str, tokens: int, created: int, settings: Settings
    ) -> list[Step]:
        shape = {"id": f"chatcmpl-{ident}", "object": "chat.completion.chunk", "created": created, "model": asked.model}

        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            return b"data: %b\n\n" % _encode(
                shape | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}
            )

        steps: list[Step] = [(0.0, chunk({"role": "assistant", "content": ""}), 0)]
        steps += [(wait, chunk({"content": text}), count) for wait, text, count in _paced(made, settings)]
        steps.append((0.0, chunk({}, _finish(made)), made.output_tokens))
        if asked.include_usage:
            last = shape | {"choices": [], "usage": _chat_usage(made, tokens)}
            steps.append((0.0, b"data: %b\n\n" % _encode(last), made.output_tokens))
        steps.append((0.0, b"data: [DONE]\n\n", made.output_tokens))
        return steps


class _Completions:
    """`/v1/complete`."""

    def read(self, data: bytes) -> Asked:
        given = _object(data)
        prompt, limit = given.get("prompt"), given.get("max_tokens_to_sample")
        if not isinstance(prompt, str):
            raise ApiError(400, "prompt: Field required")
        if not isinstance(limit, int):
            raise ApiError(400, "max_tokens_to_sample: Field required")
        body = {"model": given.get("model"), "max_tokens": limit, "messages": [{"role": "user", "content": prompt}]}
        return Asked(_encode(body), str(given.get("model")), given.get("stream") is True)

    def answer(self, asked: Asked, made: Composition, ident: str, tokens: int, created: int) -> bytes:
        return _encode(self._shape(asked, ident, _whole_text(made), _old_stop(made)))

    def events(
        self, asked: Asked, made: Composition, ident: str, tokens: int, created: int, settings: Settings
    ) -> list[Step]:
        steps: list[Step] = [
            (wait, event("completion", self._shape(asked, ident, text, None)), count)
            for wait, text, count in _paced(made, settings)
        ]
        steps.append((0.0, event("completion", self._shape(asked, ident, "", _old_stop(made))), made.output_tokens))
        return steps

    @staticmethod
    def _shape(asked: Asked, ident: str, text: str, stop: str | None) -> dict[str, Any]:
        made = {"type": "completion", "id": f"compl_{ident}", "completion": text, "stop_reason": stop}
        return made | {"model": asked.model, "stop": None, "log_id": f"compl_{ident}"}


CHAT: Dialect = _Chat()
COMPLETIONS: Dialect = _Completions()


def openai_error(body: bytes, status: int) -> bytes:
    """An error body of the upstream in the shape that the OpenAI API has; any other body stays as it is."""
    try:
        error = _decode(body)["error"]
        message, kind = error["message"], error["type"]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return body
    code = (error.get("details") or {}).get("error_code") or ERROR_TYPES.get(status, (kind, ""))[0]
    return _encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


def _object(data: bytes) -> dict[str, Any]:
    try:
        return _decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(400, f"The request body is not a valid JSON object: {error}") from error


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _whole_text(made: Composition) -> str:
    return "".join(part.text for part in made.parts if part.kind == "text")


def _paced(made: Composition, settings: Settings) -> list[tuple[float, str, int]]:
    """(seconds before, text, output tokens so far) of each event."""
    words = [word for part in made.parts if part.kind == "text" for word in part.words]
    size, pace = max(1, settings.tokens_per_event), settings.tokens_per_second
    found = []
    for at in range(0, len(words), size):
        some = words[at : at + size]
        text = ("" if at == 0 else " ") + " ".join(some)
        found.append((len(some) / pace if pace else 0.0, text, at + len(some)))
    return found


def _chat_usage(made: Composition, tokens: int) -> dict[str, Any]:
    output = made.output_tokens
    return {"prompt_tokens": tokens, "completion_tokens": output, "total_tokens": tokens + output}


def _finish(made: Composition) -> str:
    return "length" if made.stop_reason == "max_tokens" else "stop"


def _old_stop(made: Composition) -> str:
    return "max_tokens" if made.stop_reason == "max_tokens" else "stop_sequence"
