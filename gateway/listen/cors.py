"""Pages of other origins that may call the gateway from a browser. Preflights need no key; nobody else is told more."""

from __future__ import annotations

from typing import Any, cast

from starlette.middleware.cors import CORSMiddleware

from gateway.config.schema import Config
from gateway.listen.client import App, Receive, Scope, Send

_TOLD = (
    "request-id", "retry-after", "x-should-retry", "x-gateway-request-id", "x-gateway-account", "x-gateway-attempts",
    "x-gateway-route", "x-gateway-budget-warning",
    "anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset", "anthropic-ratelimit-input-tokens-limit",
    "anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset",
    "anthropic-ratelimit-output-tokens-limit", "anthropic-ratelimit-output-tokens-remaining",
    "anthropic-ratelimit-output-tokens-reset",
)  # fmt: skip
_AGE = 600  # seconds that a browser may remember a preflight's answer


class Cors:
    """The application, as pages of the configured origins may call it, while it is `on`."""

    def __init__(self, app: App, config: Config) -> None:
        self._app = app
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration from the next request on."""
        origins = config.cors.origins
        self.on = bool(origins)
        self._serve: App = self._app
        if origins:
            self._serve = cast(
                App,
                CORSMiddleware(
                    cast(Any, self._app), allow_origins=origins, allow_methods=["*"], allow_headers=["*"],
                    expose_headers=_TOLD, max_age=_AGE,
                ),
            )  # fmt: skip

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        return self._serve(scope, receive, send)
