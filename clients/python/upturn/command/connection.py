"""How the client's subcommands reach a server, and the options that they share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import httpx2
import typer
from pydantic import ValidationError

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


ADVICE = {
    0: "no server answers there; start one with `python3 run.py serve`, or name its address with --server",
    401: "give a valid key with --key or UPTURN_KEY",
    403: "give a key with that scope; `python -m server keys create` makes one",
}
"""What to do, by the status of the refusal; 0 is a server that cannot be reached."""


@contextmanager
def connect(server: str, key: str | None) -> Iterator[Client]:
    """Yield a client of the server; print a refusal in one line and exit with 1."""
    if not server.startswith(("http://", "https://")):
        print(f"{server!r} is not an address; one looks like {LOCAL}", file=sys.stderr)
        raise typer.Exit(2)
    try:
        with Client(server.rstrip("/"), key=key, retry_s=RETRY_S) as client:
            yield client
        return
    except UpturnAPIError as error:
        advice = ADVICE.get(error.status)
        reason = f"{error}; {advice}" if advice else str(error)
        cause: Exception = error
    except httpx2.InvalidURL as error:
        reason, cause = f"not an address ({error}); one looks like {LOCAL}", error
    except ValidationError as error:  # An answer that is no message of this protocol.
        reason, cause = "another program, or another version of Upturn, answers there", error
    print(f"{server}: {reason}", file=sys.stderr)
    raise typer.Exit(1) from cause
