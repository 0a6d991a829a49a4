"""`upturn episodes`: which episodes there are, one as a readable transcript, and rewards by hand."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from upturn.command.connection import LOCAL, AsJson, Key, Server, connect
from upturn.command.examples import examples
from upturn.command.output import print_json, print_table, time_text
from upturn.command.run import OPTIONS, help_unless_command
from upturn.wire import EpisodeView

group = typer.Typer(help="Read and reward recorded episodes.", context_settings=OPTIONS)


@group.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    """Read and reward recorded episodes."""
    help_unless_command(context)


@group.command(
    "list",
    epilog=examples(
        "upturn episodes list --status closed --metadata customer=a", "upturn episodes list --text refund --json"
    ),
)
def list_episodes(
    status: Annotated[list[str], typer.Option(help="Only episodes with this status; may be repeated.")] = [],  # noqa: B006
    environment: Annotated[str | None, typer.Option(help="Only episodes of this environment.")] = None,
    group_name: Annotated[str | None, typer.Option("--group", help="Only episodes of this group.")] = None,
    of_key: Annotated[
        str | None, typer.Option(help="Only episodes opened with this API key: a name, an id, or `me`.")
    ] = None,
    metadata: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="Only with this metadata; may be repeated.")
    ] = [],  # noqa: B006
    text: Annotated[str | None, typer.Option(help="Only episodes with these words, in this order.")] = None,
    task: Annotated[str | None, typer.Option(help="Only episodes of this task.")] = None,
    play: Annotated[str | None, typer.Option(help="Only episodes of this play.")] = None,
    live: Annotated[bool | None, typer.Option(help="Only episodes that the server did not play, or did.")] = None,
    success: Annotated[bool | None, typer.Option(help="Only successes, or failures.")] = None,
    of_version: Annotated[int | None, typer.Option(help="Only episodes that this version answered.")] = None,
    reward_from: Annotated[float | None, typer.Option(help="Only with this reward or more.")] = None,
    reward_to: Annotated[float | None, typer.Option(help="Only with this reward or less.")] = None,
    untrainable: Annotated[
        str | None, typer.Option(help="Only with a turn that is untrainable for this reason, or `any`.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Only episodes that this run was trained on.")] = None,
    step: Annotated[int | None, typer.Option(help="Only episodes of this learner step of the run.")] = None,
    after: Annotated[str | None, typer.Option(help="Only episodes older than this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of episodes.")] = 20,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List episodes, newest first."""
    with connect(server, key) as client:
        page = client.episodes(
            status=status,
            environment=environment,
            group=group_name,
            key=of_key,
            metadata=metadata,
            text=text,
            task=task,
            play=play,
            live=live,
            success=success,
            version=of_version,
            reward_from=reward_from,
            reward_to=reward_to,
            untrainable=untrainable,
            run=run,
            step=step,
            after=after,
            limit=limit,
        )
    if as_json:
        print_json(page)
        return
    print_table(
        ("episode", "status", "turns", "reward", "subject", "opened"),
        [
            (
                episode.id,
                episode.status,
                str(episode.turns),
                "-" if episode.reward is None else f"{episode.reward:g}",
                f"{episode.environment} {episode.task}" if episode.environment else "live agent",
                time_text(episode.opened_at),
            )
            for episode in page.data
        ],
    )
    if page.next is not None:
        print(f"more: --after {page.next}")


@group.command("show", epilog=examples("upturn episodes show ep_0123", "upturn episodes show ep_0123 --json"))
def show(episode_id: str, server: Server = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """Print the transcript of an episode: messages, answers, steps and rewards."""
    with connect(server, key) as client:
        episode = client.transcript(episode_id)
    if as_json:
        print_json(episode)
    else:
        print(transcript(episode))


@group.command(
    "reward",
    epilog=examples("upturn episodes reward ep_0123 1", "upturn episodes reward chatcmpl-0123 -- -0.5"),
)
def reward(
    episode_id: Annotated[
        str, typer.Argument(metavar="ID", help="The episode, or the id of a completion, message or tool call in it.")
    ],
    value: Annotated[float, typer.Argument(metavar="VALUE", help="The reward; write `-- -1` for a negative one.")],
    source: Annotated[str, typer.Option(help="Who gives it.")] = "user",
    turn: Annotated[int | None, typer.Option(min=0, help="Index of the turn that earned it; default: all.")] = None,
    once: Annotated[
        str | None, typer.Option(metavar="NAME", help="Idempotency key: the same name records one reward.")
    ] = None,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Reward an episode."""
    with connect(server, key) as client:
        given = client.reward(episode_id, value, source=source, turn=turn, key=once)
    if as_json:
        print_json(given)
    else:
        print(f"{given.id}: {given.value:g} from {given.source}")


@group.command("close", epilog=examples("upturn episodes close ep_0123"))
def close(
    episode_id: str,
    reason: Annotated[str | None, typer.Option(help="Recorded with the episode.")] = None,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """End an episode, so that it can be trained on."""
    with connect(server, key) as client:
        ended = client.close_episode(episode_id, reason)
    if as_json:
        print_json(ended)
    else:
        print(f"{ended.id}: {ended.status}, {len(ended.turns)} turns, reward {ended.reward}")


def transcript(episode: EpisodeView) -> str:
    """Return an episode as text: a header, then every turn, step and reward."""
    subject = f"{episode.environment} {episode.task}" if episode.environment else "live agent"
    lines = [
        f"episode {episode.id}: {subject}, {episode.status}, {len(episode.turns)} turns, reward {episode.reward}",
        f"opened {time_text(episode.opened_at)}, closed {time_text(episode.closed_at)}",
    ]
    for turn in episode.turns:
        version = "demonstration" if turn.policy_version is None else f"@{turn.policy_version}"
        reason = "" if turn.trainable else f", not trainable: {turn.untrainable_reason}"
        tokens = f"{turn.prompt_tokens}+{turn.completion_tokens} tokens"
        lines += ["", f"--- turn {turn.index} ({version}, {tokens}, {turn.finish_reason}{reason})"]
        lines += [f"[{message.get('role', '?')}] {text_of(message)}" for message in (*turn.messages, turn.answer)]
    if episode.steps:
        lines += ["", "--- steps"]
        lines += [f"{step.index}: {step.action!r}, reward {step.reward:g}" for step in episode.steps]
    if episode.rewards:
        lines += ["", "--- rewards"]
        lines += [
            f"{reward.value:g} from {reward.source}, {'episode' if reward.turn is None else f'turn {reward.turn}'}"
            for reward in episode.rewards
        ]
    return "\n".join(lines)


def text_of(message: dict[str, Any]) -> str:
    """Return a message's text, and its tool calls as JSON."""
    content = message.get("content")
    text = content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls") or []]
    return "\n".join([part for part in (text, *calls) if part])
