"""`upturn policies export`: a trained version becomes a model of its own, with a card that says where it comes from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from server.__main__ import main
from server.commands.model_card import model_card
from server.store.tables import PolicyVersionRow
from server.training.judging.shares import wilson
from tests.support.live import Live
from tests.support.runs.gated import ENVIRONMENT, served, trained
from tests.support.runs.learned import record_group, serve_tiny, wait_for
from tests.support.runs.scripted import FEW_LIVE
from upturn.wire import OptimizerConfig, RunConfig, RunRequest

IDS = torch.tensor([list(range(60, 120))])


def learned(live: Live, kind: str) -> str:
    """Train one step; return the run."""
    record_group(live)
    optimizer = OptimizerConfig(lr=1e-2)
    config = RunConfig(steps=1, kind=kind, algorithm="rloo", live=FEW_LIVE, optimizer=optimizer)
    ended = wait_for(live, live.client.create_run(RunRequest(config=config)).id)
    assert (ended.state, ended.last_version) == ("done", 1), ended.reason
    return ended.id


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits[0]


def test_a_trained_adapter_is_exported_merged_and_alone_while_the_server_runs(tmp_path: Path, capsys: Any) -> None:
    data = ["--data-dir", str(tmp_path / "data")]
    with serve_tiny(tmp_path, "local", "adapter") as live:
        run = learned(live, "adapter")
        assert main(["policies", "export", "head", str(tmp_path / "merged"), *data, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["version"], said["kind"], said["directory"]) == (1, "model", str(tmp_path / "merged"))
        assert main(["policies", "export", "policy@1", str(tmp_path / "adapter"), *data, "--adapter"]) == 0
        assert "policy@1 as adapter" in capsys.readouterr().out
        assert main(["policies", "export", "champion", str(tmp_path / "base"), *data, "--base", "Some/Model"]) == 0
    merged, alone, base = (
        logits(kind.from_pretrained(tmp_path / name))
        for kind, name in (
            (AutoModelForCausalLM, "merged"),
            (AutoPeftModelForCausalLM, "adapter"),
            (AutoModelForCausalLM, "base"),
        )
    )
    assert torch.allclose(merged, alone, atol=1e-4) and not torch.allclose(merged, base, atol=1e-3)
    assert torch.equal(base, logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model")))
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    card = (tmp_path / "merged" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and "base_model:" not in card
    assert f"Run `{run}`: rloo, learner steps 0 to 0, 3 episodes (0 played by the server, 3 of live agents)." in card
    assert "| policy@1 | adapter |" in card and "| policy@0 | base |" in card
    assert '"lr": 0.01' in card and "has not been evaluated" in card
    assert str(tmp_path) not in card, "a card contains no paths"
    alone_card, base_card = ((tmp_path / name / "README.md").read_text() for name in ("adapter", "base"))
    assert "library_name: peft" in alone_card and "AutoPeftModelForCausalLM" in alone_card
    assert 'base_model: "Some/Model"' in base_card and "It was not trained here." in base_card


def test_full_weights_are_exported_as_they_served(tmp_path: Path, capsys: Any) -> None:
    data = ["--data-dir", str(tmp_path / "data")]
    with serve_tiny(tmp_path, "local", "full") as live:
        learned(live, "full")
        path = Path(live.client.policies().data[0].path)
        assert main(["policies", "export", "champion", str(tmp_path / "out"), *data]) == 0
        assert main(["policies", "export", "champion", str(tmp_path / "no"), *data, "--adapter"]) == 1
        assert "trained as full weights and has no adapter: omit --adapter" in capsys.readouterr().err
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(exported), logits(AutoModelForCausalLM.from_pretrained(path)))


def test_what_cannot_be_exported_is_refused_in_one_line_and_leaves_nothing(tmp_path: Path, capsys: Any) -> None:
    with served(tmp_path) as live:
        trained(live, "win")
        data = ["--data-dir", str(live.parts.settings.data_dir)]
        (tmp_path / "taken").mkdir()
        for arguments, says in (
            (["7", "x"], "version 7 does not exist"),
            (["best", "x"], "'best' is not a version"),
            (["²", "x"], "is not a version"),
            (["0", "x", "--adapter"], "is the base model and has no adapter"),
            (["1", "taken"], "exists: name a new directory"),
            (["1", "x"], "has no config.json"),  # The scripted engine's weights are not a model.
        ):
            target = [arguments[0], str(tmp_path / arguments[1]), *arguments[2:]]
            assert main(["policies", "export", *target, *data]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert says in line
        assert not (tmp_path / "x").exists() and not (tmp_path / "x.unfinished").exists()
        assert list((tmp_path / "taken").iterdir()) == []
    assert main(["policies", "export", "champion", str(tmp_path / "x"), "--data-dir", str(tmp_path / "nowhere")]) == 1
    assert "there is no database" in capsys.readouterr().err


def test_the_card_shows_evaluations_with_intervals_and_the_gates_comparison(tmp_path: Path) -> None:
    with served(tmp_path, "adapter") as live:
        run = trained(live, "win", "adapter")
        assert run.gate == "promoted"
        with live.parts.database.read() as session:
            row = session.get_one(PolicyVersionRow, 1)
            card = model_card(session, row, base="model", on_hub=False, adapter=True)
            of_base = model_card(session, session.get_one(PolicyVersionRow, 0), base="m", on_hub=False, adapter=False)
    interval = wilson(1.0, 12)
    assert f"| {ENVIRONMENT} | 2 | 12 | 24 | 100.0% | {interval.low:.1%} to 100.0% |" in card
    assert "Compared with version 0 on the same tasks and seeds, at horizon 2: promoted" in card
    assert f"| {ENVIRONMENT} | 12 | 0.0% | 100.0% | +100.0% [+100.0%, +100.0%] |" in card
    assert f"| {ENVIRONMENT} | 2 | 12 | 24 | 0.0% |" in of_base
    assert "train/0" not in card, "a card names no task"


@pytest.mark.parametrize(
    ("share", "count", "low", "high"), [(0.5, 10, 0.2366, 0.7634), (0.0, 20, 0.0, 0.1611), (1.0, 5, 0.5655, 1.0)]
)
def test_the_interval_is_wilsons(share: float, count: int, low: float, high: float) -> None:
    found = wilson(share, count)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_killed_export_is_replaced(tmp_path: Path) -> None:
    with serve_tiny(tmp_path, "local", "adapter"):
        (tmp_path / "out.unfinished").mkdir()
        (tmp_path / "out.unfinished" / "model.safetensors").write_text("half")
        assert main(["policies", "export", "0", str(tmp_path / "out"), "--data-dir", str(tmp_path / "data")]) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out") is not None
    shutil.rmtree(tmp_path / "out")
