"""Checks a model before anyone trains it."""
