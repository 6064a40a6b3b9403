"""Decides what each request is answered: credentials, validation, cache, limits, faults, the model's answer.

One request in, one `Reply` out; the caller plays it and reports when it began and how it ended. No sockets here, and
no clock but the injected one.
"""

import random
import time
from collections.abc import Callable
from hashlib import sha256
from math import log
from urllib.parse import parse_qs, unquote

from gateway.core.pricing import Catalogue, Model
from gateway.lab.simulator import answer, faults, trouble
from gateway.lab.simulator.cache import PromptCache
from gateway.lab.simulator.credentials import Credentials
from gateway.lab.simulator.encoding import decoded
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.limits import Gate, RateLimits
from gateway.lab.simulator.models import model_list, model_object
from gateway.lab.simulator.prompt import Prompt, Reader
from gateway.lab.simulator.records import Header, Record, Records, Totals
from gateway.lab.simulator.reply import JSON, SSE, Framing, Reply
from gateway.lab.simulator.settings import Settings
from gateway.lab.simulator.world import Account, World

__all__ = ["Request", "Service"]

OLD_ONLY = ("temperature", "top_p", "top_k")


class Request:
    """A request as received; `target` is path and query."""

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "query", "target")

    def __init__(self, method: str, target: str, headers: list[Header], body: bytes, keep_alive: bool = True) -> None:
        self.method = method
        self.target = target
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive


class Service:
    """The simulated upstream without its sockets."""

    def __init__(self, world: World, settings: Settings, catalogue: Catalogue, clock: Callable[[], float]) -> None:
        self.world = world
        self.settings = settings
        self.catalogue = catalogue
        self.clock = clock
        self.cache = PromptCache()
        self.limits = RateLimits(settings.limits, world.limits)
        self.faults = faults.Faults()
        self.records = Records(settings.keep_requests, settings.keep_bodies)
        self.totals = Totals()
        self.credentials = Credentials(world)
        self.serving = 0
        self._answers: dict[bytes, answer.Composition] = {}
        self._reader = Reader()
        self._random = random.Random(settings.seed)
        self._ids = f"{settings.seed & 0xFFFF:04x}{random.SystemRandom().getrandbits(48):012x}"
        self._count = 0
        self._epoch = time.time() - clock()
        self._resets: dict[int, str] = {}

    def respond(self, request: Request) -> Reply:
        """The reply to any request but those of the control plane; it is recorded, and `finish` must follow."""
        self._count += 1
        now = self.clock()
        digest = sha256(request.body).digest()
        record = Record(
            self._count,
            now,
            request.method,
            request.target,
            request.headers,
            request.body,
            len(request.body),
            digest,
            f"req_{self._ids}{self._count:08x}",
        )
        self.records.add(record)
        lines = f"request-id: {record.request_id}\r\n".encode()
        try:
            reply = self._answer(request, record, now)
        except ApiError as error:
            reply = trouble.error_reply(error, record.request_id)
        if record.account is not None:
            lines += self.credentials.lines(record.account, request.path.startswith("/v1/messages"))
        if reply.gate is not None:
            lines += self._limit_lines(reply.gate, now)
        reply.headers += lines
        reply.record = record
        record.status = reply.status
        self.serving += 1
        return reply

    def begin(self, reply: Reply) -> None:
        """The first byte is about to be written: what the request wrote to the cache is readable from now on."""
        if reply.plan is not None:
            self.cache.begin(reply.plan, self.clock())

    def finish(self, reply: Reply, produced: int, *, completed: bool, aborted: bool) -> None:
        """The reply has ended; called once for each reply. `produced` is output tokens."""
        record = reply.record
        if record is None or record.finished:
            return
        self.serving -= 1
        record.finished, record.completed, record.aborted = True, completed, aborted
        if reply.plan is not None:
            record.output_tokens = produced
            if reply.gate is not None:
                reply.gate.produced(produced, self.clock())
        self.totals.add(record)

    def configure(self, settings: Settings) -> None:
        """Other settings from the next request on; limits start afresh where they changed."""
        self.settings = settings
        self._answers.clear()
        if settings.limits != self.limits.default:
            self.limits.default = settings.limits
            self.limits.clear()

    def reset(self, records: bool = True, faults: bool = True, cache: bool = True, limits: bool = True) -> None:
        """Forgets what was asked for."""
        if records:
            self.records.clear()
            self.totals.clear()
        if faults:
            self.faults.clear()
        if cache:
            self.cache.clear()
        if limits:
            self.limits.clear()

    def _answer(self, request: Request, record: Record, now: float) -> Reply:
        path = request.path
        if path == "/api/hello" and request.method in ("HEAD", "GET"):
            return Reply.of(200, b"{}")
        seen = self.credentials.read(request.headers)
        account = self.credentials.account(seen)
        record.account, record.workspace, record.organization = account.id, account.workspace, account.organization
        in_band = None if seen.fault is None else _parsed(seen.fault)
        prompt = model = None
        try:
            if path in ("/v1/messages", "/v1/messages/count_tokens"):
                prompt, model = self._prompt(request, record, account, seen.version, seen.encoding)
        except ApiError:
            # A fault that asks for no particular model strikes requests that would have been refused as well.
            replaced = self._replaced(request, record, account, in_band, None)[0]
            if replaced is None:
                raise
            return replaced
        changes: list[faults.Fault] = []
        if in_band or self.faults:
            replaced, changes = self._replaced(request, record, account, in_band, model)
            if replaced is not None:
                return replaced
        if self.settings.slots is not None and self.serving >= self.settings.slots:
            raise ApiError(529)
        reply = self._served(request, record, account, prompt, model, now)
        for change in changes:
            trouble.CHANGES[change.kind](change, reply, record.request_id)
        return reply

    def _prompt(
        self, request: Request, record: Record, account: Account, version: str | None, encoding: str | None
    ) -> tuple[Prompt, Model]:
        """The validated prompt of a messages or count request and its model; `ApiError` 400, 404, 405 or 413."""
        if request.method != "POST":
            raise ApiError(405)
        if version is None:
            raise ApiError(400, "anthropic-version: header is required")
        data = request.body if encoding is None else decoded(request.body, encoding, self.settings.max_body)
        prompt = self._reader.read(data, record.digest)
        body = prompt.body
        record.model, record.stream = body.model, body.stream
        model = self.catalogue.find(body.model)
        if model is None or (account.models is not None and model.id not in account.models):
            raise ApiError(404, f"model: {body.model}")
        record.limit_class = model.limit_class
        if request.path == "/v1/messages":
            if body.max_tokens is None:
                raise ApiError(400, "max_tokens: Field required")
            if not 0 <= body.max_tokens <= model.max_output:
                raise ApiError(
                    400,
                    f"max_tokens: {body.max_tokens} > {model.max_output}, which is the maximum allowed number of "
                    f"output tokens for {body.model}",
                )
            if prompt.tokens > model.context:
                raise ApiError(400, f"prompt is too long: {prompt.tokens} tokens > {model.context} maximum")
            if version >= "2026-10-21":
                for name in OLD_ONLY:
                    if getattr(body, name) is not None:
                        raise ApiError(400, f"{name}: Extra inputs are not permitted")
        return prompt, model

    def _replaced(
        self,
        request: Request,
        record: Record,
        account: Account,
        in_band: list[faults.Fault] | None,
        model: Model | None,
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
        if reply is not None:
            for change in changes:
                trouble.CHANGES[change.kind](change, reply, record.request_id)
        return reply, changes

    def _served(
        self,
        request: Request,
        record: Record,
        account: Account,
        prompt: Prompt | None,
        model: Model | None,
        now: float,
    ) -> Reply:
        if prompt is not None and model is not None:
            if request.path == "/v1/messages":
                return self._message(record, account, prompt, model, now)
            return Reply.of(200, b'{"input_tokens":%d}' % prompt.tokens)
        if request.method == "GET" and request.path == "/v1/models":
            query = {name: values[-1] for name, values in parse_qs(request.query).items()}
            return Reply.of(200, model_list(self.catalogue, account, query))
        if request.method == "GET" and request.path.startswith("/v1/models/"):
            return Reply.of(200, model_object(self.catalogue, account, unquote(request.path[len("/v1/models/") :])))
        raise ApiError(404, f"Not found: {request.path}")

    def _message(self, record: Record, account: Account, prompt: Prompt, model: Model, now: float) -> Reply:
        body, settings = prompt.body, self.settings
        plan = self.cache.plan((account.workspace, model.id, body.speed), prompt, model.cache_minimum, now)
        gate = self.limits.gate(account.organization, model.limit_class, now)
        if gate is not None:
            refusal = gate.admit(plan.fresh + plan.write_5m + plan.write_1h, now)
            if refusal is not None:
                message = (
                    f"This request would exceed your organization's ({account.organization}) rate limit of "
                    f"{refusal.what} (model: {model.id}). Please reduce the prompt length or try again later."
                )
                reply = trouble.error_reply(ApiError(429, message, retry_after=refusal.retry_after), record.request_id)
                reply.gate = gate
                return reply
        made = self._composed(prompt)
        ident = f"msg_{self._ids}{record.n:08x}"
        first = self._first_token()
        if body.stream:
            steps = answer.events(made, ident, plan, body, settings)
            steps[0] = (first, steps[0][1], 0)
            reply = Reply(200, SSE, steps)
            reply.apart = settings.tokens_per_second > 0
        else:
            data = answer.message(made, ident, plan, body)
            rest = made.output_tokens / settings.tokens_per_second if settings.tokens_per_second else 0.0
            steps = [(0.0, data, made.output_tokens)]
            if first or rest:
                steps = [(first, b"", 0), (rest, data, made.output_tokens)]
            reply = Reply(200, JSON, steps, len(data), Framing.LENGTH)
        reply.plan, reply.gate, record.plan = plan, gate, plan
        return reply

    def _composed(self, prompt: Prompt) -> answer.Composition:
        """The answer's content; that of small bodies is remembered, as load tests and retries send them again."""
        made = self._answers.get(prompt.digest)
        if made is None:
            made = answer.compose(prompt, self.settings)
            if len(self._answers) >= 4096:
                self._answers.clear()
            self._answers[prompt.digest] = made
        return made

    def _first_token(self) -> float:
        median, sigma = self.settings.ttft, self.settings.ttft_sigma
        return self._random.lognormvariate(log(median), sigma) if median > 0 and sigma > 0 else median

    def _limit_lines(self, gate: Gate, now: float) -> bytes:
        lines = []
        for name, limit, remaining, full in gate.headers(now):
            reset = self._timestamp(int(self._epoch + now + full + 0.999))
            prefix = f"anthropic-ratelimit-{name}-"
            lines.append(f"{prefix}limit: {limit}\r\n{prefix}remaining: {remaining}\r\n{prefix}reset: {reset}\r\n")
        return "".join(lines).encode()

    def _timestamp(self, second: int) -> str:
        known = self._resets.get(second)
        if known is None:
            if len(self._resets) > 1000:
                self._resets.clear()
            known = self._resets[second] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        return known


def _parsed(header: str) -> list[faults.Fault]:
    try:
        return faults.parse(header)
    except (ValueError, TypeError) as error:
        raise ApiError(400, f"x-sim-fault: {error}") from error
