"""The HTTP listener: bytes to requests and back, and the bounds of what an unknown client may cost.

Knows sockets and HTTP; knows neither callers, accounts, the store, nor what a request is about.
"""
