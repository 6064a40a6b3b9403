"""What is done to records after the requests have ended: leases of the dead are swept, days are filed away.

No limit and no price is decided here, and no live request is touched.
"""
