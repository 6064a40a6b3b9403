"""What talks to a provider: one interface for transports, one for providers, and the implementations of both.

Knows accounts and bytes; knows neither callers, conversations, limits nor the store.
"""
