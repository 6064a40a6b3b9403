"""What a client meets: a request's life from its first byte to its settlement.

Knows every layer below it by interface; knows neither Redis commands nor a provider's wire format.
"""
