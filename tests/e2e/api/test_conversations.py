"""Agents that name no episode: each call is assigned to the episode of its conversation."""

from __future__ import annotations

import concurrent.futures
import sqlite3
from typing import Any

from server.rendering.bytes_tokenizer import BytesTokenizer
from tests.support.live import Live

SYSTEM = {"role": "system", "content": "You are an agent."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def say(live: Live, talk: list[dict[str, Any]], key: str = "sk-shared") -> tuple[str, dict[str, Any]]:
    """Send a conversation; return the episode and the answer as an agent keeps it."""
    raw = live.openai(key=key).chat.completions.with_raw_response.create(model="policy", messages=talk)
    return raw.headers["x-episode-id"], {"role": "assistant", "content": raw.parse().choices[0].message.content}


def forks(live: Live, episode: str) -> list[bool]:
    with sqlite3.connect(live.parts.settings.data_dir / "upturn.db") as connection:
        rows = connection.execute('select forked from turn where episode_id = ? order by "index"', [episode]).fetchall()
    connection.close()
    return [bool(row[0]) for row in rows]


def test_concurrent_conversations_under_one_key_stay_separate(live: Live) -> None:
    def talk(topic: str) -> set[str]:
        messages, episodes = [SYSTEM, user(topic)], set()
        for number in range(4):
            episode, answer = say(live, messages)
            episodes.add(episode)
            messages += [answer, user(f"{topic} {number}")]
        return episodes

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(talk, [f"topic {n}" for n in range(8)]))
    assert all(len(episodes) == 1 for episodes in results)
    assert len(set.union(*results)) == 8
    assert forks(live, results[0].pop()) == [False] * 4


def test_an_agent_that_backtracks_branches_within_its_episode(live: Live) -> None:
    start = [SYSTEM, user("Plan")]
    episode, plan = say(live, start)
    _, first_try = say(live, [*start, plan, user("Try one way")])
    back, _ = say(live, [*start, plan, user("Try another way")])
    on, _ = say(live, [*start, plan, user("Try one way"), first_try, user("Go on")])
    assert back == on == episode
    one, two, three, four = (turn.token_ids for turn in live.client.episode(episode).turns)
    assert three[: len(one)] == one and three[: len(two)] != two
    assert four[: len(two)] == two
    assert forks(live, episode) == [False, False, True, True]


def test_a_compacted_history_begins_a_new_episode(live: Live) -> None:
    long_talk = [SYSTEM, user("A long story")]
    episode, answer = say(live, long_talk)
    compacted, again = say(live, [SYSTEM, user("What was said so far: a story. Go on.")])
    assert compacted != episode
    on, _ = say(live, [SYSTEM, user("What was said so far: a story. Go on."), again, user("More")])
    assert on == compacted
    back, _ = say(live, [*long_talk, answer, user("The old talk still goes on")])
    assert back == episode


def test_subagents_that_share_a_key_get_separate_episodes(live: Live) -> None:
    task = user("Look for the key.")
    episodes = {}
    for role in ("planner", "searcher", "critic"):
        messages = [{"role": "system", "content": f"You are the {role}."}, task]
        episodes[role], answer = say(live, messages)
        assert say(live, [*messages, answer, user("And?")])[0] == episodes[role]
    assert len(set(episodes.values())) == 3


def test_the_same_conversation_under_a_different_key_is_a_different_episode(live: Live) -> None:
    messages = [SYSTEM, user("Hello")]
    episode, answer = say(live, messages, key="sk-one")
    assert say(live, [*messages, answer, user("And?")], key="sk-two")[0] != episode
    assert say(live, [*messages, answer, user("And?")], key="sk-one")[0] == episode


def test_a_rewritten_answer_is_not_matched_with_the_recorded_one(live: Live) -> None:
    messages = [SYSTEM, user("Hello")]
    episode, answer = say(live, messages)
    other, _ = say(live, [*messages, {**answer, "content": "I never said that."}, user("And?")])
    assert other != episode
    (turn,) = live.client.episode(other).turns
    assert "I never said that." in BytesTokenizer().decode(turn.token_ids)
    assert sum(turn.loss_mask) == turn.completion_tokens, "tokens that the policy did not sample are trained"
