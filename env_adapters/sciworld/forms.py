"""The forms of ScienceWorld's actions."""

from __future__ import annotations

import re

ACTIONS = (
    "look around | look at X | look in X | inventory | task | go to X | open X | close X | pick up X | put down X | "
    "move X to Y | pour X in Y | dunk X in Y | mix X | use X on Y | activate X | deactivate X | connect X to Y | "
    "disconnect X | read X | eat X | flush X | focus on X | wait1 | wait"
)
FORMS = ACTIONS.split(" | ")
ACTION_WORDS = 24
ACTION = re.compile(
    r"(?:look(?: around)?|inventory|task|reset task|wait\d?"
    r"|(?:activate|close|connect|deactivate|disconnect|dunk|eat|examine|flush|focus on|get|go|look (?:at|in|on)|mix"
    r"|move|open|pick up|pour|put|read|take|teleport to|turn (?:on|off)|use)"
    r" (?:(?!\b(?:i|we|then|because|will|should)\b)[a-z0-9 ()'-])+)"
)
"""Texts that have the form of an action, amid prose too; the simulator knows more of them."""
