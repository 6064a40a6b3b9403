"""Results that an upstream has encoded are read as plain ones are; what nobody can decode is not read."""

from __future__ import annotations

import gzip
import json
import zlib
from functools import partial

import pytest

from gateway.core.wire.results import ResultsTap
from gateway.data import load_catalogue
from gateway.records import Usage
from gateway.worker.objects.batch_usage import Decoded

MODEL = "claude-haiku-4-5"
MESSAGE = {"id": "msg_1", "type": "message", "model": MODEL, "usage": {"input_tokens": 100, "output_tokens": 20}}
LINES = [json.dumps({"custom_id": f"c{n}", "result": {"type": "succeeded", "message": MESSAGE}}) for n in range(5)]
TEXT = "\n".join(LINES).encode()


def read(data: bytes, encoding: bytes, size: int) -> ResultsTap:
    tap = ResultsTap(partial(load_catalogue().bill, batch=True))
    decoded = Decoded(tap, "msgbatch_1", encoding)
    for at in range(0, len(data), size):
        decoded.feed(data[at : at + size])
    tap.finish()
    return tap


@pytest.mark.parametrize("size", [1, 100, 100_000])
@pytest.mark.parametrize(
    ("data", "encoding"),
    [(gzip.compress(TEXT), b"gzip"), (gzip.compress(TEXT), b"GZIP"), (zlib.compress(TEXT), b"deflate")],
)
def test_encoded_results_are_read(data, encoding, size):
    tap = read(data, encoding, size)
    assert (tap.lines, tap.unread) == (5, 0)
    assert tap.metered()[MODEL].usage == Usage(input=500, output=100)


@pytest.mark.parametrize(("data", "encoding"), [(TEXT, b"zstd"), (TEXT, b"gzip"), (gzip.compress(TEXT), b"a,b,c,d")])
def test_what_nobody_can_decode_is_not_read(data, encoding):
    assert read(data, encoding, 100).lines == 0


def test_what_came_before_it_was_broken_is_read():
    tap = read(gzip.compress(TEXT + b"\n") + b"?" * 100, b"gzip", 10)
    assert tap.metered()[MODEL].usage == Usage(input=500, output=100)
