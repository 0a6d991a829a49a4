"""The promotion gate's decisions and their evidence."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("gate", sa.String(length=16), nullable=True))
    op.create_index(op.f("ix_run_gate"), "run", ["gate"])

    with op.batch_alter_table("play", schema=None) as batch_op:
        batch_op.add_column(sa.Column("run_id", sa.String(length=64), nullable=True))
        batch_op.create_index(batch_op.f("ix_play_run_id"), ["run_id"], unique=False)
        batch_op.create_foreign_key(batch_op.f("fk_play_run_id_run"), "run", ["run_id"], ["id"])

    with op.batch_alter_table("promotion", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_promotion_evaluation_id_evaluation"), type_="foreignkey")
        batch_op.drop_column("evaluation_id")  # Never written: a decision has several evaluations.
        batch_op.add_column(sa.Column("decided_by", sa.String(length=200), nullable=True))
        batch_op.add_column(sa.Column("run_id", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("evidence", sa.JSON(), nullable=True))
        batch_op.create_foreign_key(batch_op.f("fk_promotion_run_id_run"), "run", ["run_id"], ["id"])


def downgrade() -> None:
    with op.batch_alter_table("promotion", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_promotion_run_id_run"), type_="foreignkey")
        for column in ("evidence", "run_id", "decided_by"):
            batch_op.drop_column(column)
        batch_op.add_column(sa.Column("evaluation_id", sa.String(length=64), nullable=True))
        batch_op.create_foreign_key(
            batch_op.f("fk_promotion_evaluation_id_evaluation"), "evaluation", ["evaluation_id"], ["id"]
        )

    with op.batch_alter_table("play", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_play_run_id_run"), type_="foreignkey")
        batch_op.drop_index(batch_op.f("ix_play_run_id"))
        batch_op.drop_column("run_id")

    op.drop_index(op.f("ix_run_gate"), table_name="run")
    op.drop_column("run", "gate")
