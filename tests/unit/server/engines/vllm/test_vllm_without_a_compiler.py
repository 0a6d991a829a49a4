"""vLLM's CPU build serves on a machine without a C++ compiler."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.engines.options import VllmOptions
from server.engines.vllm import command as vllm_command


@pytest.mark.parametrize("compiler", [True, False])
def test_the_sampler_is_compiled_only_where_there_is_a_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(vllm_command, "is_cpu_build", lambda: True)
    if compiler:
        (tmp_path / "g++").touch(0o755)
    assert ("TORCHDYNAMO_DISABLE" in vllm_command.environment(VllmOptions())) == (not compiler)
