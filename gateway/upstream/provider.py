"""The provider seam: how a client's call becomes a request to an account's provider, and its answer Anthropic's again.

A provider is one module with a `Provider`, and one row in `PROVIDERS`. It may rewrite method, path, header lines and
body, and translate another stream framing into server-sent events; it does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.core.routing.outcomes import Outcome, judge, judge_body, without_secret
from gateway.core.wire.peek import Peek
from gateway.upstream.credential import Credential
from gateway.upstream.transport import Upload

Headers = list[tuple[bytes, bytes]]
_SHORTEST = 8  # characters of a key that is looked for in answers


class Call(msgspec.Struct):
    """What a client asked, cleaned: `path` begins with a slash and may hold a query; `lines` are finished header lines
    without credential, host, length and hop-by-hop ones; `version` says whether one of them is anthropic-version;
    `bearer` that the endpoint wants the credential as a bearer token; `endpoint` is its name in the path table. `peek`
    is what was read of a body that names a model: its members as they came, though an alias stands in `body`."""

    method: bytes
    path: bytes
    lines: list[bytes]
    body: bytes | Upload
    model: str = ""
    stream: bool = False
    version: bool = True
    bearer: bool = False
    endpoint: str = ""
    peek: Peek | None = None


class Outgoing(msgspec.Struct):
    """What goes to the upstream; `headers` are finished lines in one piece. `whole` makes Anthropic's JSON of a good
    answer that is no stream, None if it is that already."""

    method: bytes
    path: bytes
    headers: bytes
    body: bytes | Upload
    whole: Callable[[bytes], bytes] | None = None


class Decoder(Protocol):
    """Makes server-sent events of one stream's bytes."""

    def feed(self, data: bytes) -> bytes:
        """What these bytes complete, perhaps nothing. Raises Interrupted where they are no such stream."""
        ...

    def end(self) -> bytes:
        """What is left when the answer has ended; nothing the second time. Raises Interrupted where it was cut."""
        ...


class Refusal(msgspec.Struct):
    """An answer that is not good: what it means for the account, and what a client may see of it. `retry_after` are
    seconds that it names otherwise than in its head; `reason` is what operators are told where the client is not:
    the upstream's own words, without secrets."""

    outcome: Outcome
    status: int
    body: bytes | None
    retry_after: float | None = None
    reason: str = ""


class Provider(Protocol):
    """One kind of upstream, for one account's credential.

    `complete` says that it serves every endpoint and model, so that nobody need ask; `secret` is what no answer may
    repeat ("" for nothing), `tells_limits` says whether answers name what is left of
    limits. `head` makes the headers of an answer Anthropic's own, None where they are. `probe_proves` says whether a
    good answer to the free probe shows that the credential is accepted, or only that somebody is there.
    """

    @property
    def credential(self) -> Credential: ...
    @property
    def complete(self) -> bool: ...
    @property
    def secret(self) -> str: ...
    @property
    def tells_limits(self) -> bool: ...
    @property
    def head(self) -> Callable[[Headers], Headers] | None: ...
    @property
    def probe_proves(self) -> bool: ...

    def serves(self, endpoint: str, model: str) -> bool:
        """Whether this account can serve an endpoint, by its name in the path table, for a model ("" for any)."""
        ...

    def premium(self, model: str) -> float:
        """How many times Anthropic's price a model costs here."""
        ...

    def prepare(self, call: Call) -> Outgoing:
        """The request as this provider wants it, signed for this one attempt. Raises NotReady without a credential."""
        ...

    def decoder(self, headers: Headers) -> Decoder | None:
        """For the head of a streamed answer: what makes server-sent events of its bytes; None if they are that."""
        ...

    def refusal(self, status: int, headers: Headers, body: bytes | None, request_id: str) -> Refusal:
        """What an answer means whose status is not below 300; `body` is None where it did not arrive whole, `headers`
        are as they came. An error that is written here has this `request_id`."""
        ...

    def probe(self, most: int) -> Outgoing:
        """A request that costs nothing: where there is one, for a list of up to so many models. Raises NotReady."""
        ...


def secret_of(api_key: str) -> str:
    """What no answer may repeat of an account with this key: "" where it is so short that it stands in anybody's
    words, as the keys of upstreams that ask for none are."""
    return api_key if len(api_key) >= _SHORTEST else ""


def native_refusal(status: int, body: bytes | None, secret: str) -> Refusal:
    """A refusal in Anthropic's own words."""
    if body is not None:
        body = without_secret(body, secret)
    return Refusal(judge_body(judge(status), body or b""), status, body)
