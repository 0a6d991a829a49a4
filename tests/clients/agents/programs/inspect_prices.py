"""A task of inspect-ai with a tool."""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import Tool, ToolError, tool

PRICES = {"lamp": 12, "table": 30}


@tool
def price() -> Tool:
    """Prices of a shop."""

    async def execute(item: str) -> int:
        """Tell the price of an item.

        Args:
            item: its name.
        """
        if item not in PRICES:
            raise ToolError(f"no item {item!r}; items: {', '.join(PRICES)}")
        return PRICES[item]

    return execute


@task
def prices() -> Task:
    """Add up two prices."""
    sample = Sample(input="What do a lamp and a table cost together?", target="42")
    return Task(dataset=[sample], solver=[use_tools(price()), generate()], scorer=includes())
