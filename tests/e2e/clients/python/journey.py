"""A day of an app developer with the Python SDK, either generation (1.17 and 2.x); prints one line of JSON.

Runs in an environment of its own: it knows the SDK and three environment variables, nothing of the gateway's code.
The header `x-sim-fault` asks the simulated upstream for trouble; the gateway passes it on as any it does not know.
"""

# mypy: ignore-errors

import json
import os
import time
import traceback

import anthropic

MODEL = "claude-haiku-4-5"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "name": "get_weather",
    "description": "The weather of a place.",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["place", "days"],
    },
}
BASE_URL, API_KEY = os.environ["BASE_URL"], os.environ["API_KEY"]
client = anthropic.Anthropic(base_url=BASE_URL, api_key=API_KEY, max_retries=0)
conversation = {"X-Conversation-Id": os.environ["CONVERSATION"]}


def answer(message):
    return {
        "text": "".join(block.text for block in message.content if block.type == "text"),
        "stop_reason": message.stop_reason,
        "input_tokens": message.usage.input_tokens,
        "output_tokens": message.usage.output_tokens,
    }


def error_of(call, *args, **kwargs):
    """What a call raises, as the caller sees it; {"returned": ...} where it raises nothing."""
    try:
        return {"returned": str(call(*args, **kwargs))}
    except Exception as error:  # also those that are not the SDK's
        seen = {"class": type(error).__name__, "message": str(error)[:200]}
        if isinstance(error, anthropic.APIStatusError):
            seen |= {"status": error.status_code, "request_id": error.request_id}
            seen["type"] = error.body["error"]["type"] if isinstance(error.body, dict) else None
        return seen


def messages():
    raw = client.messages.with_raw_response.create(
        model=MODEL, max_tokens=64, messages=HELLO, extra_headers=conversation
    )
    message = raw.parse()
    again = client.messages.with_raw_response.create(
        model=MODEL, max_tokens=64, messages=HELLO, extra_headers=conversation
    )
    return {
        **answer(message),
        "request_id": message._request_id,
        "account": raw.headers.get("x-gateway-account"),
        "next_account": again.headers.get("x-gateway-account"),
        "next_route": again.headers.get("x-gateway-route"),
    }


def stream():
    with client.messages.stream(model=MODEL, max_tokens=64, messages=HELLO, extra_headers=conversation) as events:
        pieces = list(events.text_stream)
        message = events.get_final_message()
    with client.messages.create(model=MODEL, max_tokens=64, messages=HELLO, stream=True) as events:
        kinds = [event.type for event in events]
    return {**answer(message), "pieces": pieces, "events": kinds}


def tools():
    asked = [{"role": "user", "content": "Please use the tool."}]
    params = {"model": MODEL, "max_tokens": 256, "tools": [TOOL], "extra_headers": conversation}
    first = client.messages.create(messages=asked, **params)
    call = next(block for block in first.content if block.type == "tool_use")
    with client.messages.stream(messages=asked, **params) as events:
        streamed = next(block for block in events.get_final_message().content if block.type == "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 21 degrees"}
    turns = [*asked, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    return {
        "stop_reason": first.stop_reason,
        "call": {"name": call.name, "input": call.input},
        "streamed": {"name": streamed.name, "input": streamed.input},
        "answer": answer(client.messages.create(messages=turns, **params)),
    }


def count_tokens():
    return {"input_tokens": client.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens}


def models():
    first = client.models.list(limit=2)
    return {
        "page": [model.id for model in first.data],
        "all": [model.id for model in first],  # iterating asks for the other pages
        "retrieved": client.models.retrieve(MODEL).display_name,
        "unknown": error_of(client.models.retrieve, "claude-none-1"),
    }


def batches():
    params = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
    requests = [{"custom_id": name, "params": params} for name in ("one", "two", "three")]
    created, other = [client.messages.batches.create(requests=requests) for _ in range(2)]
    cancelled = client.messages.batches.cancel(other.id)
    found = {created.id: wait_for(created.id), other.id: wait_for(other.id)}
    results = list(client.messages.batches.results(created.id))  # asks for the batch, then for its `results_url`
    deleted = client.messages.batches.delete(other.id)
    return {
        "created": created.processing_status,
        "cancelled": cancelled.processing_status,
        "ended": found[created.id].processing_status,
        "succeeded": found[created.id].request_counts.succeeded,
        "results_url": found[created.id].results_url,
        "results": {each.custom_id: answer(each.result.message) for each in results},
        "listed": created.id in [batch.id for batch in client.messages.batches.list(limit=1)],
        "deleted": deleted.type,
        "gone": error_of(client.messages.batches.retrieve, other.id),
        "left": client.messages.batches.retrieve(created.id).id == created.id,
    }


def wait_for(batch_id):
    for _ in range(300):
        batch = client.messages.batches.retrieve(batch_id)
        if batch.processing_status == "ended":
            return batch
        time.sleep(0.1)
    raise TimeoutError(batch)


def files():
    content = b"The word of the day is heliotrope.\n" * 3
    made = [client.files.upload(file=(name, content, "text/plain")) for name in ("day.txt", "night.txt")]
    uploaded = made[0]
    document = {"type": "document", "source": {"type": "file", "file_id": uploaded.id}}
    question = [{"role": "user", "content": [document, {"type": "text", "text": "Which word?"}]}]
    raw = client.messages.with_raw_response.create(model=MODEL, max_tokens=64, messages=question)
    listed = [each.id for each in client.files.list(limit=1)]
    metadata = client.files.retrieve_metadata(uploaded.id)
    return {
        "uploaded": {"name": uploaded.filename, "size": uploaded.size_bytes, "mime": uploaded.mime_type},
        "size": len(content),
        "used": {**answer(raw.parse()), "route": raw.headers.get("x-gateway-route")},
        "listed": all(each.id in listed for each in made),
        "metadata": {"name": metadata.filename, "size": metadata.size_bytes, "mime": metadata.mime_type},
        "downloaded": downloaded(uploaded.id),
        "deleted": [client.files.delete(each.id).type for each in made],
        "gone": error_of(client.files.retrieve_metadata, uploaded.id),
        "gone_content": error_of(client.files.download, uploaded.id),
    }


def downloaded(file_id):
    """The content; the API gives back what tools have made, and refuses what was uploaded."""
    try:
        return {"text": client.files.download(file_id).read().decode()}
    except anthropic.BadRequestError as error:
        return {"refused": error.status_code}


def errors():
    params = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
    create = client.messages.create
    return {
        "bad_key": error_of(client.with_options(api_key="sk-wrong").messages.create, **params),
        "not_found": error_of(create, **params | {"model": "claude-none-1"}),
        "bad_request": error_of(create, **params | {"messages": []}),
        "too_large": error_of(create, **params | {"system": "x" * (33 << 20)}),
        "overloaded": error_of(create, **params, extra_headers={"x-sim-fault": "status=529"}),
        # Of a model of its own: its limit is then known to be reached at every account.
        "rate_limited": error_of(
            create, **params | {"model": "claude-opus-4-8"}, extra_headers={"x-sim-fault": "status=429"}
        ),
    }


def retry():
    """The model of this step is at its limit, and says for how long."""
    patient = client.with_options(max_retries=2)
    raw = patient.messages.with_raw_response.create(model=os.environ["LIMITED_MODEL"], max_tokens=64, messages=HELLO)
    return {**answer(raw.parse()), "retries": raw.retries_taken}


def broken():
    """A stream that stops midway must never look like a whole message."""

    def by_helper(fault):
        headers = {"x-sim-fault": fault}
        with client.messages.stream(model=MODEL, max_tokens=64, messages=HELLO, extra_headers=headers) as events:
            return events.get_final_message().stop_reason

    def by_hand(fault):
        headers = {"x-sim-fault": fault}
        with client.messages.create(
            model=MODEL, max_tokens=64, messages=HELLO, stream=True, extra_headers=headers
        ) as events:
            return [event.type for event in events][-1]

    faults = ("error_mid_stream=5", "cut=900", "polite_end=5")
    return {fault: {"helper": error_of(by_helper, fault), "raw": error_of(by_hand, fault)} for fault in faults}


def beta():
    """The namespace of what is not settled yet; older releases mark it by `?beta=true`."""
    message = client.beta.messages.create(
        model=MODEL, max_tokens=64, messages=HELLO, betas=["context-management-2025-06-27"]
    )
    counted = client.beta.messages.count_tokens(model=MODEL, messages=HELLO)
    return {**answer(message), "counted": counted.input_tokens}


seen = {"version": anthropic.__version__}
for step in (messages, stream, tools, count_tokens, models, batches, files, errors, retry, broken, beta):
    try:
        seen[step.__name__] = step()
    except Exception:
        seen[step.__name__] = {"failed": traceback.format_exc(limit=-3)}
print(json.dumps(seen))
