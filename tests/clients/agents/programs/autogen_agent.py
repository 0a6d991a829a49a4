"""An AutoGen assistant that reflects on its tools: `autogen_agent.py URL QUESTION` prints its answer."""

import asyncio
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient

PRICES = {"lamp": 12, "table": 30}


def price(item: str) -> int:
    """Tell the price of an item."""
    if item not in PRICES:
        raise ValueError(f"no item {item!r}; items: {', '.join(PRICES)}")
    return PRICES[item]


async def main(url: str, question: str) -> None:
    """Let the assistant call tools three times, then reflect."""
    client = OpenAIChatCompletionClient(
        model="policy",
        base_url=url,
        api_key="sk-autogen",
        model_info={
            "vision": False,
            "function_calling": True,
            "json_output": False,
            "family": "unknown",
            "structured_output": False,
        },
    )
    agent = AssistantAgent(
        "shopper", model_client=client, tools=[price], reflect_on_tool_use=True, max_tool_iterations=3
    )
    result = await agent.run(task=question)
    print(result.messages[-1].content)
    await client.close()


asyncio.run(main(*sys.argv[1:]))
