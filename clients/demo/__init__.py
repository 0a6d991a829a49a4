"""The demo: a complete tour as a client of the server's public API. `python3 run.py demo`."""
