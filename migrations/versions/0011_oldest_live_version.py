"""The oldest version whose live episodes a run takes."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("oldest_live", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("run", "oldest_live")
