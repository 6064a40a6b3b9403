"""Who a workload is by a token of its own: what a token must say, what its claims mean here, and our own short ones.

Knows bytes and claims; knows neither keys of issuers nor how a signature is checked, nor the configuration's types.
"""
