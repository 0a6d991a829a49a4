"""A request that is being answered: its turns, the headers of its answers, and a client that may leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from server.api.dialects.call import Call
from server.api.dialects.fields.check import WARNING
from server.errors import Conflict
from server.recording.turn import RETRY_GRACE_S, Answer, Turn

Result = TypeVar("Result")
UNTRAINABLE = "x-upturn-untrainable"
"""Header of an answer that says why it will not be trained on (`server/recording/trainable.py`)."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request in progress."""

    policy: str
    """The policy's name."""
    model: str
    """The name by which the request calls the policy; answers repeat it."""
    turns: list[Turn]
    """One per answer."""
    call: Call
    whole: bool
    """The answer is sent when it is complete."""
    warnings: tuple[str, ...] = ()
    """What of the request had no effect."""

    @property
    def version(self) -> int:
        """Policy version that sampled the first token, of the answer that has begun; before that, the requested one."""
        return next((turn for turn in self.turns if turn.beginning.begun), self.turns[0]).version

    def fingerprint(self, version: int) -> str:
        """Return `system_fingerprint`: the policy's own name and the version."""
        return f"{self.policy}@{version}"

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every answer: its episode, turns and version, warnings, and why it will not be trained on."""
        reasons = dict.fromkeys(turn.untrainable for turn in self.turns if turn.untrainable)
        return {
            "x-episode-id": self.turns[0].episode_id,
            "x-turn-id": ",".join(turn.id for turn in self.turns),
            "x-policy-version": str(self.version),
            **({UNTRAINABLE: ",".join(reasons)} if reasons else {}),
            **({WARNING: "; ".join(self.warnings)} if self.warnings else {}),
        }

    async def answers(self) -> list[Answer]:
        """Wait for all answers; each is durable by then.

        Raises:
            UpturnError: an answer failed.
            Conflict: the client has disconnected before a whole answer was complete.
        """
        return await (self.while_connected(self._answers()) if self.whole else self._answers())

    async def _answers(self) -> list[Answer]:
        return [await turn.answer() for turn in self.turns]

    async def while_connected(self, result: Awaitable[Result]) -> Result:
        """Wait for a result before anything is sent; leave the turns if the client disconnects first.

        Raises:
            Conflict: the client has disconnected.
        """
        waiting, left = asyncio.ensure_future(result), asyncio.ensure_future(self.call.disconnected())
        try:
            await asyncio.wait((waiting, left), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self.leave()
                raise Conflict("the client has disconnected", code="disconnected")
            return waiting.result()
        except asyncio.CancelledError:
            self.leave()
            raise
        finally:
            waiting.cancel()
            left.cancel()

    def leave(self) -> None:
        """The client has disconnected: stop turns that no other request waits for, and record the partial answers."""
        for turn in self.turns:
            turn.leave(RETRY_GRACE_S if self.whole else 0.0)
