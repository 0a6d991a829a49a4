"""Live traffic as evidence: episodes by policy version, pinned versions, and shadow answers."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_episode_policy_version_opened_at"), "episode", ["policy_version", "opened_at"])
    op.add_column("policy_version", sa.Column("pinned", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "shadow",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("turn_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("token_ids", sa.LargeBinary(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("same_tokens", sa.Integer(), nullable=False),
        sa.Column("served_tokens", sa.Integer(), nullable=False),
        sa.Column("served_logprob", sa.Double(), nullable=True),
        sa.Column("logprob", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["turn_id"], ["turn.id"], name=op.f("fk_shadow_turn_id_turn"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["version"], ["policy_version.version"], name=op.f("fk_shadow_version_policy_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow")),
    )
    op.create_index(op.f("ix_shadow_turn_id"), "shadow", ["turn_id"])


def downgrade() -> None:
    op.drop_table("shadow")
    op.drop_column("policy_version", "pinned")
    op.drop_index(op.f("ix_episode_policy_version_opened_at"), table_name="episode")
