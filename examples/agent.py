"""An agent: OpenAI's client in a loop with one tool, and a reward. Upturn records the conversation as an episode.

Where keys are required, `UPTURN_KEY` needs the scopes `agent` and `reward`.
"""

import json
import os

from openai import OpenAI

from upturn.client import Client
from upturn.wire import RewardRequest

SERVER = os.environ.get("UPTURN_SERVER", "http://127.0.0.1:8000")
KEY = os.environ.get("UPTURN_KEY", "any")
MAX_TURNS = 5
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Current weather in a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def weather(city: str) -> str:
    """Stand in for a real weather service."""
    return f"rain in {city}"


def main() -> None:
    """Answer one question, then reward the episode."""
    openai = OpenAI(base_url=f"{SERVER}/v1", api_key=KEY)
    messages: list = [{"role": "user", "content": "Do I need an umbrella in Paris?"}]
    for _ in range(MAX_TURNS):
        raw = openai.chat.completions.with_raw_response.create(model="policy", messages=messages, tools=TOOLS)
        message = raw.parse().choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls or []:
            result = weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        if not message.tool_calls:
            break
    print(f"policy@{raw.headers['x-policy-version']}: {message.content}")

    helpful = "umbrella" in (message.content or "")
    with Client(SERVER, key=KEY) as client:
        client.reward(raw.headers["x-episode-id"], RewardRequest(value=float(helpful), source="example"))


if __name__ == "__main__":
    main()
