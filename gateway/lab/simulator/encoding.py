"""Compressed request bodies."""

import zlib

from gateway.lab.simulator.errors import ApiError

__all__ = ["decoded"]

_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """The body, inflated to at most `limit` bytes; `ApiError` 400 if it cannot be, 413 if it is larger."""
    window = _WINDOWS.get(encoding)
    if window is None:
        raise ApiError(
            400, f"content-encoding {encoding!r} is not supported", error_code="request_body_encoding_unsupported"
        )
    unpacker = zlib.decompressobj(window)
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise ApiError(
            400, "the request body does not fit its content-encoding", error_code="request_body_encoding_invalid"
        ) from error
    if len(data) > limit:
        raise ApiError(413, error_code="request_body_too_large_after_decoding")
    if not unpacker.eof:
        raise ApiError(400, "the compressed request body is incomplete", error_code="request_body_encoding_invalid")
    return data
