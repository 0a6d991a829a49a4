"""Notifications: the events that a webhook or a command gets, and since when it gets them."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notification",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("target", sa.String(16), nullable=False),
        sa.Column("type", sa.String(40), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("tried_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_notification")),
        sa.UniqueConstraint("key", "target", name=op.f("uq_notification_key_target")),
    )
    op.create_index(op.f("ix_notification_target_state_number"), "notification", ["target", "state", "number"])
    op.create_table(
        "notification_target",
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("promotion_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_notification_target")),
    )


def downgrade() -> None:
    op.drop_table("notification_target")
    op.drop_index(op.f("ix_notification_target_state_number"), "notification")
    op.drop_table("notification")
