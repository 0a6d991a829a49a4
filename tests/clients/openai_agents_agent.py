"""An agent on OpenAI's Agents SDK: `openai_agents_agent.py CHAT_URL TOOLS_URL` prints answers and tool calls."""

import asyncio
import json
import sys
from typing import Any

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool
from openai import AsyncOpenAI

called: list[Any] = []


@function_tool
def weather(city: str) -> str:
    """Tells the weather of a city."""
    called.append({"city": city})
    return f"rain in {city}"


def agent(url: str, *tools: Any) -> Agent:
    """Return an agent that uses the policy."""
    client = AsyncOpenAI(base_url=url, api_key="sk-agents", max_retries=0)
    return Agent(
        name="tester", model=OpenAIChatCompletionsModel(model="policy", openai_client=client), tools=list(tools)
    )


async def chat(url: str) -> list[str]:
    """Chat for two turns, the second one streamed."""
    first = await Runner.run(agent(url), "Hi")
    second = Runner.run_streamed(agent(url), [*first.to_input_list(), {"role": "user", "content": "More"}])
    pieces = [event async for event in second.stream_events() if event.type == "raw_response_event"]
    assert len(pieces) > 2, "the answer came in one chunk"
    return [first.final_output, second.final_output]


async def main(chat_url: str, tools_url: str) -> None:
    """Chat, and let the SDK's loop call the tool."""
    told = await Runner.run(agent(tools_url, weather), "How is the weather in Paris?")
    print(json.dumps({"heard": await chat(chat_url), "called": called, "told": told.final_output}))


asyncio.run(main(*sys.argv[1:]))
