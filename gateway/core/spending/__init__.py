"""What requests may cost and did: keys and their callers, prices, quotas, fair shares.

Knows callers and money; knows neither accounts' health nor the wire.
"""
