"""FastMCP's own client: `fastmcp_player.py URL KEY TASK ACTION...` plays, and prints the result as JSON."""

import asyncio
import json
import sys

from fastmcp import Client
from fastmcp.exceptions import ToolError

_, url, key, task, *actions = sys.argv


async def play() -> None:
    """Play one task."""
    async with Client(url, auth=key) as client:
        tools = [tool.name for tool in await client.list_tools()]
        begun = await client.call_tool("reset", {"task": task})
        seen = [begun.structured_content]
        for action in actions:
            seen.append((await client.call_tool("act", {"action": action})).structured_content)
        try:
            await client.call_tool("inventory", {})
            refused = None
        except ToolError as error:
            refused = str(error)
    print(json.dumps({"tools": tools, "seen": seen, "refused": refused}))


asyncio.run(play())
