"""How clouds are asked for the model: their paths, credentials, names, framings and errors, around the one service.

A *door* is one cloud's manner. What comes in by it becomes a request of the native API; the native answer leaves in the
cloud's shape. Written from what the clouds' clients do, apart from the gateway's own providers: each checks the other.
"""
