"""Where a vLLM listens: a Unix socket that only this user's processes reach, or a URL.

vLLM's control routes need no key. On a Unix socket in a private directory, neither other users of the machine nor pages
in a browser reach them; it also costs less per request than TCP.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

LONGEST_PATH = 100
"""Maximum bytes of a socket's path: systems allow 104 (macOS) or 108 (Linux), with the end."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Address:
    """The address of one vLLM."""

    url: str
    """Beginning of its URLs; the host is only a name if there is a socket."""
    path: Path | None = None
    """Its Unix socket."""
    tokens: Path | None = None
    """The Unix socket of its token channel."""

    def __str__(self) -> str:
        """Return the address as people write it."""
        return self.url if self.path is None else f"unix:{self.path}"

    @property
    def arguments(self) -> list[str]:
        """The arguments with which vLLM listens here."""
        if self.path is not None:
            return ["--uds", str(self.path)]
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return ["--host", host, "--port", port]

    def connector(self, **options: Any) -> aiohttp.BaseConnector:
        """Return aiohttp's connector, without a limit of connections. Needs a running event loop."""
        if self.path is None:
            return aiohttp.TCPConnector(limit=0, **options)
        return aiohttp.UnixConnector(str(self.path), limit=0, **options)


def own_address(port: int | None) -> Address:
    """Return an address for a vLLM of this process: a loopback port, or a Unix socket where no port is given.

    The directory of the sockets is removed with the address, or when this process exits.
    """
    folder = tempfile.mkdtemp(prefix="upturn-vllm-")  # With mode 0700.
    if len(os.fsencode(folder)) > LONGEST_PATH - len("/socket"):
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="upturn-vllm-", dir="/tmp")
    tokens = Path(folder, "tokens")
    if port is None:
        address = Address("http://vllm", Path(folder, "socket"), tokens)
    else:
        address = Address(f"http://127.0.0.1:{port}", None, tokens)
    weakref.finalize(address, shutil.rmtree, folder, ignore_errors=True)
    return address
