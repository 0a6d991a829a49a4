"""Which of a play's episodes of its task an episode is: the order of a batch does not depend on time."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("episode", sa.Column("repetition", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("episode", "repetition")
