"""The commands of `python -m server`: `app.py` declares them, the other modules do them, with `run(settings, ...)`."""
