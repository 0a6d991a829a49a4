"""What people say about episodes: thumbs, comments, and edited answers."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("episode_id", sa.String(64), nullable=False),
        sa.Column("turn_index", sa.Integer(), nullable=True),
        sa.Column("thumb", sa.String(4), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("source", sa.String(100), nullable=False),
        sa.Column("key", sa.String(200), nullable=True),
        sa.Column("reward_id", sa.String(64), nullable=True),
        sa.Column("demonstration_id", sa.String(64), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["episode_id"], ["episode.id"], name=op.f("fk_feedback_episode_id_episode"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
        sa.UniqueConstraint("episode_id", "key", name=op.f("uq_feedback_episode_id_key")),
    )
    op.create_index(op.f("ix_feedback_demonstration_id"), "feedback", ["demonstration_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_feedback_demonstration_id"), "feedback")
    op.drop_table("feedback")
