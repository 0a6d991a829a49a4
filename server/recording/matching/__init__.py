"""The episode of a request without an episode id (step 1 of the straight line).

What identifies a conversation decides, in this order: the id under which its client knows it (`talk.py`), ids of
recorded turns that it brings back (`returned.py`), and the longest recorded part of it (`candidates.py`). Where several
episodes remain, `matcher.py` takes one that nobody has continued, and marks the turn as ambiguous.
"""
