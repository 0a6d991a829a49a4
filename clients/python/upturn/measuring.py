"""Plays an endpoint's entry of the leaderboard: its answers act in the server's environments, which judge them.

Every episode is on the server, in a group of the entry, so a killed program continues: finished episodes stay, and
unfinished ones are erased and played again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Event

from upturn.client import Client, UpturnAPIError
from upturn.endpoint import Endpoint
from upturn.messages import Message, result_messages
from upturn.wire import EpisodeOpen, LeaderboardEnd, LeaderboardEntry, StepResult

AT_ONCE = 4
"""Episodes at once, if the entry does not say."""


def play_entry(
    client: Client, entry: LeaderboardEntry, endpoint: Endpoint, on_progress: Callable[[int, int], None]
) -> LeaderboardEntry:
    """Play what is left of an endpoint's entry, end it, and return it.

    Args:
        client: the server's client; its key needs the scope `admin`.
        entry: an entry that is running.
        endpoint: the entry's model.
        on_progress: gets the numbers of finished episodes and of all.

    Raises:
        EndpointError: the endpoint does not answer; the entry can be continued.
        UpturnAPIError: the server refused something; the entry can be continued.
    """
    request = entry.request
    finished = _tidy(client, entry)
    left = [
        number
        for repetition in range(request.repetitions)
        for number in range(len(request.tasks))
        if finished[number] <= repetition
    ]
    done, stop = sum(finished.values()), Event()
    with ThreadPoolExecutor(request.at_once or AT_ONCE) as pool:
        episodes = [pool.submit(_play, client, entry, endpoint, number, stop) for number in left]
        try:
            waiting = set(episodes)
            while waiting:
                ended, waiting = wait(waiting, timeout=1.0, return_when=FIRST_EXCEPTION)
                for episode in ended:
                    episode.result()
                done += len(ended)
                on_progress(done, request.repetitions * len(request.tasks))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    counted = not endpoint.uncounted and not sum(finished.values())
    end = LeaderboardEnd(
        prompt_tokens=endpoint.prompt_tokens if counted else None,
        completion_tokens=endpoint.completion_tokens if counted else None,
    )
    return client.end_leaderboard_entry(entry.id, end)


def _tidy(client: Client, entry: LeaderboardEntry) -> dict[int, int]:
    """Erase what an interrupted program left unfinished; return the number of finished episodes of each task."""
    finished: dict[int, int] = defaultdict(int)
    if not entry.figures.finished and not client.episodes(group=entry.group_of(0), limit=1).data:
        return finished
    for number in range(len(entry.request.tasks)):
        for episode in client.episodes(group=entry.group_of(number), limit=100).data:
            if episode.status in ("terminated", "truncated"):
                finished[number] += 1
            else:
                client.erase_episode(episode.id)
    return finished


def _play(client: Client, entry: LeaderboardEntry, endpoint: Endpoint, number: int, stop: Event) -> None:
    """Play one episode of a task; an unfinished one is erased."""
    request = entry.request
    if stop.is_set():
        return
    opened = client.open_episode(
        EpisodeOpen(
            environment=request.environment,
            task=request.tasks[number],
            seed=request.seed,
            horizon=request.horizon,
            group=entry.group_of(number),
            trainable=False,
            metadata={"leaderboard": entry.id, "label": request.label},
        )
    )
    try:
        _take_turns(client, endpoint, opened.id, [message.model_dump() for message in opened.messages], stop)
    except BaseException:
        with suppress(UpturnAPIError):
            client.erase_episode(opened.id)
        raise


def _take_turns(client: Client, endpoint: Endpoint, episode: str, messages: list[Message], stop: Event) -> None:
    fits = True
    while not stop.is_set():
        # A model that has no room left says nothing until the horizon ends the episode: leaving such episodes out
        # would flatter it.
        answer = endpoint.answer(messages) if fits else None
        fits = answer is not None
        message = answer or {"role": "assistant", "content": ""}
        result = _act(client, episode, message)
        if result.terminated or result.truncated:
            return
        messages += [message, *result_messages(message, result.observation)]
    raise InterruptedError("another episode failed")


def _act(client: Client, episode: str, message: Message) -> StepResult:
    """Execute a message: its first tool call, or its text if it has no call."""
    calls = message.get("tool_calls") or []
    if not calls:
        return client.step(episode, message["content"])
    called = calls[0]["function"]
    try:
        arguments = json.loads(called.get("arguments") or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        return client.step(episode, f"{called['name']}: its arguments are not JSON")
    return client.call(episode, called["name"], arguments)
