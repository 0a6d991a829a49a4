"""The ends of live conversations, by which the next request of each is found."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from server.store.base import Base, Id


class ConversationEndRow(Base):
    """The conversation that ends with a turn's answer; live episodes only. Both indexes give the best rows first."""

    __tablename__ = "conversation_end"
    __table_args__ = (Index(None, "exact", "state", "turn_id"), Index(None, "loose", "state", "turn_id"))

    turn_id: Mapped[str] = mapped_column(Id, ForeignKey("turn.id", ondelete="CASCADE"), primary_key=True)
    episode_id: Mapped[str] = mapped_column(Id, ForeignKey("episode.id", ondelete="CASCADE"), index=True)
    exact: Mapped[str] = mapped_column(String(32))
    """Hash of the owner, the client's hints, and what was rendered."""
    loose: Mapped[str] = mapped_column(String(32))
    """Hash of the owner and of what a client seldom changes in a conversation."""
    state: Mapped[int]
    """3: nothing continues it. 2: a turn does that may belong to another conversation. 1: a turn does. 0: the episode
    has ended."""
    ambiguous: Mapped[bool]
    """Its own turn, or one before it, was assigned to one of several episodes."""
