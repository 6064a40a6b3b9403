"""How the simulated upstream behaves, apart from who exists in it and what goes wrong."""

import msgspec

from gateway.lab.simulator.world import Limits

__all__ = ["Settings"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times are seconds, sizes bytes unless the name says otherwise.

    `answer_tokens` is an exact length or a (shortest, longest) range from which the request's text chooses.
    `ttft` is the time to the first token: the median of a log-normal where `ttft_sigma` > 0. With
    `tokens_per_second` 0 the rest follows at once. `slots` requests are served at a time, others get 529.
    A batch takes `batch_seconds` and ends, done or not, after `batch_expires`; its results are filled up to
    `batch_results_bytes`. `public_url` is what absolute URLs in answers begin with, wherever a request came from.
    A poll for work that finds none answers after `poll_seconds`; a stream of a session's events ends after
    `stream_seconds`. What clouds give for a while, keys and tokens, is good for `token_seconds`.
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
    max_batch_body: int = 256 << 20
    max_file: int = 500 << 20
    batch_seconds: float = 0.0
    batch_expires: float = 86_400.0
    batch_results_bytes: int = 0
    public_url: str = "https://api.anthropic.com"
    poll_seconds: float = 0.0
    stream_seconds: float = 600.0
    token_seconds: float = 3600.0
    keep_requests: int = 50_000
    keep_bodies: int = 2_000
    seed: int = 0
    static: bool = False
    static_events: int = 20

    @property
    def limits(self) -> Limits:
        """The limits of organizations that have none of their own."""
        return Limits(self.requests_per_minute, self.input_tokens_per_minute, self.output_tokens_per_minute)
