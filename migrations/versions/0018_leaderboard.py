"""The leaderboard: models measured on the same tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "leaderboard",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("environment", sa.String(200), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("play_id", sa.String(64), nullable=True),
        sa.Column("state", sa.String(16), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["play_id"], ["play.id"], name=op.f("fk_leaderboard_play_id_play")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leaderboard")),
    )
    op.create_index(op.f("ix_leaderboard_environment"), "leaderboard", ["environment"])


def downgrade() -> None:
    op.drop_index(op.f("ix_leaderboard_environment"), "leaderboard")
    op.drop_table("leaderboard")
