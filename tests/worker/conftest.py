"""Real servers for what agrees through the store."""

from tests.store.conftest import own_server, server, shared_server

__all__ = ["own_server", "server", "shared_server"]
