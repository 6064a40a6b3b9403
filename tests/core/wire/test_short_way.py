"""What may leave as it came: chunks that are one piece of content each, and nothing else."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.wire.short_way import ShortWay, delta_chunks
from gateway.core.wire.usage_meter import UsageMeter

WHOLE = b'event: content_block_delta\ndata: {"delta":{"text":"so"}}\n\n'


def framed(body: bytes, size: int | None = None) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body) if size is None else size, body)


def test_chunks_that_are_one_piece_of_content_each_are_told_from_all_others():
    other = WHOLE.replace(b"so", b"another")
    assert delta_chunks(framed(WHOLE)) == 1
    assert delta_chunks(framed(WHOLE) + framed(other)) == 2
    assert delta_chunks(framed(other) * 40) == 40
    for other in (
        WHOLE,
        framed(WHOLE + WHOLE),
        framed(WHOLE)[:-1],
        framed(WHOLE)[:-2],
        framed(WHOLE) + b"0\r\n\r\n",
        framed(WHOLE) + framed(WHOLE)[:-1],
        framed(WHOLE) + framed(WHOLE)[:-2],
        framed(WHOLE) + framed(WHOLE + WHOLE),
        framed(WHOLE)[:-2] + framed(WHOLE),
        framed(WHOLE)[:-1] + b"x",
        framed(WHOLE)[:-1] + b"x" + framed(WHOLE),
        framed(b": a comment\n\n") + framed(WHOLE),
        framed(WHOLE, len(WHOLE) + 1),
        framed(WHOLE[:-1]),
        framed(WHOLE.replace(b"\n", b"\r\n")),
        framed(WHOLE.replace(b"so", b"s\ro")),
        framed(b"event: message_delta\ndata: {}\n\n"),
        framed(b"event: content_block_delta_too\ndata: {}\n\n"),
        framed(b": a comment\n" + WHOLE),
        b"0000000%b" % framed(WHOLE),
        b"3B\r\n" + framed(WHOLE)[4:],
        b"+" + framed(WHOLE),
        framed(WHOLE).replace(b"\r\n", b";a=b\r\n", 1),
        b"",
        b"\r\n",
    ):
        assert not delta_chunks(other), other


def test_a_chunk_of_any_size_is_known_by_its_own_length_alone():
    empty = WHOLE.replace(b"so", b"")
    for size in (*range(len(empty), 600), *range(4000, 4200), 65_535, 65_536, 70_000):
        body = WHOLE.replace(b"so", b"s" * (size - len(empty)))
        assert delta_chunks(framed(body)) == 1, size
        for wrong in (size - 1, size + 1, size * 16, size // 16):
            assert not delta_chunks(framed(body, wrong)), (size, wrong)


PIECES = st.one_of(
    st.text(alphabet='so":{}\\\n\r e', max_size=40).map(
        lambda text: b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
        b'{"type":"text_delta","text":%b}}\n\n' % msgspec.json.encode(text)
    ),
    st.sampled_from([
        WHOLE, b'event: content_block_delta\ndata: {"delta": {"text": "so"}}\n\n', b"event: ping\ndata: {}\n\n",
        b"event: content_block_delta\ndata: {}\n\n", b'event: content_block_delta\ndata: "}}\n\n', b": so\n\n",
        WHOLE.replace(b"}}", b"} }"), WHOLE.replace(b"}}", b'},"index":1}'), WHOLE.replace(b"so", b"s\no"),
    ]),
)  # fmt: skip


STATES = st.sampled_from([(False, False), (False, False), (True, False), (False, True)])


@given(st.lists(st.lists(PIECES, min_size=1, max_size=3), max_size=12), st.lists(STATES, min_size=12))
def test_what_goes_the_short_way_is_counted_as_what_goes_the_long_one(segments, states):
    written: list[bytes] = []
    closing = False
    way, short, long = ShortWay(written.append, lambda: closing), UsageMeter(), UsageMeter()
    passed = []
    for pieces, (way.full, closing) in zip(segments, states, strict=False):
        segment = b"".join(map(framed, pieces))
        before = len(written)
        if way.take(segment):
            passed.append(segment)
            assert len(written) == before + 1
            assert delta_chunks(segment) == len(pieces)
            for piece in pieces:
                long.count(piece)
            assert not (way.full or closing)
        else:
            assert way.full or closing or not delta_chunks(segment)
            assert len(written) == before
    assert written == passed
    assert way.looked_at() == bool(passed)
    assert not way.looked_at()
    way.tell(short)
    assert (short.passed_deltas, short.passed_bytes) == (long.passed_deltas, long.passed_bytes)
    assert (way.deltas, way.size) == (0, 0)
