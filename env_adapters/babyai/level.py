"""A level of minigrid: made, read as a `World` and a `Pose`, and acted on by primitive actions.

The game and the solver share this module; only it and `spec.py` touch minigrid.
"""

from __future__ import annotations

from typing import Any

from env_adapters.babyai.text import Pose, Sight, World, look

Level = Any
"""A `RoomGridLevel` of minigrid; untyped, since minigrid is imported only when an instance is made."""


def make_level(name: str) -> Level:
    """Make a level that does not render what the agent sees: rendering takes most of a step's time."""
    import gymnasium

    version = 1 if name == "GoToObjS6" else 0
    level: Level = gymnasium.make(f"BabyAI-{name}-v{version}", disable_env_checker=True).unwrapped
    level.gen_obs = dict
    return level


def relax(instr: Any) -> None:
    """Make the second of two doors non-strict, as minigrid does in OpenRedBlueDoorsDebug.

    With a strict second door, opening the first one also counts as opening a wrong second one, which makes
    OpenDoorsOrderN4Debug unwinnable.
    """
    if second := {"BeforeInstr": "instr_b", "AfterInstr": "instr_a"}.get(type(instr).__name__):
        getattr(instr, second).strict = False


def world_of(level: Level) -> World:
    """Return a level's grid in words."""
    return World(level.width, [describe_thing(cell) for cell in level.grid.grid])


def describe_thing(thing: Any) -> str | None:
    """Return a minigrid object in a `World`'s words: None, `wall`, `red ball`, `grey closed door`."""
    if thing is None:
        return None
    if thing.type == "wall":
        return "wall"
    if thing.type == "door":
        return f"{thing.color} {'open' if thing.is_open else 'locked' if thing.is_locked else 'closed'} door"
    return f"{thing.color} {thing.type}"


def pose_of(level: Level) -> Pose:
    """Return where the agent stands and which way it faces."""
    x, y = level.agent_pos
    return Pose(int(x), int(y), int(level.agent_dir))


def sight_of(level: Level) -> Sight:
    """Return what the agent sees and can do."""
    return look(world_of(level), pose_of(level), describe_thing(level.carrying))


def act(level: Level, primitives: list[int]) -> tuple[float, bool, bool]:
    """Execute primitive actions until the level ends.

    Returns:
        Minigrid's reward of the last action, whether the level terminated, and whether it was truncated.
    """
    reward, terminated, truncated = 0.0, False, False
    for action in primitives:
        _, step_reward, terminated, truncated, _ = level.step(action)
        reward = float(step_reward)
        if terminated or truncated:
            break
    return reward, terminated, truncated
