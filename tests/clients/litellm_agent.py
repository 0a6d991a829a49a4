"""An agent on LiteLLM: `litellm_agent.py CHAT_URL TOOLS_URL` prints the answers and tool calls as JSON."""

import json
import sys
from typing import Any

import litellm

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def ask(url: str, messages: list[Any], **more: Any) -> Any:
    """Ask the policy."""
    return litellm.completion(
        model="openai/policy", api_base=url, api_key="sk-litellm", messages=messages, num_retries=0, **more
    )


def chat(url: str) -> list[str]:
    """Chat for two turns, the second one streamed."""
    talk: list[Any] = [{"role": "user", "content": "Hi"}]
    first = ask(url, talk).choices[0].message
    talk += [first, {"role": "user", "content": "More"}]
    parts = [chunk.choices[0].delta.content or "" for chunk in ask(url, talk, stream=True)]
    assert len(parts) > 2, "the answer came in one chunk"
    return [first.content, "".join(parts)]


def tools(url: str) -> tuple[list[Any], str]:
    """Ask with a tool, call it, and get the final answer; both turns streamed and reassembled."""
    talk: list[Any] = [{"role": "user", "content": "How is the weather in Paris?"}]
    chunks = list(ask(url, talk, tools=[WEATHER], stream=True))
    asked = litellm.stream_chunk_builder(chunks, messages=talk).choices[0].message
    arguments = [json.loads(call.function.arguments) for call in asked.tool_calls]
    talk += [
        asked,
        *(
            {"role": "tool", "tool_call_id": call.id, "content": f"rain in {its['city']}"}
            for call, its in zip(asked.tool_calls, arguments, strict=True)
        ),
    ]
    return arguments, ask(url, talk, tools=[WEATHER]).choices[0].message.content


called, told = tools(sys.argv[2])
print(json.dumps({"heard": chat(sys.argv[1]), "called": called, "told": told}))
