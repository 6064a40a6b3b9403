"""What `gateway demo` will say, to whom, and at which prices and limits: all decided by a seed before anything runs.

A conversation is a long first message, as of a file or a document, and short ones after it. Everybody shares one
system prompt.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator

import msgspec

from gateway.core.spending.pricing import Model
from gateway.data import load_catalogue

MODEL = "claude-sonnet-5"
SYSTEM_TOKENS = 3_000
FIRST_TOKENS = (2_500, 5_500)
LATER_TOKENS = (200, 800)
TURNS = (4, 8)
STREAMED = 0.5  # the share of requests that stream
# Input tokens a minute of an organization: so many, and so many more for each conversation. 200 conversations write
# about 7,500 tokens each to caches if they stay, and 22,000 if they wander; seven organizations with full buckets give
# 17,500 each, and 290 more a second. That is twice what is needed, or too little. The first part is for the
# system prompt, which every workspace writes, and for the uneven spread of few conversations.
LIMIT, LIMIT_A_CONVERSATION = 40_000, 2_300
_LEXICON = """
    account answer balance branch buffer cache caller change client commit config deploy disk editor error event
    field file format function gateway header index input key latency limit list log memory merge message model
    module name network number object output page parser path pool price process prompt queue record request result
    retry route schema script server session signal socket state store stream string table test thread token tree
    type usage value version window worker
"""


class Turn(msgspec.Struct, frozen=True):
    """What the user says, and whether the answer is streamed."""

    text: str
    stream: bool


class Plan(msgspec.Struct, frozen=True):
    """All that will be said, the same in every run of it. `limit` is an organization's, in input tokens a minute."""

    seed: int
    model: Model
    limit: int
    system: str
    conversations: tuple[tuple[Turn, ...], ...]

    @property
    def requests(self) -> int:
        return sum(map(len, self.conversations))

    def placement(self, conversation: int, wander: bool) -> Iterator[str]:
        """The conversation id of each request of a conversation: always the same, or always another."""
        source = random.Random(f"{self.seed} {conversation}")
        kept = _identifier(source)
        while True:
            yield _identifier(source) if wander else kept


def make_plan(seed: int, conversations: int) -> Plan:
    """The plan of that seed."""
    source = random.Random(seed)
    words = " ".join(source.choices(_LEXICON.split(), k=40_000))

    def text(tokens: int) -> str:
        start = source.randrange(len(words) - tokens * 4)
        return words[start : start + tokens * 4]

    def turns() -> Iterator[Turn]:
        for index in range(source.randint(*TURNS)):
            # The number makes each message one of a kind, so that no conversation reads another's cache.
            tokens = source.randint(*(LATER_TOKENS if index else FIRST_TOKENS))
            yield Turn(f"{_identifier(source)} {text(tokens)}", source.random() < STREAMED)

    model = load_catalogue().find(MODEL)
    assert model is not None  # noqa: S101 - the catalogue is part of the package
    limit = LIMIT + LIMIT_A_CONVERSATION * conversations
    return Plan(seed, model, limit, text(SYSTEM_TOKENS), tuple(tuple(turns()) for _ in range(conversations)))


def _identifier(source: random.Random) -> str:
    return str(uuid.UUID(int=source.getrandbits(128), version=4))
