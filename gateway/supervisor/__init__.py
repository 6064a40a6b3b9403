"""The process that keeps the workers: starts, feeds, replaces and stops them, and serves what operators ask.

No client's request comes here, and nothing here may block: a worker that is lost must be seen at once.
"""
