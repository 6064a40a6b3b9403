"""What `gateway conversations show` says of a binding, in lines."""

from __future__ import annotations

import re
from typing import Any

from gateway.commands.conversations import _lines

WHY = "It fails where other accounts do not: errors of the upstream's in 3 conversations within a minute."


def test_the_accounts_that_it_avoids_are_named_with_the_reason_and_the_next_trial():
    avoided: dict[str, Any] = {"account": "one", "workspace": "w1", "state": "failing", "why": WHY, "judged_by": "g.1"}
    binding = {
        "why": "at w2", "account": "two", "closed": None, "home": "w1", "workspace": "w2", "account_bound": False,
        "tokens": 0, "warm": False, "previous": None, "last_detour": None, "record_expires": None,
        "avoided": [
            {**avoided, "until": "2026-11-22T07:00:10+00:00"}, {**avoided, "account": "two", "workspace": "w2",
             "state": "out", "until": None},
        ],
    }  # fmt: skip
    home, here = (line for line in _lines(binding) if line.startswith("avoided: "))
    assert home.startswith(f"avoided: account one at its home w1 is failing. {WHY} (tried again at 2026-11-2")
    assert re.search(r" \d\d:\d\d:10\)$", home)
    assert here == f"avoided: account two is out. {WHY}"
    assert not [line for line in _lines({**binding, "avoided": []}) if line.startswith("avoided")]
