"""GPU assignment of engine and learner: a fixed split of one GPU, or one each, with numbers in every message."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.engines.gpus import Gpu, list_gpus, read_gpus
from server.engines.settings import EngineSettings
from server.models.weights import weights_bytes
from server.placement import place
from server.section import SettingsError
from server.training.settings import LearnerSettings

GIB = 2**30
ONE = [Gpu(0, "H100", 80 * GIB)]
TWO = [*ONE, Gpu(1, "H100", 80 * GIB)]
ENGINE, LEARNER = EngineSettings(), LearnerSettings()


def test_without_a_gpu_both_compute_on_the_cpu() -> None:
    placed = place([], ENGINE, LEARNER, GIB)
    assert (placed.engine_gpu, placed.learner_gpus, placed.learner_share) == (None, (), None)
    assert placed.learner_variables == {}


def test_one_gpu_is_shared_by_a_fixed_split_and_reported_in_numbers() -> None:
    placed = place(ONE, ENGINE, LEARNER, 14 * GIB)
    assert (placed.engine_gpu, placed.learner_gpus, placed.learner_share) == (0, (0,), 0.45)
    assert placed.message == (
        "GPU 0 (H100, 80.0 GiB): vLLM has 36.0 GiB (engine.gpu_memory 0.45), of which 14.0 GiB are weights; the "
        "learner may take 36.0 GiB (learner.gpu_memory 0.45), 8.0 GiB stay free"
    )


def test_a_second_gpu_belongs_to_the_learner_unless_settings_say_otherwise() -> None:
    placed = place(TWO, EngineSettings(gpu_memory=0.9), LEARNER, GIB)
    assert (placed.engine_gpu, placed.learner_gpus, placed.learner_share) == (0, (1,), None)
    assert placed.learner_variables["CUDA_VISIBLE_DEVICES"] == "1"
    other = place(TWO, EngineSettings(gpu=1), LEARNER, GIB)
    assert (other.engine_gpu, other.learner_gpus) == (1, (0,))
    shared = place(TWO, ENGINE, LearnerSettings(gpu=0), GIB)
    assert (shared.learner_gpus, shared.learner_share) == ((0,), 0.45)


def test_each_learner_process_has_its_own_gpu() -> None:
    placed = place([*TWO, Gpu(2, "H100", 80 * GIB)], ENGINE, LearnerSettings(processes=2), GIB)
    assert (placed.engine_gpu, placed.learner_gpus, placed.learner_share) == (0, (1, 2), None)
    assert placed.learner_variables["CUDA_VISIBLE_DEVICES"] == "1,2"


def test_a_learner_on_another_machine_gets_no_gpu_here() -> None:
    placed = place(ONE, EngineSettings(gpu_memory=0.9), LearnerSettings(start=False), GIB)
    assert (placed.engine_gpu, placed.learner_gpus) == (0, ())
    assert placed.message.endswith("the learner runs elsewhere")


@pytest.mark.parametrize(
    ("engine", "learner", "model_gib", "message"),
    [
        (
            EngineSettings(gpu_memory=0.6),
            LEARNER,
            1,
            r"would take 48\.0 GiB .*0\.6.* and 36\.0 GiB .*0\.45.*more than 95%: lower one",
        ),
        (ENGINE, LEARNER, 40, r"weights take 40\.0 GiB, but vLLM's share of GPU 0 \(80\.0 GiB\) is 36\.0 GiB"),
        (
            ENGINE,
            LearnerSettings(processes=2),
            1,
            "processes is 2, and each process needs a GPU of its own, but this machine has 0",
        ),
        (EngineSettings(gpu=2), LEARNER, 1, "engine.gpu is 2, but this machine has GPU 0"),
        (ENGINE, LearnerSettings(gpu=1), 1, "learner.gpu is 1, but this machine has GPU 0"),
    ],
)
def test_an_impossible_assignment_is_refused_with_the_numbers(
    engine: EngineSettings, learner: LearnerSettings, model_gib: int, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        place(ONE, engine, learner, model_gib * GIB)


def test_gpus_are_read_from_the_driver_unless_the_environment_hides_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = "0, NVIDIA H100 80GB HBM3, 81559\n1, NVIDIA H100 80GB HBM3, 81559\n"
    assert [(gpu.index, gpu.total_bytes) for gpu in read_gpus(listed)] == [(0, 81559 * 2**20), (1, 81559 * 2**20)]
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu.index for gpu in list_gpus()] == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.index for gpu in list_gpus()] == [1]


def test_the_size_of_a_models_weights_is_the_size_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(b"12345")
    (tmp_path / "model-2.safetensors").write_bytes(b"678")
    (tmp_path / "config.json").write_text("{}")
    assert weights_bytes(tmp_path) == 8
