"""Versions to swap, and the check of which version sampled what. Used by `hot_swap.py`.

A handful of weight sets differ by random noise, so that their logprobs are far apart. Each set is published repeatedly
under new version numbers, by hard links to the same files and a separate manifest.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from learner.model.load import load_policy
from learner.model.policy import Policy
from learner.packing import pack
from learner.publish import Version, write_version
from server.recording.tokens import unpack_ids, unpack_logprobs
from upturn.client import Client
from upturn.manifest import MANIFEST, write_manifest
from upturn.wire import PolicyPublish, RunClaim, RunConfig, RunRequest, Sample

NOISE = {"full": 0.15, "adapter": 0.05}
"""Standard deviation of the noise: relative to the tensor's for full weights, absolute for an adapter's `lora_B`."""
LEARNER = "hot-swap"


@dataclass
class Versions:
    """A few sets of weights, and the run that publishes them."""

    kind: Literal["full", "adapter"]
    base: Path
    root: Path
    written: list[Version]
    run_id: str = ""
    weights_of: dict[int, int] | None = None
    """Set of each version number."""

    @classmethod
    def write(cls, kind: Literal["full", "adapter"], base: Path, root: Path, sets: int) -> Versions:
        """Write `sets` sets of weights."""
        policy = load_policy(base, None, RunConfig(steps=1, kind=kind), torch.device("cpu"))
        begun = policy.snapshot()
        written = []
        for number in range(sets):
            generator = torch.Generator().manual_seed(number)
            policy.load_weights({name: _noisy(kind, name, tensor, generator) for name, tensor in begun.items()})
            written.append(write_version(policy, root / "sets", number, {"run_id": "benchmark", "horizon": 1}))
        return cls(kind, base, root, written, weights_of={})

    def begin(self, client: Client) -> None:
        """Claim a run, as a learner does."""
        client.create_run(RunRequest(config=RunConfig(steps=1_000_000, kind=self.kind)))
        run = client.claim_run(RunClaim(learner=LEARNER))
        assert run is not None
        self.run_id = run.id

    def linked(self, number: int) -> tuple[Path, str]:
        """Return a new directory with the weights of set `number % sets`, and its manifest's hash."""
        version = self.written[number % len(self.written)]
        made = self.root / "published" / f"{self.run_id or 'bare'}-{next(_numbers):06d}"
        made.mkdir(parents=True)
        for file in version.directory.iterdir():
            if file.name != MANIFEST:
                os.link(file, made / file.name)
        facts = json.loads((version.directory / MANIFEST).read_text())
        facts.pop("files", None)
        return made, write_manifest(made, {**facts, "number": made.name})

    def publish(self, client: Client, number: int, written: tuple[Path, str]) -> int:
        """Publish a directory from `linked`; return its version once it serves."""
        directory, sha256 = written
        version = client.publish(
            PolicyPublish(
                run_id=self.run_id,
                learner=LEARNER,
                step=number,
                path=str(directory),
                manifest_sha256=sha256,
                probe=self.written[number % len(self.written)].probe,
            )
        ).version
        assert self.weights_of is not None
        self.weights_of[version] = number % len(self.written)
        return version

    def check(self, database: Path, most: int) -> dict[str, Any]:
        """Recompute recorded tokens with the weights of their recorded version, and with all others.

        Returns the mean difference from the recorded logprobs in nats, for the own and the closest other version; the
        number of spans that fit their own version best; and counts. Turns with two versions are preferred: only a swap
        produces them.
        """
        policies = [self._policy(version) for version in self.written]
        assert self.weights_of is not None
        own, other, right, spans, mixed = [], [], 0, 0, 0
        for nodes in _turns(database, most, set(self.weights_of)):
            mixed += len({version for _, version, _ in nodes if version is not None}) > 1
            ids: list[int] = []
            for node_ids, version, logprobs in nodes:
                if version is not None and version in self.weights_of:
                    gaps = [_gap(policy, ids, node_ids, logprobs) for policy in policies]
                    mine = gaps.pop(self.weights_of[version])
                    spans, right = spans + 1, right + (mine < min(gaps))
                    own.append(mine)
                    other.append(min(gaps))
                ids = ids + node_ids
        return {
            "spans": spans,
            "turns_with_two_versions": mixed,
            "right": right,
            "own_nats": float(np.mean(own)),
            "nearest_other_nats": float(np.mean(other)),
        }

    def _policy(self, version: Version) -> Policy:
        config = RunConfig(steps=1, kind=self.kind)
        if self.kind == "full":
            return load_policy(version.directory, None, config, torch.device("cpu"))
        return load_policy(self.base, version.directory, config, torch.device("cpu"))


_numbers = count()


def _noisy(kind: str, name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if kind == "adapter" and "lora_B" not in name:
        return tensor
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)
    scale = NOISE[kind] * (tensor.float().std().item() if kind == "full" else 1.0)
    return tensor + scale * noise if tensor.dim() > 1 else tensor


def _turns(database: Path, most: int, versions: set[int]) -> list[list[tuple[list[int], int | None, list[float]]]]:
    """Return the tokens of up to `most` turns, as (ids, version, logprobs) per node.

    Up to half of them have an answer with two versions.
    """
    with sqlite3.connect(database) as connection:
        found = connection.execute(
            "SELECT turn_id, token_ids, policy_version, logprobs FROM node WHERE turn_id IN (SELECT turn_id FROM node "
            f"WHERE policy_version IN ({','.join(map(str, versions))})) ORDER BY id"
        ).fetchall()
    turns: dict[str, list[tuple[list[int], int | None, list[float]]]] = {}
    for turn, ids, version, logprobs in found:  # Every answer here is the first of its episode.
        turns.setdefault(turn, []).append((unpack_ids(ids), version, unpack_logprobs(logprobs) if logprobs else []))
    two = [nodes for nodes in turns.values() if sum(version is not None for _, version, _ in nodes) > 1]
    one = [nodes for nodes in turns.values() if nodes not in two]
    rng = random.Random(0)
    chosen = rng.sample(two, min(len(two), most // 2))
    return chosen + rng.sample(one, min(len(one), most - len(chosen)))


def _gap(policy: Policy, before: list[int], ids: list[int], logprobs: list[float]) -> float:
    """Return the mean absolute difference in nats between recorded logprobs and a policy's."""
    sample = Sample(
        episode_id="check",
        group=None,
        token_ids=[*before, *ids],
        reward=0.0,
        loss_mask=[0] * len(before) + [1] * len(ids),
        logprobs=[0.0] * len(before) + logprobs,
        temperatures=[1.0] * (len(before) + len(ids)),
    )
    (row,) = pack([sample])
    with torch.no_grad():
        found = policy.logprobs(row).values.tolist()
    return sum(abs(a - b) for a, b in zip(found, logprobs, strict=True)) / len(logprobs)
