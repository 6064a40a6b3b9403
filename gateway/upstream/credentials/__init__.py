"""Credentials that clouds give for a while: had in the background ahead of their expiry, read without waiting.

One module a source. What they need beyond the gateway's own dependencies is imported where an account needs it. Knows
no provider and no request but the one that is signed.
"""
