"""What the operator says: the file, its variables and rules, checked into frozen values, and the models it may name.

Opens files of configuration and nothing else: no store, no network, no clock. Nothing here decides about a request.
"""
