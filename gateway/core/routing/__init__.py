"""Where a request goes: whose conversation it is, where that lives, who may serve it, what answers did to accounts.

Knows outcomes, never bytes of an answer, and no caller's limits.
"""
