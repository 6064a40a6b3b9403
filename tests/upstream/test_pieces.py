"""An upload in pieces: the same bytes, none too large, and never more or less of them than announced."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.pieces import PIECE, Pieces
from gateway.upstream.transport import Unanswered
from tests.upstream.offer import Offer

SIZES = st.lists(st.one_of(st.integers(1, 9), st.integers(PIECE - 2, 3 * PIECE + 2)), max_size=5)


def blocks(sizes: list[int]) -> list[bytes]:
    letters = itertools.cycle(b"abcdefg")
    return [bytes([next(letters)]) * size for size in sizes]


async def collected(offer: Offer, *, framed: bool = False) -> list[bytes]:
    return [piece async for piece in Pieces(offer, framed=framed)]


@given(sizes=SIZES, sized=st.booleans())
async def test_the_bytes_stay_the_same_and_no_piece_is_large(sizes, sized):
    offered = blocks(sizes)
    pieces = await collected(Offer(*offered, size=sum(sizes) if sized else None))
    assert b"".join(pieces) == b"".join(offered)
    assert all(0 < len(piece) <= PIECE for piece in pieces)


@given(sizes=SIZES)
async def test_chunks_are_pieces_with_their_length_and_an_empty_one_ends_them(sizes):
    plain = await collected(Offer(*blocks(sizes)))
    chunks = await collected(Offer(*blocks(sizes)), framed=True)
    assert chunks == [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*plain, b""]]


@given(sizes=SIZES, off=st.one_of(st.integers(-3, 3), st.integers(-2 * PIECE, 2 * PIECE)).filter(bool))
async def test_an_upload_of_another_size_is_never_given_out_whole(sizes, off):
    size = max(0, sum(sizes) + off)
    if size == sum(sizes):
        return
    given_out = 0
    with pytest.raises(Unanswered):
        async for piece in Pieces(Offer(*blocks(sizes), size=size)):
            given_out += len(piece)
    assert given_out < size or size == 0 == given_out


async def test_nothing_is_read_once_the_end_was_seen():
    offer = Offer(b"hello", size=5)
    pieces = Pieces(offer)
    assert [piece async for piece in pieces] == [b"hello"]
    offer.waiting.clear()
    assert [piece async for piece in pieces] == []
    assert not offer.waiting.is_set()
