"""A scope for rewards, and the sources of a key. Agents' keys, which could reward before, get the scope."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

KEYS = sa.table("api_key", sa.column("id", sa.String), sa.column("scopes", sa.JSON))


def upgrade() -> None:
    op.add_column("api_key", sa.Column("reward_sources", sa.JSON(), nullable=True))
    for key, scopes in _scopes():
        if "agent" in scopes:
            _set(key, sorted({*scopes, "reward"}))


def downgrade() -> None:
    for key, scopes in _scopes():
        if "reward" in scopes:
            _set(key, [scope for scope in scopes if scope != "reward"])
    op.drop_column("api_key", "reward_sources")


def _scopes() -> list[tuple[str, list[str]]]:
    return [(row.id, row.scopes) for row in op.get_bind().execute(sa.select(KEYS.c.id, KEYS.c.scopes))]


def _set(key: str, scopes: list[str]) -> None:
    op.execute(sa.update(KEYS).where(KEYS.c.id == key).values(scopes=scopes))
