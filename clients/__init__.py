"""Clients of an Upturn server: the Python distribution (`python/`), and the demo, which runs a server too."""
