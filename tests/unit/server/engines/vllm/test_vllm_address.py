"""Where vLLM listens: its control routes need no key, so nobody but the server may reach them."""

from __future__ import annotations

import gc
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from aiohttp import web

from server.engines.options import VllmOptions
from server.engines.vllm.address import own_address
from server.engines.vllm.http import VllmHttp
from server.engines.vllm.process import VllmProcess, answers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")


@pytest.mark.parametrize("deep", [False, True])
def test_vllm_listens_on_a_short_path_in_a_directory_of_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deep: bool
) -> None:
    if deep:
        (tmp_path / ("d" * 100)).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("d" * 100)))
    address, other = own_address(None), own_address(None)
    assert address.path is not None and address.path != other.path and len(str(address.path)) < 104
    assert address.arguments == ["--uds", str(address.path)]
    folder = address.path.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    del address
    gc.collect()
    assert not folder.exists()
    assert not list(tmp_path.glob("*/*"))


def test_a_configured_port_is_kept() -> None:
    assert own_address(8123).arguments == ["--host", "127.0.0.1", "--port", "8123"]


async def test_health_and_control_requests_reach_the_socket(tmp_path: Path) -> None:
    async def echoed(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path, "body": await request.text()})

    address = VllmProcess(VllmOptions(), tmp_path, tmp_path).address
    assert address.path is not None and not await answers(address)
    app = web.Application()
    app.router.add_get("/health", echoed)
    app.router.add_post("/pause", echoed)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(address.path)).start()
    http = VllmHttp(lambda: None)
    http.open(address)
    try:
        assert await answers(address)
        assert await http.control("POST", "/pause", {"a": 1}) == {"path": "/pause", "body": '{"a": 1}'}
    finally:
        await http.close()
        await runner.cleanup()
