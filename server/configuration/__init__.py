"""Reads the settings from a TOML file, the environment and flags, and explains what is wrong with them.

Knows no setting by name: `server/settings.py` holds them.
"""
