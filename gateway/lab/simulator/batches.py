"""`/v1/messages/batches`: a batch's items are answered when its results are read, not before.

Item i of n is done after `(i + 1) / n` of the time that a batch takes. Nothing of the results is kept: they are
composed line by line while they are sent, whatever their size.
"""

import re
from collections.abc import Iterator
from typing import Any, cast

import msgspec

from gateway.lab.simulator import answer
from gateway.lab.simulator.answer import Step
from gateway.lab.simulator.cache import CachePlan
from gateway.lab.simulator.call import Call, json_reply
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.messages import Messages
from gateway.lab.simulator.objects import Object, Objects
from gateway.lab.simulator.pages import id_page
from gateway.lab.simulator.reply import Framing, Reply

__all__ = ["Batches"]

KIND = "message_batches"
MAX_ITEMS = 100_000
PADS_IN_A_STEP = 32

_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_LINES = b"content-type: application/x-jsonl\r\n"
_PAD = (
    b'{"custom_id":"pad-%d","result":{"type":"succeeded","message":{"id":"msg_pad%09d","type":"message",'
    b'"role":"assistant","model":"claude-haiku-4-5","content":[{"type":"text","text":"' + b"padding " * 128 + b'"}],'
    b'"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":1,"cache_creation_input_tokens":0,'
    b'"cache_read_input_tokens":0,"output_tokens":1,"service_tier":"batch"}}}}\n'
)


class _Item(msgspec.Struct, frozen=True, gc=False):
    custom_id: str
    params: msgspec.Raw


class _Create(msgspec.Struct):
    requests: list[_Item]


class _Batch(msgspec.Struct):
    """`seconds` is how long all of it takes, `stopped` when it was told to stop; instants of the simulator's clock."""

    items: list[_Item]
    failures: dict[int, ApiError]
    begun: float
    seconds: float
    lasts: float
    version: str
    stopped: float | None = None

    def done(self, now: float) -> int:
        """How many items had been worked on by then."""
        upto = min(now, self.begun + self.lasts, now if self.stopped is None else self.stopped)
        if self.seconds <= 0:
            return len(self.items)
        return min(len(self.items), int((upto - self.begun) / self.seconds * len(self.items)))

    def ended(self, now: float) -> float | None:
        """When it ended, None if it has not."""
        end = min(self.begun + self.seconds, self.begun + self.lasts)
        if self.stopped is not None:
            end = min(end, self.stopped)
        return end if end <= now else None


class Batches:
    """The batches of every workspace."""

    def __init__(self, objects: Objects, messages: Messages) -> None:
        self._objects = objects
        self._messages = messages

    def answer(self, call: Call) -> Reply:
        """The reply to any request below `/v1/messages/batches`; `ApiError` 400, 404 or 405."""
        match (call.method, call.parts[2:]):
            case ("POST", []):
                return json_reply(self._create(call))
            case ("GET", []):
                found = self._objects.all(KIND, call.account.workspace)[::-1]
                return json_reply(id_page(found, call.query, lambda one: _shown(call, one)))
            case ("GET", [ident]):
                return json_reply(_shown(call, self._get(call, ident)))
            case ("DELETE", [ident]):
                found_one = self._get(call, ident)
                if _held(found_one).ended(call.now) is None:
                    raise ApiError(400, f"Batch {ident} is still processing: cancel it first")
                self._objects.remove(found_one)
                return json_reply({"id": ident, "type": "message_batch_deleted"})
            case ("POST", [ident, "cancel"]):
                return json_reply(self._cancel(call, self._get(call, ident)))
            case ("GET" | "HEAD", [ident, "results"]):
                return self._results(call, self._get(call, ident))
            case (_, [] | [_] | [_, "cancel" | "results"]):
                raise call.refuse_method()
        raise call.unknown_path()

    def _get(self, call: Call, ident: str) -> Object:
        return self._objects.get(KIND, call.account.workspace, ident, "Message batch")

    def _create(self, call: Call) -> dict[str, Any]:
        items = _read(call.body(call.settings.max_batch_body))
        failures = {}
        for index, item in enumerate(items):
            try:
                self._messages.check(bytes(item.params), call.account, call.version)
            except ApiError as error:
                failures[index] = error
        batch = _Batch(
            items, failures, call.now, call.settings.batch_seconds, call.settings.batch_expires, call.version
        )
        ident = self._objects.new_id("msgbatch_")
        made = self._objects.add(KIND, ident, call.account, {"id": ident, "type": "message_batch"}, held=batch)
        # Never ended in its own first answer, however short its work is.
        return _shown(call, made, under_way=True)

    def _cancel(self, call: Call, found: Object) -> dict[str, Any]:
        batch = _held(found)
        if batch.stopped is not None or batch.ended(call.now) is not None:
            return _shown(call, found)
        batch.stopped = call.now
        return _shown(call, found, under_way=True)

    def _results(self, call: Call, found: Object) -> Reply:
        batch = _held(found)
        if batch.ended(call.now) is None:
            raise ApiError(404, f"Batch {found.id} has no results yet: it is still processing")
        steps = self._lines(batch, found.id, batch.done(call.now), call.settings.batch_results_bytes)
        return Reply(200, _LINES, steps, framing=Framing.CHUNKED)

    def _lines(self, batch: _Batch, ident: str, done: int, wanted: int) -> Iterator[Step]:
        size = 0
        # Last first: nobody may rely on the order of the requests.
        for index in range(len(batch.items) - 1, -1, -1):
            item = batch.items[index]
            result = self._result(batch, index, done, ident)
            line = b'{"custom_id":"%b","result":%b}\n' % (item.custom_id.encode(), result)
            size += len(line)
            yield 0.0, line, 0
        number = 0
        while size < wanted:
            block = b"".join([_PAD % (number + at, number + at) for at in range(PADS_IN_A_STEP)])
            number += PADS_IN_A_STEP
            size += len(block)
            yield 0.0, block, 0

    def _result(self, batch: _Batch, index: int, done: int, ident: str) -> bytes:
        if index >= done:
            return b'{"type":"expired"}' if batch.stopped is None else b'{"type":"canceled"}'
        error = batch.failures.get(index)
        if error is not None:
            return b'{"type":"errored","error":%b}' % error.body(f"req_{ident}{index:06d}")
        prompt = self._messages.read(bytes(batch.items[index].params))
        made = self._messages.composed(prompt)
        name = f"msg_{ident.removeprefix('msgbatch_')}{index:06d}"
        data = answer.message(made, name, CachePlan(prompt.tokens), prompt.body, tier="batch")
        return b'{"type":"succeeded","message":%b}' % data


def _read(data: bytes) -> list[_Item]:
    try:
        items = msgspec.json.decode(data, type=_Create).requests
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(400, f"requests: {error}") from error
    if not 1 <= len(items) <= MAX_ITEMS:
        raise ApiError(400, f"requests: between 1 and {MAX_ITEMS:,} items are allowed")
    seen = set()
    for index, item in enumerate(items):
        if not _CUSTOM_ID.fullmatch(item.custom_id):
            raise ApiError(400, f"requests.{index}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
        if item.custom_id in seen:
            raise ApiError(400, f"requests.{index}.custom_id: {item.custom_id!r} is used twice")
        seen.add(item.custom_id)
    return items


def _held(found: Object) -> _Batch:
    return cast(_Batch, found.held)


def _shown(call: Call, found: Object, under_way: bool = False) -> dict[str, Any]:
    """The batch as a client sees it now; `under_way` hides that its work is done."""
    batch = _held(found)
    ended = None if under_way else batch.ended(call.now)
    total = len(batch.items)
    counts = {"processing": total, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    if ended is not None:
        done = batch.done(call.now)
        errored = sum(1 for index in batch.failures if index < done)
        left = "expired" if batch.stopped is None else "canceled"
        counts |= {"processing": 0, "succeeded": done - errored, "errored": errored, left: total - done}
    url = f"{call.settings.public_url.rstrip('/')}/v1/messages/batches/{found.id}/results"
    status = "in_progress" if batch.stopped is None else "canceling"
    return found.data | {
        "processing_status": status if ended is None else "ended",
        "request_counts": counts,
        "created_at": call.stamp(batch.begun),
        "expires_at": call.stamp(batch.begun + batch.lasts),
        "ended_at": None if ended is None else call.stamp(ended),
        "cancel_initiated_at": None if batch.stopped is None else call.stamp(batch.stopped),
        "archived_at": None,
        "results_url": None if ended is None else url,
    }
