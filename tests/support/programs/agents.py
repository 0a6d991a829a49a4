"""Runs a third-party agent in a home of its own that ends at this machine, and checks what the server recorded of it.

The agents' scripts call tools in Hermes' form, one of them with an error that the agent reports and the next answer
recovers from.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

from server.engines.settings import EngineSettings
from server.rendering.bytes_tokenizer import BytesTokenizer
from tests.support.database import recorded
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import TurnView

KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")
"""Variables that programs inherit."""


def call(name: str, **arguments: Any) -> str:
    """Return a tool call as the policy writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


MISSING = "no item 'lmap'; items: lamp, table"
SHOPPING = "What do a lamp and a table cost together?"
TOTAL = "Together they cost 42."
PRICES = (
    "I look.\n" + call("price", item="lmap"),
    "A typo. Again.\n" + call("price", item="lamp"),
    call("price", item="table"),
    TOTAL,
)
"""Answers to `SHOPPING` with the tool `price`, which reports `MISSING` for the first call."""


@dataclass(frozen=True)
class Sandbox:
    """An empty home and an empty working directory, and a proxy for every other machine."""

    home: Path
    work: Path
    proxy: str
    asked: list[str]
    """Other machines that programs tried to reach."""

    def run(self, *command: str | Path, limit_s: float = 240, said: str | None = None, **variables: str) -> str:
        """Run a program that must succeed, and return what it prints.

        Args:
            command: the program and its arguments.
            limit_s: its time limit in seconds.
            said: its standard input.
            variables: additional environment variables.
        """
        done = subprocess.run(
            command,
            cwd=self.work,
            env=self.variables | variables,
            input=said or "",
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
        return done.stdout

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables: nothing of this project, and no way to other machines but the proxy."""
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), self.proxy)
        proxies |= {name.lower(): value for name, value in proxies.items()}
        return {
            **{name: os.environ[name] for name in KEPT if name in os.environ},
            **proxies,
            "NO_PROXY": "127.0.0.1,localhost,::1",
            "no_proxy": "127.0.0.1,localhost,::1",
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_DATA_HOME": str(self.home / ".local" / "share"),
            "XDG_STATE_HOME": str(self.home / ".local" / "state"),
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "OTEL_SDK_DISABLED": "true",
        }


@dataclass
class Schemas:
    """What the scripted engine was asked to follow."""

    used: list[dict[str, Any]] = field(default_factory=list)
    """The JSON schemas of all answers."""
    wrong: list[str] = field(default_factory=list)
    """Answers that do not fit their schema, and schemas with references that lead nowhere."""


@contextmanager
def policy(directory: Path, *answers: str, **changes: Any) -> Iterator[Live]:
    """Serve a policy that gives these answers, with room for the long prompts of coding agents."""
    engine = EngineSettings(kind="scripted", context_tokens=1_000_000)
    model = script(directory / "script", *answers)
    with serving(settings_for(directory / "data", model=str(model), engine=engine, **changes)) as live:
        yield live


@contextmanager
def sandbox(directory: Path) -> Iterator[Sandbox]:
    """Yield a sandbox in `directory`; its proxy refuses every request and remembers the machine."""
    asked: list[str] = []

    class Refusing(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            asked.append(self.path)
            self.send_error(403, "This test must not leave the machine")

        do_CONNECT = do_GET = do_HEAD = do_POST = do_PUT = refuse

        def log_message(self, format: str, *args: Any) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    home, work = directory / "home", directory / "work"
    home.mkdir(parents=True)
    work.mkdir()
    try:
        yield Sandbox(home, work, f"http://127.0.0.1:{proxy.server_port}", asked)
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def the_episode(
    live: Live, answers: Sequence[str], *, reason: str | None = None, forks: Sequence[int] = (), others: int = 0
) -> list[TurnView]:
    """Return the turns of the agent's conversation, which must be one episode with exactly these answers.

    Args:
        live: the server.
        answers: what the policy wrote, in order.
        reason: why no turn may be trained on; None if all may.
        forks: turns before which the agent rewrote what the policy had seen: the only ones that may fork.
        others: turns in other episodes, such as the title of a conversation.
    """
    rows = recorded(live.parts.settings.data_dir)
    counts = Counter(row["episode_id"] for row in rows)
    assert counts, "no turn was recorded"
    (episode_id, turns_of_it), *rest = counts.most_common()
    assert (turns_of_it, sum(count for _, count in rest)) == (len(answers), others), (
        f"turns by episode: {list(counts.values())}"
    )
    turns = live.client.episode(episode_id).turns
    tokenizer = BytesTokenizer()
    spoken = [tokenizer.decode(turn.token_ids[turn.prompt_tokens :]) for turn in turns]
    assert spoken == list(answers)
    own = sorted((row for row in rows if row["episode_id"] == episode_id), key=lambda row: row["index"])
    forked = {row["index"] for row in own if row["forked"]}
    assert forked <= set(forks), f"false forks: {forked - set(forks)}"
    for index, (before, after) in enumerate(pairwise(turns), start=1):
        if index not in forked:
            assert after.token_ids[: len(before.token_ids)] == before.token_ids
    assert [turn.untrainable_reason for turn in turns] == [reason] * len(turns)
    return turns


def heard(turns: Sequence[TurnView]) -> str:
    """Return everything that the agent told the policy after its first answer."""
    return "\n".join(_text(message.get("content")) for turn in turns[1:] for message in turn.messages)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", part)) for part in content)
    return str(content)
