"""A database with an episode of every kind, and the commands that move episodes out of it and into another one."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import migrations
from server.__main__ import main
from server.recording.episode import Episode
from server.recording.episodes import Episodes
from server.recording.recorder import NewTurn, Prompt, Recorder, Span
from server.recording.tokens import chain_hashes
from server.store.database import Database, new_id
from server.store.tables import EpisodeRow, StepRow
from server.store.writer import Writer
from upturn.wire import RewardRequest

ASK: list[dict[str, Any]] = [{"role": "user", "content": "Grüß Gott, 東京"}]
MORE: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "and?"}], "name": "bob"}


class Scribe:
    """Records episodes as the server does, with chosen tokens."""

    def __init__(self, database: Database) -> None:
        self.writer = Writer(database.writer)
        self.episodes, self.recorder = Episodes(database, self.writer), Recorder(self.writer)

    async def open(self, **about: Any) -> Episode:
        """Store an open episode; `about` overrides its columns."""
        row = EpisodeRow(
            **{
                "id": new_id("ep"),
                "status": "open",
                "seed": 0,
                "horizon": 5,
                "purpose": "other",
                "policy_version": 3,
                "trainable": True,
                "details": {},
                "key_hash": new_id("secret"),
                "opened_at": time.time(),
                **about,
            }
        )
        await self.writer.write(lambda session: session.add(row))
        return await self.episodes.get(row.id)

    async def turn(
        self, episode: Episode, messages: list[dict[str, Any]], spans: list[Span], known: int = 0, **about: Any
    ) -> dict[str, Any]:
        """Record a turn that extends the first `known` messages; return its answer."""
        hashes = chain_hashes(messages)
        parent = episode.tails[hashes[known - 1]] if known else None
        new_ids = [100 + len(hashes), 7]
        prompt = Prompt(
            [*(parent.path() if parent else []), *new_ids],
            parent,
            new_ids,
            messages[known:],
            hashes[-1],
            forked=episode.newest is not None and not known,
        )
        answer = {"role": "assistant", "content": f"answer {spans[0].token_ids if spans else 'none'}"}
        await self.recorder.record(
            episode,
            NewTurn(
                id=new_id("turn"),
                index=episode.begin_turn()[0],
                digest="d" * 64,
                prompt=prompt,
                answer=answer,
                spans=spans,
                duration_ms=1.25,
                **about,
            ),
        )
        return answer

    async def step(self, episode: Episode, index: int, reward: float) -> None:
        """Store an environment step."""
        row = StepRow(
            episode_id=episode.id,
            index=index,
            action="look",
            observation="a box",
            reward=reward,
            terminated=False,
            truncated=index == 1,
            info={"room": [1, {"a": None}]},
            created_at=time.time(),
        )
        await self.writer.write(lambda session: session.add(row))


async def record_everything(database: Database) -> dict[str, str]:
    """Record one episode of each kind; return their ids by kind."""
    scribe = Scribe(database)
    made = {}

    forked = await scribe.open(group_key="g", details={"user": {"name": "ä"}, "n": [1, 2.5, None]})
    first = await scribe.turn(forked, ASK, [Span(3, [1, 2, 3], [-0.1, -0.25, -1e-6])])
    await scribe.turn(forked, [*ASK, first, MORE], [Span(3, [4, 5], [-0.5, -2.0])], known=2, temperature=0.7)
    await scribe.turn(forked, [*ASK, first, ASK[0]], [Span(3, [6], [-3.0])], known=2, choice=1)
    await scribe.turn(forked, [MORE], [Span(3, [8, 9], [-0.5, -0.75])])
    await scribe.episodes.reward(forked.id, RewardRequest(value=0.1, source="judge", turn=1, key="once"))
    await scribe.episodes.reward(forked.id, RewardRequest(value=0.2))
    made["forked"] = forked.id

    swapped = await scribe.open(environment="textcraft", task="craft stick", seed=7, group_key="g")
    await scribe.turn(swapped, ASK, [Span(3, [1, 2], [-0.1, -0.2]), Span(4, [3], [-0.3]), Span(5, [4, 5], [-1.0, 0.0])])
    await scribe.step(swapped, 0, 0.0)
    await scribe.step(swapped, 1, 1.0)
    await scribe.episodes.end(swapped, "truncated", reason="the horizon", success=True)
    made["swapped"] = swapped.id

    broken = await scribe.open(environment="textcraft", task="craft bed")
    await scribe.turn(broken, ASK, [Span(3, [1], [-0.1])])
    await scribe.step(broken, 0, 0.0)
    await scribe.episodes.end(broken, "error", error_class="EnvironmentFailed", reason="it broke")
    made["broken"] = broken.id

    unrewarded = await scribe.open(trainable=False, policy_version=900, details={"half a pair": "\ud800"})
    await scribe.turn(unrewarded, ASK, [Span(900, [1, 2], [math.nan, -1.0])], untrainable_reason="logprobs_not_finite")
    await scribe.turn(unrewarded, [MORE], [Span(900, [1, 2], [-1.0])], untrainable_reason="logprobs_missing")
    await scribe.turn(unrewarded, [*ASK, MORE], [], untrainable_reason="empty", finish_reason="abort")
    await scribe.episodes.end(unrewarded, "closed")
    made["unrewarded"] = unrewarded.id

    shown = await scribe.open(environment="textcraft", task="craft door")
    await scribe.turn(shown, ASK, [Span(None, [2**31 - 1, 0], None)])
    await scribe.episodes.reward(shown.id, RewardRequest(value=0.0))
    await scribe.episodes.end(shown, "terminated", success=False)
    made["shown"] = shown.id
    scribe.writer.close()
    return made


def new_database(directory: Path) -> Database:
    """Create a database in a new data directory."""
    directory.mkdir()
    database = Database(f"sqlite:///{directory / 'upturn.db'}")
    migrations.upgrade(database.writer)
    return database


def exported(data_dir: Path, file: Path, *flags: str) -> list[dict[str, Any]]:
    """Export a data directory; return the records, for JSONL."""
    assert main(["export", str(file), "--data-dir", str(data_dir), *flags]) == 0
    return [json.loads(line) for line in file.read_text().splitlines()] if file.suffix == ".jsonl" else []


def imported(data_dir: Path, file: Path, *flags: str) -> int:
    """Import a file into a data directory; return the exit code."""
    return main(["import", str(file), "--data-dir", str(data_dir), *flags])
