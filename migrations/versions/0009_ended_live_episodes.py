"""Indexes for the work in the background: the ended live episodes by their end, and rewards by their time.

Live episodes leave the index of plays. The index on version and start goes: the watch searches by the time at which a
reward was known.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _create_partial(name: str, columns: list[str], where: str) -> None:
    op.create_index(op.f(name), "episode", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def upgrade() -> None:
    op.drop_index(op.f("ix_episode_play_id"), "episode")
    _create_partial("ix_episode_play_id", ["play_id"], "play_id IS NOT NULL")
    _create_partial("ix_episode_ended_live", ["closed_at", "id"], "play_id IS NULL AND closed_at IS NOT NULL")
    _create_partial(
        "ix_episode_live_environment",
        ["policy_version", "closed_at", "id"],
        "owner_hash IS NOT NULL AND environment IS NOT NULL",
    )
    op.create_index(op.f("ix_reward_created_at_episode_id"), "reward", ["created_at", "episode_id"])
    op.drop_index(op.f("ix_episode_policy_version_opened_at"), "episode")


def downgrade() -> None:
    op.create_index(op.f("ix_episode_policy_version_opened_at"), "episode", ["policy_version", "opened_at"])
    op.drop_index(op.f("ix_reward_created_at_episode_id"), "reward")
    for name in ("ix_episode_live_environment", "ix_episode_ended_live", "ix_episode_play_id"):
        op.drop_index(op.f(name), "episode")
    op.create_index(op.f("ix_episode_play_id"), "episode", ["play_id"])
