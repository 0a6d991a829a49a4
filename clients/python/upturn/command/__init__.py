"""The `upturn` command: the client's operations over HTTP, and the commands of other installed distributions.

`app.py` builds it; `run.py` runs any of the project's command lines and reports their errors; each other module holds a
subcommand or a group.
"""

from upturn.command.app import main

__all__ = ["main"]
