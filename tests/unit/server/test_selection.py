"""Which recorded episodes a batch takes for each algorithm."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from sqlalchemy.orm import Session

from server.recording.tokens import pack_ids, pack_logprobs
from server.store import chunks
from server.store.tables import ApiKeyRow, EpisodeRow, NodeRow, PlayRow, PolicyVersionRow, RewardRow, TurnRow
from server.training.data import live_episodes
from server.training.data.branches import samples
from server.training.data.selection import select
from upturn.wire import RunConfig

HEAD = 5


class Record:
    """A database to write one-turn episodes into."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def episode(
        self,
        name: str,
        reward: float | None,
        group: str | None = None,
        *,
        prompt: tuple[int, ...] = (1, 2),
        version: int | None = HEAD,
        status: str = "closed",
        success: bool | None = None,
        play: str | None = None,
        sources: tuple[str, ...] = ("t",),
        key: str | None = None,
        ended: float = 1.0,
    ) -> None:
        """Write an episode with one prompt and one answer."""
        self.session.add(
            EpisodeRow(
                id=name,
                status=status,
                error_class="Broken" if status == "error" else None,
                seed=0,
                horizon=3,
                group_key=group,
                purpose="other",
                policy_version=0,
                trainable=True,
                success=success,
                details={},
                play_id=play,
                environment="e" if play else None,
                owner_hash=key,
                opened_at=0.0,
                closed_at=ended,
            )
        )
        self.session.flush()
        turn = TurnRow(
            id=f"turn-{name}",
            episode_id=name,
            index=0,
            digest="d",
            messages=[],
            answer={},
            finish_reason="stop",
            prompt_tokens=2,
            completion_tokens=1,
            policy_version=version,
            temperature=1.0,
            trainable=True,
            forked=False,
            duration_ms=1.0,
            created_at=0.0,
        )
        self.session.add(turn)
        self.session.flush()
        asked = NodeRow(episode_id=name, turn_id=turn.id, token_ids=pack_ids(prompt), sampled=False)
        self.session.add(asked)
        self.session.flush()
        self.session.add(
            NodeRow(
                episode_id=name,
                turn_id=turn.id,
                parent_id=asked.id,
                token_ids=pack_ids([9]),
                logprobs=pack_logprobs([-0.5]),
                sampled=True,
                policy_version=version,
            )
        )
        for number, source in enumerate(sources if reward is not None else ()):
            self.session.add(
                RewardRow(
                    id=f"reward-{name}-{number}",
                    episode_id=name,
                    source=source,
                    created_at=0.0,
                    value=reward if number == 0 else 0.0,
                )
            )
        self.session.flush()

    def turn(self, name: str, version: int | None) -> None:
        """Write a later turn of an episode, sampled by another version."""
        self.session.add(
            TurnRow(
                id=f"later-{name}",
                episode_id=name,
                index=1,
                digest="d",
                messages=[],
                answer={},
                finish_reason="stop",
                prompt_tokens=2,
                completion_tokens=1,
                policy_version=version,
                temperature=1.0,
                trainable=True,
                forked=False,
                duration_ms=1.0,
                created_at=0.0,
            )
        )
        self.session.flush()

    def chosen(self, algorithm: str, play_id: str | None = None, **fields: object) -> tuple[list[str], dict[str, Any]]:
        """Return the episodes that a batch takes from a play and from live agents, and its counts."""
        live = fields.pop("live", {} if play_id is None else None)
        if isinstance(live, dict):
            live = {"min_episodes": 1, **live}
        config = RunConfig.model_validate({"steps": 1, "algorithm": algorithm, "live": live, **fields})
        oldest = HEAD - config.max_staleness
        found = select(self.session, config, run_id="run", play_id=play_id, head=HEAD, oldest=oldest, now=100.0)
        return found.episode_ids, found.stats


@pytest.fixture
def record(session: Session) -> Record:
    return Record(session)


def test_a_batch_may_have_more_episodes_than_a_query_has_parameters(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 10)
    connection = record.session.connection().connection.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 30)
    record.session.add(PlayRow(id="play", state="done", request={}, created_at=0.0))
    record.session.flush()
    names = [f"{number:02}" for number in range(40)]
    for name in names:
        record.episode(name, float(int(name) % 2), "g", play="play", status="terminated")
    for algorithm in ("grpo", "rloo"):
        ids, stats = record.chosen(algorithm, "play")
        assert (ids, stats["mean_turns"]) == (names, 1.0)
        assert len(samples(record.session, ids, by_prompt=True)) == 40


def test_an_episode_is_fresh_although_the_clock_was_set_back_after_its_version_was_made(record: Record) -> None:
    made = 50_000.0
    record.session.add(
        PolicyVersionRow(version=HEAD, name="policy", state="ready", kind="full", path="p", created_at=made)
    )
    record.episode("before", 1.0, version=HEAD, ended=made - 60)
    assert record.chosen("reinforce_pp", max_staleness=0)[0] == ["before"]


def test_the_live_episodes_that_ended_last_are_searched_page_by_page(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_episodes, "PAGE", 2)
    for name, ended in (("a", 3.0), ("b", 2.0), ("c", 1.0), ("d", 1.0), ("e", 0.5)):
        record.episode(name, 1.0, "g" if name in "ce" else None, ended=ended)
    assert record.chosen("reinforce_pp")[0] == ["a", "b", "c", "d", "e"]
    assert record.chosen("reinforce_pp", live={"limit": 3})[0] == ["a", "b", "d"]
    monkeypatch.setattr(live_episodes, "PAGES", 2)
    assert record.chosen("reinforce_pp")[0] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_new_useless_episodes_do_not_hide_older_useful_ones(
    record: Record, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    monkeypatch.setattr(live_episodes, "PAGE", 4)
    for number in range(20):
        record.episode(f"flat{number}", 0.0, f"flat{number // 2}", ended=10.0 + number)
    record.episode("won", 1.0, "g", ended=2.0)
    record.episode("lost", -1.0, "g", ended=1.0)
    assert record.chosen(algorithm)[0] == (["won"] if algorithm == "sft" else ["lost", "won"])


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "rloo"])
def test_a_group_needs_two_episodes_and_different_rewards(record: Record, algorithm: str) -> None:
    for name, reward, group in (
        ("a", 1.0, "g"),
        ("b", 0.0, "g"),
        ("c", 1.0, "flat"),
        ("d", 1.0, "flat"),
        ("e", 1.0, "one"),
        ("f", 1.0, None),
    ):
        record.episode(name, reward, group)
    ids, stats = record.chosen(algorithm)
    assert ids == ["a", "b"]
    assert (stats["groups"], stats["groups_without_variance"], stats["groups_incomplete"]) == (1, 1, 2)


def test_a_batch_counts_its_episodes_if_all_their_rewards_are_equal(record: Record) -> None:
    assert record.chosen("reinforce_pp")[1]["episodes_with_equal_rewards"] == 0
    for name in ("a", "b"):
        record.episode(name, 1.0)
    assert record.chosen("reinforce_pp")[1]["episodes_with_equal_rewards"] == 2
    record.episode("c", 0.0)
    assert record.chosen("reinforce_pp")[1]["episodes_with_equal_rewards"] == 0


@pytest.mark.parametrize("algorithm", ["reinforce_pp", "ppo"])
def test_an_algorithm_that_ignores_groups_takes_every_fresh_rewarded_episode(record: Record, algorithm: str) -> None:
    record.episode("a", 1.0, "flat")
    record.episode("b", 1.0, "flat")
    record.episode("c", 0.0)
    record.episode("unrewarded", None)
    record.episode("failed", 1.0, status="error")
    record.episode("stale", 1.0, version=HEAD - 2)
    record.episode("shown", 1.0, version=None)
    assert record.chosen(algorithm)[0] == ["a", "b", "c"]
    assert record.chosen(algorithm, max_staleness=2)[0] == ["a", "b", "c", "stale"]


def test_the_group_baseline_takes_groups_with_different_rewards_and_ungrouped_live_episodes(record: Record) -> None:
    for name, reward, group in (
        ("a", 1.0, "g"),
        ("b", 0.0, "g"),
        ("c", 1.0, "flat"),
        ("d", 1.0, "flat"),
        ("e", 1.0, "one"),
        ("live", 0.0, None),
    ):
        record.episode(name, reward, group)
    assert record.chosen("reinforce_pp_baseline")[0] == ["a", "b", "live"]


def test_agent_evol_takes_episodes_above_the_threshold_from_any_author(record: Record) -> None:
    record.episode("half", 0.5, version=0)
    record.episode("none", 0.0)
    record.episode("shown", 1.0, version=None)
    record.episode("whole", 1.0)
    assert record.chosen("agent_evol")[0] == ["half", "shown", "whole"]
    assert record.chosen("agent_evol", evol_threshold=0.99)[0] == ["shown", "whole"]


def test_sft_takes_successful_episodes(record: Record) -> None:
    record.episode("won", 0.5, success=True)
    record.episode("lost", 0.5, success=False)
    record.episode("liked", 0.5)
    assert record.chosen("sft")[0] == ["liked", "won"]


def test_sft_takes_any_reward_above_zero_as_a_success_if_none_is_recorded(record: Record) -> None:
    for name, reward in (("little", 0.001), ("none", 0.0), ("less", -0.5), ("unrewarded", None)):
        record.episode(name, reward)
    record.episode("won", 0.0, success=True)
    assert record.chosen("sft")[0] == ["little", "won"]


def test_dpo_takes_the_best_and_the_worst_of_a_group(record: Record) -> None:
    for name, reward in (("a", 0.5), ("b", 1.0), ("c", 0.0), ("d", 1.0)):
        record.episode(name, reward, "g")
    record.episode("e", 0.5, "near")
    record.episode("f", 0.55, "near")
    record.episode("g", 0.5, "one")
    ids, stats = record.chosen("dpo")
    assert ids == ["b", "c"]
    assert (stats["groups"], stats["groups_without_variance"], stats["groups_incomplete"]) == (1, 1, 1)


@pytest.mark.parametrize(("reward", "taken"), [(0.75, ["a", "b"]), (0.5, ["a", "b"]), (0.4375, [])])
def test_dpo_takes_a_pair_that_is_exactly_the_gap_apart(record: Record, reward: float, taken: list[str]) -> None:
    record.episode("a", reward, "g")
    record.episode("b", 0.0, "g")
    assert record.chosen("dpo", dpo_min_gap=0.5)[0] == taken


def test_bounds_of_a_selection_belong_to_it_or_not(record: Record) -> None:
    record.episode("at", 0.5, ended=40.0)
    record.episode("above", 0.75, ended=39.0)
    assert record.chosen("agent_evol", evol_threshold=0.5)[0] == ["above"]
    assert record.chosen("reinforce_pp", live={"max_age_s": 60.0})[0] == ["at"]
    record.episode("zero", 0.0, success=None)
    assert record.chosen("sft")[0] == ["above", "at"]


def test_dpo_pairs_live_answers_to_the_same_prompt_as_one_group(record: Record) -> None:
    record.episode("a", 1.0)
    record.episode("b", 0.0, version=0)
    record.episode("other", 1.0, prompt=(1, 3))
    ids, _ = record.chosen("dpo")
    assert ids == ["a", "b"]
    pair = samples(record.session, ids, by_prompt=True)
    assert len({s.group for s in pair}) == 1
    assert pair[0].group is not None and pair[0].group.startswith("prompt-")
    assert [s.group for s in samples(record.session, ids)] == [None, None]


def test_one_turn_that_is_too_old_or_has_no_version_makes_an_episode_stale(record: Record) -> None:
    for name, version in (("a", HEAD), ("b", HEAD - 1), ("c", HEAD - 2), ("d", None)):
        record.episode(name, 1.0)
        record.turn(name, version)
    assert record.chosen("reinforce_pp")[0] == ["a", "b"]
    assert record.chosen("reinforce_pp", max_staleness=0)[0] == ["a"]
    assert record.chosen("agent_evol")[0] == ["a", "b", "c", "d"]


def test_live_episodes_are_filtered_by_source_number_of_rewards_key_and_age(record: Record) -> None:
    for name in ("one", "two"):
        record.session.add(ApiKeyRow(id=f"key_{name}", key_hash=name, name=f"agent {name}", scopes=[], created_at=0.0))
    record.episode("a", 1.0, sources=("user",), key="one", ended=10.0)
    record.episode("b", 1.0, sources=("user", "judge"), key="two", ended=50.0)
    record.episode("c", 1.0, sources=("judge", "judge"), key="one", ended=90.0)
    record.episode("d", None, key="one", ended=90.0)

    def live(**fields: object) -> list[str]:
        return record.chosen("reinforce_pp", live=fields)[0]

    assert live() == ["a", "b", "c"]
    assert live(sources=["user"]) == ["a", "b"]
    assert live(sources=["user", "judge"], min_rewards=2) == ["b", "c"]
    assert live(sources=["judge"], min_rewards=2) == ["c"]
    assert live(min_rewards=3) == live(sources=["nobody"]) == live(keys=["nobody"]) == []
    assert live(keys=["key_one"]) == live(keys=["agent one"]) == ["a", "c"]
    assert live(keys=["agent one", "key_two"], max_age_s=60.0) == ["b", "c"]
    assert live(limit=2) == ["b", "c"], "the newest are taken"


def test_live_episodes_join_a_play_only_if_configured_and_up_to_their_share(
    record: Record,
) -> None:
    record.session.add(PlayRow(id="play", state="done", request={}, created_at=0.0))
    record.session.flush()
    for number in range(6):
        record.episode(f"p{number}", float(number % 2), "task", play="play", status="terminated", success=True)
        record.episode(f"v{number}", 0.5)
    record.episode("failed", None, "task", play="play", status="error")
    ids, stats = record.chosen("reinforce_pp", "play")
    assert ids == [f"p{n}" for n in range(6)] and stats["live_episodes"] == 0
    ids, stats = record.chosen("reinforce_pp", "play", live={"share": 0.25})
    assert ids == [*(f"p{n}" for n in range(6)), "v4", "v5"]
    assert (stats["played_episodes"], stats["live_episodes"], stats["by_environment"]) == (6, 2, {"e": 6})
    assert (stats["episodes"], stats["errors"], stats["success_rate"]) == (9, 1, 1.0)
    assert len(record.chosen("reinforce_pp", "play", live={"share": 0.25, "limit": 1})[0]) == 7
    assert len(record.chosen("reinforce_pp", "play", live={"share": 0.9})[0]) == 12
    assert record.chosen("reinforce_pp", "other", live={"share": 0.9})[0] == [], "a share of an empty play is empty"


def test_live_groups_are_taken_whole_and_useless_groups_do_not_block_others(record: Record) -> None:
    for name, reward, group in (
        ("a", 1.0, "fits"),
        ("b", 0.0, "fits"),
        ("c", 0.0, "large"),
        ("d", 1.0, "large"),
        ("e", 1.0, "large"),
        *((f"f{n:02}", 1.0, f"flat{n % 40}") for n in range(80)),
    ):
        record.episode(name, reward, group)
    ids, stats = record.chosen("grpo", live={"limit": 2})
    assert ids == ["a", "b"]
    assert (stats["groups"], stats["groups_without_variance"], stats["episodes"]) == (1, 40, 82)
    assert record.chosen("grpo")[0] == ["a", "b", "c", "d", "e"]


def test_a_live_group_waits_for_its_open_episodes_or_for_its_declared_size_or_age(record: Record) -> None:
    for name, reward, status in (("a", 1.0, "closed"), ("b", 0.0, "closed"), ("c", 0.5, "open"), ("d", None, "open")):
        record.episode(name, reward, "group", status=status)
    assert record.chosen("grpo")[0] == []
    assert record.chosen("grpo")[1]["groups_incomplete"] == 1
    assert record.chosen("grpo", live={"group_size": 3, "group_wait_s": 100.5})[0] == []
    assert record.chosen("grpo", live={"group_size": 2})[0] == ["a", "b"]
    assert record.chosen("grpo", live={"group_wait_s": 99.5})[0] == ["a", "b"]
    assert record.chosen("reinforce_pp")[0] == ["a", "b"], "an algorithm that compares no groups waits for none"
    for name in "cd":
        record.session.get_one(EpisodeRow, name).status = "closed"
    assert record.chosen("grpo")[0] == ["a", "b", "c"]


def test_a_config_stored_by_the_first_versions_still_loads() -> None:
    stored = {
        "algorithm": "grpo",
        "steps": 3,
        "play": None,
        "schedule": {"kind": "fixed", "horizon": 10},
        "optimiser": {
            "lr": 1e-6,
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "beta1": 0.9,
            "beta2": 0.99,
            "grad_clip": 1.0,
        },
        "kind": "full",
        "lora_rank": 16,
        "lora_alpha": 32.0,
        "max_staleness": 1,
        "tis_cap": 2.0,
        "clip": 0.2,
        "kl_coef": 0.001,
        "normalise_std": False,
        "minibatches": 1,
        "checkpoint_every": 10,
        "seed": 0,
    }
    config = RunConfig.model_validate(stored)
    assert (config.kl_in, config.kl_estimator, config.policy_loss) == ("loss", "k3", "ppo")
    assert not config.normalize_std and config.optimizer.beta2 == 0.99
