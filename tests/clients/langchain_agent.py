"""A LangChain agent: `langchain_agent.py CHAT_URL TOOLS_URL` prints the answers and tool calls as JSON."""

import json
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"rain in {city}"


def model(url: str) -> ChatOpenAI:
    """Return the policy."""
    return ChatOpenAI(model="policy", base_url=url, api_key="sk-langchain", max_retries=0)


def chat(url: str) -> list[str]:
    """Chat for two turns, the second one streamed."""
    talk = [HumanMessage("Hi")]
    first = model(url).invoke(talk)
    talk += [first, HumanMessage("More")]
    parts = [chunk.text for chunk in model(url).stream(talk)]
    assert len(parts) > 2, "the answer came in one chunk"
    return [first.text, "".join(parts)]


def tools(url: str) -> tuple[list[dict[str, str]], str]:
    """Ask with a tool, call it, and get the final answer."""
    bound = model(url).bind_tools([weather])
    talk = [HumanMessage("How is the weather in Paris?")]
    asked = bound.invoke(talk)
    talk += [asked, *(ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]) for call in asked.tool_calls)]
    return [call["args"] for call in asked.tool_calls], bound.invoke(talk).text


called, told = tools(sys.argv[2])
print(json.dumps({"heard": chat(sys.argv[1]), "called": called, "told": told}))
