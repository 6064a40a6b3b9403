"""Undoing content encodings: the same bytes whatever the pieces, and never more of them than allowed."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.wire.decoding import MAX_CODINGS, MAX_MEMBERS, Decoder, decode
from gateway.errors import ApiError

RUNS = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
LIMIT = 1 << 20
BODY = b'{"model":"claude-opus-5-5","messages":[]}' * 50


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
}


def refusal(body: bytes, encoding: bytes, limit: int = LIMIT) -> tuple[int, str | None]:
    with pytest.raises(ApiError) as caught:
        decode(body, encoding, limit)
    return caught.value.status, caught.value.code


@RUNS
@given(
    st.binary(max_size=2000).map(lambda data: data * 100) | st.binary(max_size=300),
    st.lists(st.sampled_from(sorted(ENCODE)), max_size=MAX_CODINGS),
    st.lists(st.integers(0, 9999), max_size=8),
    st.booleans(),
)
def test_what_was_encoded_comes_back_whatever_the_pieces(data, names, where, single):
    body = data
    for name in names:
        body = ENCODE[name](body)
    encoding = " , ".join(names).upper().encode()
    if single and len(body) < 3000:
        pieces = [body[i : i + 1] for i in range(len(body))]
    else:
        points = sorted({each * len(body) // 10_000 for each in where})
        pieces = [body[a:b] for a, b in zip([0, *points], [*points, len(body)], strict=True)]
    decoder = Decoder(encoding, LIMIT)
    assert b"".join([decoder.feed(piece) for piece in pieces]) == data
    decoder.finish()
    assert decode(body, encoding, LIMIT) == data


@RUNS
@given(st.binary(min_size=0, max_size=3000), st.integers(0, 9))
def test_deflate_is_read_with_zlibs_frame_and_without(data, level):
    packer = zlib.compressobj(level, wbits=-15)
    assert decode(packer.compress(data) + packer.flush(), b"deflate", LIMIT) == data
    assert decode(zlib.compress(data, level), b"deflate", LIMIT) == data


@pytest.mark.parametrize("pack", [raw_deflate, zlib.compress])
def test_what_an_inflater_still_holds_when_its_input_is_used_up_comes_out_too(pack):
    for size in (65535, 65536, 65537, 65600, 131072, 131073, 196608, 400_000):
        assert decode(pack(bytes(size)), b"deflate", LIMIT) == bytes(size)


def test_a_gzip_body_may_have_many_members():
    parts = [BODY, b"", b"x", BODY]
    body = b"".join(gzip.compress(part) for part in parts)
    assert decode(body, b"gzip", LIMIT) == b"".join(parts)
    decoder = Decoder(b"gzip", LIMIT)
    assert b"".join([decoder.feed(body[i : i + 7]) for i in range(0, len(body), 7)]) == b"".join(parts)
    decoder.finish()


def test_members_without_end_are_refused():
    empty = gzip.compress(b"")
    assert decode(empty * MAX_MEMBERS, b"gzip", LIMIT) == b""
    assert refusal(empty * (MAX_MEMBERS + 1), b"gzip") == (400, "request_body_encoding_invalid")


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"compress", b"gzip, br", b"aws-chunked", b"gzip;q=1", b"\xff"])
def test_other_encodings_are_unsupported_and_named(encoding):
    with pytest.raises(ApiError) as caught:
        Decoder(encoding, LIMIT)
    assert (caught.value.status, caught.value.code) == (400, "request_body_encoding_unsupported")
    assert repr(encoding.split(b", ")[-1].decode("latin-1")) in caught.value.message
    assert b'"details":{"error_code":"request_body_encoding_unsupported"}' in caught.value.body("req_1")


def test_a_long_list_of_encodings_is_unsupported():
    assert refusal(b"", b"gzip," * (MAX_CODINGS + 1)) == (400, "request_body_encoding_unsupported")


@pytest.mark.parametrize("encoding", [b"", b"identity", b" identity , ", b"IDENTITY"])
def test_identity_passes_up_to_the_limit(encoding):
    assert decode(BODY, encoding, len(BODY)) is BODY
    assert refusal(BODY, encoding, len(BODY) - 1) == (413, "request_body_too_large_after_decoding")
    decoder = Decoder(encoding, 10)
    assert decoder.feed(b"12345") == b"12345"
    with pytest.raises(ApiError):
        decoder.feed(b"123456")


@pytest.mark.parametrize(
    ("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress), (b"deflate", raw_deflate)]
)
def test_broken_and_truncated_bodies_are_invalid(encoding, pack):
    body = pack(BODY)
    for length in range(len(body)):
        assert refusal(body[:length], encoding) == (400, "request_body_encoding_invalid"), length
    assert refusal(body + b"x", encoding) == (400, "request_body_encoding_invalid")
    assert refusal(BODY, encoding) == (400, "request_body_encoding_invalid")
    if pack is not raw_deflate:  # it has no checksum
        broken = bytearray(body)
        broken[-5] ^= 1
        assert refusal(bytes(broken), encoding) == (400, "request_body_encoding_invalid")
    assert decode(body, encoding, LIMIT) == BODY


@RUNS
@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate", b"gzip,deflate"]))
def test_any_bytes_are_decoded_or_refused(data, encoding):
    told = None
    try:
        decode(data, encoding, LIMIT)
    except ApiError as error:
        told = (error.status, error.code)
    assert told in (None, (400, "request_body_encoding_invalid"))


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_the_limit_is_exact(encoding):
    body = ENCODE[encoding.decode()](BODY)
    assert decode(body, encoding, len(BODY)) == BODY
    assert refusal(body, encoding, len(BODY) - 1) == (413, "request_body_too_large_after_decoding")


@pytest.mark.parametrize("codings", [1, 2])
def test_a_bomb_costs_no_more_memory_than_the_limit(codings):
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packer.compress(bytes(1 << 20)) for _ in range(200)]) + packer.flush()
    if codings == 2:
        bomb = gzip.compress(bomb)
    limit = 4 << 20
    encoding = b",".join([b"gzip"] * codings)
    tracemalloc.start()
    try:
        assert refusal(bomb, encoding, limit) == (413, "request_body_too_large_after_decoding")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit * 1.25 + (1 << 20)


def test_a_coding_in_the_middle_may_not_be_a_bomb_either():
    middle = gzip.compress(b"") + b"".join(gzip.compress(b"") for _ in range(9000))
    assert decode(gzip.compress(middle), b"gzip, gzip", len(middle)) == b""
    assert refusal(gzip.compress(middle), b"gzip, gzip", len(middle) - 1)[0] == 413


def test_a_whole_body_is_not_held_twice():
    data = bytes(range(256)) * (16 << 12)
    body = gzip.compress(data, 1)
    tracemalloc.start()
    try:
        assert len(decode(body, b"gzip", len(data))) == len(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(data) * 1.25 + (1 << 20)
