"""A play samples from seeds: the same play again gives the same answers, and no two of its turns share a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.engines.settings import EngineSettings
from server.environments.players import sampling_seed
from server.environments.settings import EnvironmentSettings
from server.store.tables import EpisodeRow, TurnRow
from server.wiring.parts import Parts
from tests.support.in_process import Held, claimed, publication, rows, running
from tests.support.live import script, settings_for
from tests.support.tiny_model import make_tiny_model
from upturn.wire import BatchRequest, PlayRequest

ENVIRONMENT = "odd/inline:x"
ENVIRONMENTS = EnvironmentSettings(modules=["tests.support.environments.odd_inline"], workers=0)
TASKS, REPETITIONS, TURNS = ["train/0", "train/1"], 3, 2


async def played(parts: Parts, **changes: Any) -> str:
    """Play to the end; return the play's id."""
    request = {
        "environment": ENVIRONMENT,
        "tasks": TASKS,
        "group_size": REPETITIONS,
        "horizon": TURNS,
        "sampling": {"max_tokens": 8},
        **changes,
    }
    play_id = await parts.plays.start(PlayRequest.model_validate(request))
    view = await parts.plays.view(play_id, wait_s=60)
    assert (view.state, view.errors) == ("done", 0)
    return play_id


async def test_versions_are_evaluated_with_the_same_seeds_and_no_two_turns_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = script(tmp_path / "script", "add 1")
    async with running(settings_for(tmp_path / "data", model=str(model), environments=ENVIRONMENTS)) as parts:
        held = Held(parts, monkeypatch)
        held.go.set()

        async def seeds(**changes: Any) -> set[int | None]:
            held.params.clear()
            await played(parts, **changes)
            assert len(held.params) == len(TASKS) * REPETITIONS * TURNS
            return {params.seed for params in held.params}

        first = await seeds(purpose="evaluation", seed=5)
        assert None not in first and len(first) == len(TASKS) * REPETITIONS * TURNS
        plan = {"environment": ENVIRONMENT, "tasks": TASKS, "groups": 2, "group_size": REPETITIONS}
        run = await claimed(parts, play=plan)
        await parts.publisher.publish(publication(parts, "add 2", run.id))
        assert await seeds(purpose="evaluation", seed=5) == first
        assert await seeds(seed=5) == first
        assert await seeds(seed=5, tasks=TASKS[:1], group_size=2 * REPETITIONS) & first
        assert not await seeds(seed=6) & first
        assert not await seeds(seed=5, tasks=["test/0", "test/1"]) & first

        held.params.clear()
        request = {"run_id": run.id, "learner": "tester", "step": 0, "horizon": TURNS}
        await parts.batches.lease(BatchRequest.model_validate(request))
        assert len({params.seed for params in held.params} - {None}) == len(TASKS) * REPETITIONS * TURNS


async def test_a_play_with_the_same_seed_repeats_its_answers_and_stays_trainable(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    engine = EngineSettings(kind="local", dtype="float32", context_tokens=2048)
    settings = settings_for(tmp_path / "data", model=str(model), engine=engine, environments=ENVIRONMENTS)
    async with running(settings) as parts:

        async def answers(**changes: Any) -> list[Any]:
            play_id = await played(parts, **changes)
            episodes = {e.id: e for e in rows(parts, EpisodeRow, EpisodeRow.play_id == play_id)}
            turns = rows(parts, TurnRow, TurnRow.episode_id.in_(episodes))
            assert all(turn.untrainable_reason is None for turn in turns)
            return sorted((episodes[t.episode_id].task, t.index, t.answer["content"]) for t in turns)

        first = await answers(seed=1)
        assert len({content for _, _, content in first}) == len(first)  # repetitions explore
        assert await answers(seed=1, purpose="evaluation") == first
        assert await answers(seed=2) != first


def test_the_seed_of_a_turn_is_the_same_in_every_process_and_fits_every_engine() -> None:
    assert sampling_seed("textcraft/1/bread/0/0/0") == 4193245485939032014
    assert (
        len({sampling_seed(f"textcraft/1/bread/0/{copy}/{turn}") for copy in range(50) for turn in range(50)}) == 2500
    )
    assert all(0 <= sampling_seed(f"{i}\ud800") < 2**62 for i in range(100))
