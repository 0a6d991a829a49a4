"""A blocking MCP client over streamable HTTP: initialize, list tools, call a tool.

It implements the protocol revisions with sessions (up to 2025-06-18), since an episode is a session. The official
library is asynchronous and includes a web server; an environment needs only these calls.
"""

from __future__ import annotations

from typing import Any

from env_adapters.protocol import EnvironmentFailure
from env_adapters.remote.connection import Http, Place, parse

VERSION = "2025-06-18"
LARGEST_LIST = 20
"""Maximum number of pages of tools that are read; default chosen by this project."""
INVALID_PARAMS = -32602


class WrongCall(ValueError):
    """The server refused the arguments of a call."""


class McpSession:
    """One session."""

    def __init__(self, where: Place) -> None:
        self._http = Http(where)
        self._where = where
        self._headers = {"accept": "application/json, text/event-stream"}
        self._id = 0
        try:
            self.about: dict[str, Any] = self._request(
                "initialize",
                {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "upturn", "version": "1"}},
            )
            self._headers["mcp-protocol-version"] = str(self.about.get("protocolVersion") or VERSION)
            self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            self.tools = self._tools()
        except EnvironmentFailure:
            self._http.close()
            raise

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool and return its result.

        Raises:
            WrongCall: the server refused the arguments.
            EnvironmentFailure: any other failure.
        """
        return self._request("tools/call", {"name": tool, "arguments": arguments})

    def close(self) -> None:
        """End the session."""
        try:
            if "mcp-session-id" in self._headers:
                self._http.send("DELETE", "", headers=self._headers)
        finally:
            self._http.close()

    def _tools(self) -> dict[str, dict[str, Any]]:
        found: list[Any] = []
        cursor: dict[str, Any] = {}
        for _ in range(LARGEST_LIST):
            page = self._request("tools/list", cursor)
            found += page.get("tools") or []
            if not page.get("nextCursor"):
                break
            cursor = {"cursor": page["nextCursor"]}
        return {str(tool["name"]): tool for tool in found if isinstance(tool, dict) and tool.get("name")}

    def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._id += 1
        reply = self._send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        if not isinstance(reply, dict) or not isinstance(reply.get("result", reply.get("error")), dict):
            raise EnvironmentFailure(f"{self._where} answered {method} with {str(reply)[:300]}")
        if error := reply.get("error"):
            message = f"{error.get('message')}"
            if method == "tools/call" and error.get("code") == INVALID_PARAMS:
                raise WrongCall(message)
            raise EnvironmentFailure(f"{self._where} refused {method}: {error.get('code')}: {message}")
        result: dict[str, Any] = reply["result"]
        return result

    def _send(self, message: dict[str, Any]) -> Any:
        """Send a message and return its reply, or None for a notification."""
        answer, content = self._http.send("POST", "", message, headers=self._headers)
        if session := answer.headers.get("mcp-session-id"):
            self._headers["mcp-session-id"] = session
        if "id" not in message and answer.is_success:
            return None
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            events = (parse(event) for event in _events(content))
            return next((event for event in events if isinstance(event, dict) and event.get("id") == self._id), None)
        if not answer.is_success and not content.startswith("{"):
            raise EnvironmentFailure(f"{self._where} answered {answer.status_code}: {content[:300]!r}")
        return parse(content)


def _events(stream: str) -> list[str]:
    """Return the data of each server-sent event."""
    blocks = stream.replace("\r\n", "\n").split("\n\n")
    found = [
        "\n".join(line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:"))
        for block in blocks
    ]
    return [data for data in found if data.strip()]
