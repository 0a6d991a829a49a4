"""An adapter that is tried is loaded, checked and unloaded, and is never a version."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.engines.protocol import Weights
from server.engines.scripted import scripted_logprobs
from server.errors import BadRequest, Conflict, NotFound
from server.store.tables import PolicyVersionRow
from server.versions.routing import TRIAL
from server.wiring.parts import Parts
from tests.support.in_process import PROBE, rows, running
from tests.support.live import in_process, script, settings_for
from upturn.manifest import write_manifest
from upturn.wire import Probe


def adapter(home: Path, answer: str, kind: str = "adapter") -> tuple[Path, str]:
    directory = script(home / "data" / answer, answer)
    return directory, write_manifest(directory, {"kind": kind})


def loaded(parts: Parts) -> tuple[frozenset[int], list[int]]:
    return parts.engine.versions, [row.version for row in rows(parts, PolicyVersionRow)]


async def test_an_adapter_that_agrees_leaves_no_version(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "hi")), weights="adapter")
    async with running(settings) as parts:
        before = loaded(parts)
        path, sha256 = adapter(tmp_path, "good")
        check = await parts.publisher.try_adapter(
            path, sha256, Probe(token_ids=PROBE, logprobs=scripted_logprobs(path, PROBE))
        )
        assert check.mean == 0 and loaded(parts) == before


async def test_an_adapter_that_is_refused_is_unloaded_too(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "hi")), weights="adapter")
    async with running(settings) as parts:
        before, (path, sha256) = loaded(parts), adapter(tmp_path, "other")
        wrong = Probe(token_ids=PROBE, logprobs=[-9.0] * (len(PROBE) - 1))
        with pytest.raises(Conflict, match="not the trained ones"):
            await parts.publisher.try_adapter(path, sha256, wrong)
        with pytest.raises(BadRequest, match="adapter weights, but the manifest says 'full'"):
            await parts.publisher.try_adapter(*adapter(tmp_path, "full", "full"), wrong)
        assert loaded(parts) == before


async def test_no_name_means_an_adapter_that_is_being_tried(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "hi")), weights="adapter")
    async with in_process(settings) as served:
        before = (await served.http.get("/v1/models")).json()
        await served.parts.engine.load(Weights(TRIAL, "adapter", adapter(tmp_path, "trial")[0]))
        assert (await served.http.get("/v1/models")).json() == before
        with pytest.raises(NotFound, match=r"loaded: policy@0$"):
            served.parts.pointers.resolve(f"policy@{TRIAL}", served.parts.engine)
