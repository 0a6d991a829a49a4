"""Limits of API keys, idempotency keys, several answers per request, and the number of erased episodes per batch."""

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
        batch_op.create_index(batch_op.f("ix_turn_idempotency_key"), ["idempotency_key"], unique=False)


def downgrade() -> None:
    # Not in batch mode: SQLite would recreate the table, and dropping the old one deletes every row that refers to it.
    op.drop_index(op.f("ix_turn_idempotency_key"), table_name="turn")
    op.drop_index(op.f("ix_turn_digest"), table_name="turn")
    op.drop_column("turn", "choice")
    op.drop_column("turn", "idempotency_key")
    op.drop_column("batch", "erased_episodes")
    op.drop_column("api_key", "max_concurrent")
    op.drop_column("api_key", "requests_per_minute")
