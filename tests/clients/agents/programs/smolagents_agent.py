"""A CodeAgent of smolagents: `smolagents_agent.py URL QUESTION` prints its answer."""

import sys

from smolagents import CodeAgent, OpenAIModel, tool

PRICES = {"lamp": 12, "table": 30}


@tool
def price(item: str) -> int:
    """Tell the price of an item.

    Args:
        item: its name.
    """
    if item not in PRICES:
        raise ValueError(f"no item {item!r}; items: {', '.join(PRICES)}")
    return PRICES[item]


model = OpenAIModel(model_id="policy", api_base=sys.argv[1], api_key="sk-smolagents")
agent = CodeAgent(tools=[price], model=model, max_steps=6, verbosity_level=0)
print(agent.run(sys.argv[2]))
