"""Asks a model behind an OpenAI-compatible URL, such as another server or a commercial API."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx2

from upturn.wire import Sampling

ATTEMPTS = 8
"""Attempts at one answer: with the pauses between them, about two minutes."""
LONGEST_PAUSE_S = 30.0
TOO_LONG = ("context_length_exceeded", "maximum context", "context length", "too many tokens", "prompt is too long")
"""Codes and words with which servers refuse a conversation that does not fit the model."""


class EndpointError(RuntimeError):
    """The endpoint gave no answer."""


class Endpoint:
    """A model behind an OpenAI-compatible URL, with a count of its tokens. May be used from several threads.

    Args:
        base_url: such as `https://models.example/v1`.
        model: its name there.
        key: its API key, if it needs one.
        tools: tools to offer, in OpenAI's form.
        sampling: how it samples.
        seed: seed of its sampling, for endpoints that know one.
        timeout_s: longest wait for one answer.
        transport: an httpx2 transport, for tests; None is the network.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str | None = None,
        tools: list[dict[str, Any]] | None = None,
        sampling: Sampling | None = None,
        seed: int | None = None,
        timeout_s: float = 300.0,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(
            base_url=f"{base_url.rstrip('/')}/", headers=headers, timeout=timeout_s, transport=transport
        )
        self._sleep = sleep
        sampled = sampling or Sampling()
        self._body: dict[str, Any] = {
            "model": model,
            "temperature": sampled.temperature,
            "max_tokens": sampled.max_tokens,
            **({"seed": seed} if seed is not None else {}),
            **({"tools": tools, "parallel_tool_calls": False} if tools else {}),
        }
        self._lock = threading.Lock()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.uncounted = 0
        """Answers without a `usage`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def answer(self, messages: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the model's next message, or None if the conversation does not fit it.

        Raises:
            EndpointError: it refused the request, or could not answer after several attempts.
        """
        pause_s, why = 0.5, ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            try:
                response = self._http.post("chat/completions", json={**self._body, "messages": messages})
            except httpx2.TransportError as error:
                why = f"{type(error).__name__}: {error}"
                continue
            if response.is_success:
                return self._message(response)
            why = f"{response.status_code}: {response.text[:500]}"
            if response.status_code == 400 and any(word in response.text.lower() for word in TOO_LONG):
                return None
            if response.status_code == 400 and "max_completion_tokens" in response.text and "max_tokens" in self._body:
                self._body["max_completion_tokens"] = self._body.pop("max_tokens")  # What newer models call it.
            elif response.status_code not in (408, 409, 429) and response.status_code < 500:
                break
            try:
                pause_s = max(pause_s, min(float(response.headers["retry-after"]), LONGEST_PAUSE_S))
            except (KeyError, ValueError):
                pass
        raise EndpointError(f"{self._http.base_url} gave no answer: {why}")

    def _message(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            answer = json.loads(response.content)
            message = answer["choices"][0]["message"]
            calls, content = message.get("tool_calls") or [], message.get("content")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EndpointError(f"{self._http.base_url} answered something else: {response.text[:500]}") from error
        usage = answer.get("usage") or {}
        with self._lock:
            self.prompt_tokens += usage.get("prompt_tokens") or 0
            self.completion_tokens += usage.get("completion_tokens") or 0
            self.uncounted += not usage
        text = content if isinstance(content, str) else "".join(part.get("text") or "" for part in content or [])
        return {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
