"""What of a client's headers is read, what goes on to the upstream, and what comes back."""

from __future__ import annotations

import re

import httptools
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.listen.plain_head import PlainHeads
from gateway.worker import head as module
from gateway.worker.head import DROPPED, LIMIT_KINDS, AnswerHead, Head, read_head, read_plain, without

RUNS = settings(deadline=None, max_examples=150)
AFFINITY = b"x-conversation-id"
OWN = [b"accept-encoding: identity\r\n"]


def read(*headers: tuple[bytes, bytes]) -> Head:
    return read_head(list(headers), AFFINITY)


def names(head: Head) -> list[bytes]:
    """The names of the lines that go on, without the gateway's own."""
    assert head.lines[: len(OWN)] == OWN
    return [line.partition(b":")[0] for line in head.lines[len(OWN) :]]


@pytest.mark.parametrize("length", [b"0" * 4400 + b"5", b"9" * 4400, b"", b"-1", b"5, 5", b"\xb2"])
def test_a_length_of_the_body_that_is_no_number_of_use_is_refused(length):
    with pytest.raises(ApiError, match="Content-Length") as refused:
        read((b"content-length", length))
    assert refused.value.status == 400


LINES = [
    b"Host: a", b"X-Api-Key: sk-1", b"Authorization: Bearer sk-2", b"X-Conversation-Id: c", b"x-conversation-id: c",
    b"X-Conversation-Id: d", b"traceparent: 00-1", b"Traceparent: 00-2", b"tracestate: a=b", b"Accept: */*",
    b"anthropic-version: 2023-06-01", b"anthropic-beta: a,oauth-2025-04-20", b"User-Agent: claude-cli/2",
    b"Connection: keep-alive", b"x-claude-code-session-id: s", b"X-Claude-Code-Agent-Id: t", b"x-forwarded-for: 1",
    b"X-Own: 1", b"idempotency-key: i", b"anthropic-user-profile-id: p", b"content-encoding: gzip", b"x-session: own",
]  # fmt: skip


@RUNS
@given(
    st.lists(st.lists(st.sampled_from(LINES), max_size=8), min_size=1, max_size=3),
    st.sampled_from([AFFINITY, b"x-session"]),
)
def test_what_is_read_at_a_glance_is_what_a_walk_over_all_headers_reads(requests, affinity):
    heads, shape = PlainHeads("X-Conversation-Id"), None
    for lines in [each for each in requests for _ in range(2)]:
        text = b"\r\n".join([b"POST / HTTP/1.1", *lines, b"Content-Length: 0", b"", b""])
        plain = heads.read(text, 10_000, shape)
        assert plain is not None
        shape = plain.shape
        try:
            expected = read_head(plain.headers, affinity)
        except ApiError as error:
            with pytest.raises(ApiError, match=re.escape(error.message)):
                read_plain(plain, affinity)
            continue
        found = read_plain(plain, affinity)
        assert sorted(found.lines) == sorted(expected.lines) and found.lines[0] == expected.lines[0]
        found.lines = expected.lines = []
        assert msgspec.structs.asdict(found) == msgspec.structs.asdict(expected)


# What goes on.


@pytest.mark.parametrize(
    "name",
    b"anthropic-version anthropic-beta anthropic-dangerous-direct-browser-access user-agent content-type accept range "
    b"x-stainless-lang x-stainless-retry-count traceparent tracestate x-app x-claude-code-session-id x-request-id "
    b"accept-language content-encoding x-unknown idempotency-key".split(),
)
def test_headers_that_the_upstream_may_want_go_on_as_they_came(name):
    assert read((name, b"Value, with \t \xc3\xa9")).lines == [*OWN, name + b": Value, with \t \xc3\xa9\r\n"]


@pytest.mark.parametrize(
    ("said", "goes_on"),
    [
        (b"oauth-2025-04-20", []),
        (b"a,oauth-2025-04-20", [b"a"]),
        (b"oauth-2025-04-20, a, b", [b"a, b"]),
        (b"a, oauth-2025-04-20,b", [b"a,b"]),
        (b"a-oauth-2025-04-20", [b"a-oauth-2025-04-20"]),
    ],
)
def test_the_beta_of_the_credential_that_is_replaced_does_not_go_on(said, goes_on):
    for _ in range(2):  # as it is read, and as it is remembered
        assert read((b"anthropic-beta", said)).betas == goes_on


@pytest.mark.parametrize(
    "name",
    b"host connection keep-alive proxy-connection proxy-authorization proxy-authenticate te trailer "
    b"upgrade expect x-api-key authorization cookie forwarded via x-real-ip x-forwarded-for x-forwarded-host "
    b"x-forwarded-anything x-gateway-request-id x-gateway-x accept-encoding anthropic-workspace-id "
    b"x-conversation-id".split(),
)
def test_headers_that_are_the_gateways_business_do_not(name):
    assert read((name, b"close")).lines == OWN


def test_a_body_comes_in_chunks_and_in_no_other_coding_of_its_transfer():
    for value in (b"Chunked", b"chunked ", b", chunked"):
        assert read((b"transfer-encoding", value)).lines == OWN
    for value in (b"gzip, chunked", b"gzip", b"identity", b""):
        with pytest.raises(ApiError, match="Transfer-Encoding") as caught:
            read((b"transfer-encoding", value))
        assert caught.value.status == 400


def test_the_length_of_the_body_is_read_and_made_anew():
    head = read((b"content-length", b"1234"))
    assert head.content_length == 1234
    assert head.lines == OWN
    assert read().content_length == -1


def test_lines_keep_their_order_and_may_repeat():
    head = read((b"anthropic-beta", b"one"), (b"user-agent", b"x"), (b"anthropic-beta", b"two"))
    assert head.lines == [*OWN, b"anthropic-beta: one\r\n", b"user-agent: x\r\n", b"anthropic-beta: two\r\n"]


def test_what_one_client_said_is_never_said_for_another():
    for value in (b"one", b"two", b"one"):
        head = read((b"user-agent", value), (b"x-stainless-os", value), (b"anthropic-version", value))
        assert head.lines[1:] == [
            b"%b: %b\r\n" % (name, value) for name in (b"user-agent", b"x-stainless-os", b"anthropic-version")
        ]
        assert head.version


def test_headers_that_the_connection_names_are_dropped():
    head = read((b"x-hop", b"1"), (b"x-stays", b"2"), (b"connection", b"close, X-Hop ,x-other"), (b"x-other", b"3"))
    assert names(head) == [b"x-stays"]


def test_headers_that_several_connection_headers_name_are_dropped():
    head = read((b"connection", b"x-hop"), (b"x-hop", b"1"), (b"x-other", b"2"), (b"connection", b"x-other"))
    assert names(head) == []
    assert names(read((b"connection", b"x-hop"), (b"connection", b"keep-alive"), (b"x-hop", b"1"))) == []


def test_the_connection_header_cannot_remove_what_the_gateway_itself_says():
    head = read((b"connection", b"accept-encoding, host, x-api-key"))
    assert head.lines == OWN


@pytest.mark.parametrize("value", [b"keep-alive", b"close", b"Close", b"Keep-Alive", b"", b",", b"close, keep-alive"])
def test_a_connection_header_that_names_nothing_drops_nothing(value):
    assert names(read((b"connection", value), (b"x-stays", b"1"))) == [b"x-stays"]


NAMES = st.sampled_from(sorted(DROPPED)) | st.sampled_from(
    [b"x-gateway-a", b"x-forwarded-for", b"x-a", b"anthropic-beta", AFFINITY]
)
FIT = {b"content-length": b"7", AFFINITY: b"7", b"transfer-encoding": b"chunked"}
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=10).map(str.encode)


@RUNS
@given(st.lists(st.tuples(NAMES, VALUES), max_size=10))
def test_nothing_that_must_be_dropped_ever_goes_on(headers):
    headers = [(name, FIT.get(name, value)) for name, value in headers if name != b"connection"]
    head = read(*headers)
    gone = {*DROPPED, AFFINITY}
    assert all(name not in gone and not name.startswith((b"x-gateway-", b"x-forwarded-")) for name in names(head))
    kept = [(name, value) for name, value in headers if name in (b"x-a", b"anthropic-beta")]
    assert head.lines[1:] == [b"%b: %b\r\n" % header for header in kept]


# What is read.


@pytest.mark.parametrize(
    ("header", "credential"),
    [
        ((b"x-api-key", b"sk-1"), b"sk-1"),
        ((b"authorization", b"Bearer sk-1"), b"sk-1"),
        ((b"authorization", b"bearer   sk-1 "), b"sk-1"),
        ((b"authorization", b"BEARER sk-1"), b"sk-1"),
        ((b"authorization", b"sk-1"), b"sk-1"),
        ((b"authorization", b"Basic sk-1"), b""),
        ((b"authorization", b"Bearersk-1"), b"Bearersk-1"),
        ((b"authorization", b"Bearer "), b""),
        ((b"authorization", b""), b""),
        ((b"x-api-key", b""), b""),
    ],
)
def test_a_credential_may_come_in_either_header(header, credential):
    assert b"".join(read(header).credentials) == credential


def test_several_credentials_may_come():
    head = read((b"authorization", b"Bearer two"), (b"x-api-key", b"one"), (b"x-api-key", b"three"))
    assert head.credentials == [b"two", b"one", b"three"]


@pytest.mark.parametrize("name", [b"transfer_encoding", b"content_length", b"x_api_key", b"x_forwarded_for", b"host_"])
def test_what_other_servers_might_read_as_a_dropped_header_is_dropped(name):
    assert (name in b"".join(read((name, b"1")).lines)) is (name == b"host_")


def test_the_rest_of_what_is_read():
    head = read(
        (b"x-claude-code-session-id", b"s" * 300),
        (b"x-claude-code-agent-id", b"a"),
        (b"anthropic-version", b"2023-06-01"),
        (b"content-encoding", b"GZIP"),
        (b"traceparent", b"00-ab-cd-01"),
    )
    assert (head.session, head.agent, head.version) == (b"s" * 256, b"a", True)
    assert (head.content_encoding, head.traceparent) == (b"gzip", b"00-ab-cd-01")
    plain = read()
    assert (plain.session, plain.agent, plain.version, plain.content_encoding, plain.traceparent) == (
        b"",
        b"",
        False,
        b"",
        b"",
    )


def test_the_conversation_is_read_from_the_header_that_is_configured():
    assert read((AFFINITY, b"c1")).conversation == b"c1"
    head = read_head([(b"x-thread", b"c1"), (AFFINITY, b"c2")], b"x-thread")
    assert head.conversation == b"c1"
    assert head.lines == [*OWN, b"x-conversation-id: c2\r\n"]


def test_a_conversation_given_twice_must_be_the_same():
    assert read((AFFINITY, b"c1"), (AFFINITY, b"c1")).conversation == b"c1"
    with pytest.raises(ApiError, match="x-conversation-id: given twice") as caught:
        read((AFFINITY, b"c1"), (AFFINITY, b"c2"))
    assert caught.value.status == 400


@pytest.mark.parametrize("value", [b"a\x00b", b"a\tb", b"a\x1fb", b"a\x7fb", b"x" * 8193])
def test_a_conversation_id_that_is_no_proper_text_is_refused(value):
    with pytest.raises(ApiError) as caught:
        read((AFFINITY, value))
    assert caught.value.status == 400
    assert caught.value.message.startswith("x-conversation-id: ")


@pytest.mark.parametrize("control", [*(each for each in range(32) if each not in (9, 10, 13)), 127])
@pytest.mark.parametrize("name", [b"X-Conversation-Id", b"anthropic-beta", b"x-api-key"])
def test_the_parser_of_the_listener_refuses_control_characters_in_values(name, control):
    parser = httptools.HttpRequestParser(object())
    with pytest.raises(httptools.HttpParserError):
        parser.feed_data(b"GET / HTTP/1.1\r\nHost: x\r\n" + name + b": a%cb\r\n\r\n" % control)


@pytest.mark.parametrize(
    "line", [b"a: b\rc: d", b"a: b\nc d", b"a : b", b"a\x00: b", b" a: b", b"a: b\r\n c", b"a: b\n"]
)
def test_the_parser_of_the_listener_refuses_lines_that_others_might_read_as_two(line):
    class Seen:
        headers: list[tuple[bytes, bytes]] = []  # noqa: RUF012

        def on_header(self, name: bytes, value: bytes) -> None:
            self.headers.append((name, value))

    parser = httptools.HttpRequestParser(Seen())
    with pytest.raises(httptools.HttpParserError):
        parser.feed_data(b"GET / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")
        pytest.fail(f"read as {Seen.headers}")


# What comes back.


def test_of_an_answer_the_client_sees_what_concerns_the_request():
    headers = [
        (b"content-type", b"application/json"),
        (b"request-id", b"req_up"),
        (b"x-should-retry", b"true"),
        (b"anthropic-beta-echo", b"x"),
        (b"x-other", b"1"),
        (b"x-other", b"2"),
    ]
    for _ in range(2):  # the second time from memory
        head = AnswerHead(headers)
        assert head.visible == headers
        assert (head.kind, head.request_id, head.retry_after) == (b"application/json", b"req_up", None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"retry-after", b"3")], 3.0),
        ([(b"retry-after-ms", b"1500")], 1.5),
        ([(b"retry-after-ms", b"1500"), (b"retry-after", b"3")], 3.0),
        ([(b"retry-after", b"3"), (b"retry-after-ms", b"1500")], 3.0),
        ([(b"retry-after", b"Wed, 21 Oct 2015 07:28:00 GMT")], 0.0),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"soon"), (b"retry-after-ms", b"1500")], 1.5),
        ([(b"retry-after", b"")], None),
        ([(b"retry-after", b"\xff")], None),
    ],
)
def test_how_long_an_account_asks_to_wait_is_read_and_kept_from_the_client(headers, seconds):
    head = AnswerHead([*headers, (b"x-other", b"1")])
    assert head.retry_after == seconds
    assert head.visible == [(b"x-other", b"1")]


@pytest.mark.parametrize("zone", ["GMT", "+0000"])
def test_a_date_as_retry_after_is_so_many_seconds_from_now(monkeypatch, zone):
    monkeypatch.setattr(module, "time", lambda: 1_792_567_680.0 - 90.5)
    head = AnswerHead([(b"retry-after", b"Wed, 21 Oct 2026 07:28:00 " + zone.encode())])
    assert head.retry_after == 90.5


DATES = st.builds(
    lambda day, year, zone: b"Wed, %d Oct %d 07:28:00 %s" % (day, year, zone),
    st.integers(0, 40),
    st.sampled_from([0, 99, 2026, 9999, 10000, 10**20]),
    st.sampled_from([b"GMT", b"+0100", b"+9999", b"-99999999999", b""]),
)


@RUNS
@given(st.binary(max_size=12) | DATES | st.floats().map(lambda value: str(value).encode()))
def test_no_retry_after_of_an_upstream_fails_the_request(value):
    head = AnswerHead([(b"retry-after", value), (b"x-other", b"1")])
    assert head.visible == [(b"x-other", b"1")]
    assert head.retry_after is None or isinstance(head.retry_after, float)


# What an answer says of its account's limits.


def limit(name: str, limit: int | str, remaining: int | str) -> list[tuple[bytes, bytes]]:
    what = f"anthropic-ratelimit-{name}-"
    return [
        (f"{what}{part}".encode(), str(value).encode()) for part, value in (("limit", limit), ("remaining", remaining))
    ]


def test_the_three_limits_come_each_in_their_place():
    headers = [*limit("output-tokens", 8000, 7000), *limit("requests", 50, 49), *limit("input-tokens", 30000, 0)]
    head = AnswerHead(headers)
    assert LIMIT_KINDS == ("requests", "input", "output")
    assert head.rate_limits == [50, 49, 30000, 0, 8000, 7000]
    assert (head.about, head.visible) == (True, [])


def test_a_limit_that_was_not_named_is_none():
    assert AnswerHead(limit("input-tokens", 30000, 29000)).rate_limits == [None, None, 30000, 29000, None, None]
    assert AnswerHead([(b"content-type", b"x")]).rate_limits == [None] * 6


@pytest.mark.parametrize("nonsense", ["", "-1", "many", "1.5", "1e6", "\u0663", "9" * 16])
def test_a_limit_that_is_no_number_is_as_if_it_was_not_named(nonsense):
    assert AnswerHead(limit("requests", nonsense, 3)).rate_limits == [None, 3, None, None, None, None]


def test_what_else_concerns_the_account_is_noted_and_unseen():
    noted = [
        (b"anthropic-organization-id", b"org-1"),
        (b"anthropic-workspace-id", b"ws-1"),
        (b"anthropic-ratelimit-input-tokens-reset", b"2026-10-21T07:28:00Z"),
        (b"anthropic-ratelimit-tokens-limit", b"38000"),
        (b"anthropic-ratelimit-unified-status", b"allowed"),
        (b"anthropic-priority-input-tokens-limit", b"10"),
        (b"anthropic-fast-input-tokens-remaining", b"10"),
    ]
    for _ in range(2):  # the second time from memory
        head = AnswerHead([noted[0], (b"x-other", b"1"), *noted[1:], *limit("requests", 50, 49)])
        assert head.about
        assert head.notes == [*noted, *limit("requests", 50, 49)]
        assert head.visible == [(b"x-other", b"1")]


def test_what_is_remembered_of_headers_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "_MAX_KNOWN", 10)
    monkeypatch.setattr(module, "_known", {})
    monkeypatch.setattr(module, "_verdicts", {})
    for number in [*range(100), *range(100)]:
        name, value = b"x-made-up-%d" % number, b"agent %d" % number
        assert AnswerHead([(name, b"1"), (b"set-cookie", b"x")]).visible == [(name, b"1")]
        head = read((b"user-agent", value), (b"cookie", b"x"), (b"accept", value * 100))
        assert head.lines == [*OWN, b"user-agent: " + value + b"\r\n", b"accept: " + value * 100 + b"\r\n"]
    assert len(module._known) == len(module._verdicts) == 10


@pytest.mark.parametrize(
    "name",
    b"anthropic-organization-id anthropic-workspace-id anthropic-ratelimit-requests-remaining "
    b"anthropic-ratelimit-unified-status anthropic-priority-input-tokens-limit anthropic-fast-input-tokens-limit "
    b"x-gateway-account set-cookie cf-ray server date via connection keep-alive transfer-encoding content-length "
    b"trailer upgrade alt-svc strict-transport-security x-envoy-upstream-service-time".split(),
)
def test_an_accounts_identity_and_limits_and_the_upstreams_front_end_stay_unseen(name):
    assert AnswerHead([(name, b"x"), (b"content-type", b"y")]).visible == [(b"content-type", b"y")]


def test_an_answer_without_headers_has_no_kind():
    head = AnswerHead([])
    assert (head.visible, head.kind, head.request_id, head.retry_after) == ([], b"", b"", None)
    assert (head.about, head.notes, head.rate_limits) == (False, [], [None] * 6)


def test_a_user_profile_is_noted_and_its_line_can_be_taken_out_again():
    head = read((b"anthropic-user-profile-id", b"uprof_1"), (b"x-custom", b"1"))
    assert head.profile == "uprof_1"
    assert without(head.lines, b"anthropic-user-profile-id") == [*OWN, b"x-custom: 1\r\n"]


OUR_TRACE = b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-00"


@pytest.mark.parametrize(
    ("headers", "broken", "kept"),
    [
        ([], True, []),
        ([(b"tracestate", b"a=1")], True, []),  # of a trace that is not named
        ([(b"traceparent", b""), (b"tracestate", b"a=1")], True, []),
        ([(b"traceparent", b""), (b"traceparent", OUR_TRACE)], True, []),
        ([(b"traceparent", OUR_TRACE), (b"tracestate", b"a=1")], False, [b"tracestate: a=1\r\n"]),
    ],
)
def test_the_upstream_is_told_of_one_trace_only(headers, broken, kept):
    head = read(*headers)
    head.continue_trace(OUR_TRACE, broken)
    assert head.lines[len(OWN) :] == [*kept, b"traceparent: %b\r\n" % OUR_TRACE]


def test_of_two_traces_nobody_knows_which_and_spaces_around_one_do_not_count():
    assert read((b"traceparent", b""), (b"traceparent", OUR_TRACE)).traceparent == b"?"
    assert read((b"traceparent", OUR_TRACE), (b"traceparent", OUR_TRACE)).traceparent == b"?"
    assert read((b"traceparent", OUR_TRACE + b" ")).traceparent == OUR_TRACE


def test_each_header_is_looked_at_once_however_many_there_are(monkeypatch):
    looked: list[tuple[bytes, bytes]] = []
    take = module._take

    def look(head: Head, header: tuple[bytes, bytes], affinity: bytes) -> bytes:
        looked.append(header)
        return take(head, header, affinity)

    monkeypatch.setattr(module, "_take", look)
    read(*[(b"a", b"")] * 500)
    assert len(looked) == 500
