"""Checks that every sampled token an agent received is recorded exactly, and exactly once.

    .venv/bin/python benchmarks/exactness.py [--quick] [--engine scripted|vllm] [--episodes N]

Agents (`support/agents.py`) keep the tokens and logprobs that they receive; afterwards every episode is read back and
compared. A continued history must be recorded as the identical token ids; the record may branch only where an agent
changed its history or discarded part of an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import sys
import tempfile
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp

from benchmarks.support.agents import Agent, Given, Server
from clients.demo.machine import machine
from clients.demo.server_process import ServerProcess, free_port
from upturn.client import Client
from upturn.wire import EpisodeView, TurnView

AT_ONCE = 32
LOOK = '<tool_call>\n{"name": "look", "arguments": {"where": "%s"}}\n</tool_call>'
SCRIPT = {
    "delay_s": 0.001,
    "answers": [
        f"I look.\n{LOOK % 'north'}",
        "Trees, and a bridge: eine Brücke, 橋.",
        f"{LOOK % 'south'}\n{LOOK % 'north'}",
        "Nothing new. I wait here until it gets light, and then I go on along the river.",
    ],
}


async def played(url: str, episodes: int, forces_calls: bool) -> list[Agent]:
    """Run all agents, AT_ONCE at a time."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as http:
        server = Server(http, url, forces_calls)
        agents = [Agent(server, number) for number in range(episodes)]
        waiting = iter(enumerate(agents))

        async def some() -> None:
            for number, agent in waiting:
                await agent.play()
                if number % 100 == 99:
                    print(f"{number + 1} of {episodes} episodes", file=sys.stderr)

        async with asyncio.TaskGroup() as players:
            for _ in range(AT_ONCE):
                players.create_task(some())
    return agents


def sampled(turn: TurnView) -> tuple[list[int], list[float]]:
    """Return the token ids that the policy sampled in a turn, and their logprobs."""
    begin = len(turn.token_ids) - turn.completion_tokens
    if not all(turn.loss_mask[begin:]):
        raise RuntimeError(f"turn {turn.id} has {turn.completion_tokens} tokens and a loss mask of fewer")
    return turn.token_ids[begin:], [x for x in turn.logprobs[begin:] if x is not None]


def is_recorded(given: Given, turn: TurnView, text_of: dict[int, str]) -> bool:
    """Whether a turn contains what an agent received: every token, or the part it read before disconnecting."""
    if given.tokens is None:
        return str(turn.answer["content"] or "").startswith(given.message["content"])
    ids, logprobs = sampled(turn)
    said = [(text_of[token_id], logprob) for token_id, logprob in zip(ids, logprobs, strict=True)]
    as_stored = array("f", [logprob for _, logprob in given.tokens]).tolist()
    as_given = list(zip((text for text, _ in given.tokens), as_stored, strict=True))
    return said == as_given and given.usage in (len(ids), None)  # None: disconnected before the last chunk.


def branches(episode: EpisodeView) -> set[str]:
    """Return the turns whose token ids do not continue the previously recorded turn."""
    turns = sorted(episode.turns, key=lambda turn: turn.index)
    return {turn.id for before, turn in pairwise(turns) if turn.token_ids[: len(before.token_ids)] != before.token_ids}


@dataclass(frozen=True, slots=True)
class Stored:
    """Content of the database, independent of the API."""

    tokens: dict[str, int]
    """Number of sampled tokens in the nodes of each turn."""
    forked: set[str]
    """Turns marked as branches."""


def read(database: Path) -> Stored:
    """Read the database directly."""
    connection = sqlite3.connect(database)
    tokens = dict.fromkeys((turn_id for (turn_id,) in connection.execute("select id from turn")), 0)
    tokens |= connection.execute("select turn_id, sum(length(token_ids)) / 4 from node where sampled group by turn_id")
    forked = {turn_id for (turn_id,) in connection.execute("select id from turn where forked")}
    connection.close()
    return Stored(tokens, forked)


def settled(database: Path, known: set[str]) -> Stored:
    """Read the database once the last interrupted answers have been recorded, or after 60 s."""
    deadline = time.monotonic() + 60
    while known - (stored := read(database)).tokens.keys() and time.monotonic() < deadline:
        time.sleep(0.2)
    return stored


def compared(
    agents: list[Agent], episodes: list[EpisodeView], text_of: dict[int, str], stored: Stored
) -> dict[str, Any]:
    """Compare received and recorded tokens."""
    turns = {turn.id: turn for episode in episodes for turn in episode.turns}
    given = [one for agent in agents for one in agent.given]
    known = {one.turn_id for one in given}
    whole = {one.turn_id: len(one.tokens) for one in given if one.tokens is not None}
    wrong = {
        one.turn_id for one in given if one.turn_id not in turns or not is_recorded(one, turns[one.turn_id], text_of)
    }
    wrong |= {turn_id for turn_id, turn in turns.items() if stored.tokens[turn_id] != turn.completion_tokens}
    exact = sum(count for turn_id, count in whole.items() if turn_id not in wrong)
    rewritten = {one.turn_id for one in given if one.rewritten}
    repeated = {one.turn_id for one in given if one.repeated}
    first = {min(episode.turns, key=lambda turn: turn.index).id for episode in episodes}
    forked = stored.forked & known
    parted = set().union(*map(branches, episodes)) & known
    return {
        "episodes": len(agents),
        "recorded_episodes": len(episodes),
        "turns": len(turns),
        "ways": dict(Counter(way for agent in agents for way in agent.ways)),
        "turns_with_tool_calls": len({one.turn_id for one in given if one.message.get("tool_calls")}),
        "tokens_given": sum(whole.values()),
        "tokens_recorded_exactly_once": exact,
        "share": exact / sum(whole.values()),
        "turns_wrong": len(wrong),
        "turns_given_in_part": len(known - whole.keys()),
        "turns_nobody_was_given": len(stored.tokens.keys() - known),
        "second_answers": len({one.turn_id for one in given if one.unlike}),
        "answers_from_other_episodes": len({one.turn_id for one in given if one.stray}),
        "histories_rewritten": len(rewritten),
        "new_episodes_after_rewriting": len(rewritten & first),
        "forks": len(forked),
        "forks_after_rewriting": len(forked & rewritten),
        "forks_after_half_an_answer": len((forked & repeated) - rewritten),
        "forks_unexplained": len((forked | parted) - rewritten - repeated),
        "forks_missing": len(rewritten - first - forked),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 episodes")
    parser.add_argument(
        "--engine",
        choices=["scripted", "vllm"],
        default="scripted",
        help="a script, or a tiny random model in vLLM",
    )
    parser.add_argument("--episodes", type=int, help="number of episodes (1,000)")
    arguments = parser.parse_args()
    count = arguments.episodes or (100 if arguments.quick else 1000)
    with tempfile.TemporaryDirectory(prefix="upturn-exactness-") as name:
        folder = Path(name)
        model, flags, text_of = _vllm(folder) if arguments.engine == "vllm" else _scripted(folder)
        flags = ["--model", str(model), "--engine.kind", arguments.engine, "--engine.context-tokens", "8192", *flags]
        with ServerProcess(folder / "data", free_port(), flags, _log) as server, Client(server.url) as client:
            began = time.perf_counter()
            agents = asyncio.run(played(server.url, count, arguments.engine == "vllm"))
            seconds = time.perf_counter() - began
            ids = dict.fromkeys(given.episode_id for agent in agents for given in agent.given)
            stored = settled(folder / "data" / "upturn.db", {one.turn_id for agent in agents for one in agent.given})
            figures = compared(agents, [client.episode(each) for each in ids], text_of, stored)
    print(f"{machine()}; engine {arguments.engine}, {count} agents, {AT_ONCE} at a time, {seconds:.0f} s")
    print(
        f"{figures['turns']} turns in {figures['recorded_episodes']} episodes, "
        f"{figures['turns_with_tool_calls']} with tool calls; requests: "
        + ", ".join(f"{way} {times}" for way, times in figures["ways"].items())
    )
    print(
        f"sampled tokens received {figures['tokens_given']}, recorded exactly once "
        f"{figures['tokens_recorded_exactly_once']} ({figures['share']:.4%}); turns that differ "
        f"{figures['turns_wrong']}, received in part {figures['turns_given_in_part']}, "
        f"received by nobody {figures['turns_nobody_was_given']}, "
        f"from another episode {figures['answers_from_other_episodes']}; "
        f"second answers to a repeated request {figures['second_answers']}"
    )
    print(
        f"histories rewritten {figures['histories_rewritten']}, of which {figures['new_episodes_after_rewriting']} "
        f"started a new episode; forks {figures['forks']}: "
        f"{figures['forks_after_rewriting']} after a rewrite, "
        f"{figures['forks_after_half_an_answer']} after a partial answer, "
        f"{figures['forks_unexplained']} elsewhere; missing {figures['forks_missing']}"
    )
    print(json.dumps({"machine": machine(), "engine": arguments.engine, "seconds": seconds, **figures}))


def _scripted(folder: Path) -> tuple[Path, list[str], dict[int, str]]:
    """Return a scripted model, the server's flags, and the text of each token."""
    from server.rendering.bytes_tokenizer import VOCABULARY_SIZE, BytesTokenizer

    (folder / "script").mkdir()
    (folder / "script" / "script.json").write_text(json.dumps(SCRIPT))
    return folder / "script", [], {token: BytesTokenizer().decode([token]) for token in range(VOCABULARY_SIZE)}


def _vllm(folder: Path) -> tuple[Path, list[str], dict[int, str]]:
    """Return a tiny model, the server's flags, and the text of each token."""
    from server.rendering.tokenizer import FileTokenizer
    from tests.support.tiny_model import make_tiny_model

    model = make_tiny_model(folder / "model")
    tokenizer = FileTokenizer(model / "tokenizer.json")
    vocabulary = range(json.loads((model / "config.json").read_text())["vocab_size"])
    return (
        model,
        ["--engine.dtype", "float32", "--engine.kv-cache-gib", "0.5", "--weights", "full"],
        {token: tokenizer.decode([token]) for token in vocabulary},
    )


def _log(waited: float, _doing: str) -> None:
    print(f"the server is starting ({waited:.0f} s)", file=sys.stderr)


if __name__ == "__main__":
    main()
