"""What an operator asks for: the admin API, who may use it, the log of what they changed, and the dashboard.

Shows and changes through the store and the supervisor's parts; decides nothing about a request.
"""
