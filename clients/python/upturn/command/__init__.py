"""The `upturn` command: what the client does over HTTP, and the commands of whatever else is installed.

`app.py` builds it; `run.py` runs any of the project's command lines and reports their errors; each other module holds a
subcommand or a group.
"""

from upturn.command.app import main

__all__ = ["main"]
