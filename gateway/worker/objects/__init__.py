"""What clients create at an account: files, batches, sessions; whose they are, lists of them, the tokens of batches.

Knows ids and owners. Conversations and their bindings do not come here.
"""
