"""The way to Redis: connections, clusters, sentinels, and the one client that the data path uses.

Carries commands and replies. What keys are called and what is in them is the other rooms'.
"""
