"""Requests in every dialect, and what their tests share."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import anthropic

from tests.support.live import Live

ASK = [{"role": "user", "content": "How is it in Paris and Rome?"}]
PARIS, ROME = (
    f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>' for city in ("Paris", "Rome")
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
MESSAGES, RESPONSES, COMPLETIONS = "/v1/messages", "/v1/responses", "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    MESSAGES: {"model": "policy", "max_tokens": 2000, "messages": ASK},
    RESPONSES: {"model": "policy", "input": "Hi"},
    COMPLETIONS: {"model": "policy", "prompt": "Once", "max_tokens": 2000},
}


def claude(live: Live, key: str = "sk-test", **more: Any) -> anthropic.Anthropic:
    """Return Anthropic's client."""
    return live.closing.enter_context(
        anthropic.Anthropic(base_url=more.pop("base_url", live.url), api_key=key, max_retries=0, **more)
    )


def extends(live: Live, episode_id: str) -> list[Any]:
    """Return an episode's turns, checked that each extends the recorded ids of the previous turn."""
    turns = live.client.episode(episode_id).turns
    for before, after in pairwise(turns):
        assert after.token_ids[: len(before.token_ids)] == before.token_ids
        assert after.logprobs[: len(before.logprobs)] == before.logprobs
    return turns
