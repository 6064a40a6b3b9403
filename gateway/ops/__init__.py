"""What an operator meets: metrics, logs, the admin API and the dashboard.

Knows how to show what has happened; decides nothing about a request.
"""
