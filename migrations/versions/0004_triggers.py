"""Triggers that start runs, and the running time of a run."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("resumed_at", sa.Double(), nullable=True))
    op.add_column("run", sa.Column("active_s", sa.Double(), server_default="0", nullable=False))
    op.create_table(
        "run_trigger",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.JSON(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=True),
        sa.Column("due_since", sa.Double(), nullable=True),
        sa.Column("fired_at", sa.Double(), nullable=True),
        sa.Column("fired_run", sa.String(length=64), nullable=True),
        sa.Column("fired_why", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["fired_run"], ["run.id"], name=op.f("fk_run_trigger_fired_run_run")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_run_trigger")),
    )


def downgrade() -> None:
    op.drop_table("run_trigger")
    op.drop_column("run", "active_s")
    op.drop_column("run", "resumed_at")
