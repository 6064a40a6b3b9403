"""How the simulated upstream behaves, apart from who exists in it and what goes wrong."""

import msgspec

from gateway.lab.simulator.world import Limits

__all__ = ["Settings"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times are seconds, sizes bytes unless the name says otherwise.

    `answer_tokens` is an exact length or a (shortest, longest) range from which the request's text chooses.
    `ttft` is the time to the first token: the median of a log-normal where `ttft_sigma` > 0. With
    `tokens_per_second` 0 the rest follows at once. `slots` requests are served at a time, others get 529.
    """

    ttft: float = 0.0
    ttft_sigma: float = 0.0
    tokens_per_second: float = 0.0
    tokens_per_event: int = 4
    answer_tokens: int | tuple[int, int] = 32
    requests_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    slots: int | None = None
    max_body: int = 32 << 20
    keep_requests: int = 50_000
    keep_bodies: int = 2_000
    seed: int = 0
    static: bool = False
    static_events: int = 20

    @property
    def limits(self) -> Limits:
        """The limits of organizations that have none of their own."""
        return Limits(self.requests_per_minute, self.input_tokens_per_minute, self.output_tokens_per_minute)
