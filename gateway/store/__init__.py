"""Redis: the router's memory and the ledger, and the private server that a gateway without one starts for itself.

The only place that knows keys and commands. It stores and agrees; what should be so, `core` decides.
"""
