"""Which episodes a batch takes: ended well, rewarded, trainable, fresh, and in complete groups (step 6)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import sha256

import sqlalchemy as sa
from sqlalchemy.orm import Session

from clients.wire import RunConfig, Sample
from server.recording.transcript import mean, nodes_of
from server.store.tables import EpisodeRow, NodeRow, RunEpisodeRow, TurnRow
from server.training.branches import samples_of
from server.training.rewards import rewards_of

LIVE_EPISODES = 64  # Most live episodes in one batch.
MIN_GROUP = 2  # A group's advantage needs a comparison.
OFF_POLICY = ("sft", "agent_evol", "dpo")  # They imitate what is good, whoever sampled it and when.
UNGROUPED = ("reinforce_pp", "ppo")  # They compare an episode with the batch, or with a value.


@dataclass(slots=True)
class Selection:
    """The episodes of a batch and what was left out, with why."""

    episode_ids: list[str] = field(default_factory=list)
    stats: dict[str, float | None] = field(default_factory=dict)


def select(session: Session, config: RunConfig, *, run_id: str, play_id: str | None, head: int) -> Selection:
    """Choose the episodes of one batch: of a play, or recorded live ones that this run has not had."""
    query = sa.select(EpisodeRow).where(EpisodeRow.trainable, EpisodeRow.status != "open",
                                        EpisodeRow.purpose != "evaluation",
                                        # An environment that was left before its end has given no verdict.
                                        sa.or_(EpisodeRow.status != "closed", EpisodeRow.environment.is_(None)))
    if play_id is not None:
        query = query.where(EpisodeRow.play_id == play_id)
    else:
        had = sa.select(RunEpisodeRow.episode_id).where(RunEpisodeRow.run_id == run_id)
        query = query.where(EpisodeRow.play_id.is_(None), EpisodeRow.id.not_in(had)).order_by(
            EpisodeRow.id.desc()).limit(LIVE_EPISODES)
    episodes = session.scalars(query.order_by(EpisodeRow.id)).all()
    valid = [e for e in episodes if e.status != "error"]
    rewards = rewards_of(session, [e.id for e in valid])
    turns = _turns_of(session, [e.id for e in valid])
    usable = {e.id: e for e in valid if rewards[e.id] is not None and turns[e.id]
              and (config.algorithm in OFF_POLICY or _fresh(turns[e.id], head - config.max_staleness))}
    known = {i: r for i, r in rewards.items() if r is not None and i in usable}
    counts = {"groups": 0, "groups_without_variance": 0, "groups_incomplete": 0}
    chosen: list[str] = []
    if config.algorithm == "sft":
        chosen = [i for i, e in usable.items() if e.success or (e.success is None and known[i] > 0)]
        counts["groups"] = len(chosen)
    elif config.algorithm == "agent_evol":
        chosen = [i for i, reward in known.items() if reward > config.evol_threshold]
        counts["groups"] = len(chosen)
    else:
        prompts = first_prompts(session, list(usable)) if config.algorithm == "dpo" else {}
        groups: dict[str, list[str]] = defaultdict(list)
        for i, episode in usable.items():
            groups[episode.group_key or prompts.get(i) or i].append(i)
        for members in groups.values():
            taken, problem = _of_group(config, {m: known[m] for m in members},
                                       alone=usable[members[0]].group_key is None)
            counts[problem or "groups"] += 1
            chosen += taken
    return Selection(sorted(chosen), {
        "episodes": len(episodes),
        **counts,
        "success_rate": mean([float(bool(e.success)) for e in valid if e.success is not None]),
        "mean_reward": mean([r for e in valid if (r := rewards[e.id]) is not None]),
        "truncated_share": mean([float(e.status == "truncated") for e in valid]),
        "mean_turns": mean([float(len(turns[e.id])) for e in valid]),
        "errors": len(episodes) - len(valid),
    })


def _of_group(config: RunConfig, rewards: dict[str, float], *, alone: bool) -> tuple[list[str], str | None]:
    """Return which episodes of a group the algorithm learns from, and the count that names why there are none.

    Args:
        config: the run's.
        rewards: of the group's episodes.
        alone: it is an episode without a group.
    """
    if config.algorithm in UNGROUPED or (config.algorithm == "reinforce_pp_baseline" and alone):
        return list(rewards), None  # The batch is the baseline, or a value.
    if len(rewards) < MIN_GROUP:
        return [], "groups_incomplete"
    best, worst = max(rewards.values()), min(rewards.values())
    if config.algorithm == "dpo":
        if best - worst < config.dpo_min_gap:
            return [], "groups_without_variance"
        ordered = sorted(rewards)
        return [next(i for i in ordered if rewards[i] == end) for end in (best, worst)], None
    return ([], "groups_without_variance") if best == worst else (list(rewards), None)


def samples(session: Session, episode_ids: list[str], *, by_prompt: bool = False) -> list[Sample]:
    """Return the samples of chosen episodes.

    `by_prompt` makes a group of the episodes without one that begin with the same prompt, as DPO's selection did.
    """
    prompts = first_prompts(session, episode_ids) if by_prompt else {}
    rows = {e.id: e for e in session.scalars(sa.select(EpisodeRow).where(EpisodeRow.id.in_(episode_ids)))}
    nodes: dict[str, list[NodeRow]] = nodes_of(session, episode_ids)
    turns = _turns_of(session, episode_ids)
    rewards = rewards_of(session, episode_ids)
    return [sample for i in episode_ids if i in rows
            for sample in samples_of(i, rows[i].group_key or prompts.get(i), rewards[i] or 0.0, nodes[i], turns[i])]


def first_prompts(session: Session, episode_ids: list[str]) -> dict[str, str]:
    """Return a name for the prompt that each episode began with: equal for the same token ids."""
    query = sa.select(NodeRow.episode_id, NodeRow.token_ids).where(
        NodeRow.episode_id.in_(episode_ids), NodeRow.parent_id.is_(None)).order_by(NodeRow.id.desc())
    return {episode_id: f"prompt-{sha256(ids).hexdigest()[:32]}" for episode_id, ids in session.execute(query)}


def _turns_of(session: Session, episode_ids: list[str]) -> dict[str, list[TurnRow]]:
    found: dict[str, list[TurnRow]] = {i: [] for i in episode_ids}
    for turn in session.scalars(sa.select(TurnRow).where(TurnRow.episode_id.in_(episode_ids)).order_by(TurnRow.index)):
        found[turn.episode_id].append(turn)
    return found


def _fresh(turns: list[TurnRow], oldest: int) -> bool:
    """Whether the policy itself sampled every turn, recently enough; a demonstration has no version."""
    return all(t.policy_version is not None and t.policy_version >= oldest for t in turns)
