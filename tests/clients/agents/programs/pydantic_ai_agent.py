"""A pydantic-ai agent with a tool and a nested output: `pydantic_ai_agent.py URL QUESTION` prints the output."""

import sys

from pydantic import BaseModel, field_validator
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

PRICES = {"lamp": 12, "table": 30}


class Line(BaseModel):
    """A line of a receipt."""

    item: str
    price: int


class Receipt(BaseModel):
    """What everything costs."""

    lines: list[Line]
    total: int

    @field_validator("total")
    @classmethod
    def check_total(cls, total: int) -> int:
        """Refuse a total that nobody can owe."""
        if total < 0:
            raise ValueError("a total cannot be negative")
        return total


model = OpenAIChatModel("policy", provider=OpenAIProvider(base_url=sys.argv[1], api_key="sk-pydantic-ai"))
agent = Agent(model, output_type=Receipt, retries=2)


@agent.tool_plain
def price(item: str) -> int:
    """Tell the price of an item."""
    if item not in PRICES:
        raise ModelRetry(f"no item {item!r}; items: {', '.join(PRICES)}")
    return PRICES[item]


print(agent.run_sync(sys.argv[2]).output.model_dump_json())
