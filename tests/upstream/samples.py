"""One account of each provider, as the contract suite takes it: a provider without a sample here is a failing test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gateway.upstream.provider import Provider
from gateway.upstream.registry import PROVIDERS

SECRET = "sk-canary-of-the-contract"

SAMPLES: dict[str, Callable[[], Provider]] = {
    "anthropic": lambda: PROVIDERS["anthropic"](SECRET),
}


def providers() -> Iterator[str]:
    """Names of samples; each begins with its row's."""
    return iter(SAMPLES)
