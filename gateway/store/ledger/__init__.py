"""What was used and what is held: leases, limits, budgets, the journal on disk, and usage read back.

Counts what it is told. Prices and limits are decided in `core.spending`.
"""
