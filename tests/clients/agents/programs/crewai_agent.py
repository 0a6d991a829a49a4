"""A CrewAI crew of one agent with a tool: `crewai_agent.py URL QUESTION` prints its answer."""

import sys

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

PRICES = {"lamp": 12, "table": 30}


@tool("price")
def price(item: str) -> int:
    """Tell the price of an item."""
    if item not in PRICES:
        raise ValueError(f"no item {item!r}; items: {', '.join(PRICES)}")
    return PRICES[item]


llm = LLM(model="policy", provider="openai", base_url=sys.argv[1], api_key="sk-crewai")
shopper = Agent(role="shopper", goal="find prices", backstory="You add up prices.", llm=llm, tools=[price])
task = Task(description=sys.argv[2], expected_output="the sum", agent=shopper)
print(Crew(agents=[shopper], tasks=[task], verbose=False).kickoff().raw)
