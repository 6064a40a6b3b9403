"""What the supervisor's parts know of now, put together for those who watch: the `Gateway` of admin.dashboard.live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateway.store.pool.binding_counts import BindingCounts
from gateway.supervisor.pool.account_states import AccountStates
from gateway.supervisor.pool.diagnosis import STATES
from gateway.supervisor.workers import Workers
from gateway.telemetry.counters import Family


class Watch:
    """`store_up()` says whether the supervisor reaches the store, `configured` how many workers there should be,
    `accounts()` what the admin API shows of all."""

    def __init__(
        self,
        workers: Workers,
        account_states: AccountStates,
        binding_counts: BindingCounts,
        configured: int,
        store_up: Callable[[], bool],
        accounts: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self._workers = workers
        self._account_states = account_states
        self._binding_counts = binding_counts
        self._configured = configured
        self._store_up = store_up
        self.accounts = accounts

    def families(self) -> Iterable[Family]:
        """What rates are made of: the sum over all workers."""
        return self._workers.lately.families()

    def workers(self) -> tuple[int, int]:
        """How many serve, and how many should."""
        return sum(self._workers.states().values()), self._configured

    def modes(self) -> Mapping[str, int]:
        """How many processes are in a mode that is not normal, as the supervisor sees it: itself, and missing ones. At
        the end none are missing: those without requests go before the others."""
        alive, configured = self.workers()
        missing = 0 if self._workers.stopping else max(0, configured - alive)
        return {"store": int(not self._store_up()), "workers": missing}

    def states(self) -> Mapping[str, int]:
        """How many accounts are in each state."""
        self._account_states.look()
        return {**dict.fromkeys(STATES, 0), **Counter(self._account_states.states().values())}

    def exchanged(self, account: str, code: str) -> None:
        """There were exchanges with an account that ended so."""
        self._account_states.exchanged(account, code)

    def view(self, account: str) -> dict[str, Any]:
        """What is known of an account beyond its configuration."""
        entry, counts = self._account_states.router.ring.accounts.get(account), self._binding_counts.counts
        return {
            **self._account_states.view(account),
            "in_flight": self._workers.in_flight().get(account, 0),
            "bindings": None if counts is None or entry is None else counts.get(entry.workspace, 0),
        }
