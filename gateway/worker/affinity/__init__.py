"""Where a conversation lives: its binding in the store, the process's memory of it, and who goes first.

It chooses no account: routes do. Answers and bodies are none of its business.
"""
