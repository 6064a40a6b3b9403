"""A head that takes the short way is read as the parser reads it, and what the parser refuses never takes it."""

from __future__ import annotations

from typing import Any

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.listen.plain_head import PlainHead, PlainHeads

MOST = 16 * 1024
PLAIN = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nx-api-key: sk-1\r\nContent-Length: 2\r\n\r\n"


HEADS_OF = PlainHeads("X-Conversation-Id")


def read_plain(segment: bytes, most: int) -> PlainHead | None:
    return HEADS_OF.read(segment, most)


def by_name(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those of one name in their order: the others' says nothing."""
    return sorted(headers, key=lambda header: header[0])


class Parsed:
    """What httptools says of one request."""

    def __init__(self, data: bytes) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.heads = self.ends = 0
        self.parser: Any = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.heads += 1
        self.keep_alive = self.parser.should_keep_alive()
        self.method, self.version = self.parser.get_method(), self.parser.get_http_version()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ends += 1


NAMES = st.sampled_from(
    [
        b"Host", b"host", b"x-api-key", b"X-Conversation-Id", b"content-length", b"Content-Length",
        b"transfer-encoding",
        b"Transfer-Encoding", b"connection", b"Expect", b"upgrade", b"accept", b"User-Agent", b"x-stainless-os",
        b"anthropic-version", b"a_b", b"x y", b"", b"na:me", b"\tx", b" x", b"te", b"x\x00", b"\xe9",
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"2",
            b"0",
            b"00",
            b"+2",
            b"2 ",
            b"2,2",
            b"0x2",
            b"99999999999",
            b"chunked",
            b"keep-alive",
            b"close",
            b"100-continue",
            b"h2c",
            b"a b",
            b" a",
            b"a ",
            b"a\tb",
            b"\x00",
            b"a\x7f",
            b"caf\xc3\xa9",
            b"x\ny",
            b"x\ry",
            b'"',
            b"a: b",
            b"\x0b",
        ]
    ),
    st.binary(max_size=6),
)
COLONS = st.sampled_from([b": ", b": ", b": ", b":", b":  ", b" : ", b":\t", b""])
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\n\r\n"])
LINES = st.builds(lambda *parts: b"".join(parts), NAMES, COLONS, VALUES, ENDS)
REQUESTS = st.sampled_from(
    [
        b"POST /v1/messages HTTP/1.1", b"POST /v1/messages?beta=true HTTP/1.1", b"POST /v1/messages HTTP/1.0",
        b"GET /v1/models HTTP/1.1", b"POST  /v1/messages HTTP/1.1", b"POST /v1/messages  HTTP/1.1", b"post / HTTP/1.1",
        b"POST http://a/ HTTP/1.1", b"POST /a#b HTTP/1.1", b"POST /%2e HTTP/1.1", b"POST /a b HTTP/1.1", b"POST /",
        b"POST * HTTP/1.1", b"POST /v1/messages HTTP/1.1 ", b"POST /v1/messages HTTP/2.0", b"POST /\xe9 HTTP/1.1",
        b"\r\nPOST / HTTP/1.1", b"POST /?a?b HTTP/1.1", b"POST /v1/messages? HTTP/1.1", b"POST /../x HTTP/1.1",
    ]
)  # fmt: skip
HEADS = st.builds(
    lambda request, lines, end: request + b"\r\n" + b"".join(lines) + end,
    REQUESTS,
    st.lists(LINES, max_size=6),
    st.sampled_from([b"\r\n", b"\r\n", b"\n", b""]),
)


def with_length(head: bytes) -> bytes:
    return head.replace(b"\r\n", b"\r\nContent-Length: 2\r\n", 1)


@settings(deadline=None, max_examples=1000)
@given(
    head=st.one_of(HEADS, HEADS.map(lambda head: head.replace(b"\r\n", b"\r\nContent-Length: 2\r\n", 1))),
    body=st.binary(max_size=4),
)
@example(head=PLAIN, body=b"{}")
@example(head=PLAIN, body=b"{")
def test_what_takes_the_short_way_is_what_the_parser_says(head: bytes, body: bytes):
    for _ in range(2):  # lines are remembered
        found = read_plain(head + body, MOST)
        if found is None:
            continue
        parsed = Parsed(head + body)
        assert (parsed.heads, parsed.method, parsed.version, parsed.keep_alive) == (1, b"POST", "1.1", True)
        assert by_name(parsed.headers) == by_name(found.headers)
        path, _, query = parsed.url.partition(b"?")
        assert found.shape.known.target == (path, query)
        rest = (head + body)[found.size :]
        assert parsed.body == rest and len(rest) <= found.length
        assert parsed.ends == (len(rest) == found.length)
        assert not parsed.parser.should_upgrade()


@pytest.mark.parametrize(
    "head",
    [
        PLAIN.replace(b"Content-Length: 2\r\n", b""),
        PLAIN.replace(b"POST", b"GET"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
        PLAIN.replace(b"Host: a", b"Host: a\r\nConnection: close"),
        PLAIN.replace(b"Host: a", b"Host: a\r\nTransfer-Encoding: chunked"),
        PLAIN.replace(b"Host: a", b"Host: a\r\nExpect: 100-continue"),
        PLAIN.replace(b"Host: a", b"Host: a\r\n folded"),
        PLAIN.replace(b"Host: a", b"Host: a\r\ncontent-length: 2"),
        PLAIN.replace(b"Length: 2", b"Length: +2"),
        PLAIN[:-1],
        PLAIN + b"{}G",
    ],
)
def test_what_is_not_plain_is_the_parsers(head: bytes):
    assert read_plain(PLAIN + b"{}", MOST) is not None
    assert read_plain(head, MOST) is None


def test_a_head_beyond_the_bound_is_the_parsers():
    assert read_plain(PLAIN, len(PLAIN) - 4) is not None
    assert read_plain(PLAIN, len(PLAIN) - 5) is None


@pytest.mark.parametrize("name", [b"x-api-key", b"Authorization", b"X-Conversation-Id", b"TRACEPARENT", b"Cookie"])
def test_nothing_of_its_own_is_remembered(name: bytes):
    heads = PlainHeads("X-Conversation-Id")
    for number in range(3):
        head = PLAIN.replace(b"Host: a", b"Host: a\r\n%b: own %d" % (name, number))
        assert heads.read(head, MOST) is not None
    assert b"own" not in b"".join(heads._known)
    one, two = heads.read(PLAIN, MOST), heads.read(PLAIN, MOST)
    assert one is not None and two is not None and one.shape is two.shape


def test_what_is_remembered_is_bounded():
    heads = PlainHeads("X-Conversation-Id")
    for number in range(5000):
        assert heads.read(PLAIN.replace(b"Host: a", b"Host: a%d" % number), MOST) is not None
    assert len(heads._known) <= 1024
    assert heads.read(PLAIN.replace(b"Host: a", b"Host: " + b"a" * 4096), MOST) is not None
    assert max(map(len, heads._known)) <= 2048
