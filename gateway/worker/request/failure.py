"""An exchange with an account that brought no good answer, and what a client is told where no other one did."""

from __future__ import annotations

from gateway.core.routing.outcomes import DISPUTED, Outcome, refusal_kind
from gateway.worker.head import AnswerHead

NO_ACCOUNT = "No account can serve this request now: {}. Please try again later."
# Why, as far as a client is told: whose account lacks what is nobody else's business.
BUSY, UNREACHABLE, OUT = "all are busy", "the upstream cannot be reached", "none is in service"
# By what an account did last, where nothing is held against any.
CAUSES = {
    Outcome.UNSENT: "unreachable", Outcome.UNAUTHORIZED: "credential", Outcome.SPENT: "billing",
}  # fmt: skip
ALL_LIMITED = "The accounts that can serve this request are at their rate limits. Please try again later."


class Failure:
    """Without `head` the account gave no answer: `status` and `words` are what a client is told then, 0 where that says
    nothing of the request; `ours` that this process ended it. With one, `body` is the refusal, None where it did not
    arrive whole; `event` says that it is the beginning of a stream."""

    def __init__(
        self,
        outcome: Outcome,
        status: int = 0,
        head: AnswerHead | None = None,
        body: bytes | None = None,
        *,
        words: str = "",
        event: bool = False,
        ours: bool = False,
    ) -> None:
        self.outcome = outcome
        self.status = status
        self.head = head
        self.body = body
        self.words = words
        self.event = event
        self.ours = ours

    @property
    def kind(self) -> str:
        """What names refusals alike, "" for what is none."""
        return refusal_kind(self.status, self.body or b"") if self.disputed else ""

    @property
    def disputed(self) -> bool:
        """Whether an account has said what may be the client's mistake."""
        return self.head is not None and self.outcome in DISPUTED

    @property
    def retry_after(self) -> float | None:
        """Seconds, as the account said."""
        return None if self.head is None else self.head.retry_after

    def tells_more(self, than: Failure | None) -> bool:
        """Whether a client should rather be told of this one than of an earlier one: a refusal says more than a
        failure, but not where what was sent after it may have been acted upon."""
        return bool(self.status) and (than is None or self.disputed or not than.disputed or self.head is None)
