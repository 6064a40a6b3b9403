"""What is told of what happened: metrics, counters, logs and traces.

Knows records of finished requests. It decides nothing and asks no store; a request never waits for it.
"""
