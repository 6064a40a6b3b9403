"""One base URL and one key in front of many Anthropic accounts; a conversation stays on the account that caches it."""

__version__ = "0.1.0"
