"""The commands of `python -m server`: `app.py` declares them; other modules implement them as `run(settings, ...)`."""
