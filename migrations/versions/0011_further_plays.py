"""Further plays of a batch, which replace groups without variance."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("play", sa.Column("batch_id", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_play_batch_id"), "play", ["batch_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_play_batch_id"), table_name="play")
    op.drop_column("play", "batch_id")
