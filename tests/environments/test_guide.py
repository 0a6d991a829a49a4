"""The guide's example environment works: its code block, verbatim, plays through the server."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.environments.episodes import Serve
from upturn.wire import EpisodeOpen, PlayRequest

GUIDE = Path(__file__).parents[2] / "docs" / "environments.md"
GUARDS = GUIDE.with_name("promotion.md")


def block(page: Path = GUIDE) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    return str(found)


def test_the_guides_environment_has_about_thirty_lines_of_code() -> None:
    code = [line for line in block().splitlines() if line.strip() and not line.startswith('"""')]
    assert len(code) <= 32


def test_the_guides_environment_plays_through_the_server(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "guess.py").write_text(block())
    monkeypatch.syspath_prepend(tmp_path)
    live = serve(modules=["guess"])
    assert live.client.tasks("guess", "test").tasks == ["below-50"]
    episode = live.client.open_episode(EpisodeOpen(environment="guess", task="below-10"))
    assert episode.messages[0].content == "Guess my number, 0 to 9. Answer with a number only."
    said = [live.client.step(episode.id, str(number)).observation for number in (0, 9)]
    assert said == ["Too low.", "Too high."] or "Right!" in said
    for agent, succeeded in (("oracle", 6), ("random", 6)):
        play = live.client.start_play(
            PlayRequest(environment="guess", tasks=["below-10", "below-50"], group_size=3, horizon=500, agent=agent)
        )  # type: ignore[arg-type]
        assert live.client.wait_for_play(play.id).succeeded == succeeded
    sys.modules.pop("guess")


def test_the_guides_guard_prompts_play_through_the_server(serve: Serve, tmp_path: Path) -> None:
    (example,) = re.findall(r"^```jsonl\n(\{\"task\".*?)^```", GUARDS.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "guards.jsonl").write_text(example)
    live = serve(remote={"guard-prompts": f"prompts@{tmp_path / 'guards.jsonl'}"})
    assert live.client.tasks("guard-prompts", "test").tasks == ["refund", "rude"]
    for answer, right in (("Within 14  Days, yes.", 1.0), ("Within 140 days.", 0.0)):
        episode = live.client.open_episode(EpisodeOpen(environment="guard-prompts", task="refund"))
        assert episode.messages[0].content == "May I return a used phone?"
        result = live.client.step(episode.id, answer)
        assert (result.terminated, result.reward) == (True, right)
