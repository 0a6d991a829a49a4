"""Notifications: a webhook or a command learns what happened while nobody looked.

`sources.py` derives events from rows that other rooms write, `outbox.py` keeps one row for each event and target, and
`delivery.py` sends the rows of each target in order. Nothing calls this room, and nothing waits for it.
"""
