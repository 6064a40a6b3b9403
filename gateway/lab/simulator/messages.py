"""The model behind `/v1/messages`, and behind the older and foreign manners of asking it."""

import random
from hashlib import sha256
from math import log

from gateway.core.spending.pricing import Catalogue, Model
from gateway.lab.simulator import answer, trouble
from gateway.lab.simulator.answer import Composition
from gateway.lab.simulator.cache import CachePlan, PromptCache
from gateway.lab.simulator.carried import Carried
from gateway.lab.simulator.dialects import Dialect
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.limits import Gate, RateLimits
from gateway.lab.simulator.prompt import Prompt, Reader
from gateway.lab.simulator.records import Record
from gateway.lab.simulator.reply import JSON, SSE, Framing, Reply
from gateway.lab.simulator.settings import Settings
from gateway.lab.simulator.world import Account, World

__all__ = ["Messages"]

OLD_ONLY = ("temperature", "top_p", "top_k")


class Messages:
    """Validates prompts, admits them, and answers; `ids` is the part of every id that names this simulator.

    `epoch` is what to add to the simulator's clock for the wall clock.
    """

    def __init__(
        self, world: World, settings: Settings, catalogue: Catalogue, carried: Carried, ids: str, epoch: float
    ) -> None:
        self.settings = settings
        self.cache = PromptCache()
        self.limits = RateLimits(settings.limits, world.limits)
        self._catalogue = catalogue
        self._carried = carried
        self._ids = ids
        self._epoch = epoch
        self._reader = Reader()
        self._random = random.Random(settings.seed)
        self._answers: dict[bytes, Composition] = {}

    def configure(self, settings: Settings) -> None:
        """Other settings from the next request on; limits start afresh where they changed."""
        self.settings = settings
        self._answers.clear()
        if settings.limits != self.limits.default:
            self.limits.default = settings.limits
            self.limits.clear()

    def prompt(
        self, data: bytes, digest: bytes, record: Record, account: Account, version: str | None, *, counted: bool
    ) -> tuple[Prompt, Model]:
        """The validated prompt of a request and its model, `counted` if it shall only count; `digest` is the SHA-256 of
        what names the body; `ApiError` 400 or 404."""
        if version is None:
            raise ApiError(400, "anthropic-version: header is required")
        prompt = self._reader.read(data, digest)
        record.model, record.stream = prompt.body.model, prompt.body.stream
        model = self._model(prompt.body.model, account)
        record.limit_class = model.limit_class
        if not counted:
            _check(prompt, model, version)
        if prompt.references is not None:
            self._carried.check(prompt.references, account)
        return prompt, model

    def read(self, data: bytes) -> Prompt:
        """The prompt of a body that is not a request of its own; `ApiError` 400 if it is none."""
        return self._reader.read(data, sha256(data).digest())

    def check(self, data: bytes, account: Account, version: str) -> None:
        """`ApiError` as `/v1/messages` would answer to that body."""
        prompt = self.read(data)
        _check(prompt, self._model(prompt.body.model, account), version)
        if prompt.references is not None:
            self._carried.check(prompt.references, account)

    def answer(self, record: Record, account: Account, prompt: Prompt, model: Model, now: float) -> Reply:
        """The reply to a valid messages request; 429 where a limit is reached."""
        body, settings = prompt.body, self.settings
        plan = self.cache.plan((account.workspace, model.id, body.speed), prompt, model.cache_minimum, now)
        gate = self.limits.gate(account.organization, model.limit_class, now)
        if gate is not None:
            refused = _refused(gate, plan, record, account, model, now)
            if refused is not None:
                return refused
        made = self.composed(prompt)
        ident = f"msg_{account.tag}{self._ids}{record.n:08x}"
        container = None
        if prompt.references is not None:
            made, container = self._carried.leave(prompt.references, account, ident, made, self._epoch + now)
        first = self._first_token()
        if body.stream:
            steps = answer.events(made, ident, plan, body, settings, container)
            steps[0] = (first, steps[0][1], 0)
            reply = Reply(200, SSE, steps)
            reply.apart = settings.tokens_per_second > 0
        else:
            reply = self._at_once(answer.message(made, ident, plan, body, container), made.output_tokens, first)
        reply.plan, reply.gate, record.plan = plan, gate, plan
        return reply

    def translated(self, dialect: Dialect, data: bytes, record: Record, account: Account, now: float) -> Reply:
        """The reply to a request in another manner: no prompt cache, all input is fresh."""
        asked = dialect.read(data)
        prompt = self.read(asked.messages)
        body = prompt.body
        record.model, record.stream = body.model, asked.stream
        model = self._model(body.model, account)
        record.limit_class = model.limit_class
        plan = CachePlan(prompt.tokens)
        gate = self.limits.gate(account.organization, model.limit_class, now)
        if gate is not None:
            refused = _refused(gate, plan, record, account, model, now)
            if refused is not None:
                return refused
        made = self.composed(prompt)
        ident = f"{self._ids}{record.n:08x}"
        first = self._first_token()
        if asked.stream:
            steps = dialect.events(asked, made, ident, prompt.tokens, int(self._epoch + now), self.settings)
            steps[0] = (first, steps[0][1], steps[0][2])
            reply = Reply(200, SSE, steps)
            reply.apart = self.settings.tokens_per_second > 0
        else:
            whole = dialect.answer(asked, made, ident, prompt.tokens, int(self._epoch + now))
            reply = self._at_once(whole, made.output_tokens, first)
        reply.plan, reply.gate, record.plan = plan, gate, plan
        return reply

    def composed(self, prompt: Prompt) -> Composition:
        """The answer's content; that of small bodies is remembered, as load tests and retries send them again."""
        made = self._answers.get(prompt.digest)
        if made is None:
            made = answer.compose(prompt, self.settings)
            if len(self._answers) >= 4096:
                self._answers.clear()
            self._answers[prompt.digest] = made
        return made

    def _at_once(self, data: bytes, tokens: int, first: float) -> Reply:
        """A whole answer that takes as long as its stream would."""
        rest = tokens / self.settings.tokens_per_second if self.settings.tokens_per_second else 0.0
        steps = [(0.0, data, tokens)]
        if first or rest:
            steps = [(first, b"", 0), (rest, data, tokens)]
        return Reply(200, JSON, steps, len(data), Framing.LENGTH)

    def _model(self, name: str, account: Account) -> Model:
        model = self._catalogue.find(name)
        if model is None or not account.serves(model.names):
            raise ApiError(404, f"model: {name}")
        return model

    def _first_token(self) -> float:
        median, sigma = self.settings.ttft, self.settings.ttft_sigma
        return self._random.lognormvariate(log(median), sigma) if median > 0 and sigma > 0 else median


def _check(prompt: Prompt, model: Model, version: str) -> None:
    """`ApiError` 400 for what the upstream refuses to answer, though it would count it."""
    body = prompt.body
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


def _refused(gate: Gate, plan: CachePlan, record: Record, account: Account, model: Model, now: float) -> Reply | None:
    """Admits the request, or says in a 429 why not."""
    refusal = gate.admit(plan.fresh + plan.write_5m + plan.write_1h, now)
    if refusal is None:
        return None
    message = (
        f"This request would exceed your organization's ({account.organization}) rate limit of "
        f"{refusal.what} (model: {model.id}). Please reduce the prompt length or try again later."
    )
    reply = trouble.error_reply(ApiError(429, message, retry_after=refusal.retry_after), record.request_id)
    reply.gate = gate
    return reply
