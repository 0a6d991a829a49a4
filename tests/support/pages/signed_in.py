"""A browser's requests to the dashboard without a browser: with the cookie of a login, and forms with their token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tests.support.live import Live


@dataclass(frozen=True)
class Visitor:
    """A person with a key, or without one."""

    live: Live
    key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request that a page of the dashboard sends."""
        cookie = {"cookie": f"{self.cookie_name}={self.key}"} if self.key else {}
        return {**cookie, "accept": "text/html", "sec-fetch-site": "same-origin"}

    @property
    def cookie_name(self) -> str:
        """The name of the cookie with the key."""
        return f"upturn_key_{self.live.url.rpartition(':')[2]}"

    def get(self, place: str, **more: str) -> Any:
        """Open a page below `/ui/`; return the answer.

        Args:
            place: the page.
            more: further headers, with `_` for `-`.
        """
        headers = {**self.headers, **{name.replace("_", "-"): value for name, value in more.items()}}
        return self.live.http.get(f"/ui/{place}", headers=headers)

    def token(self) -> str:
        """Return the token of the forms that this person is shown."""
        found = re.search(r'name="token" value="([0-9a-f]+)"', self.get("").text + self.get("runs/new").text)
        assert found is not None
        return found[1]

    def send(self, place: str, *, headers: dict[str, str] | None = None, **fields: str) -> Any:
        """Send a form to a place below `/ui/`, with its token unless it is among the fields; return the answer."""
        fields = {"token": self.token() if "token" not in fields else fields["token"], **fields}
        return self.live.http.post(f"/ui/{place}", data=fields, headers=self.headers if headers is None else headers)
