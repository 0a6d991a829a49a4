"""Upturn's client: the wire messages, the Python client, and the `upturn` command."""

__version__ = "0.1.0"
