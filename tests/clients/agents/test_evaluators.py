"""lm-eval and verifiers, unchanged: their scores are right, and each sample or rollout is an episode."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from server.engines.scripted import scripted_logprobs
from server.rendering.bytes_tokenizer import BytesTokenizer
from tests.support.database import recorded
from tests.support.live import Live
from tests.support.programs.agents import PRICES, TOTAL, Sandbox, policy
from tests.support.programs.interpreters import interpreter

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"

pytestmark = [pytest.mark.agents, pytest.mark.timeout(1200)]


def venv(name: str, program: str) -> Path:
    """Return a program of a venv."""
    return interpreter(name, HERE / "requirements" / f"{name}.txt").with_name(program)


GENERATION = {
    "task": "prices",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 40},
    "metric_list": [{"metric": "exact_match"}],
}
CHOICE = {
    **{name: GENERATION[name] for name in ("task", "dataset_path", "test_split", "doc_to_text")},
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}],
}
QUESTIONS = [
    {"question": f"What do {count} lamps cost?", "choices": ["It is 12.", "It is 30."], "answer": 0}
    for count in (1, 2, 3)
]


def lm_eval(home: Sandbox, task: dict[str, Any], model: str, url: str, *more: str) -> list[dict[str, Any]]:
    """Run a task of lm-eval, and return its samples."""
    data = home.work / "prices.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS))
    tasks = home.work / "tasks"
    tasks.mkdir()
    (tasks / "prices.yaml").write_text(json.dumps(task | {"dataset_kwargs": {"data_files": {"test": str(data)}}}))
    home.run(
        *(venv("lm_eval", "lm_eval"), "run", "--model", model, "--model_args", f"model=policy,base_url={url}{more[0]}"),
        *("--tasks", "prices", "--include_path", tasks, "--output_path", home.work / "out", "--log_samples", *more[1:]),
        OPENAI_API_KEY="sk-lm-eval",
    )
    (samples,) = (home.work / "out").rglob("samples_prices_*.jsonl")
    return [json.loads(line) for line in samples.read_text().splitlines()]


@pytest.mark.parametrize("temperature", [None, 1])
def test_lm_eval_generates(home: Sandbox, tmp_path: Path, temperature: float | None) -> None:
    chosen = () if temperature is None else ("--gen_kwargs", f"temperature={temperature}")
    with policy(tmp_path, "It is 12.") as live:
        url = f"{live.url}/v1/chat/completions"
        samples = lm_eval(home, GENERATION, "local-chat-completions", url, "", "--apply_chat_template", *chosen)
        assert [sample["exact_match"] for sample in samples] == [1, 1, 1]
        rows = recorded(live.parts.settings.data_dir)
        assert len({row["episode_id"] for row in rows}) == len(rows) == 3
        assert {row["untrainable_reason"] for row in rows} == {"greedy" if temperature is None else None}


def test_lm_eval_compares_likelihoods(home: Sandbox, tmp_path: Path) -> None:
    from tests.support.tiny_model import byte_tokenizer

    byte_tokenizer().save_pretrained(home.work / "tokenizer")
    with policy(tmp_path, "It is 12.") as live:
        arguments = f",tokenizer={home.work}/tokenizer,tokenizer_backend=huggingface,tokenized_requests=False"
        samples = lm_eval(home, CHOICE, "local-completions", f"{live.url}/v1/completions", arguments)
        seen = [float(score) for sample in samples for ((score, _),) in sample["resps"]]
        encode = BytesTokenizer().encode
        expected = []
        for question in QUESTIONS:
            prompt = encode(str(question["question"]))
            for choice in question["choices"]:
                logprobs = scripted_logprobs(tmp_path / "script", prompt + encode(f" {choice}"))
                expected.append(sum(logprobs[len(prompt) - 1 :]))
        assert seen == pytest.approx(expected)


VERIFIERS = """
model = "policy"
num_rollouts = 2
push = false
[client]
base_url = "{url}/v1"
api_key_var = "UPTURN_KEY"
[env.taskset]
id = "prices_taskset"
[env.agent.harness]
id = "null"
[env.agent.runtime]
type = "subprocess"
"""
UV = """#!/bin/sh
case "$*" in
*--help) echo --script ;;
"python find "*) echo {python} ;;
esac
"""
"""Stands in for uv, by which the harness downloads packages that the venv has."""


def test_verifiers_plays_a_task_set_and_each_of_its_rollouts_is_an_episode(home: Sandbox, tmp_path: Path) -> None:
    evaluate = venv("verifiers", "vf-eval")
    uv = home.home / ".local" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text(UV.format(python=evaluate.with_name("python")))
    uv.chmod(0o755)
    # The tool's name begins with its server's.
    answers = [answer.replace('"name": "price"', '"name": "shop_price"') for answer in PRICES]
    with policy(tmp_path, *answers) as live:
        (home.work / "eval.toml").write_text(VERIFIERS.format(url=live.url))
        variables = {"PYTHONPATH": str(PROGRAMS), "UPTURN_KEY": "sk-verifiers"}
        home.run(evaluate, "@", "eval.toml", "--no-rich", **variables)
        (traces,) = home.work.rglob("traces.jsonl")
        said = traces.read_text()
        assert said.count(TOTAL) >= 6, said[:4000]
        check_episodes(live, 6, len(answers))


def check_episodes(live: Live, episodes: int, turns: int) -> None:
    """Check the number of recorded episodes and the turns of each: all trainable, none forked."""
    rows = recorded(live.parts.settings.data_dir)
    assert sorted(Counter(row["episode_id"] for row in rows).values()) == [turns] * episodes
    assert not any(row["forked"] or row["untrainable_reason"] for row in rows)
