"""The newest row of the ledger of champions when a run of a campaign started."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("ledger_id", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("run", "ledger_id")
