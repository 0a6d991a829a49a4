"""Gymnasium's spaces and renderings as text: describing and parsing actions, and showing observations.

`spec.py` plays. A model's text is parsed as JSON or as a name, never executed.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import Space, spaces

LONGEST = 2000
"""Maximum length of an action, chosen by this project. It also limits the depth of its JSON."""


@dataclass(frozen=True, slots=True)
class Known:
    """Rules of a well-known environment, which its spaces do not contain."""

    rules: str
    actions: tuple[str, ...] = ()
    """Names of the actions, in the order of their numbers."""
    success: Literal["threshold", "reward", "terminated"] = "threshold"
    """Condition of success: the return reaches the registry's threshold, the last reward is above 0, or the episode
    terminates."""


_LAKE = Known(
    "Walk over the frozen lake from S to the goal G; F is ice, H a hole that ends it, [ ] is where you are. "
    "The ice is slippery: you may slide to a side.",
    ("left", "down", "right", "up"),
    "reward",
)
_CLIFF = Known(
    "Walk from the start to the target T; stepping on the cliff C costs 100 and sends you back; x is where you are.",
    ("up", "right", "down", "left"),
    "terminated",
)
KNOWN = {
    "FrozenLake": _LAKE,
    "FrozenLake8x8": _LAKE,
    "CliffWalking": _CLIFF,
    "CliffWalkingSlippery": _CLIFF,
    "Taxi": Known(
        "Drive the taxi to the passenger, pick up, drive to the destination, drop off. [ ] is the taxi, ( ) "
        "the passenger (none: in the taxi), < > the destination; | is a wall.",
        ("south", "north", "east", "west", "pickup", "dropoff"),
        "reward",
    ),
    "Blackjack": Known(
        "Play blackjack against the dealer. You see: your sum, the dealer's card, 1 if an ace of yours counts as 11.",
        ("stick", "hit"),
        "reward",
    ),
    "CartPole": Known(
        "Keep the pole upright by pushing the cart. You see: cart position, cart velocity, pole angle in "
        "radians, pole angular velocity.",
        ("left", "right"),
    ),
    "MountainCar": Known(
        "Drive the car up the right hill (position 0.5) by swinging. You see: position, velocity.",
        ("left", "none", "right"),
        "terminated",
    ),
    "Acrobot": Known(
        "Swing the lower link above the bar. You see: cosine and sine of both joint angles, both angular velocities.",
        ("negative", "none", "positive"),
        "terminated",
    ),
    "LunarLander": Known(
        "Land softly between the flags. You see: x, y, their velocities, angle, angular velocity, "
        "whether each leg touches ground.",
        ("nothing", "left engine", "main engine", "right engine"),
    ),
}
"""Rules by id without version."""


def size(space: Space[Any]) -> int:
    """Return the count of numbers in a value of a space."""
    if isinstance(space, spaces.Dict):
        return sum(size(part) for part in space.values())
    if isinstance(space, spaces.Tuple):
        return sum(size(part) for part in space)
    return math.prod(space.shape) if space.shape else 1


def describe(space: Space[Any], names: tuple[str, ...] = ()) -> str:
    """Describe the values of a space.

    Raises:
        TypeError: values of this space have no text form.
    """
    match space:
        case spaces.Discrete():
            first, last = int(space.start), int(space.start + space.n) - 1
            return " | ".join(names) if len(names) == space.n else f"an integer from {first} to {last}"
        case spaces.MultiDiscrete():
            top = (space.nvec + space.start - 1).tolist()
            return f"a JSON list of integers from {json.dumps(space.start.tolist())} to {json.dumps(top)}"
        case spaces.MultiBinary():
            return f"a JSON list of {'x'.join(map(str, space.shape))} zeros and ones"
        case spaces.Box():
            low, high = (json.dumps(plain(bound)) for bound in (space.low, space.high))
            return f"a JSON list of numbers from {low} to {high}"
        case spaces.Text():
            return f"a JSON string of {space.min_length} to {space.max_length} characters"
        case spaces.Dict():
            parts = ", ".join(f"{json.dumps(key)}: {describe(part)}" for key, part in space.items())
            return f"a JSON object {{{parts}}}"
        case spaces.Tuple():
            return f"a JSON list [{', '.join(describe(part) for part in space)}]"
    raise TypeError(f"a {type(space).__name__} space has no text form here")


def read(space: Space[Any], text: str, names: tuple[str, ...] = ()) -> Any:
    """Parse a value of a space: a name, JSON, or comma-separated numbers.

    Raises:
        ValueError: the text is not a value of the space.
    """
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST} characters")
    if isinstance(space, spaces.Discrete) and (name := " ".join(text.lower().split())) in names:
        return int(space.start) + names.index(name)
    for form in (text, f"[{text}]"):
        try:
            return _value(space, json.loads(form, parse_constant=_no_constant))
        except json.JSONDecodeError:
            continue
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
    raise ValueError("it is neither a name nor JSON")


def _no_constant(name: str) -> Any:
    raise ValueError(f"it has {name}, which is not a number")


def _value(space: Space[Any], parsed: Any) -> Any:
    """Return parsed JSON as a value of a space."""
    value: Any
    match space:
        case spaces.Discrete():
            value = parsed[0] if isinstance(parsed, list) and len(parsed) == 1 else parsed
            if type(value) is not int:
                raise ValueError("it is not an integer")
        case spaces.MultiDiscrete() | spaces.MultiBinary() | spaces.Box():
            try:
                numbers = np.asarray(parsed, dtype=np.float64)
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError("it is not a list of numbers") from error
            if numbers.size != math.prod(space.shape):
                raise ValueError(f"it has {numbers.size} numbers and not {math.prod(space.shape)}")
            if not np.isfinite(numbers).all():
                raise ValueError("it has a number that is not finite")
            if space.dtype is not None and space.dtype.kind in "iu":
                if (numbers != np.round(numbers)).any():
                    raise ValueError("it has a number that is no integer")  # prose: ok (a model sees it)
                if (numbers < np.iinfo(space.dtype).min).any() or (numbers > np.iinfo(space.dtype).max).any():
                    raise ValueError("it is out of bounds")
            with np.errstate(over="ignore"):  # Too large values become infinite, which is out of bounds below.
                value = numbers.reshape(space.shape).astype(space.dtype)
        case spaces.Dict():
            if not isinstance(parsed, dict) or set(parsed) != set(space.keys()):
                raise ValueError(f"it is not an object with the keys {', '.join(map(str, space.keys()))}")
            value = {key: _value(part, parsed[key]) for key, part in space.items()}
        case spaces.Tuple():
            if not isinstance(parsed, list) or len(parsed) != len(space):
                raise ValueError(f"it is not a list of {len(space)}")
            value = tuple(_value(part, one) for part, one in zip(space, parsed, strict=True))
        case _:
            value = parsed
    if not space.contains(value):
        raise ValueError("it is out of bounds")
    return value


def plain(value: Any, digits: int | None = 4) -> Any:
    """Return an observation or action as JSON values, with floats rounded to `digits` significant digits."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), digits)
    if isinstance(value, np.generic):
        return plain(value.item(), digits)
    if isinstance(value, dict):
        return {str(key): plain(part, digits) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part, digits) for part in value]
    if isinstance(value, float) and digits is not None:
        return float(f"{value:.{digits}g}")
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def show(value: Any) -> str:
    """Return an observation as text."""
    made = plain(value)
    return made if isinstance(made, str) else json.dumps(made, ensure_ascii=False)


def without_colors(drawing: str) -> str:
    """Return a terminal rendering with brackets in place of its colors.

    A colored background becomes [ ], blue text ( ), any other color < >.
    """

    def mark(found: re.Match[str]) -> str:
        code, inside = found[1].split(";")[0], found[2]
        before, after = ("[", "]") if code.startswith("4") else ("(", ")") if code == "34" else ("<", ">")
        return f"{before}{inside}{after}"

    return re.sub(r"\x1b\[[0-9;]*m", "", re.sub(r"\x1b\[([0-9;]+)m(.*?)\x1b\[0m", mark, drawing)).strip("\n")
