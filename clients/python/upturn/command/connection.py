"""How the client's subcommands reach a server, and the options that they share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from upturn.client import Client, UpturnAPIError

LOCAL = "http://127.0.0.1:8000"
RETRY_S = 3.0

Server = Annotated[
    str, typer.Option("--server", metavar="URL", envvar="UPTURN_SERVER", help="Address of the server, without `/v1`.")
]
Key = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", envvar="UPTURN_KEY", help="API key, if the server requires one."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def connect(server: str, key: str | None) -> Iterator[Client]:
    """Yield a client of the server; print a refusal in one line and exit with 1."""
    try:
        with Client(server.rstrip("/"), key=key, retry_s=RETRY_S) as client:
            yield client
    except UpturnAPIError as error:
        print(f"{server}: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
