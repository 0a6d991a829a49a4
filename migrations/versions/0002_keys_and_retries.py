"""Limits of API keys, requests that are sent again, several answers to a request, and a count of what was erased."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("api_key", schema=None) as batch_op:
        batch_op.add_column(sa.Column("requests_per_minute", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("max_concurrent", sa.Integer(), nullable=True))

    with op.batch_alter_table("batch", schema=None) as batch_op:
        batch_op.add_column(sa.Column("erased_episodes", sa.Integer(), server_default="0", nullable=False))

    with op.batch_alter_table("turn", schema=None) as batch_op:
        batch_op.add_column(sa.Column("idempotency_key", sa.String(length=200), nullable=True))
        batch_op.add_column(sa.Column("choice", sa.Integer(), server_default="0", nullable=False))
        batch_op.create_index(batch_op.f("ix_turn_digest"), ["digest"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("turn", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_turn_digest"))
        batch_op.drop_column("choice")
        batch_op.drop_column("idempotency_key")

    with op.batch_alter_table("batch", schema=None) as batch_op:
        batch_op.drop_column("erased_episodes")

    with op.batch_alter_table("api_key", schema=None) as batch_op:
        batch_op.drop_column("max_concurrent")
        batch_op.drop_column("requests_per_minute")
