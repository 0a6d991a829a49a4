"""Several learner processes get the results of one and end together; a checkpoint fits any number of processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.main import get_group

from learner.__main__ import app
from learner.loop import do_next_run
from learner.parallel.deal import deal
from server.training.learner_process import program
from server.training.settings import LearnerSettings
from tests.support.learner_process import work
from tests.support.tiny_model import make_tiny_model
from tests.unit.learner.test_learner_loop import CONFIG, set_up
from tests.unit.learner.test_learner_program import held_at_publishing, over_http
from tests.unit.learner.test_learner_samples import random_samples, unguarded
from upturn.wire import OptimizerConfig

ROOT = Path(__file__).parents[2]
PLAIN = unguarded(steps=4, optimizer=OptimizerConfig(lr=1e-4))  # Adam turns a gradient near 0 into up to twice lr
CONFIGS = {
    "grpo": PLAIN.model_copy(
        update={"kl_coef": 0.05, "minibatches": 2, "reference_reset_every": 2, "entropy_coef": 0.1}
    ),
    "ppo": PLAIN.model_copy(update={"algorithm": "ppo", "minibatches": 2, "loss_normalization": "sample"}),
    "dpo": PLAIN.model_copy(update={"algorithm": "dpo"}),
    "sft": PLAIN.model_copy(update={"algorithm": "sft", "loss_normalization": "sample"}),
    "adapter": PLAIN.model_copy(update={"kind": "adapter", "lora_rank": 4, "kl_coef": 0.05}),
}


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tests/support/learner_process.py` as two processes and wait for their end."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "tests.support.learner_process",
        *arguments,
    ]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=200,
        check=False,
    )


def order_of(tmp_path, model, name, config, steps=(0, 3), **more):
    return {
        "model": str(model),
        "config": json.loads(config.model_dump_json()),
        "steps": steps,
        "max_row_tokens": 4096,
        "out": str(tmp_path / name),
        **more,
    }


def in_two(tmp_path, orders) -> None:
    """Carry out orders in two processes."""
    file = tmp_path / "orders.json"
    file.write_text(json.dumps(orders))
    done = torchrun(str(file))
    assert done.returncode == 0, done.stdout[-6000:]


def outcome(order):
    out = Path(order["out"])
    return load_file(out.with_suffix(".safetensors")), json.loads(out.read_text())


def assert_same(one, other, tolerance=1e-5):
    (weights, metrics), (other_weights, other_metrics) = outcome(one), outcome(other)
    for name, weight in weights.items():
        assert float((other_weights[name] - weight).abs().max()) < tolerance, name
    for step, others in zip(metrics, other_metrics, strict=True):
        assert set(step) == set(others)
        for name in set(step) - {"train_s", "tokens_per_s", "rows", "packed_tokens"}:
            assert others[name] == pytest.approx(step[name], rel=tolerance, abs=tolerance), name


def test_weights_and_metrics_do_not_depend_on_the_number_of_processes_or_the_row_length(tmp_path):
    torch.set_num_threads(1)
    model = make_tiny_model(tmp_path / "base")
    alone = {name: order_of(tmp_path, model, f"{name}-1", config) for name, config in CONFIGS.items()}
    short = {
        name: order_of(tmp_path, model, f"{name}-1-short", config, max_row_tokens=24)
        for name, config in CONFIGS.items()
    }
    two = {name: order_of(tmp_path, model, f"{name}-2", config) for name, config in CONFIGS.items()}
    two_short = {
        name: order_of(tmp_path, model, f"{name}-2-short", config, max_row_tokens=24)
        for name, config in CONFIGS.items()
    }
    broken = [
        order_of(tmp_path, model, f"broken-{processes}", CONFIGS["grpo"], max_row_tokens=1, broken=True)
        for processes in (1, 2)
    ]
    in_two(tmp_path, [*two.values(), *two_short.values(), broken[1]])
    for name in CONFIGS:
        for order in (alone[name], short[name]):
            work(order)
        for other in (short, two, two_short):
            assert_same(alone[name], other[name])
    work(broken[0])
    assert outcome(broken[0])[1][0]["nonfinite_tokens"] > 0
    assert_same(*broken)


def test_a_checkpoint_of_one_process_resumes_in_two_and_of_two_in_one(tmp_path):
    torch.set_num_threads(1)
    model = make_tiny_model(tmp_path / "base")
    names = ("grpo", "ppo", "adapter")
    whole = {
        name: order_of(tmp_path, model, f"{name}-whole", CONFIGS[name], (2, 4), load=str(tmp_path / name / "1"))
        for name in names
    }
    begun, resumed, two_begun = {}, {}, {}
    for name in names:
        one, two = str(tmp_path / name / "1"), str(tmp_path / name / "2")
        begun[name] = order_of(tmp_path, model, f"{name}-begun", CONFIGS[name], (0, 2), save=one)
        work(begun[name])
        resumed[name] = order_of(tmp_path, model, f"{name}-2", CONFIGS[name], (2, 4), load=one)
        two_begun[name] = order_of(tmp_path, model, f"{name}-2-begun", CONFIGS[name], (0, 2), save=two)
    in_two(tmp_path, [*resumed.values(), *two_begun.values()])
    for name in names:
        uninterrupted = order_of(tmp_path, model, f"{name}-uninterrupted", CONFIGS[name], (0, 4))
        work(uninterrupted)
        work(whole[name])
        in_one = order_of(tmp_path, model, f"{name}-1", CONFIGS[name], (2, 4), load=str(tmp_path / name / "2"))
        work(in_one)
        weights, metrics = outcome(uninterrupted)
        for order in (whole[name], resumed[name], in_one):
            assert [m["loss"] for m in outcome(order)[1]] == pytest.approx([m["loss"] for m in metrics[2:]], abs=1e-6)
            for weight, kept in outcome(order)[0].items():
                torch.testing.assert_close(kept, weights[weight], rtol=0, atol=1e-5)


def options(url, tmp_path):
    return [
        "--server",
        url,
        "--once",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--learner",
        "me",
        "--work-dir",
        str(tmp_path / "work"),
    ]


def launched(url, tmp_path):
    command = [sys.executable, "-m", "learner", "launch", "--processes", "2", *options(url, tmp_path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@contextlib.contextmanager
def ended(process):
    """End a launcher with its processes at the end of the `with` block."""
    try:
        yield
    finally:
        process.terminate()  # killed at once, it could not end processes that have not met yet
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def test_launched_processes_train_a_run_like_one_and_only_one_talks_to_the_server(tmp_path):
    server, _ = set_up(tmp_path, CONFIG.model_copy(update={"checkpoint_every": 1}))
    with over_http(server) as url:
        process = launched(url, tmp_path)
        with ended(process):
            output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert (server.run.state, server.run.step) == ("done", 3), output
    assert [ack["state"] for _, ack in server.acks] == ["trained"] * 3
    assert server.horizons == [4, 4, 8]
    alone, settings = set_up(tmp_path / "alone")
    do_next_run(alone.client(), settings)
    for mine, other in zip(server.versions[1:], alone.versions[1:], strict=True):
        one, two = (load_file(Path(v.path) / "model.safetensors") for v in (mine, other))
        assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-5) for name in two)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_killed_process_ends_the_others_with_a_clear_message_and_a_stop_returns_the_batch(tmp_path, how):
    server, _ = set_up(tmp_path)
    publishing, leave = held_at_publishing(server)
    with over_http(server) as url:
        process = launched(url, tmp_path)
        with ended(process):
            try:
                assert publishing.wait(120), "no version was published"
                if how == "kill":
                    os.kill(second_of(process.pid), signal.SIGKILL)
                else:
                    process.send_signal(signal.SIGTERM)
                output, _ = process.communicate(timeout=20)
            finally:
                leave.set()
    assert server.run.state == "running", output  # for the next learner that claims it
    assert [ack["state"] for _, ack in server.acks] == ["returned"], output
    assert "Traceback" not in output
    if how == "kill":
        assert process.returncode == 1
        assert "process 1 of the learner was ended by SIGKILL, so all were ended" in output
    else:
        assert process.returncode == 0
        assert "stopped by SIGTERM" in output


def test_an_error_in_one_process_fails_the_run_with_its_reason(tmp_path):
    server, _ = set_up(tmp_path)
    with over_http(server) as url:
        done = torchrun("run", *options(url, tmp_path))
    assert done.returncode == 1, done.stdout
    assert server.run.state == "failed", done.stdout
    assert server.run.reason.startswith("process 1 of 2: a row of tokens does not fit into memory"), done.stdout
    assert [ack["state"] for _, ack in server.acks] == ["returned"]


def second_of(launcher):
    """Return the process id of a launcher's child with rank 1."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError("the launcher has no second process")


@pytest.mark.parametrize("processes", [1, 2])
def test_the_server_starts_the_number_of_processes_in_its_settings(processes):
    settings = LearnerSettings(processes=processes, threads=3)
    _, dash_m, module, command, *arguments = program(settings)
    assert (dash_m, module, command) == ("-m", "learner", "run" if processes == 1 else "launch")
    commands = get_group(app).commands
    if processes > 1:
        context = commands["launch"].make_context("launch", arguments)
        assert context.params["processes"] == processes
        arguments = context.args
    arguments = [*arguments, "--server", "http://upturn", "--once"]
    assert commands["run"].make_context("run", arguments).params["threads"] == 3


def test_samples_are_dealt_whole_with_about_the_same_number_of_tokens_for_each_process():
    samples = random_samples(groups=8)
    for processes in (1, 2, 3, 40):
        dealt = deal(samples, processes)
        assert sorted(i for numbers in dealt for i in numbers) == list(range(len(samples)))
        tokens = [sum(len(samples[i].token_ids) for i in numbers) for numbers in dealt]
        assert max(tokens) - min(tokens) <= 2 * max(len(s.token_ids) for s in samples)
    assert deal([], 2) == [[], []]
