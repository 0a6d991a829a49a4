"""Promises, one plain function each."""
