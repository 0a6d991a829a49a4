"""The `upturn` command: what the client does over HTTP, and the commands of whatever else is installed.

`app.py` builds it, `run.py` runs any of the project's command lines and reports their errors, the other modules hold one
subcommand or group each.
"""

from upturn.command.app import main

__all__ = ["main"]
