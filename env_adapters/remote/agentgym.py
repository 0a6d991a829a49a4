"""Client of AgentGym's environment servers (arXiv 2406.04151): `agentgym:KIND@URL`.

The servers share their calls but not one protocol; `KINDS` describes each variant. As in AgentGym, the client reads
`Action:` out of an answer, and an episode's value is its last step's reward (BabyAI and SciWorld: score). A step here
earns the change of that value, in 0..1, so the rewards add up to it; `info["score"]` has the server's own figure.

Chosen by this project: the instructions (the servers send none; these are short), the splits, that an answer without
`Action:` is the action itself, and that ALFWorld's possible actions are shown every turn. An error, including one sent
with status 200, is a failure of the environment, not a reward of 0. A task is `KIND/INDEX`; the index alone determines
the episode, so the seed has no effect. AgentGym's tool servers and code formats execute model text as Python on the
server: host them only where that is acceptable.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from env_adapters.protocol import EnvironmentFailure, Reset, Transition, UnknownTask
from env_adapters.remote.connection import Http, Place, RemoteInstance, RemoteSpec, number, place

log = logging.getLogger("upturn.environments")

LISTED = 5000
"""Maximum number of listed tasks per kind, evenly spread; the others can be played by name."""


class NoAction(ValueError):
    """An answer contains no action; the message is the one of AgentGym's client."""


def _one_action(text: str) -> str:
    """TextCraft and BabyAI: one `Action:` line with letters, digits and commas only."""
    found = re.findall(r"Action:\s*(.*?)(?=\n|$)", text, re.DOTALL)
    if len(found) > 1:
        raise NoAction("Error: Only one 'Action' is allowed per response. Please adjust your response.")
    line = found[0] if found else next((line for line in text.splitlines() if line.strip()), "")
    return " ".join(re.sub(r"[^A-Za-z0-9, ]+", "", line).split())


def _last_action(text: str) -> str:
    """ALFWorld, SciWorld and WebShop: the text after the last `Action:`."""
    return text.rpartition("Action:")[2].strip()


def _first_action(text: str) -> str:
    """Maze and wordle: the text between the first `Action:` and the next."""
    parts = text.split("Action:")
    return parts[min(1, len(parts) - 1)].strip()


def _fenced(text: str) -> str:
    """WebArena: the whole answer, which must contain an action between triple backticks."""
    if not re.search(r"```.*?```", text, re.DOTALL):
        raise NoAction(
            "Cannot parse action from response. Your action should be inside triple backticks (```). "
            "Please adjust accordingly."
        )
    return text


def _query(text: str) -> str:
    """SQL: the last fenced block, or the whole answer."""
    return text.split("```sql")[-1].split("```")[0].strip()


def _whole(text: str) -> str:
    """SearchQA and the tool servers: the whole answer, which the server parses itself."""
    return text


@dataclass(frozen=True, slots=True)
class Kind:
    """The variant of the protocol that one kind of server implements."""

    size: int
    """Number of tasks (for an unlimited supply: how many are used)."""
    instructions: str
    read: Callable[[str], str]
    index: str = "data_idx"
    """Field of a reset request that selects the task."""
    key: str = "id"
    """Field that names the instance."""
    create: dict[str, Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of a reset request."""
    path: str = ""
    closes: bool = False
    """Whether the server can close an instance; otherwise it keeps instances until it stops."""
    value: str = "reward"
    full: float = 1.0
    """The value of a complete success."""
    success: float = 1.0
    """Minimum share of `full` for a finished episode to be a success."""
    unknown: str = "\0"
    """Part of the observation that reports an action which the server did not understand."""


_REACT = "Answer with a thought and one action:\nThought: ...\nAction: ..."
_TOOLS = "Use the tools you are told of. Answer:\nAction: TOOL with Action Input: {JSON}"


def _tool(size: int, what: str) -> Kind:
    return Kind(size, f"{what} {_TOOLS}", _whole, index="id", key="env_idx", create={"id": 0}, unknown="Format error")


KINDS = {
    "textcraft": Kind(
        544,
        f"Craft the goal in Minecraft. Actions: get N item | craft N item using N item, N item | inventory. {_REACT}",
        _one_action,
        create={},
        closes=True,
        unknown="Could not execute",
    ),
    "babyai": Kind(
        4000,
        f"Reach the goal in a grid of rooms, by one of the available actions. {_REACT}",
        _one_action,
        closes=True,
        value="score",
        success=0.0,
        unknown="action is not recognized",
    ),
    "sciworld": Kind(
        4639,
        "Do the science task in a house of rooms, by commands such as: look around | open door to "
        "kitchen | go to kitchen | pick up X | move X to Y | activate X | use X on Y | focus on X | wait. "
        f"{_REACT}",
        _last_action,
        closes=True,
        value="score",
        full=100.0,
        unknown="No known action matches",
    ),
    "alfworld": Kind(
        2620,
        f"Do the household task, by one of the available actions. {_REACT}",
        _last_action,
        index="game",
        more={"world_type": "Text"},
        unknown="Nothing happens",
    ),
    "maze": Kind(
        26,
        f"Walk to the goal of a maze. Actions: move up | move down | move left | move right. {_REACT}",
        _first_action,
        index="game",
        path="/maze",
    ),
    "wordle": Kind(
        1000,
        "Guess the word of five letters in six tries; b is a letter that is not in it, y one that is "
        f"elsewhere, g one that is right. Write letters with spaces, like: s h i r e. {_REACT}",
        _first_action,
        index="seed",
        path="/wordle",
        unknown="invalid word",
    ),
    "webshop": Kind(
        6910,
        f"Buy what the instruction wants. Actions: search[words] | click[button or item]. {_REACT}",
        _last_action,
        index="session_id",
        key="env_idx",
    ),
    "webarena": Kind(
        812,
        "Do the task in the browser. Actions: click [id] | type [id] [text] [press_enter] | hover "
        "[id] | press [keys] | scroll [up or down] | new_tab | tab_focus [index] | close_tab | goto [url] "
        "| go_back | go_forward | stop [answer]. Think, then end with the action like: ```click [12]```",
        _fenced,
        index="idx",
        key="env_idx",
        more={"seed": 0},
        closes=True,
    ),
    "searchqa": Kind(
        221_328,
        "Think in <think>...</think>, then <search>words</search> to get passages, or <answer>the answer</answer>.",
        _whole,
        index="id",
        key="env_idx",
        create={"id": 0},
        closes=True,
        unknown="previous action is invalid",
    ),
    "sqlgym": Kind(
        10_962,
        "Answer the question by one SQLite query:\n```sql\nSELECT ...\n```",
        _query,
        index="item_id",
        key="env_idx",
    ),
    "weather": _tool(343, "Answer the question about the weather."),
    "movie": _tool(238, "Answer the question about movies."),
    "academia": _tool(19, "Answer the question about papers and their authors."),
    "todo": _tool(155, "Do the task in the to-do list."),
    "sheet": _tool(20, "Do the task in the spreadsheet."),
}


class Remote(RemoteInstance):
    """One instance on one server, made at the first reset."""

    def __init__(self, kind: str, where: Place) -> None:
        self._name, self._kind, self._where = kind, KINDS[kind], where
        self._http: Http | None = None
        self._id: Any = None
        self._value, self._over = 0.0, True
        self._actions: list[str] = []

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task by its index. The seed has no effect."""
        kind = self._kind
        found = re.fullmatch(rf"{self._name}/(0|[1-9][0-9]{{0,8}})", task)
        if found is None or int(found[1]) >= kind.size:
            raise UnknownTask(f"no task {task!r}; they are named {self._name}/0 to {self._name}/{kind.size - 1}")
        self._http = self._http or Http(self._where)
        if self._id is None:
            made = self._call("create", kind.create)
            self._id = made.get(kind.key, made.get("id")) if isinstance(made, dict) else made
            if type(self._id) is not int:
                raise EnvironmentFailure(f"{self._where} answered create with {str(made)[:300]}")
        reply = self._call("reset", {kind.key: self._id, kind.index: int(found[1]), **kind.more})
        if isinstance(reply, dict) and reply.get("sites") == "Error":
            raise EnvironmentFailure(f"{self._where} could not begin the task: {reply.get('observation')}")
        self._over, self._value = False, 0.0
        return Reset([{"role": "system", "content": kind.instructions}, {"role": "user", "content": self._text(reply)}])

    def step(self, text: str) -> Transition:
        """Send the action of an answer.

        Raises:
            ValueError: the episode is over or has not begun.
        """
        if self._over:
            raise ValueError("this episode is over or has not begun: reset it before a step")
        kind = self._kind
        try:
            action = kind.read(text.removesuffix("</s>"))
        except NoAction as error:
            return Transition(str(error), 0.0, False, valid=False)
        reply = self._call("step", {kind.key: self._id, "action": action})
        if (
            not isinstance(reply, dict)
            or kind.value not in reply
            or ("info" in reply and self._name == "webarena" and reply["info"] is None)
        ):
            raise EnvironmentFailure(f"{self._where} answered a step with {str(reply)[:300]}")
        observation, score = self._text(reply), number(reply[kind.value])
        terminated = bool(reply.get("done", reply.get("terminated")))
        self._over = terminated or bool(reply.get("truncated"))
        if self._name == "webarena" and not terminated:
            score = 0.0
        before, self._value = self._value, min(1.0, max(0.0, score / kind.full))
        success = terminated and self._value >= kind.success
        return Transition(
            observation,
            self._value - before,
            terminated,
            self._over and not terminated,
            success if self._over else None,
            kind.unknown not in observation,
            {"score": score},
        )

    def random(self, rng: random.Random) -> str:
        """Return one of the actions in the server's latest list.

        Raises:
            NotImplementedError: the server does not list its actions.
        """
        return f"Action: {rng.choice(self._actions)}" if self._actions else super().random(rng)

    def close(self) -> None:
        """Close the instance, if the server supports it, and the connection."""
        self._over = True
        http, self._http = self._http, None
        if http is None:
            return
        try:
            if self._kind.closes and self._id is not None:
                http.call("POST", f"{self._kind.path}/close", {self._kind.key: self._id})
        except EnvironmentFailure as error:
            log.warning("could not close instance %s at %s: %s", self._id, self._where, error)
        finally:
            self._id = None
            http.close()

    def _call(self, path: str, body: dict[str, Any] | None) -> Any:
        assert self._http is not None
        reply = self._http.call("POST", f"{self._kind.path}/{path}", body)
        if isinstance(reply, dict) and "error" in reply:
            raise EnvironmentFailure(f"{self._where} answered {path} with the error {str(reply['error'])[:300]!r}")
        return reply

    def _text(self, reply: Any) -> str:
        """Return the text of the reply to a reset or step, in any of its shapes, and keep the actions it lists."""
        if isinstance(reply, list) and reply:
            reply = reply[0]
        if isinstance(reply, str):
            return reply
        parts = reply if isinstance(reply, dict) else {}
        shown = [parts.get(name) for name in ("task_description", "observation", "state")]
        lines = [text for text in shown if isinstance(text, str) and text]
        if not lines:
            raise EnvironmentFailure(f"{self._where} answered without an observation: {str(reply)[:300]}")
        listed = parts.get("available_actions")
        if isinstance(listed, list):
            self._actions = [str(action) for action in listed]
            lines.append(f"AVAILABLE ACTIONS: {','.join(self._actions)}")
        elif found := re.search(r"Available actions: (\[.*\])", lines[-1]):
            self._actions = _strings(found[1])
        return "\n".join(lines)


def _strings(text: str) -> list[str]:
    """Return the strings of a JSON list, or an empty list for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [item for item in found if isinstance(item, str)]


def make_spec(argument: str, name: str) -> RemoteSpec:
    """Return the spec of `KIND@URL`.

    Raises:
        ValueError: the kind does not exist, or the rest is not a URL.
    """
    kind, _, url = argument.partition("@")
    if kind not in KINDS:
        raise ValueError(f"AgentGym has no kind {kind!r}; it has {', '.join(KINDS)}")
    where, size = place(url), KINDS[kind].size
    tasks = (f"{kind}/{index}" for index in range(0, size, -(-size // LISTED)))
    return RemoteSpec(name, f"AgentGym's {kind} at {where}.", tasks, partial(Remote, kind, where))
