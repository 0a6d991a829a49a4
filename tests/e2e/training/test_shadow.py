"""Shadow answers: the head answers live prompts, recorded and never served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from server.app import create_app
from server.section import SettingsError
from server.versions.settings import ShadowSettings
from tests.support.live import Live, script, settings_for, until
from tests.support.runs.gated import served
from tests.support.runs.live_rewards import new_version, talk
from upturn.wire import EpisodeOpen, ShadowView

ALL = ShadowSettings(share=1.0)


@contextmanager
def shadowed(tmp_path: Path, shadow: ShadowSettings = ALL, answer: str = "add one") -> Iterator[Live]:
    """Serve with a champion that says `add 1` and a head that says something else."""
    with served(tmp_path, "adapter", shadow=shadow) as live:
        assert new_version(live, answer) == 1
        yield live


def shadows(live: Live, count: int) -> list[ShadowView]:
    until(lambda: len(live.client.shadows().data) >= count, "no shadow answer was recorded")
    return live.client.shadows().data


def test_the_shadow_answer_of_the_head_to_a_live_prompt_is_never_served(tmp_path: Path) -> None:
    with shadowed(tmp_path) as live:
        opened = live.client.open_episode(EpisodeOpen())
        assert [talk(live.http, opened.key) for _ in range(2)] == [0, 0]
        second, first = shadows(live, 2)
        turns = live.client.episode(opened.id).turns
        assert [first.turn_id, second.turn_id] == [turn.id for turn in turns]
        assert (first.episode_id, first.served_version, first.version) == (opened.id, 0, 1)
        assert first.served == turns[0].answer and first.text.startswith("add one")
        assert first.same_tokens == len("add ") and first.served_tokens == len("add 1") + 1
        assert len(first.token_ids) == len("add one") + 1
        sampled = [x for x, mine in zip(turns[0].logprobs, turns[0].loss_mask, strict=True) if mine and x is not None]
        assert first.served_logprob == pytest.approx(sum(sampled) / len(sampled))
        assert first.logprob is not None and first.logprob != first.served_logprob
        assert live.http.get("/v1/shadow?limit=1").json()["data"][0]["id"] == second.id
        assert live.http.get("/v1/shadow?limit=0").status_code == 400
        assert len(live.client.episode(opened.id).turns) == 2, "a shadow answer must not be a turn of the episode"


def test_turns_of_the_head_and_turns_while_the_champion_is_the_head_get_no_shadow(tmp_path: Path) -> None:
    with shadowed(tmp_path) as live:
        opened = live.client.open_episode(EpisodeOpen())
        assert talk(live.http, opened.key, "policy@head") == 1
        assert talk(live.http, opened.key) == 0
        assert [shadow.served_version for shadow in shadows(live, 1)] == [0]
        live.client.promote(1)
        assert talk(live.http, live.client.open_episode(EpisodeOpen()).key) == 1
        assert talk(live.http, live.client.open_episode(EpisodeOpen()).key, "policy@0") == 0
        assert len(live.client.shadows().data) == 1


def test_the_newest_shadows_are_kept_and_erasing_an_episode_erases_its_shadows(tmp_path: Path) -> None:
    with shadowed(tmp_path, ALL.model_copy(update={"keep": 2})) as live:
        opened = [live.client.open_episode(EpisodeOpen()) for _ in range(4)]
        for episode in opened:
            talk(live.http, episode.key)
        until(
            lambda: [s.episode_id for s in live.client.shadows().data] == [opened[3].id, opened[2].id],
            "the newest two are not the ones kept",
        )
        live.client.erase_episode(opened[3].id)
        assert [s.episode_id for s in live.client.shadows().data] == [opened[2].id]


def test_a_shadow_share_of_zero_records_nothing(tmp_path: Path) -> None:
    with shadowed(tmp_path, ShadowSettings()) as live:
        talk(live.http, live.client.open_episode(EpisodeOpen()).key)
        assert live.client.shadows().data == []


def test_an_episode_erased_while_its_shadow_waits_gets_none(tmp_path: Path) -> None:
    with shadowed(tmp_path) as live:
        gone = live.client.open_episode(EpisodeOpen())
        talk(live.http, gone.key)
        live.client.erase_episode(gone.id)
        talk(live.http, live.client.open_episode(EpisodeOpen()).key)
        assert gone.id not in {shadow.episode_id for shadow in shadows(live, 1)}
        with live.parts.database.read() as session:
            assert session.execute(sa.text("select count(*) from turn")).scalar_one() == 1


async def test_one_engine_of_full_weights_refuses_shadows_at_its_start(tmp_path: Path) -> None:
    app = create_app(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Hi")), shadow=ALL))
    with pytest.raises(SettingsError, match=r"shadow\.share needs adapters"):
        async with app.router.lifespan_context(app):
            pass
