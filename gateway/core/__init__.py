"""Pure decisions: which workspace, which state, which price. A function of (state, now, input) and nothing else.

Knows no clock, no chance, no event loop and no I/O: the time and every random number are arguments.
"""
