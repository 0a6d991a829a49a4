"""Client of AgentGym's environment servers (arXiv 2406.04151): `agentgym:KIND@URL`.

The servers share their calls but not one protocol; `agentgym_kinds.py` describes each variant. As in AgentGym, the
client reads `Action:` out of an answer, and an episode's value is its last step's reward (BabyAI and SciWorld: score).
A step here earns the change of that value, in 0..1, so the rewards add up to it; `info["score"]` has the server's own
figure.

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
from functools import partial
from typing import Any

from env_adapters.protocol import EnvironmentFailure, Reset, Transition, UnknownTask
from env_adapters.remote.agentgym_kinds import KINDS, NoAction
from env_adapters.remote.connection import Http, Place, RemoteInstance, RemoteSpec, number, place

log = logging.getLogger("upturn.environments")

LISTED = 5000
"""Maximum number of listed tasks per kind, evenly spread; the others can be played by name."""


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
            action = kind.action(text.removesuffix("</s>"))
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
