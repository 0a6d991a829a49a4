"""Who may reward an episode, as which source, and how much."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.recording import given_rewards
from server.rewards.settings import FunctionSettings, RewardSettings
from tests.support.keys import client, new_key
from tests.support.live import Live, script, serving, settings_for
from upturn.client import UpturnAPIError
from upturn.wire import EpisodeOpen, EpisodeOpened, KeyCreate, RewardRequest

ASK = [{"role": "user", "content": "Hi"}]
TONE = {"tone": FunctionSettings(function="tests.support.rewards.reward_functions:length")}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home: Path = tmp_path_factory.mktemp("rewards")
    model = script(home / "script", "Hello there.")
    with serving(settings_for(home / "data", model=str(model), keys="required")) as live:
        yield live


def key_for(live: Live, *scopes: Any, sources: list[str] | None = None) -> str:
    """Return a key made over the API."""
    admin = client(live, new_key(live, "admin").key)
    return admin.create_key(KeyCreate(name="k", scopes=list(scopes), reward_sources=sources)).key


def opened_by(live: Live, key: str) -> EpisodeOpened:
    opened = client(live, key).open_episode(EpisodeOpen())
    live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
    return opened


def give(live: Live, key: str, episode_id: str, body: Any) -> tuple[int, str]:
    """Post a reward; return the status, and the error's code."""
    text = body if isinstance(body, str) else json.dumps(body)
    answer = live.http.post(
        f"/v1/episodes/{episode_id}/rewards",
        content=text,
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    return answer.status_code, "" if answer.status_code == 201 else answer.json()["error"]["code"]


def test_an_agents_key_rewards_its_own_episodes_only_with_the_scope(guarded: Live) -> None:
    agent, rewarder, other = (
        new_key(guarded, *scopes).key for scopes in (("agent",), ("agent", "reward"), ("agent", "reward"))
    )
    assert give(guarded, agent, opened_by(guarded, agent).id, {"value": 1}) == (403, "insufficient_scope")
    mine = opened_by(guarded, rewarder)
    assert give(guarded, rewarder, mine.id, {"value": 1}) == (201, "")
    assert give(guarded, other, mine.id, {"value": 1}) == (404, "episode_not_found")
    assert give(guarded, new_key(guarded, "learner").key, mine.id, {"value": 1}) == (403, "insufficient_scope")
    assert client(guarded, rewarder).episode(mine.id).reward == 1.0


def test_a_key_for_rewards_alone_rewards_every_episode_and_does_nothing_else(guarded: Live) -> None:
    verifier, agent = new_key(guarded, "reward").key, new_key(guarded, "agent").key
    opened = opened_by(guarded, agent)
    assert give(guarded, verifier, opened.id, {"value": 0.5, "source": "tests"}) == (201, "")
    assert give(guarded, verifier, "ep_none", {"value": 0.5}) == (404, "episode_not_found")
    for refused in (
        lambda: client(guarded, verifier).episode(opened.id),
        lambda: client(guarded, verifier).close_episode(opened.id),
        lambda: client(guarded, verifier).open_episode(EpisodeOpen()),
        lambda: client(guarded, verifier).reward_sources(),
    ):
        with pytest.raises(UpturnAPIError, match="403 insufficient_scope"):
            refused()


def test_an_episodes_own_key_cannot_reward_it_under_any_name(guarded: Live) -> None:
    opener = new_key(guarded, "agent", "reward").key
    one, two = opened_by(guarded, opener), opened_by(guarded, opener)
    for source in ("user", "human", "verifier", "environment", "judge"):
        assert give(guarded, one.key, one.id, {"value": 1e6, "source": source}) == (403, "insufficient_scope")
    assert give(guarded, one.key, two.id, {"value": 1}) == (404, "episode_not_found")
    assert client(guarded, opener).episode(one.id).reward is None


def test_a_key_rewards_as_its_own_sources_only(guarded: Live) -> None:
    key = key_for(guarded, "agent", "reward", sources=["tests", "lint"])
    opened = opened_by(guarded, key)
    for source in ("tests", "lint"):
        assert give(guarded, key, opened.id, {"value": 1, "source": source}) == (201, "")
    for source in ("user", "Tests", "tests "):
        assert give(guarded, key, opened.id, {"value": 1, "source": source}) == (403, "source_not_allowed")
    assert give(guarded, key, opened.id, {"value": 1}) == (403, "source_not_allowed"), "the default is `user`"
    (view,) = [k for k in client(guarded, new_key(guarded, "admin").key).keys().data if k.reward_sources]
    assert view.reward_sources == ["lint", "tests"]
    admin = {"authorization": f"Bearer {new_key(guarded, 'admin').key}"}
    for wrong in (
        {"scopes": ["agent"], "reward_sources": ["x"]},
        {"scopes": ["admin"], "reward_sources": ["x"]},
        {"scopes": ["reward", "admin"], "reward_sources": ["x"]},
        {"scopes": ["reward"], "reward_sources": []},
        {"scopes": ["reward"], "reward_sources": [""]},
        {"scopes": ["reward"], "reward_sources": ["x" * 101]},
        {"scopes": ["reward"], "reward_sources": "x"},
    ):
        assert guarded.http.post("/v1/keys", json={"name": "k", **wrong}, headers=admin).status_code == 400


def test_an_episodes_key_may_reward_where_the_settings_allow_it_and_as_its_opener_may(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    rewards = RewardSettings(episode_keys=True, functions=TONE)
    with serving(settings_for(tmp_path / "data", model=str(model), keys="required", rewards=rewards)) as live:
        allowed = opened_by(live, key_for(live, "agent", "reward", sources=["tests"]))
        assert give(live, allowed.key, allowed.id, {"value": 1, "source": "tests"}) == (201, "")
        assert give(live, allowed.key, allowed.id, {"value": 1, "source": "user"}) == (403, "source_not_allowed")
        refused = opened_by(live, new_key(live, "agent").key)
        assert give(live, refused.key, refused.id, {"value": 1}) == (403, "insufficient_scope")
        admin = new_key(live, "admin").key
        for source in ("environment", "Environment", " environment ", "*", "tone", "Tone", "tone "):
            assert give(live, admin, allowed.id, {"value": 1, "source": source}) == (400, "source_reserved"), source


def test_without_a_rule_a_source_counts_up_to_the_default_cap(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
    for source in ("user", "human", "verifier", "tests"):
        live.client.reward(opened.id, RewardRequest(value=1e6, source=source))
    view = live.client.episode(opened.id)
    assert view.reward == 400.0
    assert {reward.value for reward in view.rewards} == {1e6}, "raw rewards are kept"


@pytest.mark.parametrize(
    "body",
    [
        '{"value": NaN}',
        '{"value": Infinity}',
        '{"value": -Infinity}',
        '{"value": 1e300}',
        '{"value": 1e999}',
        '{"value": -1000001}',
        '{"value": 1' + "0" * 5000 + "}",
        {"value": "1"},
        {"value": True},
        {"value": None},
        {"value": [1]},
        {"value": 1, "comment": "x"},
        {"value": 1, "source": "x" * 101},
        {"value": 1, "source": ""},
        {"value": 1, "source": 5},
        '{"value": 1, "source": "\\ud800"}',
        {"value": 1, "key": "x" * 201},
        {"value": 1, "turn": -1},
        {"value": 1, "turn": 2**31},
        {"value": 1, "turn": True},
        {"value": 1, "turn": 0.5},
        {},
        [],
        "1",
        "null",
    ],
)
def test_a_reward_that_is_no_small_number_is_refused(guarded: Live, body: Any) -> None:
    admin = new_key(guarded, "admin").key
    opened = client(guarded, admin).open_episode(EpisodeOpen())
    status, _ = give(guarded, admin, opened.id, body)
    assert status == 400
    assert client(guarded, admin).episode(opened.id).rewards == []


def test_rewards_add_up_also_after_the_end_and_never_beyond_their_bounds(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_rewards, "MOST_REWARDS", 6)
    monkeypatch.setattr(given_rewards, "MOST_SOURCES", 2)
    opened = live.client.open_episode(EpisodeOpen())
    live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
    live.client.reward(opened.id, RewardRequest(value=1, source="a", key="once"))
    live.client.reward(opened.id, RewardRequest(value=1, source="a"))
    live.client.close_episode(opened.id)
    live.client.reward(opened.id, RewardRequest(value=1, source="b"))
    assert live.client.episode(opened.id).reward == 3.0
    assert give(live, "any", opened.id, {"value": 1, "source": "c"}) == (409, "too_many_rewards")
    for _ in range(3):
        live.client.reward(opened.id, RewardRequest(value=1, source="a"))
    assert give(live, "any", opened.id, {"value": 1, "source": "a"}) == (409, "too_many_rewards")
    again = live.client.reward(opened.id, RewardRequest(value=1, source="a", key="once"))
    assert (again.value, len(live.client.episode(opened.id).rewards)) == (1.0, 6), "a repeated request is not a new one"


def test_agents_keys_of_older_databases_keep_the_right_to_reward(tmp_path: Path) -> None:
    import migrations
    from server.store.database import Database

    path = tmp_path / "data" / "upturn.db"
    path.parent.mkdir()
    database = Database(f"sqlite:///{path}")
    migrations.upgrade(database.writer, "0006")
    with database.writer.begin() as connection:
        for name, scopes in (
            ("a", '["agent"]'),
            ("b", '["agent", "learner"]'),
            ("c", '["learner"]'),
            ("d", '["admin"]'),
        ):
            connection.execute(
                sa.text("insert into api_key (id, key_hash, name, scopes, created_at) values (:n, :n, :n, :s, 0)"),
                {"n": name, "s": scopes},
            )
    database.close()
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Hi.")))) as live:
        found = {key.id: key.scopes for key in live.client.keys().data}
        assert found == {
            "a": ["agent", "reward"],
            "b": ["agent", "learner", "reward"],
            "c": ["learner"],
            "d": ["admin"],
        }
        assert live.client.create_key(KeyCreate(name="new", scopes=["agent"])).scopes == ["agent"]
