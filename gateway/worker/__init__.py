"""A process that serves: from a request's first byte to its settlement, with what such a process keeps itself.

The ground floor, `endpoints` and `head`, is every room's. Redis commands and a provider's wire format live below, what
several workers agree on in the supervisor.
"""
