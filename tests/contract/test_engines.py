"""The promises of the engine protocol, tested on all three engines."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server.engines.factory import make_engine
from server.engines.options import LocalOptions
from server.engines.protocol import Engine, Piece, SamplingParams, Weights
from server.engines.scripted import scripted_logprobs
from server.errors import Conflict, ContextTooLong, EngineError, NotFound
from server.rendering.bytes_tokenizer import BytesTokenizer
from tests.support.engine_bench import LONG, OPTIONS, TEXT, children, gap, joined, logits_of, logprobs_of

VLLM = pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.timeout(900)])


@dataclass
class Bench:
    """An engine with its weights and a reference for their logprobs."""

    kind: str
    engine: Engine
    base: Weights
    full: Weights
    prompt: list[int]
    end: int
    reference: Callable[[Weights, list[int]], list[float]]

    async def serve(self, weights: Weights) -> int:
        if self.engine.versions != {weights.version}:
            await self.engine.load(weights)
        return weights.version

    async def sample(self, version: int, **params: Any) -> list[Piece]:
        return [p async for p in self.engine.generate(version, self.prompt, SamplingParams(**params))]


def write_script(directory: Path, *answers: str) -> Path:
    directory.mkdir()
    (directory / "script.json").write_text(json.dumps({"answers": answers, "delay_s": 0.001}))
    return directory


@pytest.fixture(scope="module", params=["scripted", "local", VLLM])
async def bench(
    request: pytest.FixtureRequest, tiny: dict[str, Weights], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    kind, root = request.param, tmp_path_factory.mktemp("engine")
    base, full = tiny["base"], tiny["full"]
    tokenizer, prompt = BytesTokenizer(), "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    if kind == "scripted":
        base = Weights(0, "base", write_script(root / "a", "I have a lot to say. " * 100, "Less now."))
        full = Weights(1, "full", write_script(root / "b", "And now for something else. " * 100))
        reference = lambda weights, ids: scripted_logprobs(weights.path, ids)  # noqa: E731
    else:
        reference = lambda weights, ids: logprobs_of(logits_of(tiny["base"].path, weights, ids), ids)  # noqa: E731
    engine = make_engine(kind, root, vllm=OPTIONS, local=LocalOptions(context_tokens=4096))
    if kind == "scripted":
        ids, end = tokenizer.encode(prompt), 258
    else:
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(base.path / "tokenizer.json"))
        ids, end = fast.encode(prompt).ids, fast.token_to_id("<|im_end|>")
    await engine.start(base, base)
    yield Bench(kind, engine, base, full, ids, end, reference)
    await engine.close()
    assert not await engine.healthy()
    assert not children("vllm")


# ------------------------------------------------------------------------------------------------ every engine


async def test_answers_come_in_pieces_with_a_logprob_and_version_for_each_token(bench: Bench) -> None:
    version = await bench.serve(bench.base)
    pieces = await bench.sample(version, max_tokens=400, extra=LONG)  # A busy machine merges pieces.
    ids, logprobs, versions = joined(pieces)
    assert len(pieces) > 5
    assert len(ids) == len(logprobs) == 400
    assert all(x <= 0 for x in logprobs)
    assert versions == [version] * 400
    assert [p.finish_reason for p in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert bench.engine.versions == {version}
    assert await bench.engine.healthy()


async def test_a_texts_tokens_are_scored_next_to_the_likeliest_at_their_places(bench: Bench) -> None:
    version = await bench.serve(bench.base)
    ids = [*bench.prompt, *bench.prompt[:4]]
    entries = await bench.engine.score_top(version, ids, 3)
    own = [entry[token_id] for entry, token_id in zip(entries, ids[1:], strict=True)]
    assert gap(own, await bench.engine.score(version, ids)) < bench.engine.check_tolerance
    assert all(3 <= len(entry) <= 4 for entry in entries)
    alone = await bench.engine.score_top(version, ids, 0)
    assert [list(entry) for entry in alone] == [[token_id] for token_id in ids[1:]]


async def test_a_stop_token_of_the_request_ends_the_answer(bench: Bench) -> None:
    version = await bench.serve(bench.base)
    ids, _, _ = joined(await bench.sample(version, max_tokens=20, seed=1))
    stopped = await bench.sample(version, max_tokens=20, seed=1, stop_ids=(ids[3],))
    found, _, _ = joined(stopped)
    assert found == ids[: ids.index(ids[3]) + 1] and stopped[-1].finish_reason == "stop"


async def test_a_finished_answer_includes_its_end_of_turn(bench: Bench) -> None:
    version = await bench.serve(bench.base)
    for seed in range(5):
        pieces = await bench.sample(version, max_tokens=3000, seed=seed)
        if pieces[-1].finish_reason == "stop":
            break
    ids, logprobs, _ = joined(pieces)
    assert pieces[-1].finish_reason == "stop"
    assert ids[-1] == bench.end
    assert bench.end not in ids[:-1]
    assert len(ids) == len(logprobs)


async def test_a_stop_string_ends_the_answer_and_its_tokens_are_kept(bench: Bench) -> None:
    version = await bench.serve(bench.base)
    ids, _, _ = joined(await bench.sample(version, max_tokens=100, seed=4, extra=LONG))
    if bench.kind == "scripted":
        text = [BytesTokenizer().decode([i]) for i in ids]
    else:
        from tokenizers import Tokenizer

        text = [Tokenizer.from_file(str(bench.base.path / "tokenizer.json")).decode([i]) for i in ids]
    cut = next(i for i in range(3, len(text)) if text[i].isascii() and text[i].isalnum() and text[i] not in text[:i])
    pieces = await bench.sample(version, max_tokens=100, seed=4, stop=(text[cut],), extra=LONG)
    assert joined(pieces)[0] == ids[: cut + 1]
    assert pieces[-1].finish_reason == "stop"


async def test_sampling_and_scoring_return_the_same_logprobs(bench: Bench) -> None:
    version = await bench.serve(bench.base)
    ids, logprobs, _ = joined(await bench.sample(version, max_tokens=200, seed=1, extra=LONG))
    scores = await bench.engine.score(version, bench.prompt + ids)
    assert len(scores) == len(bench.prompt) + len(ids) - 1
    assert gap(logprobs, scores[-len(ids) :]) < bench.engine.check_tolerance
    assert gap(scores, bench.reference(bench.base, bench.prompt + ids)) < bench.engine.check_tolerance


async def test_the_same_seed_gives_the_same_answer(bench: Bench) -> None:
    version = await bench.serve(bench.base)
    one, two = [joined(await bench.sample(version, max_tokens=30, seed=7, extra=LONG)) for _ in range(2)]
    assert one[0] == two[0]
    assert gap(one[1], two[1]) < 1e-4
    if bench.kind != "scripted":
        assert joined(await bench.sample(version, max_tokens=30, seed=8, extra=LONG))[0] != one[0]


async def test_concurrent_answers_equal_sequential_ones(bench: Bench) -> None:
    version = await bench.serve(bench.base)
    alone = [joined(await bench.sample(version, max_tokens=20, seed=s, extra=LONG)) for s in range(4)]
    together = await asyncio.gather(*(bench.sample(version, max_tokens=20, seed=s, extra=LONG) for s in range(4)))
    assert [joined(pieces)[0] for pieces in together] == [ids for ids, _, _ in alone]
    if bench.kind == "local":
        assert [joined(pieces)[1] for pieces in together] == [logprobs for _, logprobs, _ in alone], "bit by bit"


async def test_the_engine_serves_the_distribution_of_the_loaded_weights(bench: Bench) -> None:
    old, new = bench.reference(bench.base, TEXT), bench.reference(bench.full, TEXT)
    assert gap(old, new) > 0.5
    for weights, expected in ((bench.base, old), (bench.full, new), (bench.base, old), (bench.full, new)):
        version = await bench.serve(weights)
        await bench.sample(version, max_tokens=3)
        assert bench.engine.versions == {version}
        assert gap(await bench.engine.score(version, TEXT), expected) < bench.engine.check_tolerance


async def swap_during_an_answer(bench: Bench) -> list[Piece]:
    """Request a long answer, load other weights meanwhile, and return the answer."""
    version = await bench.serve(bench.base)
    # vLLM may finish the tiny model's answer before a busy machine runs the swap, so its workers are suspended until
    # both requests have arrived.
    workers = children("VLLM::Worker")
    for worker in workers:
        worker.suspend()
    answer = asyncio.create_task(bench.sample(version, max_tokens=3900, seed=2, extra=LONG))
    await asyncio.sleep(0.3)
    swap = asyncio.create_task(bench.engine.load(bench.full))
    await asyncio.sleep(0.3)
    for worker in workers:
        worker.resume()
    await swap
    return await answer


async def test_a_swap_during_an_answer_appears_in_the_answers_versions(bench: Bench) -> None:
    for _ in range(5):  # On a stalled machine the swap may miss the answer.
        pieces = await swap_during_an_answer(bench)
        ids, logprobs, versions = joined(pieces)
        before = versions.count(0)
        assert versions == [0] * before + [1] * (len(ids) - before)
        if 1 <= before < len(ids) - 20:
            break
    assert 1 <= before < len(ids) - 20
    assert [p.finish_reason for p in pieces if p.finish_reason] == [pieces[-1].finish_reason]
    assert len(pieces) > 10, "a streaming agent must not wait for the end of the answer"
    for weights, part in ((bench.base, slice(0, before)), (bench.full, slice(before, None))):
        reference = bench.reference(weights, bench.prompt + ids)[-len(ids) :]
        assert max(abs(a - b) for a, b in zip(logprobs[part], reference[part], strict=True)) < 0.01


async def test_a_request_for_a_replaced_version_is_answered_by_its_successor(bench: Bench) -> None:
    await bench.serve(bench.base)
    await bench.serve(bench.full)
    assert {p.version for p in await bench.sample(bench.base.version, max_tokens=3)} == {bench.full.version}
    with pytest.raises(NotFound):
        await bench.engine.score(bench.base.version, TEXT)
    with pytest.raises(NotFound):
        await bench.sample(99, max_tokens=3)


async def test_a_prompt_that_fills_the_context_is_refused_and_a_short_remainder_is_used(bench: Bench) -> None:
    version = await bench.serve(bench.base)
    full = [5] * bench.engine.context_tokens
    with pytest.raises(ContextTooLong):
        await anext(bench.engine.generate(version, full, SamplingParams(8)))
    pieces = [p async for p in bench.engine.generate(version, full[:-4], SamplingParams(100, extra=LONG))]
    assert len(joined(pieces)[0]) <= 4
    assert pieces[-1].finish_reason in ("length", "stop")


async def test_a_lost_connection_fails_its_answers_and_is_made_again(bench: Bench) -> None:
    if bench.kind != "vllm":
        pytest.skip("the engine is in this process")
    version = await bench.serve(bench.base)
    channel = bench.engine._channel  # type: ignore[attr-defined]
    frames, send = channel._frames, channel._frames.send

    def send_and_lose(message: Any) -> None:
        send(message)
        frames._transport.abort()

    frames.send = send_and_lose  # Any later, and vLLM may have answered already.
    with pytest.raises(EngineError, match="lost"):
        await bench.sample(version, max_tokens=200)
    while not channel._frames.open:
        await asyncio.sleep(0.01)
    ids, _, _ = joined(await bench.sample(version, max_tokens=4, temperature=0))
    assert bench.engine.available and 0 < len(ids) <= 4


async def test_closing_the_iterator_frees_the_engine(bench: Bench) -> None:
    version = await bench.serve(bench.base)
    for _ in range(3):
        async with aclosing(bench.engine.generate(version, bench.prompt, SamplingParams(3900, extra=LONG))) as pieces:
            assert (await anext(pieces)).version == version
    began = time.monotonic()
    assert len(joined(await bench.sample(version, max_tokens=5, extra=LONG))[0]) == 5
    if bench.kind != "vllm":  # vLLM samples all 3900 tokens in about the time that the close takes to arrive.
        assert time.monotonic() - began < 2.0


async def test_requested_alternatives_are_reported(bench: Bench) -> None:
    version = await bench.serve(bench.base)
    for piece in await bench.sample(version, max_tokens=4, top_logprobs=3, extra=LONG):
        assert piece.top_logprobs is not None
        for token_id, logprob, top in zip(piece.token_ids, piece.logprobs, piece.top_logprobs, strict=True):
            assert top[token_id] == logprob
            assert 3 <= len(top) <= 4


@pytest.mark.parametrize("bench", ["local", VLLM], indirect=True)
@pytest.mark.parametrize(("temperature", "top_k"), [(0.7, 0), (1.0, 20), (1.5, 5)])
async def test_logprobs_belong_to_the_distribution_sampled_from(bench: Bench, temperature: float, top_k: int) -> None:
    version = await bench.serve(bench.base)
    params = {"max_tokens": 100, "temperature": temperature, "top_k": top_k, "seed": 3, "extra": LONG}
    ids, logprobs, _ = joined(await bench.sample(version, **params))
    logits = logits_of(bench.base.path, bench.base, bench.prompt + ids) / temperature
    if top_k:
        logits[logits < logits.topk(top_k).values[:, -1:]] = -float("inf")
    assert gap(logprobs, logprobs_of(logits, bench.prompt + ids)[-len(ids) :]) < bench.engine.check_tolerance


# ---------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("kind", ["local", VLLM])
async def test_an_adapter_and_the_base_are_served_at_once(kind: Any, tiny: dict[str, Weights], tmp_path: Path) -> None:
    base, adapter = tiny["base"], tiny["adapter"]
    expected = {w.version: logprobs_of(logits_of(base.path, w, TEXT), TEXT) for w in (base, adapter)}
    assert gap(expected[0], expected[2]) > 0.3
    engine = make_engine(
        kind,
        tmp_path,
        vllm=OPTIONS.model_copy(update={"lora": True, "max_lora_rank": 8}),
        local=LocalOptions(context_tokens=4096),
    )
    await engine.start(base, base)
    try:
        await engine.load(adapter)
        assert engine.versions == {0, 2}
        for version in (0, 2, 0):
            assert gap(await engine.score(version, TEXT), expected[version]) < engine.check_tolerance
        pieces = []
        async for piece in engine.generate(2, TEXT[:60], SamplingParams(300, seed=1, extra=LONG)):
            if not pieces:
                await engine.unload(2)
                assert engine.versions == {0}
            pieces.append(piece)
        ids, logprobs, versions = joined(pieces)
        assert versions == [2] * 300
        reference = logprobs_of(logits_of(base.path, adapter, TEXT[:60] + ids), TEXT[:60] + ids)[-300:]
        assert gap(logprobs, reference) < engine.check_tolerance
        with pytest.raises(NotFound):
            await anext(engine.generate(2, TEXT[:60], SamplingParams(3)))
        await engine.load(Weights(3, "adapter", adapter.path))
        assert gap(await engine.score(3, TEXT), expected[2]) < engine.check_tolerance
        answers = [asyncio.create_task(whole(engine, 3, seed)) for seed in range(4)]
        for last in (None, 20):
            scores = await engine.spot_check(3, TEXT, last)
            known = [(a, b) for a, b in zip(scores, expected[2], strict=True) if a is not None]
            assert len(known) > 10
            assert gap([a for a, _ in known], [b for _, b in known]) < engine.check_tolerance
        assert [len(ids) for ids in await asyncio.gather(*answers)] == [1500] * 4, "a spot check ended other answers"
        if kind == "vllm":
            with pytest.raises(Conflict):
                await engine.load(tiny["full"])
    finally:
        await engine.close()


async def whole(engine: Engine, version: int, seed: int) -> list[int]:
    """Return a long answer's tokens."""
    answer = engine.generate(version, TEXT[:60], SamplingParams(1500, seed=seed, extra=LONG))
    return [token async for piece in answer for token in piece.token_ids]


async def test_a_burst_of_long_seeded_requests_is_answered(bench: Bench) -> None:
    version = await bench.serve(bench.base)

    async def one(number: int) -> int:
        prompt = [(7 * number + position) % 250 for position in range(200 + 5 * number)]
        params = SamplingParams(6, seed=number, extra=LONG)
        return sum([len(p.token_ids) async for p in bench.engine.generate(version, prompt, params)])

    assert await asyncio.gather(*[one(number) for number in range(32)]) == [6] * 32
    assert await bench.engine.healthy()
