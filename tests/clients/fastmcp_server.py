"""A tool server by FastMCP: `fastmcp_server.py PORT`. Guess the number, in a session."""

import random
import sys

from fastmcp import Context, FastMCP

server = FastMCP("guess", instructions="Guess my number, 0 to 9.")


@server.tool
async def reset(seed: int, ctx: Context) -> str:
    """Begin a game."""
    await ctx.set_state("number", random.Random(seed).randrange(10))
    return "I have a number."


@server.tool
async def guess(number: int, ctx: Context) -> dict[str, object]:
    """Guess once."""
    wanted = await ctx.get_state("number")
    won = number == wanted
    return {
        "observation": "Right." if won else f"It is {'below' if wanted < number else 'above'}.",
        "reward": 1.0 if won else 0.0,
        "done": won,
    }


@server.tool
async def give_up(ctx: Context) -> float:
    """End the game."""
    return 0.25


@server.tool
async def look() -> str:
    """Look around."""
    return "Nothing to see."


server.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False, log_level="error")
