"""`gateway demo` and `gateway serve --demo`: a gateway over simulated accounts, and what it saves, side by side.

Real processes under a made-up load. Nothing here is used by a gateway that serves.
"""
