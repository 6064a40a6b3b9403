"""The dashboard: its pages, the live stream that feeds them, and what is kept for those who watch.

Shows what the desks and the supervisor say. It changes nothing but through the admin API.
"""
