"""Campaigns: runs that continue one another."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "campaign",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaign")),
        sa.UniqueConstraint("name", name=op.f("uq_campaign_name")),
    )
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.add_column(sa.Column("campaign_id", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("follows_id", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("follows_step", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("first_step", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("attempt", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("collapsed", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.create_index(batch_op.f("ix_run_campaign_id"), ["campaign_id"], unique=False)
        batch_op.create_foreign_key(batch_op.f("fk_run_campaign_id_campaign"), "campaign", ["campaign_id"], ["id"])


def downgrade() -> None:
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_run_campaign_id_campaign"), type_="foreignkey")
        batch_op.drop_index(batch_op.f("ix_run_campaign_id"))
        for column in ("collapsed", "attempt", "first_step", "follows_step", "follows_id", "campaign_id"):
            batch_op.drop_column(column)
    op.drop_table("campaign")
