"""What people say about episodes: thumbs count as rewards, and better answers become demonstrations."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.feedback.due import never_attempted
from server.recording.people import opinions
from server.store.tables import EpisodeRow, FeedbackRow
from server.training.data.selection import select
from tests.support.live import InProcess, in_process, script, settings_for
from upturn.wire import EpisodeOpen, RunConfig

FIRST = "What is the capital of France?"


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[InProcess]:
    model = script(tmp_path / "script", "It is Lyon.", "Sorry.")
    async with in_process(settings_for(tmp_path / "data", model=str(model))) as server:
        yield server


async def say(server: InProcess, episode: str, status: int = 201, **said: Any) -> dict[str, Any]:
    answer = await server.http.post(f"/v1/episodes/{episode}/feedback", json=said)
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def view(server: InProcess, episode: str) -> dict[str, Any]:
    body: dict[str, Any] = (await server.http.get(f"/v1/episodes/{episode}")).json()
    return body


async def corrected(server: InProcess) -> tuple[str, dict[str, Any]]:
    """Record a conversation of two turns, and correct the second answer; return the episode and the feedback."""
    first = await server.chat(ask(FIRST))
    await server.chat([*ask(FIRST), first.message, *ask("Are you sure?")])
    return first.episode, await say(server, first.episode, answer="No: it is Paris.", turn=1, source="ann")


async def test_thumbs_are_rewards_and_comments_are_kept(server: InProcess) -> None:
    episode = (await server.chat(ask(FIRST))).episode
    await say(server, episode, thumb="up", comment="Nearly", turn=0)
    await say(server, episode, thumb="down", source="bob")
    await say(server, episode, comment="Grüße 東京")
    shown = await view(server, episode)
    assert [(reward["value"], reward["source"], reward["turn"]) for reward in shown["rewards"]] == [
        (1.0, "user", 0),
        (-1.0, "bob", None),
    ]
    assert [(one["thumb"], one["comment"], one["turn"]) for one in shown["feedback"]] == [
        ("up", "Nearly", 0),
        ("down", None, None),
        (None, "Grüße 東京", None),
    ]
    assert [one["reward_id"] for one in shown["feedback"]] == [*(reward["id"] for reward in shown["rewards"]), None]


async def test_an_edited_answer_is_shown_on_the_exact_prompt_of_its_turn(server: InProcess) -> None:
    episode, said = await corrected(server)
    corrected_turn = (await view(server, episode))["turns"][1]
    shown = await view(server, said["demonstration_id"])
    (turn,) = shown["turns"]
    prompt = corrected_turn["token_ids"][: corrected_turn["prompt_tokens"]]
    assert turn["token_ids"][: len(prompt)] == prompt and turn["prompt_tokens"] == len(prompt)
    assert turn["answer"] == {"role": "assistant", "content": "No: it is Paris."}
    assert [message["content"] for message in turn["messages"]] == [FIRST, "It is Lyon.", "Are you sure?"]
    assert (turn["policy_version"], set(turn["logprobs"])) == (None, {None})
    assert (shown["shows"], shown["status"], shown["reward"]) == (episode, "closed", 1.0)
    assert shown["metadata"] == {"corrects": episode, "turn": 1}
    assert (await view(server, episode))["reward"] is None, "only the demonstration is rewarded"


def chosen(server: InProcess, algorithm: str) -> list[str]:
    """Return the episodes that a run would train on."""
    config = RunConfig.model_validate({"algorithm": algorithm, "steps": 1, "live": {"min_episodes": 1}})
    with server.parts.database.read() as session:
        about = {"run_id": "run", "play_id": None, "head": 0, "oldest": 0, "now": time.time()}
        return select(session, config, **about).episode_ids  # type: ignore[arg-type]


async def test_preferences_compare_a_first_answer_with_its_correction(server: InProcess) -> None:
    episode = (await server.chat(ask(FIRST))).episode
    said = await say(server, episode, thumb="down", answer="It is Paris.", turn=0)
    await server.http.post(f"/v1/episodes/{episode}/close", json={})
    assert set(chosen(server, "dpo")) == {episode, said["demonstration_id"]}


async def test_supervised_training_takes_a_demonstration_and_other_training_does_not(server: InProcess) -> None:
    _, said = await corrected(server)
    assert chosen(server, "sft") == [said["demonstration_id"]]
    assert chosen(server, "reinforce_pp") == []
    with server.parts.database.read() as session:
        assert session.scalars(never_attempted("judge", 0.0)).all() == [], "a scorer would judge it"


@pytest.mark.parametrize("kept", ["purpose", "trainable"])
async def test_a_demonstration_of_what_is_not_trained_on_is_not_trained_on(server: InProcess, kept: str) -> None:
    wanted = EpisodeOpen(trainable=kept != "trainable").model_dump()
    opened = (await server.http.post("/v1/episodes", json=wanted)).json()
    await server.chat(ask(FIRST), headers={"x-episode-id": opened["id"]})
    if kept == "purpose":
        change = sa.update(EpisodeRow).where(EpisodeRow.id == opened["id"]).values(purpose="evaluation")
        await server.parts.writer.write(lambda session: session.execute(change))
    said = await say(server, opened["id"], answer="Paris.", turn=0)
    with server.parts.database.read() as session:
        row = session.get_one(EpisodeRow, said["demonstration_id"])
    assert (row.purpose, row.trainable) == (("evaluation", True) if kept == "purpose" else ("demonstration", False))


async def test_the_same_key_records_once_and_refuses_other_content(server: InProcess) -> None:
    episode = (await server.chat(ask(FIRST))).episode
    body = {"thumb": "up", "answer": "Paris.", "turn": 0, "key": "k"}
    first, *others = await asyncio.gather(*(say(server, episode, **body) for _ in range(8)))
    assert all(one == first for one in others)
    shown = await view(server, episode)
    assert (len(shown["feedback"]), len(shown["rewards"])) == (1, 1)
    assert len((await server.http.get("/v1/episodes")).json()["data"]) == 2
    refused = await say(server, episode, 409, **{**body, "thumb": "down"})
    assert refused["error"]["code"] == "idempotency_conflict"


async def test_erasing_an_episode_erases_what_was_said_and_shown_of_it(server: InProcess, tmp_path: Path) -> None:
    episode, said = await corrected(server)
    await say(server, episode, comment="A secret remark")
    kept = (await server.chat(ask("Something else"))).episode
    await server.parts.index.fresh()
    assert (await server.http.delete(f"/v1/episodes/{episode}")).status_code == 204
    assert (await server.http.get(f"/v1/episodes/{said['demonstration_id']}")).status_code == 404
    await server.parts.index.fresh()
    assert [one["id"] for one in (await server.http.get("/v1/episodes")).json()["data"]] == [kept]
    files = b"".join(file.read_bytes() for file in (tmp_path / "data").glob("*.db*"))
    assert [text for text in ("secret remark", "it is Paris", "Paris") if text.encode() in files] == []
    with server.parts.database.read() as session:
        assert session.scalars(sa.select(FeedbackRow)).all() == []


async def test_erasing_a_demonstration_keeps_the_feedback(server: InProcess) -> None:
    episode, said = await corrected(server)
    assert (await server.http.delete(f"/v1/episodes/{said['demonstration_id']}")).status_code == 204
    (one,) = (await view(server, episode))["feedback"]
    assert (one["answer"], one["demonstration_id"]) == ("No: it is Paris.", None)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"thumb": "sideways"}, 400),
        ({"thumb": 1}, 400),
        ({"comment": ""}, 400),
        ({"comment": "x" * 10_001}, 400),
        ({"answer": "Paris."}, 400),
        ({"answer": "Paris.", "turn": -1}, 400),
        ({"answer": "Paris.", "turn": 5}, 404),
        ({"answer": "x" * 5_000, "turn": 0}, 400),
        ({"comment": "x", "turn": 5}, 404),
        ({"thumb": "up", "source": "environment"}, 400),
        ({"thumb": "up", "likes": 3}, 400),
        ({"comment": "half \ud800"}, 400),
    ],
)
async def test_wrong_feedback_is_refused_and_leaves_nothing(
    server: InProcess, body: dict[str, Any], status: int
) -> None:
    episode = (await server.chat(ask(FIRST))).episode
    json_type = {"content-type": "application/json"}
    answer = await server.http.post(f"/v1/episodes/{episode}/feedback", content=json.dumps(body), headers=json_type)
    assert answer.status_code == status, answer.text
    assert len(answer.json()["error"]["message"]) > 10
    shown = await view(server, episode)
    assert (shown["feedback"], shown["rewards"]) == ([], [])
    assert len((await server.http.get("/v1/episodes")).json()["data"]) == 1


async def test_feedback_has_bounds_and_an_unknown_or_failed_episode_gets_none(
    server: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = (await server.chat(ask(FIRST))).episode
    monkeypatch.setattr(opinions, "MOST", 2)
    for _ in range(2):
        await say(server, episode, comment="Again")
    assert (await say(server, episode, 409, comment="Again"))["error"]["code"] == "too_much_feedback"
    assert (await say(server, "ep_none", 404, comment="Again"))["error"]["code"] == "episode_not_found"
    failed = (await server.chat(ask("Fail"))).episode
    await server.parts.episodes.end(await server.parts.episodes.get(failed), "error", error_class="Broken")
    assert (await say(server, failed, 409, thumb="up"))["error"]["code"] == "episode_ended"
    await say(server, failed, comment="It broke.")


async def test_a_key_gives_feedback_only_as_the_sources_it_may_reward_as(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Yes.")), keys="required")
    async with in_process(settings) as server:
        admin = {"authorization": f"Bearer {server.parts.callers.own_key('test', 'admin')}"}
        wanted = {"name": "a", "scopes": ["agent", "reward"], "reward_sources": ["app"]}
        key = (await server.http.post("/v1/keys", json=wanted, headers=admin)).json()["key"]
        agent = server.caller(key)
        episode = (await agent.chat(ask(FIRST))).episode
        assert (await say(agent, episode, 403, thumb="up"))["error"]["code"] == "source_not_allowed"
        said = await say(agent, episode, answer="Paris.", turn=0, source="app")
        own = (await agent.http.get("/v1/episodes")).json()["data"]
        assert {one["id"] for one in own} == {episode, said["demonstration_id"]}, "it belongs to the same key"
