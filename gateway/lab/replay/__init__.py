"""`gateway replay`: a recorded or made-up stream of requests through a routing policy and a simulated pool.

Nothing here takes real time: a heap of events is the clock, `now` is seconds since the first request, and the same
arguments give the same figures on every machine.

The words. *Block*: 512 tokens of a prompt, named so that equal names mean equal prompts up to and with it. *Read*:
input tokens found in the workspace's cache; *written*: those put there; *fresh*: those that no cache will hold. *New*:
written and fresh, what input limits count and balance is about. *Oracle*: one unlimited workspace that serves the same
stream. *Refused*: the policy sent the client away, and the client comes back when it was told to.
"""
