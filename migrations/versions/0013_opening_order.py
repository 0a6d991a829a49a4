"""An index of the live episodes of a version by their opening, in which the watch reads them.

It replaces the index by the end of their environment.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def _create(name: str, columns: list[str], where: str) -> None:
    op.create_index(op.f(name), "episode", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def upgrade() -> None:
    _create("ix_episode_live_opened", ["policy_version", "opened_at", "id"], "owner_hash IS NOT NULL")
    op.drop_index(op.f("ix_episode_live_environment"), "episode")


def downgrade() -> None:
    _create(
        "ix_episode_live_environment",
        ["policy_version", "closed_at", "id"],
        "owner_hash IS NOT NULL AND environment IS NOT NULL",
    )
    op.drop_index(op.f("ix_episode_live_opened"), "episode")
