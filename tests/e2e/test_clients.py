"""The documented examples, as they stand, and told nothing but the URL and the key.

`gateway_url` is a running gateway before simulated accounts, with the attributes `base_url` and `api_key`.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import rigs


def test_documented_curl_example(gateway_url: Any):
    rigs.need("curl")
    answer = json.loads(rigs.run(["sh", rigs.HERE / "curl" / "seed.sh"], gateway_url.base_url, gateway_url.api_key))
    assert answer["type"] == "message"
    assert answer["content"][0]["text"]


EXAMPLES: dict[str, Callable[[], list[str | Path]]] = {
    "python": lambda: [sys.executable, rigs.HERE / "python" / "seed_example.py"],
    "go": lambda: [rigs.go("seed")],
}


@pytest.mark.parametrize("language", EXAMPLES)
def test_documented_example(language: str, gateway_url: Any):
    printed = rigs.run(EXAMPLES[language](), gateway_url.base_url, gateway_url.api_key)
    reply, usage = printed.split("Token usage:")
    assert "error" not in reply
    assert reply.split("Assistant reply:")[1].strip()
    assert "Input tokens: " in usage and "Output tokens: " in usage
