"""The ends of live conversations; the client's id of a conversation, and the episode that another one continues.

Conversations that are open now have no rows there: their next request begins a new episode unless it names its own.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "conversation_end",
        sa.Column("turn_id", sa.String(length=64), nullable=False),
        sa.Column("episode_id", sa.String(length=64), nullable=False),
        sa.Column("exact", sa.String(length=32), nullable=False),
        sa.Column("loose", sa.String(length=32), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("ambiguous", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["episode_id"],
            ["episode.id"],
            name=op.f("fk_conversation_end_episode_id_episode"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turn.id"], name=op.f("fk_conversation_end_turn_id_turn"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("turn_id", name=op.f("pk_conversation_end")),
    )
    for kind in ("exact", "loose"):
        op.create_index(
            op.f(f"ix_conversation_end_{kind}_state_turn_id"), "conversation_end", [kind, "state", "turn_id"]
        )
    op.create_index(op.f("ix_conversation_end_episode_id"), "conversation_end", ["episode_id"])
    for column in ("conversation_key", "continues_id"):
        op.add_column("episode", sa.Column(column, sa.String(length=64), nullable=True))
        op.create_index(op.f(f"ix_episode_{column}_id"), "episode", [column, "id"])
    op.drop_index(op.f("ix_node_chain_hash"), "node")
    op.drop_index(op.f("ix_episode_owner_hash_opened_at"), "episode")
    for column in ("owner_hash", "status"):
        op.create_index(op.f(f"ix_episode_{column}_id"), "episode", [column, "id"])
    op.drop_index(op.f("ix_turn_digest"), "turn")
    op.create_index(op.f("ix_turn_digest_id"), "turn", ["digest", "id"])


def downgrade() -> None:
    for column in ("owner_hash", "status"):
        op.drop_index(op.f(f"ix_episode_{column}_id"), "episode")
    op.create_index(op.f("ix_episode_owner_hash_opened_at"), "episode", ["owner_hash", "opened_at"])
    op.drop_index(op.f("ix_turn_digest_id"), "turn")
    op.create_index(op.f("ix_turn_digest"), "turn", ["digest"])
    op.create_index(op.f("ix_node_chain_hash"), "node", ["chain_hash"])
    for column in ("conversation_key", "continues_id"):
        op.drop_index(op.f(f"ix_episode_{column}_id"), "episode")
        op.drop_column("episode", column)
    op.drop_table("conversation_end")
