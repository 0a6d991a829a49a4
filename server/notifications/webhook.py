"""The webhook: a signed POST of each event. Redirects are not followed, and the answer's body is not read."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable

import aiohttp

from server.notifications.signature import headers, keys_of
from server.notifications.target import NotDelivered
from upturn import __version__

RETRIED = (408, 425, 429)
"""Refusals that say nothing about the request itself."""
MOST_WAIT_S = 3600.0
"""Longest pause that a receiver can ask for, in seconds."""


class Webhook:
    """A target behind a URL."""

    name = "webhook"

    def __init__(self, url: str, secret: str, timeout_s: float, clock: Callable[[], float] = time.time) -> None:
        self._url = url
        self._keys = keys_of(secret)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, event_id: str, body: bytes) -> None:
        """Send an event; a status from 200 to 299 means that it has arrived.

        Raises:
            NotDelivered: the receiver cannot be reached, does not answer in time, or answers with another status.
        """
        if self._session is None:
            # A connection for each event: they are hours apart, and an unread answer ends a connection anyway.
            connector = aiohttp.TCPConnector(force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        sent = {
            "content-type": "application/json",
            "user-agent": f"upturn/{__version__}",
            **headers(self._keys, event_id, int(self._clock()), body),
        }
        try:
            response = await self._session.post(self._url, data=body, headers=sent, allow_redirects=False)
        except TimeoutError as error:
            raise NotDelivered(f"no answer within {self._timeout.total:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotDelivered(_reason(error)) from error
        response.close()
        if 200 <= response.status < 300:
            return
        if 300 <= response.status < 400:
            message = f"HTTP {response.status}: redirects are not followed, set notify.webhook to the final address"
            raise NotDelivered(message, refused=True)
        refused = 400 <= response.status < 500 and response.status not in RETRIED
        pause_s = _seconds(response.headers.get("retry-after", ""))
        raise NotDelivered(f"HTTP {response.status}", refused=refused, retry_after_s=pause_s)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def _reason(error: Exception) -> str:
    """Return why there was no answer, without the address."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the host's name cannot be resolved"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return f"TLS failed ({type(error).__name__})"
        case aiohttp.ClientOSError() | OSError():
            return f"no connection: {os.strerror(error.errno) if error.errno else type(error).__name__}"
        case aiohttp.ServerDisconnectedError():
            return "the receiver closed the connection without an answer"
    return f"no valid answer ({type(error).__name__})"


def _seconds(text: str) -> float:
    """Read a `Retry-After` in seconds; a date counts as none."""
    return min(float(text), MOST_WAIT_S) if text.isascii() and text.isdigit() else 0.0
