"""Checkpoints written while run configs had British keys still belong to their runs."""

from __future__ import annotations

import pytest

from learner.state.checkpoint import config_sha256
from upturn.wire import RunConfig

BRITISH = {
    "steps": 3,
    "algorithm": "ppo",
    "optimiser": {"lr": 1e-3},
    "normalise_std": False,
    "loss_normalisation": "sample",
    "kl_coef": 0.1,
}


@pytest.mark.parametrize(
    ("fields", "sha256"),
    [
        ({"steps": 3}, "ef09068a84a2a976ff4f1fe599ffc5d20f4ec0d0f26bcf5dee902cbdc9084c8c"),
        (BRITISH, "84798de86a48155b51ae2b66cbf8c0ad7264d86e9981ed70389bb46dda471151"),
    ],
    ids=["defaults", "every renamed key"],
)
def test_the_hash_of_a_config_is_what_checkpoints_with_british_keys_recorded(fields: dict, sha256: str) -> None:
    assert config_sha256(RunConfig.model_validate(fields)) == sha256


def test_a_field_that_old_checkpoints_lack_counts_once_it_is_set() -> None:
    plain, bonus = RunConfig(steps=3), RunConfig(steps=3, entropy_coef=0.001)
    assert config_sha256(plain) == config_sha256(RunConfig(steps=3, entropy_coef=0.0)) != config_sha256(bonus)
