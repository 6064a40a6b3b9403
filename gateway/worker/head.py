"""One walk over a client's request headers: what the gateway reads, and the lines that go on to the upstream.

It does not know callers or accounts.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from time import time

import msgspec
from msgspec.structs import replace

from gateway.core.routing.conversation import check_id
from gateway.errors import ApiError
from gateway.listen.client import HeaderList
from gateway.listen.plain_head import PlainHead

# Hop-by-hop, credentials, framing that is made anew, and what would tell the upstream about the client's network.
DROPPED = frozenset(
    b"host connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade content-length expect x-api-key authorization cookie forwarded via x-real-ip accept-encoding "
    b"anthropic-workspace-id".split()
)
_PREFIXES = (b"x-forwarded-", b"x-gateway-")
_UNMETERED_ENCODING = b"accept-encoding: identity\r\n"

_READ = frozenset(
    b"x-claude-code-session-id x-claude-code-agent-id anthropic-version anthropic-user-profile-id content-encoding "
    b"traceparent tracestate".split()
)

# A client says the same of itself with every request: these headers' finished lines are kept, within bounds.
_STABLE = (b"x-stainless-", b"user-agent", b"accept", b"content-type", b"anthropic-beta", b"x-app")
_OF_CREDENTIAL = b"oauth-2025-04-20"  # a beta that belongs to the credential that is replaced
_IDLE = (b"accept-encoding", b"connection")  # dropped, whatever they say
_MAX_KNOWN = 4096
_LONGEST = 18  # digits of a content-length
_known: dict[tuple[bytes, bytes], bytes] = {}


class Head(msgspec.Struct, eq=False):
    """What the headers said. Byte values are b"" where absent; `lines` are finished lines for the upstream."""

    credentials: list[bytes] = []  # in either header, of whatever number
    conversation: bytes = b""
    session: bytes = b""
    agent: bytes = b""
    content_encoding: bytes = b""
    traceparent: bytes = b""
    connection: bytes = b""
    content_length: int = -1
    profile: str = ""
    hosts: int = 0
    tracestate: bool = False
    version: bool = False
    lines: list[bytes] = msgspec.field(default_factory=lambda: [_UNMETERED_ENCODING])

    @property
    def betas(self) -> list[bytes]:
        """The values of its `anthropic-beta` lines."""
        name = b"anthropic-beta:"
        if name not in b"".join(self.lines):
            return []
        return [line[len(name) :].strip() for line in self.lines if line.startswith(name)]

    @property
    def claude_code(self) -> bool:
        """Whether the client says that it is Claude Code."""
        return any(line.startswith(b"user-agent: claude-cli/") for line in self.lines)

    def continue_trace(self, traceparent: bytes, broken: bool) -> None:
        """Tell the upstream this instead of what the client said, whose `tracestate` means nothing if that was
        `broken`, or if it said nothing else."""
        if self.traceparent:
            self.lines = without(self.lines, b"traceparent")
        if self.tracestate and broken:
            self.lines = without(self.lines, b"tracestate")
        self.traceparent = traceparent
        self.lines = [*self.lines, b"traceparent: %b\r\n" % traceparent]


def read_head(headers: HeaderList, affinity: bytes) -> Head:
    """Walk `headers` (names in lower case); `affinity` is the name of the conversation header, in lower case.

    The listener's parser has refused control characters, so every value can be forwarded as it is. Raises
    ApiError(400) for a bad conversation id, and for what says nothing of the body.
    """
    head = Head()
    add = head.lines.append
    for header in headers:
        line = _known.get(header)
        if line is None:
            line = _take(head, header, affinity)
        if line:
            add(line)
    if head.connection:
        named = {token.strip() for token in head.connection.lower().split(b",")}
        own, *forwarded = head.lines
        head.lines = [own, *(line for line in forwarded if line.partition(b":")[0] not in named)]
    return head


def read_plain(plain: PlainHead, affinity: bytes) -> Head:
    """As `read_head`, of what the listener has read at a glance: what many requests say alike is walked over once."""
    known = plain.shape.known
    name, alike = known.read
    if name != affinity:
        alike = read_head(known.headers, affinity)
        known.read = affinity, alike
    head: Head = replace(alike, credentials=[], content_length=plain.length)
    for header in plain.own:
        if header[0] == b"x-api-key":
            head.credentials.append(header[1])
        elif header[0] != b"content-length":
            line = _take(head, header, affinity)
            if line:
                head.lines = [*head.lines, line]
    return head


def _take(head: Head, header: tuple[bytes, bytes], affinity: bytes) -> bytes:
    """Read it. Returns the line that goes on, b"" for none."""
    name, value = header
    line = b""
    if name == affinity:
        if head.conversation and head.conversation != value:
            raise ApiError(400, f"{affinity.decode()}: given twice")
        head.conversation = check_id(value, affinity.decode())
    elif name in DROPPED:
        if name == b"host":
            head.hosts += 1
        elif name == b"x-api-key":
            head.credentials.append(value)
        elif name == b"authorization":
            scheme, _, rest = value.partition(b" ")
            if scheme.lower() == b"bearer":
                head.credentials.append(rest.strip())
            elif not rest:
                head.credentials.append(value)  # without a scheme
        elif name == b"content-length":
            if len(value) > _LONGEST or not value.isdigit():
                raise ApiError(400, "Content-Length: it is no number of any use")
            head.content_length = int(value)
        elif name == b"transfer-encoding" and value.strip(b" \t,").lower() != b"chunked":
            raise ApiError(400, "Transfer-Encoding: only chunked is understood; use Content-Encoding")
        elif name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            head.connection += b"," + value
        elif name in _IDLE:
            _know(header, line)
    elif not name.startswith(_PREFIXES) and not (b"_" in name and _dropped_too(name.replace(b"_", b"-"))):
        line = b"%b: %b\r\n" % header
        if name == b"anthropic-beta" and _OF_CREDENTIAL in value:
            line = _without_beta(value)
        if name in _READ:
            _note(head, name, value)
        elif name.startswith(_STABLE):
            _know(header, line)
    return line


def _dropped_too(name: bytes) -> bool:
    """Whether a header would be dropped if its underscores were hyphens, as some servers read them."""
    return name in DROPPED or name.startswith(_PREFIXES)


def _without_beta(value: bytes) -> bytes:
    """A line of betas without the credential's own, b"" where none is left."""
    betas = b",".join(each for each in value.split(b",") if each.strip() != _OF_CREDENTIAL)
    return b"anthropic-beta: %b\r\n" % betas.strip() if betas.strip() else b""


def _know(header: tuple[bytes, bytes], line: bytes) -> None:
    if len(header[0]) + len(header[1]) <= 256:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[header] = line


def without(lines: list[bytes], name: bytes) -> list[bytes]:
    """Header lines but for those of `name`."""
    return [line for line in lines if line.partition(b":")[0] != name]


def _note(head: Head, name: bytes, value: bytes) -> None:
    """Forwarded, and read here as well."""
    if name == b"x-claude-code-session-id":
        head.session = value[:256]
    elif name == b"x-claude-code-agent-id":
        head.agent = value[:256]
    elif name == b"anthropic-version":
        head.version = True
    elif name == b"content-encoding":
        if head.content_encoding:
            raise ApiError(400, "content-encoding: given twice")
        head.content_encoding = value.strip().lower() or b"identity"
    elif name == b"anthropic-user-profile-id":
        if head.profile:
            raise ApiError(400, "anthropic-user-profile-id: given twice")
        head.profile = value.decode("latin-1") or "-"
    elif name == b"traceparent":
        head.traceparent = b"?" if head.traceparent else value.strip() or b"?"  # of two, nobody knows which
    elif name == b"tracestate":
        head.tracestate = True


# Never shown to a client: the account's identity and limits, the upstream's front end, and framing made anew.
_HIDDEN = frozenset(
    b"connection keep-alive proxy-connection transfer-encoding trailer upgrade content-length date server set-cookie "
    b"via alt-svc cf-ray cf-cache-status strict-transport-security x-envoy-upstream-service-time server-timing nel "
    b"report-to x-api-key authorization proxy-authorization".split()
)
_HIDDEN_PREFIXES = (b"x-gateway-",)
# Hidden, and noted: they concern the account.
_NOTED_PREFIXES = (
    b"anthropic-ratelimit-", b"anthropic-priority-", b"anthropic-fast-", b"anthropic-organization-id",
    b"anthropic-workspace-id", b"x-ratelimit-",
)  # fmt: skip
LIMIT_KINDS = ("requests", "input", "output")
_LIMITS = {
    b"anthropic-ratelimit-%b-%b" % (name, what): index
    for index, (name, what) in enumerate(
        (name, what) for name in (b"requests", b"input-tokens", b"output-tokens") for what in (b"limit", b"remaining")
    )
}

_HIDE, _SHOW, _KIND, _REQUEST_ID, _WAIT, _ENCODING, _NOTE = range(7)
_verdicts: dict[bytes, int] = {}  # by header name, within bounds: upstreams use few


def _verdict(name: bytes) -> int:
    if name.startswith(_NOTED_PREFIXES):
        verdict = _NOTE
    elif name in _HIDDEN or name.startswith(_HIDDEN_PREFIXES):
        verdict = _HIDE
    else:
        special = {
            b"content-encoding": _ENCODING,
            b"content-type": _KIND,
            b"request-id": _REQUEST_ID,
            b"retry-after": _WAIT,
            b"retry-after-ms": _WAIT,
        }
        verdict = special.get(name, _SHOW)
    if len(_verdicts) < _MAX_KNOWN and len(name) <= 64:
        _verdicts[name] = verdict
    return verdict


class AnswerHead:
    """What an upstream's response headers said: `visible` ones for the client in their order, `kind` the content type
    in lower case, `encoding` the content's if it is not plain, `request_id` the upstream's, `retry_after` seconds or
    None (kept from the client, whose SDK would sleep as long). `about` says that some concern the account; they are
    read when somebody asks. What repeats the account's `secret` is not visible."""

    __slots__ = ("_headers", "about", "encoding", "kind", "request_id", "retry_after", "visible")

    def __init__(self, headers: HeaderList, secret: bytes = b"") -> None:
        self.kind = self.request_id = self.encoding = b""
        self.retry_after: float | None = None
        self.about = False
        self._headers = headers
        visible: HeaderList = []
        self.visible = visible
        for header in headers:
            verdict = _verdicts.get(header[0])
            if verdict is None:
                verdict = _verdict(header[0])
            if verdict == _SHOW:
                if not secret or secret not in header[1]:
                    visible.append(header)
            elif verdict >= _NOTE:
                self.about = True
            elif verdict == _KIND:
                self.kind = header[1].lower()
                visible.append(header)
            elif verdict == _REQUEST_ID:
                self.request_id = header[1]
                visible.append(header)
            elif verdict == _WAIT:
                self._wait(*header)
            elif verdict == _ENCODING:
                visible.append(header)
                self.encoding = b"" if header[1].lower() == b"identity" else header[1]

    def forget(self) -> None:
        """What it says is known, and written where it belongs."""
        self._headers.clear()
        self.visible.clear()

    def is_json(self) -> None:
        """The body that it came with is another now, in JSON."""
        self.is_plain()
        self.kind = b"application/json"
        self.visible = [header for header in self.visible if header[0] != b"content-type"]
        self.visible.append((b"content-type", self.kind))

    def is_plain(self) -> None:
        """The body that it came with is not encoded any more."""
        self.encoding = b""
        self.visible = [header for header in self.visible if header[0] != b"content-encoding"]

    @property
    def rate_limits(self) -> list[int | None]:
        """Limit and remaining of each of LIMIT_KINDS in turn, None where nothing was said."""
        found: list[int | None] = [None] * len(_LIMITS)
        for name, value in self._headers:
            index = _LIMITS.get(name)
            if index is not None and value.isdigit() and len(value) <= 15:
                found[index] = int(value)
        return found

    @property
    def notes(self) -> HeaderList:
        """All headers that concern the account."""
        return [header for header in self._headers if header[0].startswith(_NOTED_PREFIXES)]

    def _wait(self, name: bytes, value: bytes) -> None:
        try:
            seconds = float(value) / (1000 if name == b"retry-after-ms" else 1)
        except ValueError:
            try:
                seconds = max(0.0, parsedate_to_datetime(value.decode("latin-1")).timestamp() - time())
            except (ValueError, OverflowError):
                return
        if name == b"retry-after" or self.retry_after is None:
            self.retry_after = seconds
