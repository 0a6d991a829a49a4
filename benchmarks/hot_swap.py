"""Cost of a hot swap for clients being served: failures, pauses, time to the first new answer, memory.

    .venv/bin/python benchmarks/hot_swap.py [--quick] [--kind full|adapter] [--model NAME] [--swaps N]

The unmodified `python -m server serve` with a real vLLM; 8, then 32 continuous streams, while new versions are
published one after another. For full weights, the same swap is also performed on a vLLM without a server in front:
pause, reload, resume. Finally the logprobs of recorded answers are recomputed with the weights of their recorded
version.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.environments import memory_mib
from benchmarks.support.swap_load import Observed, quantile, streams
from benchmarks.support.swap_versions import Versions
from clients.demo.machine import machine
from clients.demo.server_process import ServerProcess, free_port
from server.engines.options import VllmOptions
from server.engines.vllm.command import BASE_MODEL
from server.engines.vllm.process import VllmProcess
from server.models.source import resolve_model
from tests.support.tiny_model import make_tiny_model
from upturn.client import Client

SMALL = "smollm2-135m-instruct"
SETS = 3
QUIET_S, AFTER_S, ENDED_S = 40.0, 1.0, 5.0
PATIENCE_S = 120.0
"""Maximum wait for the first answer of a new version; the benchmark fails after it."""
Kind = Literal["full", "adapter"]


async def through_the_server(
    kind: Kind, base: Path, folder: Path, at_once: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Swap under load; return the clients' measurements."""
    data = folder / "data"
    versions = await asyncio.to_thread(Versions.write, kind, base, data / "learner", SETS)
    flags = [
        "--model",
        str(base),
        "--engine.kind",
        "vllm",
        "--weights",
        kind,
        "--no-learner.start",
        "--engine.max-concurrent",
        str(at_once),
    ]
    with (
        ServerProcess(data, free_port(), flags, lambda *_: None) as server,
        Client(server.url, timeout_s=600) as client,
    ):
        process = next(p for p in psutil.Process().children() if str(data) in " ".join(p.cmdline()))
        versions.begin(client)
        memory = {"1 version": memory_mib(process)}
        async with streams(server.url, "policy@head", at_once, arguments.tokens) as observed:
            if kind == "adapter":  # Adapters are slower than the base: measure the baseline with one loaded.
                written = await asyncio.to_thread(versions.linked, arguments.swaps)
                await asyncio.to_thread(versions.publish, client, arguments.swaps, written)
                await asyncio.sleep(ENDED_S)
            quiet = time.monotonic(), await _later(QUIET_S)
            spans = []
            for number in range(arguments.swaps):
                written = await asyncio.to_thread(versions.linked, number)
                at = time.monotonic()
                version = await asyncio.to_thread(versions.publish, client, number, written)
                published = time.monotonic()
                name = f"policy@{version}"
                async with asyncio.timeout(PATIENCE_S):
                    while name not in observed.first:
                        await asyncio.sleep(0.01)
                await asyncio.sleep(AFTER_S)
                spans.append((at, published, observed.first[name]))
                if kind == "adapter" and number < 3:
                    memory[f"{number + 2} versions"] = memory_mib(process)
                await asyncio.to_thread(client.heartbeat_run, versions.run_id, "hot-swap")
            if kind == "full":
                memory[f"after {arguments.swaps} swaps"] = memory_mib(process)
        result = figures(observed, quiet, spans)
    result |= {
        "memory_mib": memory,
        "failed": observed.failed[:5],
        "failures": len(observed.failed),
        "answers": observed.answers,
    }
    return result | {"versions": await asyncio.to_thread(versions.check, data / "upturn.db", arguments.check)}


async def bare(base: Path, folder: Path, at_once: int, swaps: int, tokens: int) -> dict[str, Any]:
    """Swap full weights in a vLLM without a server: pause keeping requests, reload, resume."""
    folder.mkdir(parents=True)
    versions = await asyncio.to_thread(Versions.write, "full", base, folder / "versions", SETS)
    options = VllmOptions(max_model_len=2048, max_num_seqs=at_once, port=free_port())
    vllm = VllmProcess(options, base, folder, lambda *_: None)
    url = vllm.address.url
    await vllm.start()
    try:
        async with aiohttp.ClientSession() as control, streams(url, BASE_MODEL, at_once, tokens) as observed:
            quiet = time.monotonic(), await _later(QUIET_S)
            spans = []
            for number in range(swaps):
                directory, _ = await asyncio.to_thread(versions.linked, number)
                at = time.monotonic()
                for path, body in (
                    ("/pause?mode=keep&clear_cache=true", None),
                    ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}}),
                    ("/resume", None),
                ):
                    async with control.post(url + path, json=body) as answer:
                        answer.raise_for_status()
                done = time.monotonic()
                await asyncio.sleep(AFTER_S)
                spans.append((at, done, done))
        return figures(observed, quiet, spans)
    finally:
        await vllm.stop()


async def _later(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return time.monotonic()


def figures(observed: Observed, quiet: tuple[float, float], spans: list[tuple[float, float, float]]) -> dict[str, Any]:
    """Return the pauses with and without swaps, in seconds."""
    gaps = observed.all_between(*quiet)
    worst = [observed.longest(at, published + AFTER_S / 2) for at, published, _ in spans]
    as_long = statistics.median(published - at for at, published, _ in spans) + AFTER_S / 2
    others = [
        observed.longest(quiet[0] + part * as_long, quiet[0] + (part + 1) * as_long)
        for part in range(max(1, int((quiet[1] - quiet[0]) / as_long)))
    ]
    return {
        "gap_p50_s": quantile(gaps, 0.5),
        "gap_p99_s": quantile(gaps, 0.99),
        "gap_max_s": gaps[-1],
        "quiet_gap_p50_s": statistics.median(others),
        "swap_gap_p50_s": statistics.median(worst),
        "swap_gap_max_s": max(worst),
        "publish_s": statistics.median(published - at for at, published, _ in spans),
        "first_answer_s": statistics.median(first - at for at, _, first in spans),
        "swaps": len(spans),
    }


async def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each kind of weights and each load."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="upturn-swap-") as name:
        folder = Path(name)
        base = (
            make_tiny_model(folder / "tiny")
            if arguments.model == "tiny"
            else resolve_model(arguments.model, Path("data/models").absolute())
        )
        for kind in [arguments.kind] if arguments.kind else ["full", "adapter"]:
            for at_once in arguments.at_once:
                where = folder / f"{kind}-{at_once}"
                _log(f"{kind}, {at_once} streams")
                row = {
                    "kind": kind,
                    "at_once": at_once,
                    **await through_the_server(kind, base, where, at_once, arguments),
                }
                if kind == "full":
                    _log(f"{kind}, {at_once} streams, the bare engine")
                    row["bare"] = await bare(base, where / "bare", at_once, min(arguments.swaps, 10), arguments.tokens)
                rows.append(row)
                _print(row)
    return rows


def _print(row: dict[str, Any]) -> None:
    ms = {name: 1000 * value for name, value in row.items() if name.endswith("_s")}
    print(
        f"{row['kind']:>7}, {row['at_once']:>2} streams: {row['failures']} failed of {row['answers']} answers, "
        f"{row['swaps']} swaps"
    )
    print(
        f"         pause between tokens: p50 {ms['gap_p50_s']:.0f}, p99 {ms['gap_p99_s']:.0f}, longest "
        f"{ms['gap_max_s']:.0f} ms; the longest of a swap: median {ms['swap_gap_p50_s']:.0f}, longest "
        f"{ms['swap_gap_max_s']:.0f} ms, and {ms['quiet_gap_p50_s']:.0f} ms in an equally long time without a swap"
    )
    if "bare" in row:
        b = row["bare"]
        print(
            f"         the bare engine's swap: median {1000 * b['swap_gap_p50_s']:.0f}, longest "
            f"{1000 * b['swap_gap_max_s']:.0f} ms; ours is {row['swap_gap_p50_s'] / b['swap_gap_p50_s']:.2f} times that"
        )
    else:
        print(
            f"         a swap's longest pause is {row['swap_gap_p50_s'] / row['gap_p99_s']:.2f} x the p99 without "
            "(median of the swaps)"
        )
    print(
        f"         after the weights are written: serving after {ms['publish_s']:.0f} ms, first answer after "
        f"{ms['first_answer_s']:.0f} ms"
    )
    print("         memory: " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in row["memory_mib"].items()))
    v = row["versions"]
    print(
        f"         recomputed: {v['right']} of {v['spans']} spans fit their own version best "
        f"({v['own_nats']:.3f} nats, closest other version {v['nearest_other_nats']:.3f}); "
        f"{v['turns_with_two_versions']} answers with two versions",
        flush=True,
    )


def _log(text: str) -> None:
    print(f"  … {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, 8 streams, 5 swaps of each kind")
    parser.add_argument("--kind", choices=["full", "adapter"], help="kind of weights; default: both")
    parser.add_argument("--model", default=SMALL, help="a model directory, or `tiny` (%(default)s)")
    parser.add_argument("--swaps", type=int, default=25, help="swaps per kind and load (%(default)s)")
    parser.add_argument("--at-once", type=int, nargs="+", default=[8, 32], help="concurrent streams (%(default)s)")
    parser.add_argument("--tokens", type=int, default=96, help="tokens per answer (%(default)s)")
    parser.add_argument("--check", type=int, default=60, help="turns to recompute (%(default)s)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.model, arguments.swaps, arguments.at_once = "tiny", 5, [8]
    print(f"{machine()}; model {arguments.model}, answers of {arguments.tokens} tokens")
    rows = asyncio.run(measured(arguments))
    print(json.dumps({"machine": machine(), "model": arguments.model, "tokens": arguments.tokens, "rows": rows}))


if __name__ == "__main__":
    main()
