"""What `serve` prints for people: what it waits for while it starts, and how to use it once it is ready."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from types import TracebackType
from typing import Self

from server import background
from server.engines.precision import Precision
from server.settings import Settings

INTERVAL_S = 10.0
QUESTION = "What is the capital of France?"


class Waiting(logging.Handler):
    """Prints a line every 10 seconds in which nothing was logged: the last thing that was, and for how long."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._began = self._last = time.monotonic()
        self._doing = "starting"
        self._loggers = [logging.getLogger(name) for name in ("server", "upturn")]
        self._task: asyncio.Task[None] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Remember what is being done."""
        self._doing, self._last = record.getMessage(), time.monotonic()

    async def __aenter__(self) -> Self:
        if self._loggers[0].isEnabledFor(logging.INFO):
            for logger in self._loggers:
                logger.addHandler(self)
            self._task = asyncio.create_task(self._tell())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for logger in self._loggers:
            logger.removeHandler(self)
        await background.end(self._task)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            now = time.monotonic()
            if now - self._last >= INTERVAL_S:
                print(f"upturn: not ready yet ({now - self._began:.0f} s): {self._doing}", flush=True)


def greeting(
    settings: Settings, url: str, engine: str, precision: Precision, context_tokens: int, placement: str
) -> str:
    """Return the lines that a ready server prints: what serves, a first request, and what to do next."""
    body = json.dumps(
        {
            "model": settings.name,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": 32,
            "temperature": 0,
        }
    )
    key = "$UPTURN_KEY" if settings.keys_required else "any"
    authorized = f' -H "Authorization: Bearer {key}"' if settings.keys_required else ""
    python_key = 'os.environ["UPTURN_KEY"]' if settings.keys_required else '"any"'
    imports = "import os, openai" if settings.keys_required else "import openai"
    model = "" if engine == "scripted" else f"{settings.model} "
    return f"""
upturn: ready: {model}as `{settings.name}`, engine {engine} ({precision}), context {context_tokens} tokens
        {placement}
        dashboard {url}/ui/, API {url}/v1, routes {url}/docs

  curl {url}/v1/chat/completions{authorized} -H 'content-type: application/json' \\
       -d '{body}'

  # Python
  {imports}
  agent = openai.OpenAI(base_url="{url}/v1", api_key={python_key})
  print(agent.chat.completions.create(model="{settings.name}", temperature=0, max_tokens=32,
        messages=[{{"role": "user", "content": "{QUESTION}"}}]).choices[0].message.content)

  Next: `python -m upturn status {url}`; rewards and training: docs/first-run.md
"""
