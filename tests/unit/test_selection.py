"""Which recorded episodes each algorithm is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

import migrations
from clients.wire import RunConfig
from server.recording.tokens import pack_ids, pack_logprobs
from server.store.database import Database
from server.store.tables import EpisodeRow, NodeRow, RewardRow, TurnRow
from server.training.selection import samples, select

HEAD = 5


class Record:
    """A database that episodes of one turn can be written into."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def episode(self, name: str, reward: float | None, group: str | None = None, *, prompt: tuple[int, ...] = (1, 2),
                version: int | None = HEAD, status: str = "closed", success: bool | None = None) -> None:
        """Write an episode whose agent answered one prompt."""
        self.session.add(EpisodeRow(
            id=name, status=status, error_class="Broken" if status == "error" else None, seed=0, horizon=3,
            group_key=group, purpose="other", policy_version=0, trainable=True, success=success, details={},
            opened_at=0.0, closed_at=1.0))
        self.session.flush()
        turn = TurnRow(id=f"turn-{name}", episode_id=name, index=0, digest="d", messages=[], answer={},
                       finish_reason="stop", prompt_tokens=2, completion_tokens=1, policy_version=version,
                       temperature=1.0, trainable=True, forked=False, duration_ms=1.0, created_at=0.0)
        self.session.add(turn)
        self.session.flush()
        asked = NodeRow(episode_id=name, turn_id=turn.id, token_ids=pack_ids(prompt), sampled=False)
        self.session.add(asked)
        self.session.flush()
        self.session.add(NodeRow(episode_id=name, turn_id=turn.id, parent_id=asked.id, token_ids=pack_ids([9]),
                                 logprobs=pack_logprobs([-0.5]), sampled=True, policy_version=version))
        if reward is not None:
            self.session.add(RewardRow(id=f"reward-{name}", episode_id=name, value=reward, source="t", created_at=0.0))
        self.session.flush()

    def chosen(self, algorithm: str, **fields: object) -> tuple[list[str], dict[str, float | None]]:
        """Return what a batch of live episodes takes, and its counts."""
        config = RunConfig.model_validate({"steps": 1, "algorithm": algorithm, **fields})
        found = select(self.session, config, run_id="run", play_id=None, head=HEAD)
        return found.episode_ids, found.stats


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    migrations.upgrade(database.writer)
    with Session(database.writer) as session:
        yield Record(session)
    database.close()


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "rloo"])
def test_a_group_needs_two_episodes_and_different_rewards(record: Record, algorithm: str) -> None:
    for name, reward, group in (("a", 1.0, "g"), ("b", 0.0, "g"), ("c", 1.0, "flat"), ("d", 1.0, "flat"),
                                ("e", 1.0, "one"), ("f", 1.0, None)):
        record.episode(name, reward, group)
    ids, stats = record.chosen(algorithm)
    assert ids == ["a", "b"]
    assert (stats["groups"], stats["groups_without_variance"], stats["groups_incomplete"]) == (1, 1, 2)


@pytest.mark.parametrize("algorithm", ["reinforce_pp", "ppo"])
def test_an_algorithm_without_groups_takes_every_fresh_rewarded_episode(record: Record, algorithm: str) -> None:
    record.episode("a", 1.0, "flat")
    record.episode("b", 1.0, "flat")
    record.episode("c", 0.0)
    record.episode("unrewarded", None)
    record.episode("failed", 1.0, status="error")
    record.episode("stale", 1.0, version=HEAD - 2)
    record.episode("shown", 1.0, version=None)
    assert record.chosen(algorithm)[0] == ["a", "b", "c"]
    assert record.chosen(algorithm, max_staleness=2)[0] == ["a", "b", "c", "stale"]


def test_the_baseline_form_takes_groups_that_differ_and_live_episodes_beside_them(record: Record) -> None:
    for name, reward, group in (("a", 1.0, "g"), ("b", 0.0, "g"), ("c", 1.0, "flat"), ("d", 1.0, "flat"),
                                ("e", 1.0, "one"), ("live", 0.0, None)):
        record.episode(name, reward, group)
    assert record.chosen("reinforce_pp_baseline")[0] == ["a", "b", "live"]


def test_agent_evol_takes_what_was_rewarded_above_the_threshold_whoever_sampled_it(record: Record) -> None:
    record.episode("half", 0.5, version=0)
    record.episode("none", 0.0)
    record.episode("shown", 1.0, version=None)
    record.episode("whole", 1.0)
    assert record.chosen("agent_evol")[0] == ["half", "shown", "whole"]
    assert record.chosen("agent_evol", evol_threshold=0.99)[0] == ["shown", "whole"]


def test_sft_takes_successes(record: Record) -> None:
    record.episode("won", 0.5, success=True)
    record.episode("lost", 0.5, success=False)
    record.episode("liked", 0.5)
    assert record.chosen("sft")[0] == ["liked", "won"]


def test_dpo_takes_the_best_and_the_worst_of_a_group(record: Record) -> None:
    for name, reward in (("a", 0.5), ("b", 1.0), ("c", 0.0), ("d", 1.0)):
        record.episode(name, reward, "g")
    record.episode("e", 0.5, "near")
    record.episode("f", 0.55, "near")
    record.episode("g", 0.5, "one")
    ids, stats = record.chosen("dpo")
    assert ids == ["b", "c"]
    assert (stats["groups"], stats["groups_without_variance"], stats["groups_incomplete"]) == (1, 1, 1)


def test_dpo_pairs_live_answers_to_the_same_prompt_and_names_their_group(record: Record) -> None:
    record.episode("a", 1.0)
    record.episode("b", 0.0, version=0)
    record.episode("other", 1.0, prompt=(1, 3))
    ids, _ = record.chosen("dpo")
    assert ids == ["a", "b"]
    pair = samples(record.session, ids, by_prompt=True)
    assert len({s.group for s in pair}) == 1
    assert pair[0].group is not None and pair[0].group.startswith("prompt-")
    assert [s.group for s in samples(record.session, ids)] == [None, None]


def test_old_rows_of_a_run_still_read() -> None:
    """The config that the first versions stored."""
    stored = {"algorithm": "grpo", "steps": 3, "play": None, "schedule": {"kind": "fixed", "horizon": 10},
              "optimiser": {"lr": 1e-6, "warmup_steps": 0, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.99,
                            "grad_clip": 1.0}, "kind": "full", "lora_rank": 16, "lora_alpha": 32.0,
              "max_staleness": 1, "tis_cap": 2.0, "clip": 0.2, "kl_coef": 0.001, "normalise_std": False,
              "minibatches": 1, "checkpoint_every": 10, "seed": 0}
    config = RunConfig.model_validate(stored)
    assert (config.kl_in, config.kl_estimator, config.policy_loss) == ("loss", "k3", "ppo")
    assert not config.normalise_std
