"""Decides what each request is answered: credentials, faults, and which endpoint serves it.

One request in, one `Reply` out; the caller plays it and reports when it began and how it ended. No sockets here, and
no clock but the injected one.
"""

import random
import time
from collections.abc import Callable
from hashlib import sha256
from urllib.parse import parse_qs, unquote

from gateway.core.spending.pricing import Catalogue, Model
from gateway.lab.simulator import faults, trouble
from gateway.lab.simulator.call import Call
from gateway.lab.simulator.carried import Carried
from gateway.lab.simulator.clouds.door import Door, Hall, error_of
from gateway.lab.simulator.clouds.entrance import Entrance
from gateway.lab.simulator.credentials import Credentials, Seen
from gateway.lab.simulator.dialects import CHAT, COMPLETIONS, openai_error
from gateway.lab.simulator.encoding import decoded
from gateway.lab.simulator.endpoints import CHAT_PATH, COMPLETE_PATH, Endpoints, is_forbidden
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.files import Files
from gateway.lab.simulator.limit_lines import LimitLines
from gateway.lab.simulator.messages import Messages
from gateway.lab.simulator.models import model_list, model_object
from gateway.lab.simulator.objects import Objects
from gateway.lab.simulator.prompt import Prompt
from gateway.lab.simulator.records import Record, Records, Totals
from gateway.lab.simulator.reply import Framing, Reply
from gateway.lab.simulator.request import Request
from gateway.lab.simulator.settings import Settings
from gateway.lab.simulator.skills import Skills
from gateway.lab.simulator.world import Account, World

__all__ = ["Service"]


class Service:
    """The simulated upstream without its sockets."""

    def __init__(self, world: World, settings: Settings, catalogue: Catalogue, clock: Callable[[], float]) -> None:
        self.world = world
        self.settings = settings
        self.catalogue = catalogue
        self.clock = clock
        self.faults = faults.Faults()
        self.records = Records(settings.keep_requests, settings.keep_bodies)
        self.totals = Totals()
        self.credentials = Credentials(world)
        self._entrance = Entrance(Hall(catalogue, self.credentials), world)
        self.objects = Objects(clock)
        self.serving = 0
        self._ids = f"{settings.seed & 0xFFFF:04x}{random.SystemRandom().getrandbits(48):012x}"
        self._count = 0
        self._epoch = time.time() - clock()
        self._limit_lines = LimitLines(self._epoch)
        files, skills = Files(self.objects), Skills(self.objects)
        carried = Carried(self.objects, files, skills)
        self.messages = Messages(world, settings, catalogue, carried, self._ids, self._epoch)
        self._endpoints = Endpoints(self.objects, files, skills, self.messages)

    def respond(self, request: Request) -> Reply:
        """The reply to any request but those of the control plane; it is recorded, and `finish` must follow."""
        self._count += 1
        now = self.clock()
        upload = request.upload
        record = Record(
            self._count,
            now,
            request.method,
            request.target,
            request.headers,
            request.body if upload is None else None,
            len(request.body) if upload is None else upload.size,
            sha256(request.body).digest() if upload is None else upload.digest,
            f"req_{self._ids}{self._count:08x}",
        )
        self.records.add(record)
        door = self._entrance.door(request)
        try:
            reply = self._answer(request, record, now, door)
        except ApiError as error:
            reply = trouble.error_reply(error, record.request_id) if door is None else door.error(error, record)
        if door is None:
            lines = f"request-id: {record.request_id}\r\n".encode()
            compatible = request.path == CHAT_PATH
            if record.account is not None:
                lines += self.credentials.lines(record.account, request.path.startswith("/v1/messages"))
            if reply.gate is not None:
                style = self._limit_lines.compatible if compatible else self._limit_lines.native
                lines += style(reply.gate, now)
            if compatible and reply.status >= 400:
                _reshape(reply)
        else:
            lines = door.lines(record, reply)
        reply.headers += lines
        reply.record = record
        record.status = reply.status
        self.serving += 1
        return reply

    def begin(self, reply: Reply) -> None:
        """The first byte is about to be written: what the request wrote to the cache is readable from now on."""
        if reply.plan is not None:
            self.messages.cache.begin(reply.plan, self.clock())

    def finish(self, reply: Reply, produced: int, *, completed: bool, aborted: bool) -> None:
        """The reply has ended; called once for each reply. `produced` is output tokens."""
        record = reply.record
        if record is None or record.finished:
            return
        self.serving -= 1
        record.completed, record.aborted = completed, aborted
        if reply.plan is not None:
            record.output_tokens = produced
            if reply.gate is not None:
                reply.gate.produced(produced, self.clock())
        self.totals.add(record)
        # Last, for those who wait for it on another thread.
        record.finished = True

    def configure(self, settings: Settings) -> None:
        """Other settings from the next request on; limits start afresh where they changed."""
        self.settings = settings
        self.messages.configure(settings)

    def reset(
        self,
        records: bool = True,
        faults: bool = True,
        cache: bool = True,
        limits: bool = True,
        objects: bool = False,
    ) -> None:
        """Forgets what was asked for."""
        if records:
            self.records.clear()
            self.totals.clear()
        if faults:
            self.faults.clear()
        if cache:
            self.messages.cache.clear()
        if limits:
            self.messages.limits.clear()
        if objects:
            self.objects.clear()

    def _answer(self, request: Request, record: Record, now: float, door: Door | None) -> Reply:
        path = request.path
        native = door is not None or path in ("/v1/messages", "/v1/messages/count_tokens")
        if not native:
            if path == "/api/hello" and request.method in ("HEAD", "GET"):
                return Reply.of(200, b"{}")
            if is_forbidden(path):
                return Reply.of(200, b'{"leak":true}')
        seen = self.credentials.read(request.headers)
        if not native:
            tokens = self._entrance.tokens(request)
            if tokens is not None:
                return tokens(request, seen, record, self._epoch + now, self.settings.token_seconds)
        if door is None:
            account = self.credentials.account(seen)
        else:
            request, seen, account = door.enter(request, seen, self._epoch + now)
            native = request.path in ("/v1/messages", "/v1/messages/count_tokens")
        record.account, record.workspace, record.organization = account.id, account.workspace, account.organization
        in_band = None if seen.fault is None else _parsed(seen.fault)
        prompt = model = None
        try:
            if native:
                prompt, model = self._prompt(request, record, account, seen)
        except ApiError:
            # A fault that asks for no particular model strikes requests that would have been refused as well.
            replaced = self._replaced(request, record, account, in_band, None, door)[0]
            if replaced is None:
                raise
            return replaced
        changes: list[faults.Fault] = []
        if in_band or self.faults:
            replaced, changes = self._replaced(request, record, account, in_band, model, door)
            if replaced is not None:
                return replaced
        if self.settings.slots is not None and self.serving >= self.settings.slots:
            raise ApiError(529)
        reply = self._served(request, record, account, prompt, model, seen, now)
        return _changed(reply, changes, record, door)

    def _prompt(self, request: Request, record: Record, account: Account, seen: Seen) -> tuple[Prompt, Model]:
        """The validated prompt of a messages or count request and its model; `ApiError` 400, 404, 405 or 413."""
        if request.method != "POST":
            raise ApiError(405)
        data = request.body if seen.encoding is None else decoded(request.body, seen.encoding, self.settings.max_body)
        counted = request.path != "/v1/messages"
        # What came in by a door is another body than the one that was sent.
        digest = record.digest if request.target == record.path else sha256(data).digest()
        return self.messages.prompt(data, digest, record, account, seen.version, counted=counted)

    def _replaced(
        self,
        request: Request,
        record: Record,
        account: Account,
        in_band: list[faults.Fault] | None,
        model: Model | None,
        door: Door | None,
    ) -> tuple[Reply | None, list[faults.Fault]]:
        """The fault's own answer, if one strikes that has one; else the edits to make to the model's."""
        name = None if model is None else model.id
        struck = [fault for fault in in_band or () if fault.fits(account.id, name, request.path)]
        if not struck and self.faults:
            taken = self.faults.take(account.id, name, request.path)
            struck = [] if taken is None else [taken]
        if not struck:
            return None, []
        record.fault = ",".join(fault.kind for fault in struck)
        changes = []
        reply = None
        for fault in struck:
            make = trouble.REPLACES.get(fault.kind) or trouble.EARLY.get(fault.kind)
            if make is None:
                changes.append(fault)
            elif reply is None:
                reply = make(fault, record.request_id, account.organization)
        return None if reply is None else _changed(reply, changes, record, door), changes

    def _served(
        self,
        request: Request,
        record: Record,
        account: Account,
        prompt: Prompt | None,
        model: Model | None,
        seen: Seen,
        now: float,
    ) -> Reply:
        path = request.path
        if prompt is not None and model is not None:
            if path == "/v1/messages":
                return self.messages.answer(record, account, prompt, model, now)
            return Reply.of(200, b'{"input_tokens":%d}' % prompt.tokens)
        if request.method == "GET" and path == "/v1/models":
            query = {name: values[-1] for name, values in parse_qs(request.query).items()}
            return Reply.of(200, model_list(self.catalogue, account, query))
        if request.method == "GET" and path.startswith("/v1/models/"):
            return Reply.of(200, model_object(self.catalogue, account, unquote(path[len("/v1/models/") :])))
        call = Call(request, record, account, self.settings, seen.version, seen.encoding, now, self._epoch)
        if path in (CHAT_PATH, COMPLETE_PATH):
            if request.method != "POST":
                raise call.refuse_method()
            if path == CHAT_PATH and record.header("authorization") is None:
                raise ApiError(401, "an API key is required as Authorization: Bearer")
            dialect = CHAT if path == CHAT_PATH else COMPLETIONS
            return self.messages.translated(dialect, call.body(), record, account, now)
        return self._endpoints.answer(call)


def _changed(reply: Reply, changes: list[faults.Fault], record: Record, door: Door | None) -> Reply:
    """The answer as faults edit it: those of events before a cloud frames them, those of bytes as they are sent."""
    late = []
    for change in changes:
        if door is not None and change.kind not in trouble.OF_EVENTS:
            late.append(change)
        else:
            trouble.CHANGES[change.kind](change, reply, record.request_id)
    if door is not None:
        error = error_of(reply)
        if error is not None:
            reply = door.error(error, record)
        else:
            door.frame(reply)
    for change in late:
        trouble.CHANGES[change.kind](change, reply, record.request_id)
    return reply


def _reshape(reply: Reply) -> None:
    """Gives an error that is there at once the shape of the OpenAI API's."""
    steps = list(reply.steps)
    if reply.framing is Framing.LENGTH and len(steps) == 1:
        body = openai_error(steps[0][1], reply.status)
        reply.steps, reply.length = [(steps[0][0], body, steps[0][2])], len(body)


def _parsed(header: str) -> list[faults.Fault]:
    try:
        return faults.parse(header)
    except (ValueError, TypeError) as error:
        raise ApiError(400, f"x-sim-fault: {error}") from error
