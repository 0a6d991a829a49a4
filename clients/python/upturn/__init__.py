"""Upturn's client: the wire messages, the Python client, and the upturn command."""
