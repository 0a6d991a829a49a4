"""Checks whether a model can be served and trained."""
