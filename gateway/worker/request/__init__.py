"""One request's way: read, placed, admitted, sent, relayed, settled.

Holds what belongs to one request only. What is asked of the caller, the conversation or an object is the other rooms'.
"""
