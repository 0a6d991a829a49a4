"""Rewards: the rules that say how each source counts, and what episodes earned by them.

Reading only needs the database, so this room lies below recording, versions and training, which all read rewards.
The scorers that produce rewards (`server/feedback`) are above recording, since they read transcripts.
"""
