"""An app written for OpenAI's SDK, told of the gateway by base URL and key alone; prints one line of JSON.

`/v1/chat/completions` is a translation of Messages: the models are Claude's, errors come in OpenAI's shape or in
Anthropic's, and the SDK tells them apart by status.
"""

# mypy: ignore-errors

import json
import os
import traceback

import openai

MODEL = "claude-haiku-4-5"
HELLO = [{"role": "user", "content": "Hello"}]
client = openai.OpenAI(base_url=os.environ["BASE_URL"] + "/v1", api_key=os.environ["API_KEY"], max_retries=0)
conversation = {"X-Conversation-Id": os.environ["CONVERSATION"]}


def error_of(call, *args, **kwargs):
    """What a call raises, as the caller sees it; {"returned": ...} where it raises nothing."""
    try:
        return {"returned": str(call(*args, **kwargs))}
    except Exception as error:  # also those that are not the SDK's
        seen = {"class": type(error).__name__, "message": str(error)[:200]}
        if isinstance(error, openai.APIStatusError):
            seen |= {"status": error.status_code, "request_id": error.request_id}
        return seen


def chat():
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        max_completion_tokens=64,
        messages=[{"role": "system", "content": "You are friendly."}, *HELLO],
        extra_headers=conversation,
    )
    completion = raw.parse()
    choice = completion.choices[0]
    return {
        "text": choice.message.content,
        "finish_reason": choice.finish_reason,
        "role": choice.message.role,
        "model": completion.model,
        "prompt_tokens": completion.usage.prompt_tokens,
        "completion_tokens": completion.usage.completion_tokens,
        "total_tokens": completion.usage.total_tokens,
        "account": raw.headers.get("x-gateway-account"),
        "route": raw.headers.get("x-gateway-route"),
    }


def stream():
    params = {"model": MODEL, "max_completion_tokens": 64, "messages": HELLO, "stream": True}
    whole = client.chat.completions.create(model=MODEL, max_completion_tokens=64, messages=HELLO)
    plain = list(client.chat.completions.create(**params))
    counted = list(client.chat.completions.create(**params, stream_options={"include_usage": True}))
    return {
        "whole": whole.choices[0].message.content,
        "text": "".join(choice.delta.content or "" for chunk in plain for choice in chunk.choices),
        "finish_reasons": [choice.finish_reason for chunk in plain for choice in chunk.choices if choice.finish_reason],
        "uncounted": all(chunk.usage is None for chunk in plain),
        "counted_text": "".join(choice.delta.content or "" for chunk in counted for choice in chunk.choices),
        "usage_chunks": [
            {"choices": len(chunk.choices), "completion_tokens": chunk.usage.completion_tokens}
            for chunk in counted
            if chunk.usage is not None
        ],
    }


def models():
    return {"all": [model.id for model in client.models.list()], "retrieved": client.models.retrieve(MODEL).id}


def errors():
    params = {"model": MODEL, "max_completion_tokens": 64, "messages": HELLO}
    create = client.chat.completions.create
    return {
        "bad_key": error_of(client.with_options(api_key="sk-wrong").chat.completions.create, **params),
        "not_found": error_of(create, **params | {"model": "gpt-4o"}),
        "bad_request": error_of(create, **params | {"messages": []}),
        "overloaded": error_of(create, **params, extra_headers={"x-sim-fault": "status=529"}),
        # Of a model of its own: its limit is then known to be reached at every account.
        "rate_limited": error_of(
            create, **params | {"model": "claude-opus-4-8"}, extra_headers={"x-sim-fault": "status=429"}
        ),
    }


def retry():
    """The first request finds every account at its limit, and is told for how long."""
    patient = client.with_options(max_retries=2)
    raw = patient.chat.completions.with_raw_response.create(model=MODEL, max_completion_tokens=64, messages=HELLO)
    return {"text": raw.parse().choices[0].message.content, "retries": raw.retries_taken}


def broken():
    """A stream that stops midway must never look like a whole one."""

    def read(fault):
        chunks = client.chat.completions.create(
            model=MODEL, max_completion_tokens=64, messages=HELLO, stream=True, extra_headers={"x-sim-fault": fault}
        )
        return [choice.finish_reason for chunk in chunks for choice in chunk.choices]

    return {fault: error_of(read, fault) for fault in ("error_mid_stream=3", "cut=900", "polite_end=3")}


seen = {"version": openai.__version__}
for step in (retry, chat, stream, models, errors, broken):
    try:
        seen[step.__name__] = step()
    except Exception:
        seen[step.__name__] = {"failed": traceback.format_exc(limit=-3)}
print(json.dumps(seen))
