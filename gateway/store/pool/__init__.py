"""What gateways share about accounts and callers: the document, overrides, keys made at run time, counts of bindings.

Nothing of a single request is kept here.
"""
