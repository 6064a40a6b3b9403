"""Who calls: the key, what it may use, and what its limits and budgets still hold.

Knows callers and teams; knows neither accounts nor where a conversation lives.
"""
