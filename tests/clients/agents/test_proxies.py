"""An agent behind LiteLLM's proxy: one episode, although the proxy speaks for every agent with one key."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

from tests.support.live import until
from tests.support.programs.agents import MISSING, PRICES, SHOPPING, TOTAL, Sandbox, heard, policy, the_episode
from tests.support.programs.interpreters import interpreter
from upturn.wire import RewardRequest

HERE = Path(__file__).parent
KEY = "sk-proxy"
"""The proxy's own key, without which it does not start."""
COSTS = {"lamp": "12", "table": "30"}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "price",
        "description": "Tells the price of an item.",
        "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
    },
}

pytestmark = [pytest.mark.agents, pytest.mark.timeout(1200)]


def test_litellms_proxy_in_front_keeps_a_conversation_in_one_episode(home: Sandbox, tmp_path: Path) -> None:
    litellm = interpreter("litellm_proxy", HERE / "requirements" / "litellm_proxy.txt").with_name("litellm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with policy(tmp_path, *PRICES) as live:
        upstream = {"model": "openai/policy", "api_base": f"{live.url}/v1", "api_key": "sk-litellm"}
        config = {
            "model_list": [{"model_name": "policy", "litellm_params": upstream}],
            "litellm_settings": {"telemetry": False, "num_retries": 0},
        }
        (home.work / "config.yaml").write_text(json.dumps(config))
        command = [
            litellm,
            "--config",
            "config.yaml",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--telemetry",
            "False",
        ]
        variables = home.variables | {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            "LITELLM_MASTER_KEY": KEY,
        }
        written = home.work / "proxy.log"
        log = written.open("w")
        with subprocess.Popen(command, cwd=home.work, env=variables, stdout=log, stderr=log) as proxy:
            try:
                until(lambda: proxy.poll() is not None or alive(port), "the proxy did not start", seconds=240)
                assert proxy.poll() is None, f"the proxy did not start:\n{written.read_text()[-4000:]}"
                told = converse(live.openai(KEY, f"http://127.0.0.1:{port}/v1"))
            finally:
                proxy.terminate()
                log.close()
        assert told.choices[0].message.content == TOTAL
        turns = the_episode(live, PRICES)
        assert MISSING in heard(turns)
        live.client.reward(told.id, RewardRequest(value=1.0))
        (episode,) = live.client.episodes().data
        assert episode.reward == 1.0


def alive(port: int) -> bool:
    """Whether the proxy answers."""
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health/liveliness").status_code == 200
    except httpx2.TransportError:
        return False


def converse(client: OpenAI) -> ChatCompletion:
    """Call tools until the policy answers without, and return this answer."""
    messages: list[Any] = [{"role": "user", "content": SHOPPING}]
    while True:
        completion = client.chat.completions.create(model="policy", messages=messages, tools=[TOOL])
        answer = completion.choices[0].message
        messages.append(answer.model_dump(exclude_none=True))
        if not answer.tool_calls:
            return completion
        for made in answer.tool_calls:
            assert made.type == "function"
            item = json.loads(made.function.arguments)["item"]
            said = COSTS.get(item, f"Error: {MISSING}")
            messages.append({"role": "tool", "tool_call_id": made.id, "content": said})
