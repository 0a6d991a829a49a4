"""Structured output by instructor, nested and retried: `instructor_agent.py URL QUESTION` prints the output."""

import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel, field_validator


class Address(BaseModel):
    """Where to deliver."""

    street: str
    city: str


class Order(BaseModel):
    """What to deliver."""

    items: list[str]
    address: Address
    total: int

    @field_validator("items")
    @classmethod
    def check_items(cls, items: list[str]) -> list[str]:
        """Refuse an order that leaves something out."""
        if len(items) != 2:
            raise ValueError("name every item")
        return items


client = instructor.from_openai(
    OpenAI(base_url=sys.argv[1], api_key="sk-instructor", max_retries=0), mode=instructor.Mode.TOOLS
)
order = client.chat.completions.create(
    model="policy", response_model=Order, max_retries=3, messages=[{"role": "user", "content": sys.argv[2]}]
)
print(order.model_dump_json())
