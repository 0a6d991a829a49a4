"""Rules for reward sources, outcomes of scorers, and the reward that a batch used."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run_episode", sa.Column("reward", sa.Double(), nullable=True))
    op.create_table(
        "reward_source",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("cap", sa.Double(), nullable=True),
        sa.Column("blocked", sa.Boolean(), nullable=False),
        sa.Column("set_by", sa.String(length=16), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_reward_source")),
    )
    op.create_table(
        "score",
        sa.Column("episode_id", sa.String(length=64), nullable=False),
        sa.Column("scorer", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.Double(), nullable=True),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["episode_id"], ["episode.id"], name=op.f("fk_score_episode_id_episode"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("episode_id", "scorer", name=op.f("pk_score")),
    )
    op.create_index(op.f("ix_score_scorer_state_retry_at"), "score", ["scorer", "state", "retry_at"])
    op.create_table(
        "judgement",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_judgement")),
    )


def downgrade() -> None:
    op.drop_table("judgement")
    op.drop_index(op.f("ix_score_scorer_state_retry_at"), table_name="score")
    op.drop_table("score")
    op.drop_table("reward_source")
    op.drop_column("run_episode", "reward")
