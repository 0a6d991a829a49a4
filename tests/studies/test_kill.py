"""25 times kill -9 under load: every answered turn is recorded once, and open episodes continue where they were."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from server.rendering.bytes_tokenizer import BytesTokenizer
from tests.support.database import recorded
from tests.support.live import script, until
from tests.support.process import process
from upturn.client import Client
from upturn.wire import EpisodeView

KILLS = 25
SEED = 9755
LONGEST_S = 0.8  # Maximum time between readiness and kill.
TURNS = 12  # Turns per conversation, after which its agent begins another one.
ANSWERS = ("Hello there.", "A second, somewhat longer answer.", "Third.", "And then a fourth one, of course.")


@dataclass
class Stage:
    """The current server."""

    url: str = ""
    up: threading.Event = field(default_factory=threading.Event)
    over: bool = False
    """Tells the agents to end after their current request."""


@dataclass
class Conversation:
    """An agent's view of a conversation: its messages, and the ids of its turns."""

    headers: dict[str, str]
    episode_id: str | None = None
    talk: list[dict[str, str]] = field(default_factory=list)
    turn_ids: list[str] = field(default_factory=list)
    servers: set[str] = field(default_factory=set)
    """URLs of the servers that answered."""


class Agent(threading.Thread):
    """Talks until the stage is over. An interrupted request is sent again to the next server, as an SDK's retry."""

    def __init__(self, stage: Stage, number: int) -> None:
        super().__init__(name=f"agent {number}", daemon=True)
        self._stage, self._number = stage, number
        self._named, self._streams = number % 2 == 0, number % 4 < 2
        self.conversations: list[Conversation] = []
        self.interrupted = 0
        self.failure: BaseException | None = None

    @property
    def turn_ids(self) -> list[str]:
        """Ids of all answered turns."""
        return [identity for conversation in self.conversations for identity in conversation.turn_ids]

    def run(self) -> None:
        """Begin and continue conversations."""
        try:
            with httpx2.Client(timeout=60) as http:
                while not self._stage.over:
                    if not self.conversations or len(self.conversations[-1].turn_ids) == TURNS:
                        self.conversations.append(self._begin(http))
                    self._take_turn(http, self.conversations[-1])
        except BaseException as failure:
            self.failure = failure

    def _begin(self, http: httpx2.Client) -> Conversation:
        if not self._named:
            return Conversation({"authorization": f"Bearer sk-{self._number}"})
        opened = json.loads(self._answered(http, "/v1/episodes", {}, {})[1])
        return Conversation({"authorization": f"Bearer {opened['key']}"}, episode_id=opened["id"])

    def _take_turn(self, http: httpx2.Client, conversation: Conversation) -> None:
        ask = {"role": "user", "content": f"{self.name}, {len(self.conversations)}, {len(conversation.turn_ids)}"}
        body = {"model": "policy", "messages": [*conversation.talk, ask], "stream": self._streams}
        headers, answer = self._answered(http, "/v1/chat/completions", body, conversation.headers)
        assert conversation.episode_id in (None, headers["x-episode-id"]), "the conversation has lost its episode"
        conversation.episode_id = headers["x-episode-id"]
        conversation.turn_ids.append(headers["x-turn-id"])
        conversation.talk += [ask, {"role": "assistant", "content": text_of(answer, self._streams)}]
        conversation.servers.add(self._stage.url)

    def _answered(
        self, http: httpx2.Client, path: str, body: dict[str, object], headers: dict[str, str]
    ) -> tuple[httpx2.Headers, str]:
        """Send a request until it is completely answered."""
        for tries in range(1000):
            self._stage.up.wait()
            try:
                answer = http.post(
                    f"{self._stage.url}{path}", json=body, headers={**headers, "x-stainless-retry-count": str(tries)}
                )
            except httpx2.TransportError:
                self.interrupted += 1
                time.sleep(0.05)
                continue
            assert answer.is_success, f"{answer.status_code} {answer.text}"
            return answer.headers, answer.text
        raise AssertionError("no server answers")


def text_of(answer: str, streamed: bool) -> str:
    """Return the text of an answer; a stream must be complete."""
    if not streamed:
        return str(json.loads(answer)["choices"][0]["message"]["content"])
    assert answer.endswith("data: [DONE]\n\n")
    chunks = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@pytest.mark.timeout(600)
def test_25_kills_under_load_neither_lose_nor_duplicate_an_answered_turn(tmp_path: Path) -> None:
    moments = random.Random(SEED)
    data_dir, stage = tmp_path / "data", Stage()
    flags = (data_dir, script(tmp_path / "script", *ANSWERS, delay_s=0.004), "--engine.kind", "scripted")
    agents = [Agent(stage, number) for number in range(8)]
    for agent in agents:
        agent.start()
    for _ in range(KILLS):
        with process(*flags) as (server, stage.url):
            stage.up.set()
            time.sleep(moments.uniform(0, LONGEST_S))
            answered = {identity for agent in agents for identity in agent.turn_ids}
            server.send_signal(signal.SIGKILL)
            server.wait()
            stage.up.clear()
        assert [agent.failure for agent in agents if agent.failure] == []
    with process(*flags) as (_, stage.url):
        stage.up.set()
        assert answered <= {turn["id"] for turn in recorded(data_dir)}
        before = [len(agent.turn_ids) for agent in agents]
        until(
            lambda: all(
                len(agent.turn_ids) > then + 1 or agent.failure for agent, then in zip(agents, before, strict=True)
            ),
            "some agent got no answer",
        )
        stage.over = True
        for agent in agents:
            agent.join(120)
        assert not any(agent.is_alive() for agent in agents)
        assert [agent.failure for agent in agents if agent.failure] == []
        answered_ids = [identity for agent in agents for identity in agent.turn_ids]
        turns = recorded(data_dir)
        assert sorted(answered_ids) == sorted(turn["id"] for turn in turns), "a turn was lost or duplicated"
        conversations = [conversation for agent in agents for conversation in agent.conversations]
        with Client(stage.url) as client:
            for conversation in conversations:
                if conversation.turn_ids:
                    check_transcript(client.episode(str(conversation.episode_id)), conversation)
    assert sum(agent.interrupted for agent in agents) > 2 * KILLS, "the kills interrupted too few requests"
    assert sum(max(0, len(conversation.servers) - 1) for conversation in conversations) > KILLS, (
        "too few conversations continued on another server"
    )


def check_transcript(episode: EpisodeView, conversation: Conversation) -> None:
    """Check that each turn can be read, matches what its agent received, and extends the previous turn's ids."""
    assert [turn.id for turn in episode.turns] == conversation.turn_ids
    received = [message["content"] for message in conversation.talk[1::2]]
    before: list[int] = []
    for turn, text in zip(episode.turns, received, strict=True):
        assert len(turn.token_ids) == turn.prompt_tokens + turn.completion_tokens
        assert turn.token_ids[: len(before)] == before
        sampled = turn.token_ids[-turn.completion_tokens :]
        assert BytesTokenizer().decode(sampled) == turn.answer["content"] == text
        assert turn.trainable
        before = turn.token_ids
