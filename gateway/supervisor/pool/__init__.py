"""What all gateways agree on about accounts: the document, the states, and what one process tells the others.

Decides nothing: `core.routing` does. Workers are known as somebody to tell only.
"""
