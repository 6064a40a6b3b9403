"""One desk for each noun that operators ask about: what it can answer and change.

A desk knows neither HTTP nor tokens: routes come to it with what was asked, access has let them.
"""
